"""Every number by hand on a few points, and against scikit-learn, scipy or a plain loop on more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from solo_gps.evaluation import neighbourhood as look
from solo_gps.evaluation.metrics import pair_purity, rank_me
from solo_gps.interfaces import Embeddings, NeighbourTable
from solo_gps.neighbours import find
from solo_gps.samplers.gps.choose import choose_positives

DRAW = np.random.default_rng(0)
POINTS = DRAW.normal(size=(300, 6)).astype(np.float32)
LABELS = (POINTS[:, 0] > 0).astype(np.int64) + 2 * (POINTS[:, 1] > 0.7)


def table(rows, distances=None):
    indices = np.array(rows, np.int32)
    plain = np.where(indices < 0, np.inf, np.arange(1, indices.shape[1] + 1)) if distances is None else distances
    return NeighbourTable(indices=indices, distances=np.array(plain, np.float32))


# 0 1 2 are class 7, 3 is class 9, the class of 4 is unknown
FIVE = table([[1, 3], [0, 2], [3, 1], [4, -1], [3, 0]], [[1, 4], [1, 2], [3, 5], [6, np.inf], [6, 7]])
OF_FIVE = np.array([7, 7, 7, 9, -1])


def test_purity_by_rank_by_hand():
    # first: 0-1 same, 1-0 same, 2-3 other, 3-4 and 4-3 unknown; second: 0-3 other, 1-2 same, 2-1 same
    assert look.purity_by_rank(FIVE, OF_FIVE) == pytest.approx([2 / 3, 2 / 3])
    assert np.isnan(look.purity_by_rank(FIVE, np.full(5, -1))).all()


def test_purity_by_rank_against_a_loop():
    found = find(POINTS, k=7)
    wanted = [np.mean([LABELS[row[rank]] == LABELS[image] for image, row in enumerate(found.indices)]) for rank in range(7)]
    assert look.purity_by_rank(found, LABELS) == pytest.approx(wanted)


def test_chance_by_hand():
    # of 4 known images 3 are of one class: 6 of 12 ordered pairs
    assert look.chance_purity(OF_FIVE) == pytest.approx(0.5)
    assert look.chance_purity(OF_FIVE * 10**9) == pytest.approx(0.5)
    assert math.isnan(look.chance_purity(np.array([3, -1])))


def test_balls_by_k_by_hand():
    one, two = look.balls_by_k(FIVE, OF_FIVE, [1, 2])
    assert (one.k, one.distance) == (1, 3)
    assert set(one.purity.values()) == {2 / 3}
    # 1 0 3 4 3: four images
    assert set(one.covered.values()) == {4 / 5}
    assert two.distance == 4.5  # of 4, 2, 5, 7
    # furthest: 3 2 1 4 0, all five; purities other, same, same
    assert two.purity["furthest"] == pytest.approx(2 / 3)
    assert two.covered == {"furthest": 1.0, "uniform": 1.0, "nearest": 4 / 5, "weighted": 1.0}


def test_a_uniform_draw_has_the_purity_of_the_whole_ball():
    (ball,) = look.balls_by_k(find(POINTS, k=20), LABELS, [20])
    whole = (LABELS[find(POINTS, k=20).indices] == LABELS[:, None]).mean()
    assert ball.purity["uniform"] == pytest.approx(whole)


@pytest.mark.parametrize("choose", ["uniform", "weighted"])
def test_the_purity_of_a_draw_is_what_many_epochs_come_to(choose):
    """Balls of a radius, so of many sizes, and some empty; a tenth of the labels is not known."""
    labels = np.where(np.arange(len(LABELS)) % 10 == 0, -1, LABELS)
    table = find(POINTS, k=20)
    table = look.cut_table(table, float(np.median(table.distances[:, 5])))
    anchors = np.arange(len(labels))
    epochs = [choose_positives(table, choose, epoch=epoch, seed=0)[:, 0] for epoch in range(400)]
    seen = pair_purity(np.tile(anchors, 400), np.concatenate(epochs), labels)[1]
    assert abs(look.drawn_purity(table, choose, labels) - seen) < 0.01
    assert math.isnan(look.drawn_purity(table, choose, np.full(len(labels), -1)))


def test_balls_by_radius_by_hand():
    (ball,) = look.balls_by_radius(FIVE, OF_FIVE, [5.0])
    # 0: 1 3; 1: 0 2; 2: 3 (1 lies at the radius: outside); 3 and 4: none
    assert (ball.size, ball.empty, ball.full, ball.covered) == (1, 2 / 5, 2 / 5, 4 / 5)
    (smallest,) = look.balls_by_radius(FIVE, OF_FIVE, [2.0])
    assert (smallest.empty, smallest.purity) == (3 / 5, 1)
    (none,) = look.balls_by_radius(FIVE, None, [0.5])
    assert (none.empty, none.covered) == (1, 0)
    assert math.isnan(none.purity)


@pytest.mark.parametrize("k", [1, 4, 15])
def test_leave_one_out_is_scikit_learns(k, monkeypatch):
    monkeypatch.setattr(look, "_BLOCK", 100)
    overall, classes = look.leave_one_out(find(POINTS, k=20), LABELS, k)
    right = []
    for image in range(len(POINTS)):
        others = np.arange(len(POINTS)) != image
        model = KNeighborsClassifier(k).fit(POINTS[others].astype(np.float64), LABELS[others])
        right.append(model.predict(POINTS[[image]].astype(np.float64))[0] == LABELS[image])
    right = np.array(right)
    assert overall == pytest.approx(right.mean())
    assert [one.accuracy for one in classes] == sorted(one.accuracy for one in classes)
    for one in classes:
        assert one.images == (one.label == LABELS).sum()
        assert one.accuracy == pytest.approx(right[one.label == LABELS].mean())


def test_leave_one_out_without_a_vote_is_wrong():
    overall, classes = look.leave_one_out(FIVE, OF_FIVE, 2)
    # 0: 7 9 -> 7 (the smaller of two); 1: 7 7; 2: 9 7 -> 7; 3: only an unknown one
    assert overall == 3 / 4
    assert [(one.label, one.images, one.accuracy) for one in classes] == [(9, 1, 0.0), (7, 3, 1.0)]


@pytest.mark.parametrize("space", ["euclidean", "cosine"])
def test_distances_are_those_of_scipy_and_of_the_table(space, monkeypatch):
    monkeypatch.setattr(look, "_BLOCK", 100)
    embeddings = Embeddings(array=POINTS, space=space)
    wanted = cdist(POINTS, POINTS, "sqeuclidean" if space == "euclidean" else "cosine")
    first, second = np.divmod(np.arange(300 * 300), 300)
    assert look.pair_distances(embeddings, first, second) == pytest.approx(wanted.ravel(), abs=1e-6)
    images, distances = look.nearest_in(embeddings, POINTS[:40], 5)
    found = find(embeddings, k=4)
    assert np.array_equal(images[:, 1:], found.indices[:40])
    assert distances[:, 1:] == pytest.approx(found.distances[:40], abs=1e-5)
    near = look.purity_of_nearest(embeddings, LABELS, range(40), 4)
    assert near == pytest.approx((LABELS[found.indices[:40]] == LABELS[:40, None]).mean())


def test_pairs_are_of_one_class_or_of_two():
    """On points that are the class itself, times 10, the distance tells which is which; images of an unknown class are 1000."""
    labels = np.array([0] * 30 + [1] * 50 + [2] + [-1] * 19)
    points = np.where(labels < 0, 1000, 10 * labels)[:, None].astype(np.float32)
    seen = look.distances_of_pairs(Embeddings(array=points), labels, seed=0, pairs=5000)
    assert sum(seen.same) == 5000
    assert seen.same[0] == 5000  # all at 0
    assert seen.other[0] + seen.other[1] == sum(seen.other) > 1000  # 100 and 400, of bins of 25,000
    assert sum(seen.any) == 5000
    assert seen.closer == 1
    bare = look.distances_of_pairs(Embeddings(array=points), None, seed=0, pairs=5000)
    assert (bare.same, bare.other, bare.any) == ([], [], seen.any)
    assert math.isnan(bare.closer)


def test_the_share_closer_is_the_area_under_the_roc_curve():
    same, other = DRAW.integers(0, 9, 200), DRAW.integers(2, 12, 300)
    truth = np.r_[np.ones(200), np.zeros(300)]
    assert look.share_closer(same, other) == pytest.approx(roc_auc_score(truth, -np.r_[same, other]))


def test_the_intrinsic_dimension_of_a_sheet_in_space():
    sheet = DRAW.uniform(size=(2000, 3)) @ np.linalg.qr(DRAW.normal(size=(20, 3)))[0].T
    found = find(sheet.astype(np.float32), k=20)
    assert look.intrinsic_dimension(found, 20) == pytest.approx(3, abs=0.3)
    # equation 8 in a loop, its inverses averaged
    inverses = []
    for row in np.sqrt(found.distances.astype(np.float64)):
        inverses.append(sum(math.log(row[19] / row[near]) for near in range(19)) / 19)
    assert look.intrinsic_dimension(found, 20) == pytest.approx(1 / np.mean(inverses))


def test_there_is_no_dimension_among_copies_or_equals():
    assert math.isnan(look.intrinsic_dimension(table([[1, 2], [0, 2], [0, 1]], [[0, 1]] * 3), 2))
    assert math.isnan(look.intrinsic_dimension(table([[1, 2], [0, 2], [0, 1]], [[1, 1]] * 3), 2))
    assert math.isnan(look.intrinsic_dimension(FIVE, 3))


def test_the_effective_rank_is_rank_me_also_of_more_dimensions_than_images(monkeypatch):
    assert look.effective_rank(POINTS) == pytest.approx(rank_me(POINTS))
    wide = POINTS[:5].repeat(3, axis=1) * np.arange(18)
    assert look.effective_rank(wide) == pytest.approx(rank_me(wide), rel=1e-4)
    monkeypatch.setattr(look, "RANK_ROWS", 100)
    assert look.effective_rank(POINTS) == pytest.approx(rank_me(POINTS[::3]))
    assert math.isnan(look.effective_rank(np.zeros((3, 2), np.float32)))


def test_the_mutual_share_by_hand():
    # edges 01 03 10 12 23 21 34 43 40: mutual are 01 10 12 21 34 43
    assert look.mutual_share(FIVE) == pytest.approx(6 / 9)
    assert math.isnan(look.mutual_share(table([[-1], [-1]])))


@pytest.mark.parametrize("space", ["euclidean", "cosine"])
def test_who_is_still_nearest_by_hand(space):
    points = Embeddings(array=np.array([[1, 0], [0, 1], [1, 1], [1, 1]], np.float32), space=space)
    altered = np.array([[0.9, 0.1], [0.6, 0.5], [1.1, 1.0], [0.8, 0.9]])
    # 0 stays; 1 went to 2 and 3; 2 stays, though 3 is as near; 3 likewise
    assert look.share_still_nearest(points, altered, [0, 1, 2, 3]) == 3 / 4
