"""Exact duplicates: which images have the same vector, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solo_gps.runtime.arrays import chunks

_SAMPLE = 64
_SAME = 1e-12  # of the squared norm
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Images grouped by equal vectors. Groups are numbered by their first image, so group order is index order.

    Attributes:
        group_of: (N,) int64 group of each image.
        members: (N,) int64 images, sorted by group and then by index.
        starts: (U + 1,) int64; members of group g are ``members[starts[g]:starts[g + 1]]``.
    """

    group_of: np.ndarray
    members: np.ndarray
    starts: np.ndarray

    @property
    def count(self) -> int:
        """Number U of different vectors."""
        return len(self.starts) - 1

    @property
    def first(self) -> np.ndarray:
        """(U,) int64 first image of each group."""
        return self.members[self.starts[:-1]]

    @property
    def sizes(self) -> np.ndarray:
        """(U,) int64 images in each group."""
        return np.diff(self.starts)


@dataclass(frozen=True, kw_only=True)
class DuplicateReport:
    """Exact duplicates among N images.

    Attributes:
        images: Images that share their vector with at least one other.
        groups: Number of groups of two or more.
        largest: Images in the largest group (1 when there are no duplicates).
        examples: Up to 5 groups, largest first, each as a tuple of at most 5 image indices.
    """

    images: int
    groups: int
    largest: int
    examples: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        if not self.groups:
            return "no exact duplicates"
        return f"{self.images} images in {self.groups} groups of exact duplicates (largest {self.largest})"


def group_duplicates(array: np.ndarray) -> Groups:
    """Groups equal rows of an (N, D) float array; 0.0 and -0.0 are equal. O(N D) by hashing, every match verified."""
    hashes = _row_hashes(array)
    order = np.argsort(hashes, kind="stable")
    same = np.zeros(len(order), bool)
    if len(order) > 1:
        candidates = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        for block in np.array_split(candidates, max(1, len(candidates) // 4096)):
            same[block + 1] = (array[order[block + 1]] == array[order[block]]).all(axis=1)
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    leader = np.empty(len(order), np.int64)
    leader[order] = order[first]
    return groups_of(leader)


def groups_of(leader: np.ndarray) -> Groups:
    """Builds groups from (N,) int64 numbers of the first image with the same vector."""
    _, group_of = np.unique(leader, return_inverse=True)
    members = np.argsort(group_of, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(group_of))])
    return Groups(group_of=group_of.astype(np.int64), members=members, starts=starts.astype(np.int64))


def duplicate_report(groups: Groups) -> DuplicateReport:
    """Summarises the groups of two or more images."""
    sizes = groups.sizes
    shared = np.flatnonzero(sizes > 1)
    largest = shared[np.argsort(-sizes[shared], kind="stable")][:5]
    examples = tuple(tuple(groups.members[groups.starts[g] : groups.starts[g + 1]][:5].tolist()) for g in largest)
    return DuplicateReport(
        images=int(sizes[shared].sum()), groups=len(shared), largest=int(sizes.max(initial=1)), examples=examples
    )


def at_one_point(array: np.ndarray) -> np.ndarray:
    """Returns the rows of an (N, D) float array that lie at the point where most lie, (M,) int64; none where no half lies at one.

    Equal means to the last digits: a batch of other images beside it changes them. A sample of rows proposes the point, so that
    this costs nothing where points differ.
    """
    sample = np.asarray(array[np.linspace(0, len(array) - 1, min(len(array), _SAMPLE)).astype(np.int64)])
    near = np.stack([_near(sample, row) for row in sample]).sum(axis=1)
    if near.max() <= len(sample) / 2:
        return np.empty(0, np.int64)
    point = sample[near.argmax()]
    return np.concatenate([start + np.flatnonzero(_near(block, point)) for start, block in chunks(array)])


def _near(rows: np.ndarray, point: np.ndarray) -> np.ndarray:
    wide = point.astype(np.float64)
    return np.square(rows - wide).sum(axis=1) <= _SAME * np.square(wide).sum()


def _row_hashes(array: np.ndarray) -> np.ndarray:
    """(N,) uint64; equal rows have equal hashes."""
    kind = np.uint16 if array.dtype == np.float16 else np.uint32
    weights = np.random.default_rng(0).integers(1, 2**63, array.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(array), np.uint64)
    rows = max(1, (4 << 20) // (8 * array.shape[1]))
    for start in range(0, len(array), rows):
        # Adding zero turns -0.0 into 0.0.
        words = np.ascontiguousarray(array[start : start + rows] + array.dtype.type(0)).view(kind).astype(np.uint64)
        mixed = (words ^ (words >> np.uint64(15))) * _ODD
        mixed ^= mixed >> np.uint64(29)
        hashes[start : start + len(words)] = (mixed * weights).sum(axis=1, dtype=np.uint64)
    return hashes
