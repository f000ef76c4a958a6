"""Metrics of pairs and of features; pure functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solo_gps.errors import DataError
from solo_gps.interfaces import NeighbourTable

HOSTS_TEMPERATURE = 0.07
"""Of the votes in solo-learn's k-NN (``WeightedKNNClassifier``, and main_knn.py)."""
BLOCK = 8192
"""Rows of features taken at once."""


def pair_purity(anchors: NDArray[np.integer], positives: NDArray[np.integer], labels: NDArray[np.integer]) -> tuple[float, float]:
    """Measures how often a positive is another image, and how often that image is of the anchor's class.

    Args:
        anchors: (M,) image indices.
        positives: (M,) image indices; equal to the anchor where an item falls back on plain augmentation.
        labels: (N,) classes, -1 where unknown.

    Returns:
        Share of items whose positive is another image; and, among those with both labels known, the share with equal labels
        (``nan`` when there are none).
    """
    guided = anchors != positives
    judged = guided & (labels[anchors] >= 0) & (labels[positives] >= 0)
    purity = (labels[anchors] == labels[positives])[judged].mean() if judged.any() else np.nan
    return float(guided.mean()), float(purity)


def table_purity(table: NeighbourTable, labels: NDArray[np.integer]) -> float:
    """Returns the share of all neighbours in the table that have their anchor's label.

    Args:
        table: Neighbours of N images, padded with -1.
        labels: (N,) classes, -1 where unknown (those are left out).
    """
    judged = (table.indices >= 0) & (labels[table.indices] >= 0) & (labels[:, None] >= 0)
    return float((labels[table.indices] == labels[:, None])[judged].mean()) if judged.any() else float("nan")


def table_change(before: NeighbourTable | None, after: NeighbourTable, labels: NDArray[np.integer] | None) -> dict[str, float]:
    """Describes a neighbour table that takes the place of another.

    Args:
        before: Neighbours of N images, padded with -1; ``None`` when there were none.
        after: Their neighbours now.
        labels: (N,) classes, -1 where unknown, or ``None``.

    Returns:
        ``empty``: share of images without a neighbour; ``purity``: share of all neighbours with their anchor's label, where
        labels are known; ``kept``: share of all neighbours that the same image had before.
    """
    there = after.indices >= 0
    values = {"empty": float((~there.any(axis=1)).mean())}
    if labels is not None and not np.isnan(purity := table_purity(after, labels)):
        values["purity"] = purity
    if before is not None and there.any():
        rows = np.arange(len(after.indices), dtype=np.int64)[:, None] * len(after.indices)
        values["kept"] = float(np.isin((rows + after.indices)[there], (rows + before.indices)[before.indices >= 0]).mean())
    return values


def knn_accuracy(
    train: NDArray[np.floating],
    train_labels: NDArray[np.integer],
    test: NDArray[np.floating],
    test_labels: NDArray[np.integer],
    *,
    k: int = 20,
    temperature: float | None = None,
) -> float:
    """Returns the accuracy of a k-nearest-neighbour classifier by cosine distance.

    Args:
        train: (N, D) features.
        train_labels: (N,) classes.
        test: (M, D) features.
        test_labels: (M,) classes.
        k: Number of votes.
        temperature: A neighbour's vote weighs ``exp(cosine / temperature)``, as in solo-learn, whose own is 0.07
            (:data:`HOSTS_TEMPERATURE`); ``None``: each neighbour has one vote.

    Raises:
        DataError: There are fewer than ``k`` training features.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if k > len(train):
        raise DataError(f"k-NN evaluation: k={k} neighbours of {len(train)} training features; lower k.")
    # exp((cosine - 1) / temperature): the same votes but for a factor, and none overflows
    weights = "uniform" if temperature is None else lambda distances: np.exp(-distances / temperature)
    classifier = KNeighborsClassifier(n_neighbors=k, metric="cosine", algorithm="brute", weights=weights)
    classifier.fit(train, train_labels)
    return float(classifier.score(test, test_labels))


def rank_me(features: NDArray[np.floating]) -> float:
    """Returns the effective rank of features: RankMe, arXiv 2210.02885, equation 1.

    It is the exponential of the entropy of the singular values, each as a share of their sum: from 1, where all rows lie on one
    line through the origin, to D, where no direction is preferred. The features are not centred.

    Args:
        features: (N, D); read as float64.

    Raises:
        DataError: All features are zero, or one is not finite.
    """
    # of the D x D products, whose size does not grow with N; what it cannot resolve has a share below 1e-7
    products = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(features), BLOCK):
        block = np.asarray(features[start : start + BLOCK], dtype=np.float64)
        products += block.T @ block
    if not 0 < (energy := products.trace()) < np.inf:
        raise DataError("effective rank: " + ("all features are zero." if energy == 0 else "a feature is not finite."))
    values = np.sqrt(np.linalg.eigvalsh(products).clip(min=0))
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
