"""Outputs of named layers of a network, pooled and concatenated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from solo_gps.errors import UnknownNameError

if TYPE_CHECKING:
    import torch

OWN_OUTPUT = "output"
"""Stands for the network's own embedding in a list of layers."""


def check_layers(network: torch.nn.Module, layers: Sequence[str]) -> None:
    """Raises :class:`UnknownNameError` when a name in ``layers`` is not a module of ``network``."""
    known = [name for name, _ in network.named_modules() if name] + [OWN_OUTPUT]
    for layer in layers:
        if layer not in known:
            shallow = [name for name in known if name.count(".") <= 1]
            raise UnknownNameError("layer", layer, shallow, "Deeper modules can be named too, for example 'layer4.0.conv1'.")


def embed_layers(network: torch.nn.Module, batch: torch.Tensor, layers: Sequence[str]) -> torch.Tensor:
    """Runs the network once and concatenates what the layers gave, each averaged over positions.

    Args:
        network: Gives (B, D) itself, or maps (B, D, H, W) or tokens (B, T, D).
        batch: (B, C, H, W).
        layers: Names as in ``named_modules``, :data:`OWN_OUTPUT` for the output; empty for the output alone.

    Returns:
        (B, sum of D) float32, in the order of ``layers``.
    """
    import torch

    if not layers:
        return pool(network(batch))
    with _recorded(network, layers) as outputs:
        outputs[OWN_OUTPUT] = network(batch)
    return torch.cat([pool(outputs[layer]) for layer in layers], dim=1)


def pool(output: torch.Tensor) -> torch.Tensor:
    """Averages maps (B, D, H, W) and tokens (B, T, D) over positions; returns (B, D) float32."""
    if output.ndim == 4:
        output = output.float().mean((2, 3))
    elif output.ndim == 3:
        output = output.float().mean(1)
    return output.float().flatten(1)


@contextmanager
def _recorded(network: torch.nn.Module, layers: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    outputs: dict[str, torch.Tensor] = {}

    def recorder(name: str) -> Any:
        def record(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            outputs[name] = output[0] if isinstance(output, tuple | list) else output

        return record

    modules = dict(network.named_modules())
    handles = [modules[name].register_forward_hook(recorder(name)) for name in layers if name != OWN_OUTPUT]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
