"""What the neighbours in a prior's space say of the images: pure functions of tables, points and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from solo_gps.evaluation.metrics import pair_purity, rank_me
from solo_gps.interfaces import Embeddings, NeighbourTable
from solo_gps.neighbours.filters.graph import in_degree, mutual
from solo_gps.neighbours.filters.radii import cut_table
from solo_gps.samplers.gps.choose import ball_sizes, choose_positives
from solo_gps.samplers.gps.config import CHOICES, DRAWN

PAIRS = 100_000
"""Pairs of images whose distances are drawn."""
BINS = 40
RANK_ROWS = 5000
"""Images, evenly spaced, whose effective rank is taken: its products then have a bounded size."""
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Ball:
    """The ``k`` nearest of every image, as positives.

    Attributes:
        k: Number of neighbours.
        distance: Median distance to the last of them.
        purity: By ``choose``: share of its positives with their anchor's label, of drawn ones by their chances; ``nan`` without
            labels.
        covered: By ``choose``: share of the images that are a positive in some epoch.
    """

    k: int
    distance: float
    purity: dict[str, float]
    covered: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RadiusBall:
    """The neighbours strictly closer than a radius, among those that were looked at.

    Attributes:
        radius: In the units of the table.
        size: Median number of images in a ball.
        empty: Share of images whose ball is empty.
        full: Share of images whose ball holds all neighbours that were looked at, and perhaps more.
        purity: Share of positives with their anchor's label, by the chances of a uniform draw; ``nan`` without labels.
        covered: Share of images that are in some ball.
    """

    radius: float
    size: float
    empty: float
    full: float
    purity: float
    covered: float


@dataclass(frozen=True, kw_only=True)
class OfClass:
    """How well the neighbours tell a class.

    Attributes:
        label: The class.
        images: Images of it.
        accuracy: Share of them that a vote of their neighbours gives this class.
    """

    label: int
    images: int
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Distances of drawn pairs of images.

    Attributes:
        edges: (B + 1,) edges of the histograms.
        any: (B,) pairs of any two images in each bin.
        same: (B,) pairs of one class; empty without labels.
        other: (B,) pairs of two classes; empty without labels.
        typical: Median distance of any two images.
        closer: Share of (pair of one class, pair of two) whose first is the closer, ties by half: the area under the ROC curve.
    """

    edges: list[float]
    any: list[int]
    same: list[int]
    other: list[int]
    typical: float
    closer: float


def first_columns(table: NeighbourTable, k: int) -> NeighbourTable:
    """The ``k`` nearest of a table."""
    return NeighbourTable(indices=np.asarray(table.indices[:, :k]), distances=np.asarray(table.distances[:, :k]))


