"""Each figure by hand, and against a plain reference or scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from solo_gps.errors import DataError
from solo_gps.evaluation import geometry
from solo_gps.evaluation.geometry import alignment, mean_average_precision, nearest, recall, uniformity, vote_accuracy
from solo_gps.evaluation.metrics import knn_accuracy, linear_accuracy


@pytest.fixture(params=[geometry.COSINES, 130])
def blocks(request, monkeypatch):
    """All cosines at once, and two queries at a time."""
    monkeypatch.setattr(geometry, "COSINES", request.param)
    monkeypatch.setattr(geometry, "QUERIES", geometry.QUERIES if request.param > 130 else 7)


@pytest.fixture
def clouds():
    """60 training and 25 test features of 4 overlapping classes, with their labels."""
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 4, 85)
    features = (draw.normal(size=(4, 6))[labels] + draw.normal(size=(85, 6))).astype(np.float32)
    return features[:60], labels[:60], features[60:], labels[60:]


def cosines_of(first, second):
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second))
    return first @ second.T


def degrees(*angles):
    radians = np.deg2rad(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_neighbours_by_hand(blocks):
    rows, cosines = nearest(5 * degrees(0, 30, 90), degrees(10, 80), k=2)
    assert rows.tolist() == [[0, 1], [2, 1]]
    assert cosines == pytest.approx(np.cos(np.deg2rad([[10, 20], [10, 50]])), abs=1e-6)


def test_an_image_is_not_its_own_neighbour(blocks, clouds):
    features = clouds[0]
    features[7] = features[3]  # nor is it confused with its copy
    rows, _ = nearest(features, k=59)
    assert all(sorted(row) == [other for other in range(60) if other != index] for index, row in enumerate(rows.tolist()))
    assert (rows[7, 0], rows[3, 0]) == (3, 7)


@pytest.mark.parametrize(("k", "queries"), [(4, True), (3, False), (0, True)])
def test_too_many_neighbours_are_an_error(k, queries):
    with pytest.raises(DataError, match=f"k={k} neighbours of {3 if queries else 2} features"):
        nearest(np.eye(3), np.eye(3) if queries else None, k=k)


def test_a_feature_that_is_not_finite_is_an_error():
    with pytest.raises(DataError, match="row 1 is not finite"):
        nearest(np.array([[1.0, 0], [np.inf, 1]]), k=1)


def test_one_vote_each_is_that_of_scikit_learn(blocks, clouds):
    train, labels, test, wanted = clouds
    for k in (1, 4, 20):
        reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train, labels)
        assert knn_accuracy(train, labels, test, wanted, k=k) == pytest.approx(reference.score(test, wanted))


def test_weighted_votes_by_hand(blocks, clouds):
    train, labels, test, wanted = clouds
    right = []
    for row, label in zip(cosines_of(test, train), wanted, strict=True):
        first = np.argsort(-row)[:9]
        votes = [np.exp(row[first][labels[first] == of] / 0.2).sum() for of in range(4)]
        right.append(int(np.argmax(votes)) == label)
    assert knn_accuracy(train, labels, test, wanted, k=9, temperature=0.2) == pytest.approx(np.mean(right))
    assert 0.2 < np.mean(right) < 1


def test_votes_of_a_tiny_temperature_do_not_overflow():
    voting = np.array([[0, 1, 1]]), np.array([[0.9, 0.8, 0.8]], np.float32), np.array([0])
    for temperature in (1e-4, 1e-300):
        assert vote_accuracy(*voting, temperature=temperature) == 1
    far = np.array([[2, 0, 0]]), np.array([[0.1, 0.09, -0.5]], np.float32), np.array([2])
    assert vote_accuracy(far[0] * 10**12, far[1], far[2] * 10**12, temperature=1e-4) == 1
    assert vote_accuracy(*far, temperature=1e-4) == 1  # the nearest one's class, however far all are
    assert vote_accuracy(*voting) == 0


def test_recall_by_hand():
    labels, wanted = np.array([[1, 0, 2], [0, 0, 1], [2, 2, 2]]), np.array([0, 1, 1])
    assert [recall(labels, wanted, k) for k in (1, 2, 3)] == pytest.approx([0, 1 / 3, 2 / 3])


def test_mean_average_precision_by_hand(blocks):
    gallery, labels = degrees(0, 20, 40, 60), np.array([0, 1, 0, 1])
    # of the first query relevant rows have ranks 1 and 3, of the second 1 and 3 again, of the third none is relevant
    found = mean_average_precision(gallery, labels, degrees(-5, 65, 0), np.array([0, 1, 2]))
    assert found == pytest.approx((1 + 2 / 3) / 2)
    # without itself: 0 -> ranks of class 0 among (20, 40, 60): 2; 20 -> (0|40), 60 last: 3; and so back
    assert mean_average_precision(gallery, labels) == pytest.approx((1 / 2 + 1 / 3 + 1 / 3 + 1 / 2) / 4)


def test_no_relevant_image_at_all_is_nan():
    assert math.isnan(mean_average_precision(np.eye(3), np.arange(3)))


def test_mean_average_precision_is_that_of_scikit_learn(blocks, clouds):
    train, labels, test, wanted = clouds
    rows = zip(cosines_of(test, train), wanted, strict=True)
    reference = [average_precision_score(labels == label, row) for row, label in rows]
    assert mean_average_precision(train, labels, test, wanted) == pytest.approx(np.mean(reference))
    alone = [
        average_precision_score(np.delete(labels == labels[image], image), np.delete(row, image))
        for image, row in enumerate(cosines_of(train, train))
    ]
    assert mean_average_precision(train, labels) == pytest.approx(np.mean(alone))


def test_alignment_by_hand():
    assert alignment(degrees(0, 0), 3 * degrees(0, 0)) == pytest.approx(0)
    assert alignment(degrees(0, 0), degrees(180, 90)) == pytest.approx((4 + 2) / 2)


def test_uniformity_by_hand(blocks):
    assert uniformity(degrees(0, 0, 0)) == pytest.approx(0)
    # squared distances 2, 2 and 4
    assert uniformity(degrees(0, 90, 180)) == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3))


def test_uniformity_is_the_papers_formula(blocks, clouds):
    unit = clouds[0] / np.linalg.norm(clouds[0], axis=1, keepdims=True)
    pairs = [np.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i in range(60) for j in range(i)]
    assert uniformity(clouds[0]) == pytest.approx(math.log(np.mean(pairs)), rel=1e-5)


def test_linear_accuracy_is_that_of_scikit_learn(clouds):
    train, labels, test, wanted = clouds
    scale = StandardScaler().fit(train)
    reference = LogisticRegression(max_iter=1000).fit(scale.transform(train), labels)
    assert linear_accuracy(train, labels, test, wanted) == pytest.approx(reference.score(scale.transform(test), wanted))


def test_a_linear_probe_needs_two_classes(clouds):
    with pytest.raises(DataError, match="wanted two classes or more"):
        linear_accuracy(clouds[0], np.zeros(60, int), clouds[2], np.zeros(25, int))


def test_a_linear_probe_that_did_not_converge_is_told(clouds, monkeypatch, caplog):
    monkeypatch.setattr("solo_gps.evaluation.metrics.LINEAR_STEPS", 1)
    linear_accuracy(*clouds)
    assert "not converged in 1 steps" in caplog.text
