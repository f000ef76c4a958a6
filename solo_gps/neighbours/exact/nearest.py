"""k nearest neighbours: candidates from a backend, one formula, a proof for every row, and duplicates put back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from solo_gps.neighbours.backend import Candidates, SearchBackend
from solo_gps.neighbours.exact.duplicates import Groups
from solo_gps.neighbours.exact.points import Points
from solo_gps.neighbours.exact.rerank import sort_key, unpack_key
from solo_gps.neighbours.exact.workspace import Workspace

_NONE = np.iinfo(np.int64).max
_SELF = np.int64(-1)


def nearest_points(
    work: Workspace,
    backend: SearchBackend,
    count: int,
    rows: range,
    progress: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Nearest points of each of ``rows``, itself first.

    Args:
        work: U prepared points, and what measures them.
        backend: Fitted backend.
        count: Number C of points wanted for each row, itself included; at most U.
        rows: Consecutive rows.
        progress: Called with the number of rows of each block.

    Returns:
        (len(rows), C) int64 keys of (distance, point), sorted; the row itself is -1, and missing ones (approximate backends) are
        the largest int64.
    """
    total = len(work.points.exact)
    table = np.empty((len(rows), count), np.int64)
    start = rows.start
    while start < rows.stop:
        asked = min(total, backend.surplus(count))
        stop = min(start + backend.rows_per_block(total, asked), rows.stop)
        block = np.arange(start, stop)
        keys, unproven = candidate_keys(work, backend, block, asked, count)
        if len(unproven):
            keys[unproven] = complete_rows(work, block[unproven], keys[unproven])
        backend.observe(len(unproven) / len(block))
        table[start - rows.start : stop - rows.start] = keys
        progress(len(block))
        start = stop
    return table


