"""GPS-SSL's own formulas beside ours: an N x N matrix, as the authors have it, against functions of a table."""

from __future__ import annotations

import numpy as np
import pytest

from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find
from solo_gps.neighbours.filters.graph import multi_hop
from solo_gps.neighbours.filters.radii import adaptive_radius, cut_table, shared_radius

ARRAY = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
MATRIX = np.square(ARRAY[:, None].astype(np.float64) - ARRAY[None]).sum(axis=2)
EMBEDDINGS = Embeddings(array=ARRAY, fingerprint="f", folder=None, space="euclidean")


@pytest.mark.parametrize(("rule", "sign"), [("mean", 0), ("mean+std", 1), ("mean-std", -1)])
def test_d3_the_authors_radius_is_one_number_for_all_images(rule, sign):
    near = np.sort(MATRIX, axis=1)[:, 1:21]
    radius = near.mean() + sign * near.std()
    table = find(EMBEDDINGS, k=39)
    assert shared_radius(table, rule) == pytest.approx(radius, rel=1e-5)
    assert len(np.unique(adaptive_radius(table, rule))) > 20, "ours is one for each image"
    kept = cut_table(table, np.nextafter(shared_radius(table, rule), np.inf))
    assert ((kept.indices >= 0).sum(axis=1) == (radius >= MATRIX).sum(axis=1) - 1).all()


def test_d4_ours_are_at_most_so_many_steps_away_the_authors_at_the_ends_of_walks_one_longer():
    k, hops = 3, 2
    order = np.argsort(MATRIX, axis=1)
    steps = np.zeros((40, 40), bool)
    steps[np.arange(40)[:, None], order[:, 1 : k + 1]] = True
    once_or_twice = steps | (steps.astype(int) @ steps > 0)
    np.fill_diagonal(once_or_twice, False)
    mine = np.zeros((40, 40), bool)
    table = multi_hop(find(EMBEDDINGS, k=k), EMBEDDINGS, hops)
    rows, columns = np.nonzero(table.indices >= 0)
    mine[rows, table.indices[rows, columns]] = True
    assert (mine == once_or_twice).all()
    walks = np.linalg.matrix_power(steps.astype(int), hops) > 0  # nn_hop=1: walks of two steps, the anchor among their ends
    assert (walks != mine).any()
