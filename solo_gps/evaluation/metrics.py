"""Metrics of pairs and of features; pure functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solo_gps.errors import DataError
from solo_gps.interfaces import NeighbourTable


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


def knn_accuracy(
    train: NDArray[np.floating],
    train_labels: NDArray[np.integer],
    test: NDArray[np.floating],
    test_labels: NDArray[np.integer],
    *,
    k: int = 20,
) -> float:
    """Returns the accuracy of a k-nearest-neighbour classifier by cosine distance, each neighbour one vote.

    Args:
        train: (N, D) features.
        train_labels: (N,) classes.
        test: (M, D) features.
        test_labels: (M,) classes.
        k: Number of votes.

    Raises:
        DataError: There are fewer than ``k`` training features.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if k > len(train):
        raise DataError(f"k-NN evaluation: k={k} neighbours of {len(train)} training features; lower k.")
    classifier = KNeighborsClassifier(n_neighbors=k, metric="cosine", algorithm="brute")
    classifier.fit(train, train_labels)
    return float(classifier.score(test, test_labels))
