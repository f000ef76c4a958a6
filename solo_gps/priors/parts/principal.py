"""Principal components of rows that come in batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

SMALLEST_SHARE = 1e-7
"""Components with less than this share of the largest variance are rounding noise."""


class Principal(NamedTuple):
    """Axes of largest variance.

    Attributes:
        mean: (F,) float32.
        components: (D, F) float32, orthonormal rows, of decreasing variance.
        variances: (D,) float32.
    """

    mean: torch.Tensor
    components: torch.Tensor
    variances: torch.Tensor


def principal_components(rows: Iterable[torch.Tensor], dimensions: int) -> Principal:
    """Finds the axes of largest variance.

    Args:
        rows: Batches of (B, F) float32.
        dimensions: Wanted number of axes; fewer come back when the rows span fewer.

    Returns:
        At least one axis. The sign of an axis is fixed: its entry of largest magnitude is positive.
    """
    count, shift, total, products = 0, None, None, None
    for batch in rows:
        shift = batch[:1] if shift is None else shift
        centred = batch - shift
        count += len(batch)
        batch_total, batch_products = centred.sum(0).double(), (centred.T @ centred).double()
        total = batch_total if total is None else total + batch_total
        products = batch_products if products is None else products.add_(batch_products)
    assert shift is not None, "no rows"
    assert total is not None
    assert products is not None
    mean = total / count
    covariance = (products / count - torch.outer(mean, mean)).float()
    variances, axes = torch.linalg.eigh(covariance.cpu())
    variances, axes = variances.flip(0).clamp_min(0), axes.flip(1)
    keep = max(1, min(dimensions, count - 1, int((variances > SMALLEST_SHARE * variances[0]).sum())))
    components = axes[:, :keep].T.contiguous()
    largest = components.abs().argmax(1, keepdim=True)
    components = components * components.gather(1, largest).sign()
    return Principal((shift[0].double() + mean).float().cpu(), components, variances[:keep].contiguous())


def evenly_spaced(count: int, at_most: int) -> list[int]:
    """Indices of at most ``at_most`` of ``count`` items, spread over all of them."""
    if count <= at_most:
        return list(range(count))
    return [index * count // at_most for index in range(at_most)]
