"""Checks embeddings and prepares the points that backends see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solo_gps.errors import ConfigError, DataError
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours.exact.duplicates import Groups, group_duplicates
from solo_gps.runtime.arrays import chunks

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


def points_of(embeddings: Embeddings) -> Points:
    """Checks (N, D) embeddings and returns their points.

    Raises:
        ConfigError: The space is unknown.
        DataError: Wrong shape or type, fewer than two rows, values that are not finite, a zero vector in a cosine space, or norms
            whose squared distances do not fit float32.
    """
    exact, factor = exact_rows(embeddings)
    groups = group_duplicates(exact)
    if groups.count < len(exact):
        exact = exact[groups.first]
    search, scale, slack = _centred(exact)
    return Points(exact=exact, search=search, factor=factor, scale=scale, slack=slack, groups=groups)


def exact_rows(embeddings: Embeddings) -> tuple[np.ndarray, float]:
    """Checks (N, D) embeddings; returns the (N, D) rows that distances are computed from, and ``Points.factor``.

    Raises:
        ConfigError, DataError: As :func:`prepare`.
    """
    array, space = embeddings.array, embeddings.space
    if space not in SPACES:
        raise ConfigError(f"embeddings.space={space!r} is not one of {', '.join(SPACES)}.")
    largest = _check(array)
    if space == "cosine":
        return _unit_rows(array), 0.5
    if largest > LARGEST_NORM:
        raise DataError(
            f"embeddings: the largest norm is {largest:.3g}, and squared distances above 3.4e38 do not fit float32. "
            "Divide the embeddings by their largest norm."
        )
    return np.ascontiguousarray(array), 1.0


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


def _unit_rows(array: np.ndarray) -> np.ndarray:
    unit = np.empty(array.shape, np.float32)
    for start, block in chunks(array):
        wide = block.astype(np.float64)
        norms = np.sqrt(np.square(wide).sum(axis=1))
        if not norms.all():
            row = start + int(np.argmin(norms))
            raise DataError(f"embeddings[{row}] is a zero vector: it has no direction, and the space is cosine. Use euclidean.")
        unit[start : start + len(block)] = wide / norms[:, None]
    return unit


def _centred(exact: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Returns ``exact`` centred and scaled by a power of two, the scale, and the slack of distances."""
    mean = np.zeros(exact.shape[1])
    for _, block in chunks(exact):
        mean += np.add.reduce(block, axis=0, dtype=np.float64) / len(exact)
    search = np.empty(exact.shape, np.float32)
    largest = 0.0
    for start, block in chunks(exact):
        piece = search[start : start + len(block)]
        piece[...] = block - mean
        largest = max(largest, float(np.einsum("nd,nd->n", piece, piece).max()) ** 0.5)
    if len(exact) > 1 and largest < SMALLEST_SPREAD:
        raise DataError(
            f"embeddings differ from their mean by at most {largest:.3g}: squared distances vanish in float32. Scale them up."
        )
    scale = 2.0 ** -np.ceil(np.log2(largest) + 1e-6) if largest else 1.0
    search *= np.float32(scale)
    # Each row is rounded once, by at most 2^-24 of its norm (below 1); two rows a distance, doubled for the norms' own rounding.
    return search, float(scale), 2.0**-22
