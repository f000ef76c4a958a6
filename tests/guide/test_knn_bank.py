"""Labels of the k-NN bank where some are unknown: the host drops rows by the label of the anchor, and so are ours dropped."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from solo_gps.guide.method import _Guided
from solo_gps.interfaces import ShownCrops

ANCHORS = torch.tensor([4, -1, 2, 7])
POSITIVES = torch.tensor([5, 6, -1, 7])


def bank(train_targets):
    """What the bank is given, of two large crops, the second of which shows the positives."""
    shown = ShownCrops(images=(torch.arange(4),) * 2, targets=(ANCHORS, POSITIVES))
    method = SimpleNamespace(shown_crops=shown, num_large_crops=2)
    return _Guided._label_knn_bank(method, None, (), {"train_targets": train_targets})[1]["train_targets"].tolist()


def test_rows_of_unknown_anchors_are_dropped_whatever_their_positive_is():
    of_host = ANCHORS.repeat(2)
    assert bank(of_host[of_host != -1]) == [4, 2, 7, 5, 2, 7], "an unknown positive has the anchor's label"


def test_a_host_that_drops_nothing_keeps_every_row():
    assert bank(ANCHORS.repeat(2)) == [4, -1, 2, 7, 5, 6, 2, 7]
