"""Metrics of pairs and of features; pure functions of arrays."""

from __future__ import annotations

import logging
import warnings

import numpy as np
from numpy.typing import NDArray

from solo_gps.errors import ConfigError, DataError
from solo_gps.evaluation.geometry import nearest, vote_accuracy
from solo_gps.interfaces import NeighbourTable

logger = logging.getLogger(__name__)

HOSTS_TEMPERATURE = 0.07
"""Of the votes in solo-learn's k-NN (``WeightedKNNClassifier``, and main_knn.py)."""
LINEAR_STEPS = 1000
"""Steps of L-BFGS, at most."""
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


def pair_spread(anchors: NDArray[np.integer], positives: NDArray[np.integer], images: int) -> tuple[float, float]:
    """Measures how evenly an epoch's positives are spread over the images.

    Args:
        anchors: (M,) image indices.
        positives: (M,) image indices; those that are the anchor's own do not count.
        images: Number of images N.

    Returns:
        Share of the N images that are somebody's positive; and the share of all positives that the hubs are, the one image in a
        hundred (at least one) that are positives most often (``nan`` where there is no positive).
    """
    often = np.bincount(positives[anchors != positives], minlength=images)
    hubs = np.partition(often, images - max(1, images // 100))[images - max(1, images // 100) :]
    return float((often > 0).mean()), float(hubs.sum() / often.sum()) if often.any() else float("nan")


def pair_distances(table: NeighbourTable, anchors: NDArray[np.integer], positives: NDArray[np.integer]) -> NDArray[np.float32]:
    """Returns the (M,) distances of pairs as a table has them, ``nan`` for those that it does not hold.

    Args:
        table: Neighbours of N images.
        anchors: (M,) image indices.
        positives: (M,) image indices.
    """
    distances = np.full(len(anchors), np.nan, np.float32)
    for start in range(0, len(anchors) if table.indices.shape[1] else 0, BLOCK):
        rows = anchors[start : start + BLOCK]
        found = table.indices[rows] == positives[start : start + BLOCK, None]
        there, place = found.any(axis=1), found.argmax(axis=1)
        distances[start : start + BLOCK][there] = table.distances[rows[there], place[there]]
    return distances


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
    rows, cosines = nearest(train, test, k=k)
    return vote_accuracy(train_labels[rows], cosines, test_labels, temperature)


def linear_accuracy(
    train: NDArray[np.floating],
    train_labels: NDArray[np.integer],
    test: NDArray[np.floating],
    test_labels: NDArray[np.integer],
) -> float:
    """Returns the accuracy of a linear classifier on frozen features.

    It is scikit-learn's LogisticRegression with its own regularisation (C=1), on features of mean 0 and variance 1: the same in
    every run. solo-learn's main_linear.py trains a linear layer by SGD on augmented images instead.

    Args:
        train: (N, D) features.
        train_labels: (N,) classes, two or more.
        test: (M, D) features.
        test_labels: (M,) classes.

    Raises:
        DataError: There is one class only.
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ConfigError("the linear probe is scikit-learn's: pip install 'solo-gps[report]', or leave it out.") from error
    if len(np.unique(train_labels)) < 2:
        raise DataError("linear probe: wanted two classes or more, got one.")
    logger.info("training a linear probe on %s features of %d dimensions", f"{len(train):,}", train.shape[1])
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=LINEAR_STEPS))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConvergenceWarning)
        probe.fit(np.asarray(train, np.float32), train_labels)
    if any(issubclass(one.category, ConvergenceWarning) for one in said):
        logger.warning("linear probe: not converged in %d steps; its accuracy may still rise", LINEAR_STEPS)
    return float(probe.score(np.asarray(test, np.float32), test_labels))


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
