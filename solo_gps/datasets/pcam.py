"""PatchCamelyon: 327,680 patches of lymph nodes, 96 x 96 (Veeling et al. 2018, https://arxiv.org/abs/1806.03962)."""

from __future__ import annotations

import h5py
import numpy as np
from torchvision.datasets import PCAM

from solo_gps.datasets.sources import H5Rows
from solo_gps.errors import DataError
from solo_gps.interfaces import Contents


def open_pcam(name: str, root: str, train: bool, download: bool) -> Contents:
    """Opens train, or test; class 1 has metastasis in its centre."""
    split = "train" if train else "test"
    patches = PCAM(root, split=split, download=download)
    images, targets = (str(patches._base_folder / PCAM._FILES[split][part][0]) for part in ("images", "targets"))
    with h5py.File(targets, "r") as file:
        labels = np.asarray(file["y"]).reshape(-1).astype(int).tolist()
    with h5py.File(images, "r") as file:
        count = len(file["x"])
    if count != len(labels):
        raise DataError(
            f"{images}: has {count} images, and {targets} {len(labels)} classes. Remove both: they are fetched again."
        )
    return Contents(samples=list(enumerate(labels)), source=H5Rows(images, "x"))
