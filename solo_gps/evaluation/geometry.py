"""Metrics of features by their cosines, in blocks of bounded memory, on the GPU where there is one.

Sizes: N gallery rows, M queries, D dimensions, K neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from solo_gps.errors import DataError
from solo_gps.runtime.determinism import true_float32
from solo_gps.runtime.devices import device_of
from solo_gps.runtime.progress import Progress

COSINES = 1 << 24
"""Cosines held at once: 64 MiB, and about ten times that while whole rankings are judged."""

QUERIES = 4096
"""Queries whose votes are counted at once."""
SMALLEST_LENGTH = 1e-12
"""As torch.nn.functional.normalize has it."""


def nearest(
    gallery: NDArray[np.floating], queries: NDArray[np.floating] | None = None, *, k: int, device: str = "auto"
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Finds the rows of largest cosine, by float32 products of all pairs.

    Args:
        gallery: (N, D) features.
        queries: (M, D) features; ``None``: the gallery's own rows, each without itself.
        k: Number of neighbours K.
        device: Where products are taken: ``auto`` (CUDA when there is one), ``cpu``, ``cuda`` or ``cuda:<n>``.

    Returns:
        (M, K) rows of the gallery, the most similar first, and their (M, K) cosines.

    Raises:
        DataError: There are fewer than ``k`` rows to be found, or a row is not finite.
    """
    available = len(gallery) - (queries is None)
    if not 1 <= k <= available:
        raise DataError(f"k={k} neighbours of {available:,} features; wanted k from 1 to {available:,}.")
    blocks = _cosines("finding neighbours", gallery, queries, device)
    found = [[part.cpu().numpy() for part in cosines.topk(k)] for _, cosines in blocks]
    values, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rows, values


def vote_accuracy(
    labels: NDArray[np.integer], cosines: NDArray[np.floating], wanted: NDArray[np.integer], temperature: float | None = None
) -> float:
    """Returns the accuracy of a vote of each query's neighbours; of classes with equal votes the first counts.

    Args:
        labels: (M, K) classes of the neighbours.
        cosines: (M, K) their cosines.
        wanted: (M,) classes of the queries.
        temperature: A vote weighs ``exp(cosine / temperature)``, as in solo-learn's WeightedKNNClassifier; ``None``: one each.
    """
    right = 0
    classes, numbered = np.unique(labels, return_inverse=True)
    numbered = numbered.reshape(labels.shape)
    for start in range(0, len(labels), QUERIES):
        block = slice(start, start + QUERIES)
        near, of = cosines[block].astype(np.float64), numbered[block]
        # From the largest cosine of each query: the same votes but for a factor, and they are never all 0 or infinite.
        largest = near.max(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            weights = np.ones_like(near) if temperature is None else np.exp((near - largest) / temperature)
        votes = np.zeros((len(of), len(classes)))
        np.add.at(votes, (np.arange(len(of))[:, None], of), weights)
        right += int((classes[votes.argmax(axis=1)] == wanted[block]).sum())
    return right / len(labels)


def recall(labels: NDArray[np.integer], wanted: NDArray[np.integer], k: int) -> float:
    """Returns Recall@k as in retrieval: the share of queries with one of their class among the first k neighbours.

    Args:
        labels: (M, K) classes of the neighbours, the most similar first.
        wanted: (M,) classes of the queries.
        k: At most K.
    """
    return float((labels[:, :k] == wanted[:, None]).any(axis=1).mean())


def mean_average_precision(
    gallery: NDArray[np.floating],
    labels: NDArray[np.integer],
    queries: NDArray[np.floating] | None = None,
    wanted: NDArray[np.integer] | None = None,
    *,
    device: str = "auto",
) -> float:
    """Returns mAP of retrieval: the whole gallery ranked by cosine for each query, its own class being relevant.

    A query's average precision is the mean, over its relevant rows, of the share of relevant rows down to each.

    Args:
        gallery: (N, D) features.
        labels: (N,) classes.
        queries: (M, D) features; ``None``: the gallery's own rows, each without itself.
        wanted: (M,) classes of the queries; ``None`` with ``queries=None``.
        device: As in :func:`nearest`.

    Returns:
        Mean over the queries that have a relevant row; ``nan`` when none has.
    """
    total, judged, own = 0.0, 0, queries is None
    for start, cosines in _cosines("ranking", gallery, queries, device):
        ranked = cosines.argsort(dim=1, descending=True)
        of_gallery = torch.as_tensor(np.ascontiguousarray(labels), device=cosines.device)
        asked = of_gallery if wanted is None else torch.as_tensor(np.ascontiguousarray(wanted), device=cosines.device)
        hits = of_gallery[ranked] == asked[start : start + len(cosines), None]
        if own:
            hits = hits[:, :-1]  # itself comes last
        places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
        relevant = hits.sum(dim=1)
        precisions = torch.where(hits, hits.cumsum(dim=1) / places, 0).sum(dim=1, dtype=torch.float64)
        some = relevant > 0
        total += float((precisions[some] / relevant[some]).sum())
        judged += int(some.sum())
    return total / judged if judged else math.nan


def alignment(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Returns the mean squared distance of positive pairs on the unit sphere: arXiv 2005.10242, section 4.1, alpha = 2.

    Args:
        first: (N, D) features of one view of each image.
        second: (N, D) features of another.

    Returns:
        From 0, where both views of every image have one direction, to 4.
    """
    return float(2 - 2 * (_unit(first) * _unit(second)).sum(axis=1, dtype=np.float64).mean())


def uniformity(features: NDArray[np.floating], *, device: str = "auto") -> float:
    """Returns the logarithm of the mean Gaussian potential on the unit sphere: arXiv 2005.10242, section 4.1, t = 2.

    Args:
        features: (N, D), N at least 2.
        device: As in :func:`nearest`.

    Returns:
        From about -4, where rows are spread evenly over many dimensions, to 0, where all have one direction.
    """
    total = 0.0
    for _, cosines in _cosines("measuring uniformity", features, None, device):  # of itself the cosine is -inf, the potential 0
        total += float((4 * (cosines - 1)).exp_().sum(dtype=torch.float64))
    return math.log(total / (len(features) * (len(features) - 1)))


def _unit(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of length 1; one of zeros stays one, as in solo-learn."""
    rows = np.asarray(features, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise DataError(f"features: row {int((~np.isfinite(lengths)).argmax())} is not finite. Look at that image.")
    return rows / np.maximum(lengths, SMALLEST_LENGTH)


def _cosines(
    what: str, gallery: NDArray[np.floating], queries: NDArray[np.floating] | None, device_name: str
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields the first query of each block, and its (B, N) cosines; -inf for a row and itself."""
    device = device_of(device_name, "device")
    among = torch.from_numpy(_unit(gallery)).to(device)
    asked = among if queries is None else torch.from_numpy(_unit(queries))
    size = max(1, COSINES // len(gallery))
    with true_float32(), Progress(what, len(asked), unit="queries") as progress:
        for start in range(0, len(asked), size):
            block = asked[start : start + size].to(device) @ among.T
            if queries is None:
                block[torch.arange(len(block)), torch.arange(start, start + len(block))] = -math.inf
            yield start, block
            progress.update(len(block))
