"""The table as a graph: mutual neighbours, several hops, hubs, groups. Pure, vectorised, never N x N."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from solo_gps.errors import ConfigError, DataError
from solo_gps.interfaces import Embeddings, NeighbourTable
from solo_gps.neighbours.exact.duplicates import Groups, groups_of
from solo_gps.neighbours.exact.nearest import rows_to_table
from solo_gps.neighbours.exact.points import exact_rows
from solo_gps.neighbours.exact.rerank import Distances, HostDistances, sort_key
from solo_gps.runtime.ranks import Ranks

_BLOCK_PAIRS = 1 << 22


def edges(table: NeighbourTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (E,) int64 anchors, (E,) int64 neighbours and (E,) float32 distances, row after row, without padding."""
    there = np.asarray(table.indices) >= 0
    anchors = np.repeat(np.arange(len(there)), there.sum(axis=1))
    return anchors, table.indices[there].astype(np.int64), np.asarray(table.distances[there])


def keep_edges(table: NeighbourTable, kept: np.ndarray) -> NeighbourTable:
    """Drops neighbours and closes the gaps.

    Args:
        table: Neighbours of N images.
        kept: (N, K) bool.

    Returns:
        Table as wide as its longest row (at least 1); the order in a row stays.
    """
    kept = kept & (np.asarray(table.indices) >= 0)
    width = max(1, int(kept.sum(axis=1).max(initial=0)))
    indices = np.full((len(kept), width), -1, np.int32)
    distances = np.full((len(kept), width), np.inf, np.float32)
    row, column = np.nonzero(kept)
    place = (np.cumsum(kept, axis=1) - 1)[row, column]
    indices[row, place] = table.indices[row, column]
    distances[row, place] = table.distances[row, column]
    return NeighbourTable(indices=indices, distances=distances)


def mutual(table: NeighbourTable) -> NeighbourTable:
    """Keeps j as a neighbour of i only where i is a neighbour of j too."""
    images = len(table.indices)
    anchors, neighbours, _ = edges(table)
    back = np.isin(neighbours * images + anchors, anchors * images + neighbours, assume_unique=True)
    kept = np.zeros(table.indices.shape, bool)
    kept[np.asarray(table.indices) >= 0] = back
    return keep_edges(table, kept)


def same_group(table: NeighbourTable, group_of: np.ndarray) -> NeighbourTable:
    """Keeps neighbours in the anchor's own group (k-means cluster, community).

    Args:
        table: Neighbours of N images.
        group_of: (N,) integer group of each image.

    Raises:
        DataError: The groups are not those of N images.
    """
    if group_of.shape != (len(table.indices),):
        raise DataError(f"groups: wanted shape ({len(table.indices)},), got {group_of.shape}.")
    indices = np.asarray(table.indices)
    return keep_edges(table, group_of[np.maximum(indices, 0)] == group_of[:, None])


def members_of(group_of: np.ndarray) -> Groups:
    """Returns the members of each group, for candidates that are a whole group; groups are renumbered by their first image."""
    _, first, inverse = np.unique(group_of, return_index=True, return_inverse=True)
    return groups_of(first[inverse])


def in_degree(table: NeighbourTable) -> np.ndarray:
    """(N,) int64: in how many rows each image occurs. Large for hubs, 0 for images that are never anybody's neighbour."""
    indices = np.asarray(table.indices)
    return np.bincount(indices[indices >= 0], minlength=len(indices))


def hubness(table: NeighbourTable) -> float:
    """Skewness of the in-degrees (Radovanovic et al., JMLR 11, 2010, section 2.2): 0 without hubs; 0 where all are equal."""
    degrees = in_degree(table).astype(np.float64)
    centred = degrees - degrees.mean()
    spread = np.sqrt(np.mean(centred**2))
    return float(np.mean(centred**3) / spread**3) if spread > 0 else 0.0


