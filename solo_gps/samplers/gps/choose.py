"""Images of each ball. Pure functions of a neighbour table, an epoch and a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_gps.interfaces import NeighbourTable

_BLOCK = 1 << 22  # entries that are weighed at once


def choose_positives(
    table: NeighbourTable,
    choose: str,
    *,
    epoch: int,
    seed: int,
    keep_anchor: bool = False,
    temperature: float = 1.0,
    positives: int = 1,
) -> NDArray[np.int32]:
    """Chooses images of each ball (GPS-SSL, section 3; uniform as in the authors' code).

    Args:
        table: Neighbours of N images, nearest first, padded with -1.
        choose: ``"furthest"``, ``"nearest"``, ``"uniform"``, or ``"weighted"``: by exp(-d / (temperature * m)), m the mean
            distance of the ball, the anchor left out.
        epoch: Number of the epoch; only draws depend on it.
        seed: Seed of the draws.
        keep_anchor: Whether the anchor is drawn too, at distance 0.
        temperature: Above 0; small for the nearest, large for any.
        positives: Different images of each ball: the furthest ones, the nearest ones, or drawn without putting back.

    Returns:
        (N, positives) int32 image indices; the anchor itself where its ball is empty. Those of a smaller ball come in turn.
    """
    n, width = table.indices.shape
    anchors = np.arange(n, dtype=np.int32)[:, None]
    sizes = ball_sizes(table)[:, None]
    if width == 0 or not sizes.any():
        return np.repeat(anchors, positives, axis=1)
    turn = np.arange(positives) % np.maximum(sizes + keep_anchor, 1)
    if choose in ("uniform", "weighted"):
        generator = np.random.default_rng([seed, epoch])
        draws = np.stack([generator.random(n) for _ in range(positives)], axis=1)
        drawn = _uniform(sizes + keep_anchor, draws) if choose == "uniform" else _weighted(table, draws, keep_anchor, temperature)
        columns = np.take_along_axis(drawn, turn, axis=1) - keep_anchor
    else:
        columns = sizes - 1 - turn if choose == "furthest" else turn
    own = (sizes == 0) | (columns < 0)
    return np.where(own, anchors, table.indices[anchors, np.where(own, 0, columns)]).astype(np.int32)


def _uniform(sizes: NDArray[np.int64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N, P) different numbers below (N, 1) sizes, by (N, P) draws from 0 to 1; the first ``size`` of a row are good."""
    drawn = (draws * np.maximum(sizes - np.arange(draws.shape[1]), 0)).astype(np.int64)  # among those that are left
    for last in range(1, draws.shape[1]):
        for before in np.sort(drawn[:, :last], axis=1).T:
            drawn[:, last] += before <= drawn[:, last]
    return drawn


def _weighted(table: NeighbourTable, draws: NDArray[np.float64], keep_anchor: bool, temperature: float) -> NDArray[np.int64]:
    """(N, P) different columns of the table, the anchor before them if kept: where draws from 0 to 1 fall among the weights."""
    columns, step = np.empty(draws.shape, np.int64), max(1, _BLOCK // (table.indices.shape[1] + 1))
    for start in range(0, len(draws), step):
        rows = slice(start, start + step)
        there = np.asarray(table.indices[rows]) >= 0
        distances = np.where(there, table.distances[rows], 0.0).astype(np.float64)
        mean = distances.sum(axis=1, keepdims=True) / np.maximum(there.sum(axis=1, keepdims=True), 1)
        if keep_anchor:
            distances, there = np.pad(distances, ((0, 0), (1, 0))), np.pad(there, ((0, 0), (1, 0)), constant_values=True)
        for number in range(draws.shape[1]):
            # From the nearest that is left: a temperature so low that all weights would vanish takes that one.
            nearest = np.where(there, distances, np.inf).min(axis=1, keepdims=True)
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                scaled = np.where(there & (distances > nearest), (distances - nearest) / (temperature * mean), 0.0)
            sums = np.where(there, np.exp(-scaled), 0.0).cumsum(axis=1)
            drawn = (sums <= draws[rows, number, None] * sums[:, -1:]).sum(axis=1)
            # A draw just below 1 may round up to the end: the last that is left.
            last = there.shape[1] - 1 - there[:, ::-1].argmax(axis=1)
            columns[rows, number] = np.minimum(drawn, last)
            np.put_along_axis(there, columns[rows, number, None], False, axis=1)
    return columns


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
