"""Checks embeddings and prepares the points that backends see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from solo_gps.errors import ConfigError, DataError
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours.exact.duplicates import Groups, group_duplicates
from solo_gps.runtime.arrays import chunks, rows_of_chunk
from solo_gps.runtime.ranks import Ranks
from solo_gps.runtime.scratch import Memory, Store, scratch_file

T = TypeVar("T")
SPACES = ("euclidean", "cosine")
# Squared distances are float32 in the table: (2 * 9e18) squared still fits, and differences below 1e-15 would vanish.
LARGEST_NORM = 9e18
SMALLEST_SPREAD = 1e-15


@dataclass(frozen=True, kw_only=True)
class Points:
    """The U different vectors among N embeddings, in the two forms that a search needs.

    Attributes:
        exact: (U, D) float32 or float16; what distances in the table are computed from. Unit length where the space is cosine.
        search: (U, D) float32; ``exact`` centred and scaled (largest norm below 1); what backends see.
        factor: Table distance = ``factor`` * squared Euclidean distance between rows of ``exact``.
        scale: Distance between rows of ``search`` = ``scale`` * distance between rows of ``exact``, up to ``slack``.
        slack: Bound of the rounding error of a distance between rows of ``search``.
        groups: Which images share which row.
    """

    exact: np.ndarray
    search: np.ndarray
    factor: float
    scale: float
    slack: float
    groups: Groups

    def search_distance(self, table_distance: np.ndarray, bound: int = 1) -> np.ndarray:
        """Bound, in the units of ``search`` (not squared), that points within ``table_distance`` are not beyond; any shape.

        With ``bound=-1``, one within which points surely are that near.
        """
        exact = np.sqrt(np.asarray(table_distance, np.float64) / self.factor)
        return np.maximum(exact * self.scale * (1 + bound * 1e-5) + bound * self.slack, 0)


def points_of(embeddings: Embeddings, ranks: Ranks | None = None) -> Points:
    """Checks (N, D) embeddings and returns their points.

    Args:
        embeddings: The same in every rank.
        ranks: Those that search together; every one must call. One of each machine prepares the points, in a file that the others
            map, where the embeddings name a folder for it; else each does so for itself.

    Raises:
        ConfigError: The space is unknown, or another rank failed.
        DataError: Wrong shape or type, fewer than two rows, values that are not finite, a zero vector in a cosine space, or norms
            whose squared distances do not fit float32.
        CacheError: The folder has no room for the file.
    """
    arrays, (factor, scale, slack) = _once_a_machine(embeddings, ranks, _prepare)
    exact, search = _exact_of(arrays, embeddings), arrays.pop("search")
    return Points(exact=exact, search=search, factor=factor, scale=scale, slack=slack, groups=Groups(**arrays))


def exact_rows(embeddings: Embeddings, ranks: Ranks | None = None) -> tuple[np.ndarray, float]:
    """Checks (N, D) embeddings; returns the (N, D) rows that distances are computed from, and ``Points.factor``.

    Args and errors are those of :func:`points_of`.
    """
    arrays, factor = _once_a_machine(embeddings, ranks, _keep_exact)
    return _exact_of(arrays, embeddings), factor


def _once_a_machine(
    embeddings: Embeddings, ranks: Ranks | None, prepare: Callable[[Embeddings, Store], T]
) -> tuple[dict[str, np.ndarray], T]:
    """Returns the arrays that ``prepare`` keeps, and the numbers that it returns, in every rank."""
    ranks, folder = ranks or Ranks(), embeddings.scratch or embeddings.folder
    own = Memory()
    if ranks.world == 1 or folder is None:
        with ranks.failing_together():
            numbers = prepare(embeddings, own)
            return own.arrays, numbers
    with scratch_file(ranks, folder, "neighbours: the points of a search") as scratch:
        told = None
        with ranks.failing_together():
            if scratch.writes:
                told = prepare(embeddings, scratch if len(scratch.here) > 1 else own), scratch.places
        numbers, places = ranks.gather(told)[scratch.here[0]]
        with ranks.failing_together():
            return own.arrays or {name: scratch.map(place) for name, place in places.items()}, numbers


def _exact_of(arrays: dict[str, np.ndarray], embeddings: Embeddings) -> np.ndarray:
    """The rows kept, or the embeddings themselves where they need no preparation."""
    return arrays.pop("exact") if "exact" in arrays else np.ascontiguousarray(embeddings.array)


def _prepare(embeddings: Embeddings, store: Store) -> tuple[float, float, float]:
    """Keeps all arrays of :class:`Points`; returns its numbers."""
    factor = _keep_exact(embeddings, store)
    exact = _exact_of(dict(store.arrays), embeddings)
    groups = group_duplicates(exact)
    if groups.count < len(exact):
        first, step = groups.first, rows_of_chunk(exact)
        kept = (exact[first[start : start + step]] for start in range(0, len(first), step))
        # Where it has been kept, in its own place: the first image of a group is never before the group's number.
        exact = store.keep("exact", kept, (len(first), exact.shape[1]), exact.dtype)
    for name, array in vars(groups).items():
        store.keep(name, [array], array.shape, array.dtype)
    return factor, *_keep_centred(exact, store)


def _keep_exact(embeddings: Embeddings, store: Store) -> float:
    """Checks embeddings, keeps what their distances are computed from where it is not they themselves; returns the factor."""
    array, space = embeddings.array, embeddings.space
    if space not in SPACES:
        raise ConfigError(f"embeddings.space={space!r} is not one of {', '.join(SPACES)}.")
    largest = _check(array)
    if space == "cosine":
        store.keep("exact", _unit_rows(array), array.shape, np.float32)
        return 0.5
    if largest > LARGEST_NORM:
        raise DataError(
            f"embeddings: the largest norm is {largest:.3g}, and squared distances above 3.4e38 do not fit float32. "
            "Divide the embeddings by their largest norm."
        )
    return 1.0


def _check(array: np.ndarray) -> float:
    """Returns the largest norm."""
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(f"embeddings: wanted an array of shape (N, D), got {array.shape}.")
    if array.dtype not in (np.float32, np.float16):
        raise DataError(f"embeddings: wanted float32 or float16, got {array.dtype}. Use array.astype('float32').")
    if len(array) < 2:
        raise DataError(f"embeddings: neighbours need at least 2 images, got {len(array)}.")
    largest = 0.0
    for start, block in chunks(array):
        wide = block.astype(np.float64)
        squared = np.einsum("nd,nd->n", wide, wide)
        if not np.isfinite(squared).all():
            finite = np.isfinite(block)
            row, column = np.argwhere(~finite)[0]
            rows = int((~finite).any(axis=1).sum())
            raise DataError(
                f"embeddings[{start + row}, {column}] is {block[row, column]}: wanted finite values; {rows} of rows {start} to "
                f"{start + len(block) - 1} hold others. Mend the encoder, or drop these images."
            )
        largest = max(largest, float(squared.max()))
    return largest**0.5


def _unit_rows(array: np.ndarray) -> Iterator[np.ndarray]:
    for start, block in chunks(array):
        wide = block.astype(np.float64)
        norms = np.sqrt(np.square(wide).sum(axis=1))
        if not norms.all():
            row = start + int(np.argmin(norms))
            raise DataError(f"embeddings[{row}] is a zero vector: it has no direction, and the space is cosine. Use euclidean.")
        yield wide / norms[:, None]


def _keep_centred(exact: np.ndarray, store: Store) -> tuple[float, float]:
    """Keeps ``exact`` centred and scaled by a power of two; returns the scale, and the slack of distances."""
    mean = np.zeros(exact.shape[1])
    for _, block in chunks(exact):
        mean += np.add.reduce(block, axis=0, dtype=np.float64) / len(exact)

    def centred() -> Iterator[np.ndarray]:
        return ((block - mean).astype(np.float32) for _, block in chunks(exact))

    largest = max(float(np.einsum("nd,nd->n", piece, piece).max()) ** 0.5 for piece in centred())
    if len(exact) > 1 and largest < SMALLEST_SPREAD:
        raise DataError(
            f"embeddings differ from their mean by at most {largest:.3g}: squared distances vanish in float32. Scale them up."
        )
    scale = 2.0 ** -np.ceil(np.log2(largest) + 1e-6) if largest else 1.0
    # Made twice: the scale is known once all rows have been seen, and a file is written once.
    store.keep("search", (piece * np.float32(scale) for piece in centred()), exact.shape, np.float32)
    # Each row is rounded once, by at most 2^-24 of its norm (below 1); two rows a distance, doubled for the norms' own rounding.
    return float(scale), 2.0**-22
