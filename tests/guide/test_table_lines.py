"""What is said of a neighbour table: how many each image has, and how many of them are right."""

from __future__ import annotations

import numpy as np
import pytest

from solo_gps.guide.pairing import _judged, _sizes
from solo_gps.interfaces import NeighbourTable
from solo_gps.samplers.base import Sampler
from solo_gps.samplers.gps.config import GpsConfig
from solo_gps.samplers.gps.sampler import Gps


def table(*rows):
    width = max(map(len, rows))
    indices = np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int32)
    return NeighbourTable(indices=indices, distances=np.where(indices < 0, np.inf, 1).astype(np.float32))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1, 2], [0, 2], [0, 1]], "every one of 3 images has 2 neighbours"),
        ([[1], [0]], "every one of 2 images has 1 neighbour"),
        ([[1, 2], [0], [0]], "balls of 1 to 2 images around 3 images"),
        ([[1], [0], [-1]], "balls of 0 to 1 images; 1 of 3 images have none and keep their own view"),
        ([[-1], [-1]], "balls of 0 to 0 images; 2 of 2 images have none and keep their own view"),
        ([[1]] * 1234, "every one of 1,234 images has 1 neighbour"),
    ],
)
def test_sizes(rows, said):
    assert _sizes(table(*rows)) == said


@pytest.mark.parametrize(
    ("choose", "labels", "said"),
    [
        (
            "nearest",
            [5, 5, 6],
            "; 33.3 % of all neighbours have the anchor's label, and 66.7 % of the positives chosen among them",
        ),
        (
            "furthest",
            [5, 5, 6],
            "; 33.3 % of all neighbours have the anchor's label, and 0.0 % of the positives chosen among them",
        ),
        ("furthest", [5, 6, -1], "; 0.0 % of all neighbours have the anchor's label"),
        ("furthest", [-1, -1, -1], ""),
        ("furthest", None, ""),
    ],
)
def test_both_shares_of_right_labels_say_whose_they_are(choose, labels, said):
    rows = table([1, 2], [0, 2], [0, 1])
    gps = Gps(GpsConfig(choose=choose), seed=0)
    gps.use(rows)
    assert _judged(gps, rows, None if labels is None else np.array(labels), epoch=0) == said


def test_a_sampler_that_chooses_no_positive_is_judged_by_its_neighbours_alone():
    rows = table([1], [0], [0])
    assert _judged(Sampler(None, seed=0), rows, np.array([1, 1, 2]), 0) == "; 66.7 % of all neighbours have the anchor's label"
