"""One image of each ball. Pure functions of a neighbour table, an epoch and a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_gps.interfaces import NeighbourTable

_BLOCK = 1 << 22  # entries that are weighed at once


def choose_positives(
    table: NeighbourTable, choose: str, *, epoch: int, seed: int, keep_anchor: bool = False, temperature: float = 1.0
) -> NDArray[np.int32]:
    """Chooses one image of each ball (GPS-SSL, section 3; uniform as in the authors' code).

    Args:
        table: Neighbours of N images, nearest first, padded with -1.
        choose: ``"furthest"``, ``"nearest"``, ``"uniform"``, or ``"weighted"``: by exp(-d / (temperature * m)), m the mean
            distance of the ball, the anchor left out.
        epoch: Number of the epoch; only draws depend on it.
        seed: Seed of the draws.
        keep_anchor: Whether the anchor is drawn too, at distance 0.
        temperature: Above 0; small for the nearest, large for any.

    Returns:
        (N,) int32 image indices; the anchor itself where its ball is empty.
    """
    n, width = table.indices.shape
    anchors = np.arange(n, dtype=np.int32)
    sizes = ball_sizes(table)
    empty = sizes == 0
    if width == 0 or empty.all():
        return anchors
    column: NDArray[np.int64] = np.zeros(n, np.int64)  # of the ball; -1 is the anchor
    if choose == "furthest":
        column = sizes - 1
    elif choose in ("uniform", "weighted"):
        draws = np.random.default_rng([seed, epoch]).random(n)
        if choose == "uniform":
            column = (draws * (sizes + keep_anchor)).astype(np.int64) - keep_anchor
        else:
            column = _weighted(table, np.asarray(draws), keep_anchor, temperature)
    own = empty | (column < 0)
    chosen = table.indices[anchors, np.where(own, 0, column)].astype(np.int32)
    return np.where(own, anchors, chosen)


def _weighted(table: NeighbourTable, draws: NDArray[np.float64], keep_anchor: bool, temperature: float) -> NDArray[np.int64]:
    """(N,) columns of the table, -1 for the anchor: where draws from 0 to 1 fall among the weights."""
    columns, step = np.empty(len(draws), np.int64), max(1, _BLOCK // (table.indices.shape[1] + 1))
    for start in range(0, len(draws), step):
        rows = slice(start, start + step)
        there = np.asarray(table.indices[rows]) >= 0
        distances = np.where(there, table.distances[rows], 0.0).astype(np.float64)
        mean = distances.sum(axis=1, keepdims=True) / np.maximum(there.sum(axis=1, keepdims=True), 1)
        if keep_anchor:
            distances, there = np.pad(distances, ((0, 0), (1, 0))), np.pad(there, ((0, 0), (1, 0)), constant_values=True)
        # From the nearest of the ball: a temperature so low that all weights would vanish takes that one.
        nearest = np.where(there, distances, np.inf).min(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            scaled = np.where(there & (distances > nearest), (distances - nearest) / (temperature * mean), 0.0)
        sums = np.where(there, np.exp(-scaled), 0.0).cumsum(axis=1)
        columns[rows] = (sums <= draws[rows, None] * sums[:, -1:]).sum(axis=1) - keep_anchor
    return np.minimum(columns, np.maximum(ball_sizes(table) - 1, 0))  # a draw just below 1 may round up to it


def ball_sizes(table: NeighbourTable) -> NDArray[np.int64]:
    """Returns the (N,) number of neighbours in each row of the table."""
    return np.asarray((table.indices >= 0).sum(axis=1), dtype=np.int64)


def share_with_positive(table: NeighbourTable) -> float:
    """Returns the share of images whose ball is not empty."""
    return float((ball_sizes(table) > 0).mean())


def keep_same_label(table: NeighbourTable, labels: NDArray[Any]) -> NeighbourTable:
    """Drops neighbours whose label differs from the anchor's or is unknown, keeping the order of the rest.

    Args:
        table: Neighbours of N images.
        labels: (N,) int64, -1 where unknown.

    Returns:
        A table of the same width, padded at the end of each row.
    """
    keep = (table.indices >= 0) & (labels[:, None] >= 0) & (labels[table.indices] == labels[:, None])
    order = np.argsort(~keep, axis=1, kind="stable")
    kept = np.take_along_axis(keep, order, axis=1)
    indices = np.where(kept, np.take_along_axis(table.indices, order, axis=1), -1).astype(np.int32)
    distances = np.where(kept, np.take_along_axis(table.distances, order, axis=1), np.inf).astype(np.float32)
    return NeighbourTable(indices=indices, distances=distances)
