"""What a batch shows: pure functions of the guided set and its labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from solo_gps.evaluation.metrics import pair_purity
from solo_gps.guide.dataset import GuidedDataset
from solo_gps.interfaces import ShownCrops


def shown_crops(
    dataset: GuidedDataset, labels: NDArray[np.int64] | None, rows: torch.Tensor, targets: torch.Tensor, crops: Sequence[bool]
) -> tuple[torch.Tensor, ShownCrops]:
    """Returns the anchors of a batch, and whose image and class each of its crops shows.

    Args:
        dataset: The guided set, with the pairs that the batch was made from.
        labels: (N,) classes of its images, -1 where unknown; ``None`` without any.
        rows: (B,) int64 items, on the CPU.
        targets: (B,) int64 classes of the anchors, as the host has them, on the batch's device.
        crops: For each crop of the batch, whether it shows the positive.

    Returns:
        (B,) int64 anchors, on the batch's device; and what each crop shows.
    """
    anchors, positives = (torch.from_numpy(indices).long() for indices in dataset.rows(rows.numpy()))
    theirs = targets if labels is None else torch.from_numpy(labels)[positives].to(targets)
    anchors, positives = anchors.to(targets.device), positives.to(targets.device)
    return anchors, ShownCrops(
        images=tuple(positives if positive else anchors for positive in crops),
        targets=tuple(theirs if positive else targets for positive in crops),
    )


def share_and_purity(dataset: GuidedDataset, labels: NDArray[np.int64] | None) -> dict[str, float]:
    """Returns the share of an epoch's items whose positive is another image and, where labels exist, of those with its label."""
    unknown = np.full(len(dataset.images), -1) if labels is None else labels
    share, purity = pair_purity(*dataset.rows(np.arange(len(dataset))), unknown)
    return {"guided_share": share} | ({} if np.isnan(purity) else {"guided_purity": purity})
