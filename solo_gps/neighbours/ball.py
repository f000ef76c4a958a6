"""Radius search: all points of a ball around each image, with a bound on its size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from solo_gps.errors import DataError
from solo_gps.interfaces import NeighbourTable
from solo_gps.neighbours import ranks
from solo_gps.neighbours.nearest import member_slices, rows_to_table
from solo_gps.neighbours.pairs import NearPairs
from solo_gps.neighbours.prepare import Points
from solo_gps.neighbours.rerank import sort_key
from solo_gps.neighbours.workspace import Workspace

_SAMPLE = 256


def ball_table(work: Workspace, radius: float, progress: Callable[[int], None] = lambda done: None) -> NeighbourTable:
    """Neighbours strictly closer than ``radius`` (Balestriero et al., arXiv 2401.01990, section 3: the ball of an image).

    Args:
        work: U prepared points, and what measures them.
        radius: In the units of the table: squared distance, or 1 - cosine.
        progress: Called with the number of different vectors done.

    Returns:
        Table as wide as the largest ball, at least 1.

    Raises:
        DataError: A ball holds more than ``max_ball`` images; names the sizes seen and a radius that fits.
    """
    points, config, step = work.points, work.config, work.near.rows_per_block
    sample = np.sort(np.random.default_rng(config.seed).permutation(len(points.exact))[:_SAMPLE])
    _check_sample(work, sample, radius)
    share = ranks.share_of(len(points.exact), config.distributed)
    keys, counts = [np.empty(0, np.int64)], np.zeros(len(share), np.int64)
    for start in range(share.start, share.stop, step):
        stop = min(start + step, share.stop)
        row, key = _block(work, np.arange(start, stop), radius)
        sizes = np.bincount(row, points.groups.sizes[key & 0xFFFFFFFF], stop - start).astype(np.int64) - 1
        if sizes.max(initial=0) > config.max_ball:
            raise _too_large(work, sample, radius, int(sizes.max()))
        counts[start - share.start : stop - share.start] = np.bincount(row, minlength=stop - start)
        keys.append(key)
        progress(stop - share.start)
    all_counts = ranks.gather_rows(counts[:, None], len(points.exact), config.distributed)[:, 0]
    all_keys = ranks.gather_ragged(np.concatenate(keys), config.distributed)
    return _table(points, all_counts, all_keys)


def _block(work: Workspace, rows: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """(P,) positions in ``rows``, ascending, and (P,) keys of the points in their balls, themselves included."""
    limit = float(work.points.search_distance(np.asarray(radius)))
    row, point = work.near.find(rows, np.full(len(rows), limit))
    squared = work.distances(rows[row], point[:, None])[:, 0]
    inside = (squared * np.float32(work.points.factor)).astype(np.float64) < radius
    row, key = row[inside], sort_key(squared, point)[inside]
    order = np.lexsort((key, row))
    return row[order], key[order]


def _table(points: Points, counts: np.ndarray, keys: np.ndarray) -> NeighbourTable:
    """Table of the N images from the balls of the U different vectors, as one flat list of keys."""
    groups = points.groups
    starts = np.cumsum(counts) - counts
    row = np.repeat(np.arange(len(counts)), counts)
    sizes = np.bincount(row, groups.sizes[keys & 0xFFFFFFFF], len(counts)).astype(np.int64)
    width = max(1, int(sizes.max()) - 1)
    images = len(groups.group_of)
    indices = np.empty((images, width), np.int32)
    distances = np.empty((images, width), np.float32)
    step = max(1, (1 << 22) // width)
    for start in range(0, images, step):
        rows = np.arange(start, min(start + step, images))
        group = groups.group_of[rows]
        position, key = member_slices(counts[group][:, None], starts[group][:, None], keys)
        members = groups.sizes[key & 0xFFFFFFFF]
        _, member = member_slices(members[:, None], groups.starts[key & 0xFFFFFFFF][:, None], groups.members)
        image_key = (np.repeat(key >> 32, members) << 32) | member
        indices[rows], distances[rows] = rows_to_table(np.repeat(position, members), image_key, rows, points.factor, width)
    return NeighbourTable(indices=indices, distances=distances)


def _check_sample(work: Workspace, sample: np.ndarray, radius: float) -> None:
    """Counts balls of a few images first, so that a radius far too large fails at once."""
    distance = float(work.points.search_distance(np.asarray(radius)))
    sizes = _sampled(work.near, sample, lambda rows: work.near.count(rows, distance)) - 1
    # Counts are of different vectors and rounded; only a clear excess is refused here, the rest in its block.
    if sizes.max() > 1.01 * work.config.max_ball + 1:
        raise _too_large(work, sample, radius, int(sizes.max()))


def _too_large(work: Workspace, sample: np.ndarray, radius: float, largest: int) -> DataError:
    points, near, config = work.points, work.near, work.config
    distance = float(points.search_distance(np.asarray(radius)))
    sizes = _sampled(near, sample, lambda rows: near.count(rows, distance)) - 1
    rank = min(config.max_ball, len(points.exact) - 1) + 1
    fits = _sampled(near, sample, lambda rows: near.rank_distance(rows, rank))
    suggested = points.factor * (float(fits.min()) / points.scale) ** 2
    return DataError(
        f"radius={radius:g}: a ball holds {largest} images, more than search.max_ball={config.max_ball}. In a sample of "
        f"{len(sample)} images, balls hold {int(sizes.min())} to {int(sizes.max())} (median {int(np.median(sizes))}). "
        f"Use a radius of about {suggested:.3g}, a larger search.max_ball, or k."
    )


def _sampled(near: NearPairs, sample: np.ndarray, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    step = near.rows_per_block
    return np.concatenate([measure(sample[start : start + step]) for start in range(0, len(sample), step)])
