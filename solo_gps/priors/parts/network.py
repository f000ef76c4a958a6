"""What encoders with a frozen network share: memory format, weights digest, normalisation, layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from solo_gps.errors import UnknownNameError
from solo_gps.priors.base import Encoder
from solo_gps.priors.config import IMAGENET_MEAN, IMAGENET_STD
from solo_gps.priors.parts.preprocess import normalise
from solo_gps.priors.parts.weights import weights_digest

OWN_OUTPUT = "output"
"""Stands for the network's own embedding in a list of layers."""


class NetworkEncoder(Encoder):
    """Base of encoders that run a frozen network. A subclass builds ``network`` and sets mean and std in ``load``.

    The network gives (B, D) itself, or maps (B, D, H, W) or tokens (B, T, D).
    """

    network: torch.nn.Module
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def place(self, network: torch.nn.Module) -> None:
        """Checks the layers, digests the weights, and takes the network, frozen, channels last, where it was built.

        Raises:
            UnknownNameError: A layer is not in the network.
        """
        known = [*(name for name, _ in network.named_modules() if name), OWN_OUTPUT]
        for layer in self.config.layers:
            if layer not in known:
                shallow = [name for name in known if name.count(".") <= 1]
                raise UnknownNameError("layer", layer, shallow, "Deeper modules can be named too, for example 'layer4.0.conv1'.")
        self._weights = weights_digest(network.state_dict())
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def to_device(self) -> None:
        """Puts the network there: its weights, a part of the cache's name, are read on the CPU."""
        self.network.to(self.device)

    def identity(self) -> dict[str, Any]:
        """The configuration, the digest of the weights, and the normalisation."""
        return {**super().identity(), "weights": self._weights, "mean": list(self.mean), "std": list(self.std)}

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, D) float32: the network's output, or the chosen layers side by side, averaged over positions."""
        pixels = normalise(batch, self.mean, self.std).contiguous(memory_format=torch.channels_last)
        layers = self.config.layers or [OWN_OUTPUT]
        outputs: dict[str, Any] = {}
        with ExitStack() as hooks:
            for name in {*layers} - {OWN_OUTPUT}:
                module = self.network.get_submodule(name)
                hooks.enter_context(module.register_forward_hook(partial(_record, outputs, name)))
            outputs[OWN_OUTPUT] = self.network(pixels)
        return torch.cat([_pooled(outputs[layer]) for layer in layers], dim=1)


def _record(outputs: dict[str, Any], name: str, module: torch.nn.Module, inputs: Any, output: Any) -> None:
    outputs[name] = output[0] if isinstance(output, tuple | list) else output


def _pooled(output: torch.Tensor) -> torch.Tensor:
    """Averages maps (B, D, H, W) and tokens (B, T, D) over positions; returns (B, D) float32."""
    places = {4: (2, 3), 3: (1,)}.get(output.ndim)
    return (output.float().mean(places) if places else output.float()).flatten(1)
