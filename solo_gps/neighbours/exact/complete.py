"""Rows whose candidates could not be proven: every point near enough to matter is looked at."""

from __future__ import annotations

import numpy as np

from solo_gps.neighbours.exact.rerank import sort_key, unpack_key
from solo_gps.neighbours.exact.workspace import Workspace

_NONE = np.iinfo(np.int64).max


def complete_rows(work: Workspace, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Nearest points of a few rows: the formula on every point that may lie within the last distance known.

    Args:
        work: U prepared points, and what measures them.
        rows: (B,) int64 rows.
        keys: (B, C) sorted keys of the nearest points known so far, the row itself (-1) first.

    Returns:
        (B, C) sorted keys, exact.
    """
    out = np.empty_like(keys)
    for start in range(0, len(rows), work.near.rows_per_block):
        piece = slice(start, start + work.near.rows_per_block)
        out[piece] = _complete(work, rows[piece], keys[piece])
    return out


def _complete(work: Workspace, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    last = keys[:, -1]
    known = (last != _NONE) & (last >= 0)
    squared, _ = unpack_key(np.where(known, last, 0))
    limit = np.where(known, work.points.search_distance(squared.astype(np.float64) * work.points.factor), np.inf)
    position, point = work.near.find(rows, limit)
    key = sort_key(work.distances(rows[position], point[:, None])[:, 0], point)
    key[point == rows[position]] = -1
    order = np.lexsort((key, position))
    position, key = position[order], key[order]
    rank = np.arange(len(position)) - np.searchsorted(position, position, side="left")
    kept = rank < keys.shape[1]
    out = np.full_like(keys, _NONE)
    out[position[kept], rank[kept]] = key[kept]
    return out