def purity_by_rank(table: NeighbourTable, labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Share of the neighbours of each rank that have their anchor's label.

    Args:
        table: K neighbours of N images, nearest first, padded with -1.
        labels: (N,) classes, -1 where unknown (those are left out).

    Returns:
        (K,) shares, the nearest first; ``nan`` where no pair is known.
    """
    shares = np.full(table.indices.shape[1], np.nan)
    for rank, column in enumerate(np.asarray(table.indices).T):
        judged = (column >= 0) & (labels >= 0) & (labels[column] >= 0)
        if judged.any():
            shares[rank] = (labels[column] == labels)[judged].mean()
    return shares


def chance_purity(labels: NDArray[np.integer]) -> float:
    """Share of all pairs of different images, both of a known class, that have one; ``nan`` for fewer than two such images."""
    counts = np.unique(labels[labels >= 0], return_counts=True)[1].astype(np.float64)  # classes may be any whole numbers
    images = counts.sum()
    return float((counts * (counts - 1)).sum() / (images * (images - 1))) if images > 1 else float("nan")


def balls_by_k(table: NeighbourTable, labels: NDArray[np.integer] | None, sizes: Sequence[int]) -> list[Ball]:
    """What each ``choose`` makes of the k nearest.

    Args:
        table: K neighbours of N images.
        labels: (N,) classes, -1 where unknown, or ``None``.
        sizes: Numbers k, at most K.
    """
    anchors, balls = np.arange(len(table.indices)), []
    unknown = np.full(len(anchors), -1) if labels is None else labels
    for k in sizes:
        first = first_columns(table, k)
        fixed = {choose: choose_positives(first, choose, epoch=0, seed=0)[:, 0] for choose in CHOICES if choose not in DRAWN}
        purity = {choose: pair_purity(anchors, positives, unknown)[1] for choose, positives in fixed.items()}
        purity |= {choose: drawn_purity(first, choose, unknown) for choose in DRAWN}
        ever = float((in_degree(first) > 0).mean())
        distances = first.distances[:, -1]
        balls.append(
            Ball(
                k=k,
                distance=_median(distances[np.isfinite(distances)]),
                purity={choose: purity[choose] for choose in CHOICES},
                covered={choose: ever if choose in DRAWN else _used(anchors, fixed[choose]) for choose in CHOICES},
            )
        )
    return balls


def drawn_purity(table: NeighbourTable, choose: str, labels: NDArray[np.integer]) -> float:
    """Expected share of drawn positives with their anchor's label, among those of known classes; one epoch would be noise.

    Args:
        table: Neighbours of N images, padded with -1.
        choose: ``"uniform"``, or ``"weighted"`` at temperature 1.
        labels: (N,) classes, -1 where unknown.
    """
    pure = judged = 0.0
    step = max(1, _BLOCK // max(1, table.indices.shape[1]))
    for start in range(0, len(labels), step):
        rows = slice(start, start + step)
        neighbours, there = table.indices[rows], np.asarray(table.indices[rows]) >= 0
        chances = there.astype(np.float64)
        if choose == "weighted":
            distances = np.where(there, table.distances[rows], 0.0).astype(np.float64)
            mean = distances.sum(axis=1, keepdims=True) / np.maximum(there.sum(axis=1, keepdims=True), 1)
            chances *= np.exp(-np.divide(distances, mean, out=np.zeros_like(distances), where=mean > 0))
        chances /= np.maximum(chances.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        known = there & (labels[neighbours] >= 0) & (labels[rows, None] >= 0)
        judged += chances[known].sum()
        pure += chances[known & (labels[neighbours] == labels[rows, None])].sum()
    return float(pure / judged) if judged else float("nan")


def _used(anchors: NDArray[np.integer], positives: NDArray[np.integer]) -> float:
    return len(np.unique(positives[positives != anchors])) / len(anchors)


def _median(values: NDArray[np.floating]) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def balls_by_radius(table: NeighbourTable, labels: NDArray[np.integer] | None, radii: Sequence[float]) -> list[RadiusBall]:
    """What is closer than each radius, among the K nearest of each image.

    Args:
        table: K neighbours of N images.
        labels: (N,) classes, -1 where unknown, or ``None``.
        radii: In the units of the table.
    """
    balls = []
    unknown = np.full(len(table.indices), -1) if labels is None else labels
    for radius in radii:
        ball = cut_table(table, radius)
        sizes = ball_sizes(ball)
        balls.append(
            RadiusBall(
                radius=float(radius),
                size=float(np.median(sizes)),
                empty=float((sizes == 0).mean()),
                full=float((sizes == table.indices.shape[1]).mean()),
                purity=drawn_purity(ball, "uniform", unknown),
                covered=float((in_degree(ball) > 0).mean()),
            )
        )
    return balls


def leave_one_out(table: NeighbourTable, labels: NDArray[np.integer], k: int) -> tuple[float, list[OfClass]]:
    """Accuracy of a vote of each image's k nearest others, each with one vote; the smaller of two classes with as many wins.

    Args:
        table: At least k neighbours of N images.
        labels: (N,) classes; images of an unknown one (-1) have no vote and are not judged.
        k: Number of votes.

    Returns:
        Share of images that are told right, and each class, worst first; an image without a voting neighbour is told wrong.
    """
    known = np.flatnonzero(labels >= 0)
    classes, number = np.unique(labels[known], return_inverse=True)
    of_image = np.full(len(labels), -1)
    of_image[known] = number
    right = np.zeros(len(known), bool)
    step = max(1, _BLOCK // len(classes))
    for start in range(0, len(known), step):
        rows = known[start : start + step]
        neighbours = np.asarray(table.indices[rows, :k])
        voted = np.where(neighbours >= 0, of_image[neighbours], -1)
        row, column = np.nonzero(voted >= 0)
        flat = np.bincount(row * len(classes) + voted[row, column], minlength=len(rows) * len(classes))
        votes = flat.reshape(len(rows), len(classes))
        right[start : start + step] = (votes.argmax(axis=1) == of_image[rows]) & votes.any(axis=1)
    counts = np.bincount(number)
    accuracies = np.bincount(number, right) / counts
    order = np.argsort(accuracies, kind="stable")
    each = [OfClass(label=int(classes[c]), images=int(counts[c]), accuracy=float(accuracies[c])) for c in order]
    return float(right.mean()), each


def pair_distances(embeddings: Embeddings, first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.float64]:
    """(M,) distances between images ``first`` and ``second``, (M,) each: squared, or 1 - cosine, as in the space's tables."""
    distances = np.empty(len(first))
    step = max(1, _BLOCK // embeddings.array.shape[1])
    for start in range(0, len(first), step):
        one, other = (np.asarray(embeddings.array[rows[start : start + step]], np.float64) for rows in (first, second))
        if embeddings.space == "cosine":
            lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            distances[start : start + step] = 1 - (one * other).sum(axis=1) / lengths
        else:
            distances[start : start + step] = np.square(one - other).sum(axis=1)
    return distances


def distances_of_pairs(embeddings: Embeddings, labels: NDArray[np.integer] | None, seed: int, pairs: int = PAIRS) -> Distances:
    """Draws pairs of any two images, of one class and of two, and measures them.

    Args:
        embeddings: N images in the space.
        labels: (N,) classes, -1 where unknown, or ``None``.
        seed: Seed of the draw.
        pairs: Pairs of each kind.
    """
    images, draw = len(embeddings.array), np.random.default_rng(seed)
    first = draw.integers(0, images, pairs)
    whole = pair_distances(embeddings, first, (first + draw.integers(1, images, pairs)) % images)
    same = other = np.empty(0)
    if labels is not None:
        same = pair_distances(embeddings, *_of_one_class(labels, draw, pairs))
        known = np.flatnonzero(labels >= 0)
        one, two = (known[draw.integers(0, len(known), pairs)] for _ in range(2))
        other = pair_distances(embeddings, *(side[labels[one] != labels[two]] for side in (one, two)))
    edges = np.histogram_bin_edges(np.concatenate([whole, same, other]), BINS)
    counts = [np.histogram(values, edges)[0].tolist() if len(values) else [] for values in (whole, same, other)]
    return Distances(
        edges=edges.tolist(),
        any=counts[0],
        same=counts[1],
        other=counts[2],
        typical=float(np.median(whole)),
        closer=share_closer(same, other),
    )


def _of_one_class(labels: NDArray[np.integer], draw: np.random.Generator, pairs: int) -> tuple[NDArray, NDArray]:
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    places = np.flatnonzero((labels[order] >= 0) & (size > 1))
    if not len(places):
        return places, places
    place = places[draw.integers(0, len(places), pairs)]
    step = draw.integers(1, size[place])
    return order[place], order[start[place] + (place - start[place] + step) % size[place]]


def share_closer(same: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Share of all (same, other) whose first is the smaller, ties by half; ``nan`` where one of them is empty."""
    if not (len(same) and len(other)):
        return float("nan")
    ranked = np.sort(other)
    below = (np.searchsorted(ranked, same, "left") + np.searchsorted(ranked, same, "right")) / 2
    return float(1 - below.mean() / len(other))


def intrinsic_dimension(table: NeighbourTable, k: int) -> float:
    """Maximum-likelihood estimate of the dimension of the images' surface in the space.

    Levina and Bickel, NeurIPS 2004, equation 8; the mean over the images is that of the inverses (MacKay and Ghahramani, 2005,
    "Comments on maximum likelihood estimation of intrinsic dimension"). Images with a copy, or fewer neighbours, are left out.

    Args:
        table: Neighbours of N images, by squared distance or by 1 - cosine, which is half of one.
        k: Number of neighbours, 2 or more.

    Returns:
        The dimension; ``nan`` where no image has k neighbours at a distance, or all are equally far.
    """
    near = np.asarray(table.distances[:, :k], np.float64)
    if near.shape[1] < max(2, k):
        return float("nan")
    near = near[(near[:, 0] > 0) & np.isfinite(near[:, -1])]
    growth = 0.5 * np.log(near[:, -1:] / near[:, :-1]).mean() if len(near) else 0.0
    return float(1 / growth) if growth > 0 else float("nan")


def effective_rank(array: NDArray[np.floating]) -> float:
    """RankMe (arXiv 2210.02885) of at most :data:`RANK_ROWS` evenly spaced rows of (N, D) points; ``nan`` where all are zero."""
    rows = np.asarray(array[:: -(-len(array) // RANK_ROWS)], np.float64)
    if not rows.any():
        return float("nan")
    return rank_me(rows if rows.shape[1] <= len(rows) else rows.T)  # their singular values are the same


def mutual_share(table: NeighbourTable) -> float:
    """Share of all neighbours that have their anchor among their own; ``nan`` for a table without any."""
    total = int(ball_sizes(table).sum())
    return float(ball_sizes(mutual(table)).sum() / total) if total else float("nan")


def nearest_in(embeddings: Embeddings, queries: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest of N images to each of a few points, a few images at a time.

    Args:
        embeddings: N images in the space.
        queries: (M, D) points.
        k: At most N.

    Returns:
        (M, k) images and their distances, nearest first.
    """
    points = torch.from_numpy(_placed(queries, embeddings.space))
    best = torch.full((len(points), 0), torch.inf, dtype=torch.float64)
    images = torch.zeros((len(points), 0), dtype=torch.int64)
    step = max(1, _BLOCK // max(points.shape))
    for start in range(0, len(embeddings.array), step):
        near = torch.from_numpy(_placed(embeddings.array[start : start + step], embeddings.space))
        distances = torch.cdist(points, near).square()
        best = torch.cat([best, distances], dim=1)
        images = torch.cat([images, torch.arange(start, start + len(near)).expand(len(points), -1)], dim=1)
        best, places = best.topk(min(k, best.shape[1]), dim=1, largest=False)
        images = images.gather(1, places)
    return images.numpy(), best.numpy() / (2 if embeddings.space == "cosine" else 1)


def _placed(rows: NDArray[np.floating], space: str) -> NDArray[np.float64]:
    """Rows as float64; of length 1 where angles alone count, so that the squared distance is twice 1 - cosine."""
    wide = np.array(rows, np.float64)
    if space == "cosine":
        wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return wide


def share_still_nearest(embeddings: Embeddings, altered: NDArray[np.floating], rows: Sequence[int]) -> float:
    """Share of altered images to which the image that they were made of is still nearest, or as near as the nearest.

    Args:
        embeddings: N images in the space.
        altered: (M, D) points of altered images.
        rows: The images that they were made of.
    """
    images, distances = nearest_in(embeddings, altered, 1)
    placed, half = _placed(altered, embeddings.space), 2 if embeddings.space == "cosine" else 1
    to_own = np.square(_placed(embeddings.array[np.asarray(rows)], embeddings.space) - placed).sum(axis=1) / half
    rounding = 1e-12 * np.square(placed).sum(axis=1)  # of products, by which copies of one point may seem to differ
    return float(((images[:, 0] == np.asarray(rows)) | (to_own <= distances[:, 0] + rounding)).mean())


def purity_of_nearest(embeddings: Embeddings, labels: NDArray[np.integer], rows: Sequence[int], k: int) -> float:
    """Share of the k nearest others of a few images that have their label.

    Args:
        embeddings: N images in the space.
        labels: (N,) classes, -1 where unknown (those are left out).
        rows: The images.
        k: Number of neighbours, below N.
    """
    anchors = np.asarray(rows)
    images, _ = nearest_in(embeddings, np.asarray(embeddings.array[anchors]), k + 1)
    own = images == anchors[:, None]
    own[~own.any(axis=1), -1] = True  # among copies the image itself may be left out
    neighbours = images[~own].reshape(len(anchors), k)
    judged = (labels[neighbours] >= 0) & (labels[anchors] >= 0)[:, None]
    return float((labels[neighbours] == labels[anchors][:, None])[judged].mean()) if judged.any() else float("nan")
