"""The two-dimensional sets of MedMNIST v2 (Yang et al., Scientific Data 2023, https://medmnist.com), by the package medmnist."""

from __future__ import annotations

import os
from zipfile import BadZipFile, is_zipfile

import medmnist

from solo_gps.datasets.sources import Rows, check_rows
from solo_gps.errors import DataError, brief, printable
from solo_gps.interfaces import Contents


def open_medmnist(name: str, root: str, train: bool, download: bool) -> Contents:
    """Opens train, or test, of a set such as ``pathmnist``, 28 x 28, or ``pathmnist_64``."""
    flag, _, size = name.partition("_")
    kind, file = getattr(medmnist, medmnist.INFO[flag]["python_class"]), os.path.join(root, f"{name}.npz")
    try:
        if os.path.exists(file) and not is_zipfile(file):  # numpy would advise to switch safety off
            raise BadZipFile("no .npz archive")
        opened = kind(split="train" if train else "test", download=download, root=root, size=int(size or 28))
    except (BadZipFile, KeyError, ValueError, EOFError) as error:
        raise DataError(f"{printable(file)}: is not whole ({brief(error)}). Remove it: it is fetched again.") from error
    info, side = medmnist.INFO[flag], int(size or 28)
    findings = len(info["label"]) if info["task"].startswith("multi-label") else 1
    check_rows(opened.imgs, opened.labels, (side, side, 3) if info["n_channels"] == 3 else (side, side), findings, file)
    # ChestMNIST's images have any number of 14 findings: no class.
    classes = opened.labels.reshape(-1).tolist() if findings == 1 else [-1] * len(opened.labels)
    return Contents(samples=list(enumerate(classes)), source=Rows(opened.imgs, file))
