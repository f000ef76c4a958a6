"""Tiny-ImageNet: 64 x 64 photos of 200 classes of ImageNet (Stanford CS231n, http://cs231n.stanford.edu)."""

from __future__ import annotations

import os
from pathlib import Path

from torchvision.datasets.utils import download_and_extract_archive

from solo_gps.datasets.sources import Files, check_files
from solo_gps.errors import DataError, printable
from solo_gps.interfaces import Contents

FOLDER = "tiny-imagenet-200"
URL = f"http://cs231n.stanford.edu/{FOLDER}.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def open_tiny_imagenet(name: str, root: str, train: bool, download: bool) -> Contents:
    """Opens train, or val; a class's number is the place of its WordNet id among the sorted ones."""
    if download:
        download_and_extract_archive(URL, root, md5=MD5)
    folder = os.path.join(root, FOLDER)
    numbers = {wnid: number for number, wnid in enumerate(sorted(set(_lines(folder, "wnids.txt"))))}
    samples = []
    if train:
        for wnid, number in numbers.items():
            of_class = os.path.join(folder, "train", wnid)
            listed = _lines(of_class, f"{wnid}_boxes.txt")
            if not listed:
                raise DataError(f"{printable(of_class)}/{wnid}_boxes.txt: lists no image. Unpack the archive again.")
            samples += [(os.path.join(of_class, "images", line.split("\t")[0]), number) for line in listed]
    else:
        val = os.path.join(folder, "val")
        fields = [line.split("\t") for line in _lines(val, "val_annotations.txt")]
        samples = [(os.path.join(val, "images", name), numbers[wnid]) for name, wnid, *_ in fields]
    check_files((path for path, _ in samples), root)
    return Contents(samples=samples, source=Files(root))


def _lines(folder: str, name: str) -> list[str]:
    lines = Path(folder, name).read_text(encoding="utf-8-sig").splitlines()  # editors add marks, blank lines and blanks
    return [line.strip() for line in lines if line.strip()]
