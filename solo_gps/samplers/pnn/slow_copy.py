"""The smooth weight update (pNNCLR, section 3.2): a slow copy of backbone and projector that gives the keys."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# In the method, and in the copy. The copy's names keep clear of "backbone", which solo-learn's main_linear.py looks for.
COPIED = {"backbone": "trunk", "projector": "projector"}
IDLE = ("classifier", "predictor", "prototypes")


class SlowCopy(nn.Module):
    """Follows the network by an exponential moving average: ``copy = weight * copy + (1 - weight) * network``.

    Args:
        method: The method that is copied; no random number is drawn.
        weight: Weight of the past, lambda of the paper.
    """

    def __init__(self, method: nn.Module, weight: float) -> None:
        super().__init__()
        self.weight = weight
        for name, copied in COPIED.items():
            self.add_module(copied, copy.deepcopy(method.get_submodule(name)))
        self.requires_grad_(False)
        self._last_step = 0

    @torch.no_grad()
    def keys(self, method: Any, crops: list[Tensor]) -> list[Tensor]:
        """Returns the (B, D) key of each crop, by the method's own forward with the copy's modules in it."""
        with self._in_place_of(method):
            return [method.forward(crop)["z"] for crop in crops]

    @contextmanager
    def _in_place_of(self, method: nn.Module) -> Iterator[None]:
        # Heads behind the key must not see it: their batch norms would count it.
        stand_ins = {name: self.get_submodule(copied) for name, copied in COPIED.items()}
        stand_ins |= {name: nn.Identity() for name in IDLE if name in method._modules}
        before = {name: method._modules[name] for name in stand_ins}
        method._modules.update(stand_ins)
        try:
            yield
        finally:
            method._modules.update(before)

    @torch.no_grad()
    def follow(self, method: nn.Module, global_step: int) -> None:
        """Moves towards the network, once an optimizer step."""
        if global_step == self._last_step:
            return
        self._last_step = global_step
        for name, copied in COPIED.items():
            pairs = zip(self.get_submodule(copied).parameters(), method.get_submodule(name).parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast.to(slow), 1 - self.weight)

    def start(self, global_step: int) -> None:
        """Notes the optimizer step from which it follows."""
        self._last_step = global_step

    @torch.no_grad()
    def catch_up(self, method: nn.Module) -> None:
        """Becomes the network as it is."""
        for name, copied in COPIED.items():
            self.get_submodule(copied).load_state_dict(method.get_submodule(name).state_dict())