def candidate_keys(
    work: Workspace, backend: SearchBackend, rows: np.ndarray, asked: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(B, count) sorted keys of the best among ``asked`` candidates, and positions of the rows not proven to be exact."""
    found = backend.candidates(rows, asked)
    keys = _keys(work, rows, found, count)
    if not backend.exact or asked == len(work.points.exact):
        return keys, np.empty(0, np.int64)
    assert found.reach is not None, f"{type(backend).__name__} is exact but returns no reach"
    return keys, np.flatnonzero(~(_limits(work.points, keys[:, -1]) < found.reach))


def complete_rows(work: Workspace, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Nearest points of a few rows, not left to candidates: the formula on every point within the last distance known.

    Args:
        work: U prepared points, and what measures them.
        rows: (B,) int64 rows.
        keys: (B, C) sorted keys of the nearest points known so far, the row itself (-1) first.

    Returns:
        (B, C) sorted keys, exact.
    """
    out, step = np.full_like(keys, _NONE), work.near.rows_per_block
    for start in range(0, len(rows), step):
        piece = slice(start, start + step)
        position, point = work.near.up_to(rows[piece], _limits(work.points, keys[piece, -1]))
        own = rows[piece][position]
        key = np.where(point == own, _SELF, sort_key(work.distances(own, point[:, None])[:, 0], point))
        position, key, rank = _ranked(position, key, keys.shape[1])
        out[piece][position, rank] = key
    return out


def expand_groups(keys: np.ndarray, groups: Groups, factor: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Turns neighbours of the U different vectors into neighbours of the N images.

    Only the k + 1 nearest groups of an image, and in each the k + 1 first members, can be among its k nearest: any other image
    has as many before it by (distance, index).

    Args:
        keys: (U, C) sorted keys of every group, itself first; C = min(k + 1, U).
        groups: Which images share which vector.
        factor: Table distance of a squared Euclidean distance.
        k: Neighbours wanted.

    Returns:
        (N, k) int32 indices and float32 distances.
    """
    images = len(groups.group_of)
    indices = np.full((images, k), -1, np.int32)
    distances = np.full((images, k), np.inf, np.float32)
    if groups.count == images:
        _unpack_into(keys[:, 1 : k + 1], factor, indices, distances)
        return indices, distances
    step = max(1, (1 << 22) // (keys.shape[1] * min(k + 1, int(groups.sizes.max()))))
    for start in range(0, images, step):
        rows = np.arange(start, min(start + step, images))
        indices[rows], distances[rows] = _expand_block(keys[groups.group_of[rows]], rows, groups, factor, k)
    return indices, distances


def _keys(work: Workspace, rows: np.ndarray, found: Candidates, count: int) -> np.ndarray:
    """Sorted (B, count) keys of the best candidates, with the row itself first whether it was found or not."""
    indices = found.indices.astype(np.int64)
    # The row itself and what was not found are no candidates; any point stands in for them until they are dropped.
    dropped = (indices < 0) | (indices == rows[:, None])
    indices = np.where(dropped, 0, indices)
    first = count if found.least is not None else indices.shape[1]
    keys = np.full((len(rows), indices.shape[1] + 1), _NONE)
    keys[:, 0] = _SELF
    keys[:, 1 : first + 1] = sort_key(work.distances(rows, indices[:, :first]), indices[:, :first])
    keys[:, 1 : first + 1][dropped[:, :first]] = _NONE
    if first < indices.shape[1] and found.least is not None:
        keys[:, : first + 1].sort(axis=1)
        # The rest is measured only where it may lie nearer than the last of these.
        near = found.least[:, first:] <= _limits(work.points, keys[:, count - 1])[:, None]
        row, column = np.nonzero(near & ~dropped[:, first:])
        point = indices[row, column + first]
        keys[row, column + first + 1] = sort_key(work.distances(rows[row], point[:, None])[:, 0], point)
    keys.sort(axis=1)
    return np.ascontiguousarray(keys[:, :count])


def _limits(points: Points, last: np.ndarray) -> np.ndarray:
    """(B,) distance in the units of ``points.search`` within which the point of the (B,) keys lies; infinite without one."""
    known = (last != _NONE) & (last != _SELF)
    squared, _ = unpack_key(np.where(known, last, 0))
    limits = points.search_distance(squared.astype(np.float64) * points.factor)
    return np.where(known, limits, np.where(last == _SELF, points.slack, np.inf))


def _unpack_into(keys: np.ndarray, factor: float, indices: np.ndarray, distances: np.ndarray) -> None:
    step = max(1, (1 << 22) // max(1, keys.shape[1]))
    for start in range(0, len(keys), step):
        piece = keys[start : start + step]
        squared, points = unpack_key(piece)
        found = piece != _NONE
        indices[start : start + step, : piece.shape[1]] = np.where(found, points, -1)
        distances[start : start + step, : piece.shape[1]] = np.where(found, squared * np.float32(factor), np.inf)


def _expand_block(keys: np.ndarray, images: np.ndarray, groups: Groups, factor: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, k) int32 indices and float32 distances of ``images``, from the (B, C) keys of their groups."""
    squared, group = unpack_key(np.maximum(keys, 0))
    own = keys == _SELF
    group = np.where(own, groups.group_of[images][:, None], group)
    sizes = np.where(keys == _NONE, 0, np.minimum(groups.sizes[np.minimum(group, groups.count - 1)], k + 1))
    row, member = member_slices(sizes, np.where(sizes, groups.starts[np.minimum(group, groups.count - 1)], 0), groups.members)
    key = sort_key(np.repeat(squared.reshape(-1), sizes.reshape(-1)), member)
    return rows_to_table(row, key, images, factor, k)


def member_slices(sizes: np.ndarray, starts: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flattens slices of ``values``.

    Args:
        sizes: (B, C) int64 lengths.
        starts: (B, C) int64 first positions.
        values: (V,) array.

    Returns:
        (P,) ascending row numbers and the (P,) values, slice after slice.
    """
    flat = sizes.reshape(-1)
    offsets = np.arange(flat.sum()) - np.repeat(np.cumsum(flat) - flat, flat)
    row = np.repeat(np.arange(len(sizes)), sizes.sum(axis=1))
    return row, values[np.repeat(starts.reshape(-1), flat) + offsets]


def rows_to_table(row: np.ndarray, key: np.ndarray, images: np.ndarray, factor: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorts pairs within their rows, leaves the row's own image out and keeps the first k.

    Args:
        row: (P,) ascending positions in ``images``.
        key: (P,) int64 keys of squared distance and image.
        images: (B,) images of the rows.
        factor: Table distance of a squared distance.
        k: Columns of the table; shorter rows are padded.

    Returns:
        (B, k) int32 indices and float32 distances.
    """
    kept = (key & 0xFFFFFFFF) != images[row]
    row, key, rank = _ranked(row[kept], key[kept], k)
    indices = np.full((len(images), k), -1, np.int32)
    distances = np.full((len(images), k), np.inf, np.float32)
    squared, members = unpack_key(key)
    indices[row, rank] = members
    distances[row, rank] = squared * np.float32(factor)
    return indices, distances


def _ranked(row: np.ndarray, key: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorts (P,) pairs by row and key; returns those whose rank in their row is below ``count``: rows, keys and ranks."""
    order = np.lexsort((key, row))
    row, key = row[order], key[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < count
    return row[kept], key[kept], rank[kept]
