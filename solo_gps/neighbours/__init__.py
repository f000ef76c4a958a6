"""Neighbour search: from N embeddings to a neighbour table.

:func:`find` is the door for the other rooms. Nothing heavy is imported until it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from solo_gps.hookspecs import hookimpl

if TYPE_CHECKING:
    import numpy as np

    from solo_gps.interfaces import Embeddings, NeighbourTable
    from solo_gps.neighbours.exact.fitting import RadiusAdvice

__all__ = ["advise", "find", "register_search_backends"]


def find(
    embeddings: Embeddings | np.ndarray,
    search: Mapping | None = None,
    *,
    k: int | None = None,
    radius: float | None = None,
    name: Callable[[int], str] = "image {}".format,
) -> NeighbourTable:
    """Finds the neighbours of every image, the image itself left out; nearest first, ties by index.

    Exact backends all give the same table, to the last bit, on any device and with any block size. When the embeddings come from
    a cache folder, the table is kept there and found again.

    Args:
        embeddings: An (N, D) array of float32 or float16, compared by squared L2 distance; or, with
            ``Embeddings(array=array, space="cosine")``, by 1 - cosine.
        search: Keys of :class:`solo_gps.neighbours.config.SearchConfig`; ``None`` takes the defaults.
        k: Number of neighbours, 1 to N - 1. Exactly one of ``k`` and ``radius`` is given.
        radius: Neighbours are all points strictly closer than this; a squared distance where the space is euclidean, 1 - cosine
            where it is cosine.
        name: What to call an image, by its index, where copies are warned of.

    Returns:
        Table of (N, k) int32 indices and float32 distances; with ``radius``, K is the size of the largest ball (at least 1) and
        shorter rows are padded with -1 and infinity. Memory-mapped read-only when cached.

    Raises:
        ConfigError: A key of ``search`` is wrong, both or none of k and radius were given, or the backend is not installed.
        UnknownNameError: No backend of that name.
        DataError: The embeddings are not finite, k is not below N, a vector has no direction (cosine), or a ball is too large.
        CacheError: A stored table is damaged.
    """
    from solo_gps.neighbours.search import find as run

    return run(embeddings, search, k=k, radius=radius, name=name)


def advise(embeddings: Embeddings | np.ndarray, search: Mapping | None = None, *, share: float = 0.5) -> RadiusAdvice:
    """Looks at the distances to the nearest images, and for a radius that :func:`find` accepts with the same ``search``.

    Args:
        embeddings: As in :func:`find`.
        search: Keys of :class:`solo_gps.neighbours.config.SearchConfig`; ``None`` takes the defaults.
        share: Share of the images that should have a neighbour at that radius, 0 to 1.
    """
    from solo_gps.neighbours.search import advise as run

    return run(embeddings, search, share=share)


@hookimpl
def register_search_backends() -> dict[str, str]:
    """Registers the built-in backends."""
    return {
        "torch": "solo_gps.neighbours.backends.torch_exact:TorchExact",
        "faiss": "solo_gps.neighbours.backends.faiss_exact:FaissFlat",
        "faiss_gpu": "solo_gps.neighbours.backends.faiss_exact:FaissGpu",
        "faiss_ivf": "solo_gps.neighbours.backends.faiss_approximate:FaissIvf",
        "faiss_hnsw": "solo_gps.neighbours.backends.faiss_approximate:FaissHnsw",
        "faiss_cagra": "solo_gps.neighbours.backends.faiss_approximate:FaissCagra",
    }
