"""What a batch shows: pure functions of the guided set and its labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from solo_gps.guide.dataset import GuidedDataset
from solo_gps.interfaces import ShownCrops


def shown_crops(
    dataset: GuidedDataset, labels: NDArray[np.int64] | None, rows: torch.Tensor, targets: torch.Tensor, crops: Sequence[int]
) -> tuple[torch.Tensor, ShownCrops]:
    """Returns the anchors of a batch, and whose image and class each of its crops shows.

    Args:
        dataset: The guided set, with the pairs that the batch was made from.
        labels: (N,) classes of its images, -1 where unknown; ``None`` without any.
        rows: (B,) int64 items, on the CPU.
        targets: (B,) int64 classes of the anchors, as the host has them, on the batch's device.
        crops: For each crop of the batch, which of an item's positives it shows, from 1; 0 for the anchor.

    Returns:
        (B,) int64 anchors, on the batch's device; and what each crop shows.
    """
    shown = dataset.rows(rows.numpy())
    known = [] if labels is None else [labels[one] for one in shown[1:]]
    # In one piece, and without a wait: a GPU is still at work on the step before.
    there = torch.from_numpy(np.stack([*shown, *known]).astype(np.int64)).to(targets.device, non_blocking=True)
    images = there[: len(shown)].unbind()
    classes = [targets, *(there[len(shown) :].to(targets.dtype).unbind() if known else [targets] * (len(shown) - 1))]
    return images[0], ShownCrops(images=tuple(images[which] for which in crops), targets=tuple(classes[which] for which in crops))
