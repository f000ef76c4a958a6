from __future__ import annotations

import math

import numpy as np
import pytest

from solo_gps.errors import DataError
from solo_gps.evaluation.metrics import knn_accuracy, pair_purity, rank_me, table_change, table_purity
from solo_gps.interfaces import NeighbourTable


def test_pair_purity_by_hand():
    labels = np.array([0, 0, 1, -1])
    # 0 -> 1 same; 1 -> 2 other; 2 -> 2 not guided; 3 -> 0 and 0 -> 3 not judged (label unknown)
    share, purity = pair_purity(np.array([0, 1, 2, 3, 0]), np.array([1, 2, 2, 0, 3]), labels)
    assert (share, purity) == (0.8, 0.5)


def test_pair_purity_without_a_judged_pair_is_nan():
    share, purity = pair_purity(np.arange(3), np.arange(3), np.zeros(3, int))
    assert share == 0
    assert math.isnan(purity)


def test_table_purity_by_hand():
    table = NeighbourTable(indices=np.array([[1, 2], [0, -1], [0, 1]], np.int32), distances=np.zeros((3, 2), np.float32))
    # judged: 0-1 same, 0-2 other, 1-0 same, 2-0 other, 2-1 other
    assert table_purity(table, np.array([5, 5, 6])) == pytest.approx(2 / 5)


def test_knn_accuracy_by_hand():
    train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    test = np.array([[5.0, 0.1], [0.1, 7.0], [3.0, 0.0]])
    assert knn_accuracy(train, np.array([0, 0, 1, 1]), test, np.array([0, 1, 1]), k=2) == pytest.approx(2 / 3)


def test_knn_needs_as_many_features_as_votes():
    with pytest.raises(DataError, match="k=3 neighbours of 2"):
        knn_accuracy(np.eye(2), np.arange(2), np.eye(2), np.arange(2), k=3)


def test_table_change_by_hand():
    def table(rows):
        indices = np.array(rows, np.int32)
        return NeighbourTable(indices=indices, distances=np.where(indices < 0, np.inf, 0).astype(np.float32))

    before = table([[1, 2], [0, 2], [3, -1], [-1, -1]])
    after = table([[2, 3], [0, 3], [-1, -1], [2, -1]])
    # Of five neighbours now, 0->2 and 1->0 were there before; 0->2 and 1->3 have the anchor's label; one image of four has none.
    values = table_change(before, after, np.array([0, 1, 0, 1]))
    assert values == {"empty": 0.25, "purity": 0.4, "kept": 0.4}
    assert table_change(None, after, None) == {"empty": 0.25}


def test_d5_votes_weigh_as_in_solo_learns_own_knn():
    """Its WeightedKNNClassifier, by hand: the k most similar by cosine, each with a vote of exp(cosine / T)."""
    train, near = np.array([[1, 0.05], [0.6, 0.8], [0.6, 0.8]]), np.array([[1.0, 0.0]])
    assert knn_accuracy(train, np.array([0, 1, 1]), near, np.array([0]), k=3) == 0
    assert knn_accuracy(train, np.array([0, 1, 1]), near, np.array([0]), k=3, temperature=0.07) == 1
    draw = np.random.default_rng(0)
    features, labels = draw.normal(size=(90, 4)), draw.integers(0, 6, 90)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    right = []
    for image in range(60, 90):
        cosines = unit[:60] @ unit[image]
        nearest = np.argsort(-cosines)[:5]
        votes = np.bincount(labels[nearest], np.exp(cosines[nearest] / 0.07), 6)
        right.append(votes.argmax() == labels[image])
    mine = knn_accuracy(features[:60], labels[:60], features[60:], labels[60:], k=5, temperature=0.07)
    assert mine == pytest.approx(np.mean(right))


def test_rank_me_by_hand():
    assert rank_me(np.eye(4, dtype=np.float32)) == pytest.approx(4)
    assert rank_me(np.outer(np.arange(5.0), np.arange(3.0))) == pytest.approx(1, abs=1e-5)
    assert rank_me(np.diag([3.0, 1.0])) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))


def test_rank_me_is_that_of_the_singular_values(monkeypatch):
    monkeypatch.setattr("solo_gps.evaluation.metrics.BLOCK", 7)
    features = np.random.default_rng(0).normal(size=(50, 12)) * np.geomspace(1, 1e-3, 12)
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / values.sum()
    assert rank_me(features) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


@pytest.mark.parametrize(("value", "says"), [(0.0, "zero"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_rank_me_of_nothing(value, says):
    with pytest.raises(DataError, match=says):
        rank_me(np.full((3, 2), value))
