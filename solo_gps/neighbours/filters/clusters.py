"""Groups of images: k-means clusters of the embeddings (FAISS) and communities of the neighbour graph (igraph)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from solo_gps.config import check_choice
from solo_gps.errors import ConfigError, DataError
from solo_gps.interfaces import Embeddings, NeighbourTable
from solo_gps.neighbours.backends.faiss_here import faiss_missing, load_faiss
from solo_gps.neighbours.exact.points import exact_rows
from solo_gps.neighbours.filters.graph import edges
from solo_gps.runtime.ranks import Ranks

METHODS = ("louvain", "leiden")


def kmeans_clusters(
    embeddings: Embeddings, clusters: int, *, iterations: int = 20, seed: int = 0, ranks: Ranks | None = None
) -> np.ndarray:
    """k-means clusters of the embeddings, by FAISS; spherical where the space is cosine.

    Args:
        embeddings: N points.
        clusters: Number of clusters, 1 to N.
        iterations: Of k-means.
        seed: Of the first centres.
        ranks: Those that all call this, and keep the points once a machine; without them each keeps its own.

    Returns:
        (N,) int32 cluster of each image.

    Raises:
        ConfigError: FAISS is not there, or a number is out of range.
        DataError: The embeddings are not finite, or have no direction where the space is cosine.
    """
    missing = faiss_missing()
    if missing:
        raise ConfigError(f"k-means clusters: {missing}")
    if not 1 <= clusters <= len(embeddings.array):
        raise ConfigError(f"k-means: clusters={clusters} must be 1 to N={len(embeddings.array)}.")
    faiss = load_faiss()
    points = np.ascontiguousarray(exact_rows(embeddings, ranks)[0], np.float32)
    spherical = embeddings.space == "cosine"
    kmeans = faiss.Kmeans(
        points.shape[1], clusters, niter=iterations, seed=seed + 1, spherical=spherical, min_points_per_centroid=1
    )
    kmeans.train(points)
    return kmeans.assign(points)[1].astype(np.int32)


def communities(
    table: NeighbourTable, *, method: str = "louvain", weighted: bool = True, resolution: float = 1.0, seed: int = 0
) -> np.ndarray:
    """Communities of the undirected neighbour graph, by igraph.

    Args:
        table: Neighbours of N images.
        method: ``louvain`` (Blondel et al., arXiv 0803.0476) or ``leiden`` (Traag et al., arXiv 1810.08473), both by modularity.
        weighted: Whether an edge weighs exp(-distance / mean distance) instead of 1.
        resolution: Above 1 for more and smaller communities.
        seed: Of the order in which images are visited.

    Returns:
        (N,) int32 community of each image; an image without neighbours is alone in its own.

    Raises:
        ConfigError: igraph is not there, or the method is unknown.
        DataError: The table holds no neighbour at all.
    """
    try:
        check_choice("method", method, METHODS)
    except ValueError as error:
        raise ConfigError(f"communities: {error}") from error
    graph = _graph(table, weighted)
    import igraph

    # igraph draws from Python's random module unless told otherwise.
    igraph.set_random_number_generator(random.Random(seed))  # no secret # nosec B311
    try:
        weights = "weight" if weighted else None
        if method == "louvain":
            found = graph.community_multilevel(weights=weights, resolution=resolution)
        else:
            found = graph.community_leiden("modularity", weights=weights, resolution=resolution, n_iterations=-1)
    finally:
        igraph.set_random_number_generator(random)
    return np.asarray(found.membership, np.int32)


def _graph(table: NeighbourTable, weighted: bool) -> Any:
    """The undirected graph of the table, each pair once."""
    try:
        import igraph
    except ImportError as error:
        raise ConfigError(f"communities: igraph cannot be imported ({error}). Install it: pip install igraph") from error
    images = len(table.indices)
    anchors, neighbours, distances = edges(table)
    if not len(anchors):
        raise DataError("communities: the table holds no neighbour at all. Use a larger radius.")
    low, high = np.minimum(anchors, neighbours), np.maximum(anchors, neighbours)
    pairs, first = np.unique(low * images + high, return_index=True)
    graph = igraph.Graph(n=images, edges=np.stack([pairs // images, pairs % images], axis=1))
    if weighted:
        mean = float(distances.mean())
        graph.es["weight"] = np.exp(-distances[first] / mean) if mean > 0 else np.ones(len(first))
    return graph
