"""Radius search: all points of a ball around each image, with a bound on its size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from solo_gps.errors import DataError
from solo_gps.interfaces import NeighbourTable
from solo_gps.neighbours.backend import SearchBackend
from solo_gps.neighbours.exact.fitting import advise_radius
from solo_gps.neighbours.exact.nearest import member_slices, rows_to_table
from solo_gps.neighbours.exact.points import Points
from solo_gps.neighbours.exact.workspace import Workspace
from solo_gps.runtime.ranks import training_ranks

_SAMPLE = 256


def ball_table(work: Workspace, backend: SearchBackend, radius: float, progress: Callable[[int], None]) -> NeighbourTable:
    """Neighbours strictly closer than ``radius`` (Balestriero et al., arXiv 2401.01990, section 3: the ball of an image).

    Args:
        work: U prepared points, and what measures them.
        backend: Fitted exact backend, for the advice where the radius is too large.
        radius: In the units of the table: squared distance, or 1 - cosine.
        progress: Called with the number of different vectors of each block.

    Returns:
        Table as wide as the largest ball, at least 1.

    Raises:
        DataError: A ball holds more than ``max_ball`` images; names the sizes seen and a radius that is accepted.
    """
    points, config, step = work.points, work.config, work.near.rows_per_block
    ranks = training_ranks(config.distributed)
    share = ranks.share_of(len(points.exact))
    keys, counts = [np.empty(0, np.int64)], np.zeros(len(share), np.int64)
    with ranks.failing_together():
        seen = _sample_sizes(work, radius)
        largest = int(seen.max())
        for start in range(share.start, share.stop, step):
            if largest > config.max_ball:
                break
            stop = min(start + step, share.stop)
            row, key = work.within(np.arange(start, stop), radius)
            sizes = np.bincount(row, points.groups.sizes[key & 0xFFFFFFFF], stop - start).astype(np.int64) - 1
            largest = max(largest, int(sizes.max(initial=0)))
            counts[start - share.start : stop - share.start] = np.bincount(row, minlength=stop - start)
            keys.append(key)
            progress(stop - start)
    # All ranks refuse together: they look for a better radius together too.
    largest = max(ranks.gather(largest))
    if largest > config.max_ball:
        raise DataError(
            f"radius={radius:g}: a ball holds {largest} images, more than search.max_ball={config.max_ball}; in a sample of "
            f"{len(seen)}, balls hold at least {seen.min()} to {seen.max()} (median {np.median(seen):.0f}). "
            f"{advise_radius(work, backend).text()}"
        )
    all_counts = ranks.gather_numbers(counts)
    all_keys = ranks.gather_numbers(np.concatenate(keys))
    return _table(points, all_counts, all_keys)


def _sample_sizes(work: Workspace, radius: float) -> np.ndarray:
    """At least how many others the balls of a few images hold, so that a radius far too large fails at once."""
    step = work.near.rows_per_block
    sample = np.sort(np.random.default_rng(work.config.seed).permutation(len(work.points.exact))[:_SAMPLE])
    distance = float(work.points.search_distance(np.asarray(radius), bound=-1))
    return np.concatenate([work.near.count(sample[at : at + step], distance) for at in range(0, len(sample), step)]) - 1


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