def agreed(tables: Sequence[NeighbourTable], embeddings: Embeddings, ranks: Ranks | None = None) -> NeighbourTable:
    """Images that are neighbours in every table.

    Args:
        tables: Two or more, of the same N images.
        embeddings: Those images in a space of their own; give the distances.
        ranks: Those that all call this, and keep the points once a machine; without them each keeps its own.

    Returns:
        Table as wide as its longest row (at least 1), nearest first, ties by index; a row may be empty.
    """
    images, width = tables[0].indices.shape
    points, factor = exact_rows(embeddings, ranks)

    def pairs(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        cut = [edges(NeighbourTable(indices=table.indices[rows], distances=table.distances[rows])) for table in tables]
        shared = reduce(np.intersect1d, [row * images + column for row, column, _ in cut])
        return shared // images, shared % images

    return _by_distance(images, max(1, _BLOCK_PAIRS // width), pairs, HostDistances(points), factor, width)


def multi_hop(
    table: NeighbourTable, embeddings: Embeddings, hops: int, most: int = 1024, ranks: Ranks | None = None
) -> NeighbourTable:
    """All images that can be reached in at most ``hops`` steps from neighbour to neighbour.

    The ``nn_hop=h`` of GPS-SSL's own code is another set: the ends of walks of exactly h + 1 steps, the image itself among them.

    Args:
        table: Neighbours of N images.
        embeddings: The embeddings that the table was built from; give the distances.
        hops: Number of steps, 1 or more; 1 gives the same neighbours.
        most: The nearest this many are kept. Memory and time grow with ``most`` * K, so it bounds every step.
        ranks: Those that all call this, and keep the points once a machine; without them each keeps its own.

    Returns:
        Table as wide as its longest row (at least 1), nearest first, ties by index, the image itself left out.

    Raises:
        ConfigError: ``hops`` or ``most`` is below 1.
        DataError: Embeddings and table are not of the same images.
    """
    if hops < 1 or most < 1:
        raise ConfigError(f"multi-hop: wanted hops >= 1 and most >= 1, got {hops} and {most}.")
    if len(embeddings.array) != len(table.indices):
        raise DataError(f"multi-hop: the table has {len(table.indices)} images, the embeddings {len(embeddings.array)}.")
    points, factor = exact_rows(embeddings, ranks)
    distances = HostDistances(points)
    reached = table
    for _ in range(hops - 1):
        reached = _one_more_hop(reached, table, distances, factor, most)
    return reached


def _one_more_hop(
    reached: NeighbourTable, table: NeighbourTable, distances: Distances, factor: float, most: int
) -> NeighbourTable:
    images, width = reached.indices.shape
    step = max(1, _BLOCK_PAIRS // (width * (table.indices.shape[1] + 1)))

    def pairs(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return _reached_pairs(np.asarray(reached.indices[rows]), np.asarray(table.indices), images)

    return _by_distance(images, step, pairs, distances, factor, most)


def _by_distance(
    images: int,
    step: int,
    pairs: Callable[[slice], tuple[np.ndarray, np.ndarray]],
    distances: Distances,
    factor: float,
    most: int,
) -> NeighbourTable:
    """The table of what ``pairs`` gives for ``step`` rows at a time: ascending positions in them, and images."""
    blocks = []
    for start in range(0, images, step):
        rows = np.arange(start, min(start + step, images))
        row, column = pairs(slice(start, start + step))
        key = sort_key(distances(rows[row], column[:, None])[:, 0], column)
        blocks.append(rows_to_table(row, key, rows, factor, most))
    indices, measured = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return keep_edges(NeighbourTable(indices=indices, distances=measured), indices >= 0)


def _reached_pairs(reached: np.ndarray, indices: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Different (row, image) pairs of the (B, M) images reached and their (N, K) neighbours, sorted."""
    rows = np.arange(len(reached))[:, None]
    next_ones = np.where(reached[..., None] >= 0, indices[np.maximum(reached, 0)], -1).reshape(len(reached), -1)
    everything = np.concatenate([reached, next_ones], axis=1).astype(np.int64)
    pairs = np.unique((rows * images + everything)[everything >= 0])
    return pairs // images, pairs % images
