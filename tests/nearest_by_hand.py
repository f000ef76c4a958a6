"""Nearest images, found by hand and without solo-gps: what tests compare with."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as F

from solo_gps.hosts.detect import detect_host

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def kth_by_pixels(images, k):
    """(N,) the k-th nearest other image by squared distance of the raw pixels."""
    raw = np.stack([np.asarray(image, dtype=np.float64).ravel() for image, _ in ImageFolder(images)])
    distance = ((raw[:, None] - raw[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, k - 1]


def nearest_by_hand(model, digits, of, space):
    """(N,) the nearest other image in the network's own space, image by image and without solo-gps."""
    backbone = getattr(model, detect_host().backbone_name)
    parts = [backbone] if of == "features" else [backbone, model.projector]
    modes = {module: module.training for part in parts for module in part.modules()}
    rows = []
    with torch.no_grad():
        for part in parts:
            part.eval()
        for image, _ in ImageFolder(digits / "train"):
            pixels = F.normalize(F.to_tensor(F.resize(image, [32])), MEAN, STD)[None]
            for part in parts:
                pixels = part(pixels)
            rows.append(pixels.flatten().double())
    for module, mode in modes.items():
        module.training = mode
    rows = torch.stack(rows)
    if space == "cosine":
        rows = rows / rows.norm(dim=1, keepdim=True)
    distances = torch.cdist(rows, rows).fill_diagonal_(float("inf"))
    margin = distances.topk(2, largest=False).values.diff(dim=1).squeeze(1)
    return distances.argmin(1).numpy(), margin.numpy()


def assert_agree(positives, hand):
    """Where the hand's nearest is nearer than its second by more than rounding, ours is the same image."""
    nearest, margin = hand
    clear = margin > 1e-4 * np.median(margin)
    assert clear.mean() > 0.9
    assert (positives[clear] == nearest[clear]).all()
