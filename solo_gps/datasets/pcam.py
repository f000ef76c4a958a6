"""PatchCamelyon: 327,680 patches of lymph nodes, 96 x 96 (Veeling et al. 2018, https://arxiv.org/abs/1806.03962)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
from torchvision.datasets import PCAM

from solo_gps.datasets.sources import H5Rows, check_rows
from solo_gps.errors import DataError, brief, printable
from solo_gps.interfaces import Contents


def open_pcam(name: str, root: str, train: bool, download: bool) -> Contents:
    """Opens train, or test; class 1 has metastasis in its centre."""
    split = "train" if train else "test"
    patches = PCAM(root, split=split, download=download)
    images, targets = (str(patches._base_folder / PCAM._FILES[split][part][0]) for part in ("images", "targets"))
    with _opened(images, "x") as rows, _opened(targets, "y") as labels:
        check_rows(rows, labels, (96, 96, 3), 1, images)
        return Contents(samples=list(enumerate(labels[:].reshape(-1).tolist())), source=H5Rows(images, "x"))


@contextmanager
def _opened(file: str, key: str) -> Iterator[Any]:
    """Torchvision unpacks into the file itself, and takes what it has left there, when it was cut short, for whole."""
    try:
        with h5py.File(file, "r") as opened:
            yield opened[key]
    except (OSError, KeyError) as error:
        raise DataError(f"{printable(file)}: is not whole ({brief(error)}). Remove it: it is fetched again.") from error
