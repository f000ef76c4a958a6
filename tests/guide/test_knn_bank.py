"""The labels of the host's online k-NN bank, where some are unknown."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from solo_gps.guide.method import _Guided
from solo_gps.interfaces import ShownCrops


def test_rows_are_dropped_by_the_anchors_labels_as_the_host_drops_them():
    """The host drops the rows whose anchor is unlabelled; the positive's own label, known or not, drops none."""
    anchors, positives = torch.tensor([-1, 0, 1]), torch.tensor([2, -1, 0])
    method = SimpleNamespace(shown_crops=ShownCrops(images=(), targets=(anchors, positives)), num_large_crops=2)
    everyone = anchors.repeat(2)
    for hosts in (everyone, everyone[everyone != -1]):
        _, kwargs = _Guided._label_knn_bank(method, None, (), {"train_targets": hosts})  # type: ignore[arg-type]
        wanted = [-1, 0, 1, 2, 0, 0] if len(hosts) == 6 else [0, 1, 0, 0]
        assert kwargs["train_targets"].tolist() == wanted
