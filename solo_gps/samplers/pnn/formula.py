"""Pseudo nearest neighbours as pure functions of tensors and numbers (pNNCLR, arXiv 2308.06983, section 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def pseudo_neighbour(
    z: Tensor,
    neighbour: Tensor,
    *,
    alpha: float,
    beta: float,
    sphere: bool,
    generator: torch.Generator | None = None,
    noise: str = "coordinate",
) -> Tensor:
    """Moves each neighbour towards its anchor and blurs it: ``z + (1 - alpha) r + beta |r| noise``, with ``r = neighbour - z``.

    The direction is the paper's; the length is brought back to ``|z| + (1 - alpha)(|neighbour| - |z|)`` instead of 1, so that
    losses to which the scale matters (VICReg, W-MSE) keep it; for unit vectors the two are the same. Exact at both ends:
    ``alpha=1, beta=0`` returns ``z`` and ``alpha=0, beta=0`` the neighbour, bit by bit.

    Args:
        z: (..., D) anchors.
        neighbour: (..., D) neighbours.
        alpha: Share by which the way to the neighbour is shortened, 0 to 1.
        beta: Standard deviation of the noise in units of ``|r|``; no random number is drawn when it is 0.
        sphere: Compare directions only: the neighbour is first brought to the anchor's length.
        generator: Source of the noise, on ``z``'s device; ``None`` takes torch's own.
        noise: ``"coordinate"`` as the paper's formula reads, so that its length is about ``beta sqrt(D) |r|``; or ``"total"``, of
            length ``beta |r|`` (root of the mean square).

    Returns:
        (..., D) pseudo neighbours, float32 (float64 when ``z`` is), without gradient.
    """
    with torch.autocast(z.device.type, enabled=False):
        dtype = torch.promote_types(z.dtype, torch.float32)
        # In one memory layout: torch sums the same numbers in another order in another layout, and the ratios below would miss 1.
        z, neighbour = z.to(dtype).contiguous(), neighbour.to(dtype).contiguous()
        length = z.norm(dim=-1, keepdim=True)
        if sphere:
            neighbour = neighbour * _ratio(length, neighbour.norm(dim=-1, keepdim=True))
        moved = torch.lerp(z, neighbour, 1 - alpha)
        if beta > 0:
            spread = beta * (neighbour - z).norm(dim=-1, keepdim=True)
            if noise == "total":
                spread = spread / math.sqrt(z.shape[-1])
            moved = moved + spread * torch.randn(moved.shape, generator=generator, device=z.device, dtype=dtype)
        wanted = torch.lerp(length, neighbour.norm(dim=-1, keepdim=True), 1 - alpha)
        return moved * _ratio(wanted, moved.norm(dim=-1, keepdim=True))


def _ratio(length: Tensor, by: Tensor) -> Tensor:
    # A vector of length zero has no direction to scale.
    return torch.where(by > 0, length / by, torch.ones_like(by))


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Returns ``x`` to the last bit, with its gradient multiplied by ``factor``."""
    if factor == 1:
        return x
    return x.detach() + (x - x.detach()) * factor


def mean_value_sum_gradient(losses: list[Tensor]) -> Tensor:
    """Returns the mean of V losses, whose gradient is that of their sum."""
    total, count = sum(losses[1:], start=losses[0]), len(losses)
    return total / count + (total - total.detach()) * (1 - 1 / count)


def scheduled_value(start: float, end: float | None, *, epoch: int, epochs: int, shape: str) -> float:
    """Returns the value of an epoch: ``start`` in epoch 0, ``end`` from epoch ``epochs`` on; constant without an end.

    Args:
        start: Value of epoch 0.
        end: Value from epoch ``epochs`` on, or ``None``.
        epoch: Number of the epoch, from 0.
        epochs: Number of epochs that the way takes, at least 1.
        shape: ``"linear"`` or ``"cosine"`` (half a period).
    """
    if end is None:
        return start
    way = min(1.0, epoch / epochs)
    if shape == "cosine":
        way = (1 - math.cos(math.pi * way)) / 2
    return end if way == 1 else start + (end - start) * way
