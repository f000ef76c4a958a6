"""FGVC-Aircraft: 10,000 photos of 100 aircraft variants (Maji et al. 2013, https://arxiv.org/abs/1306.5151), by torchvision."""

from __future__ import annotations

from torchvision.datasets import FGVCAircraft

from solo_gps.datasets.sources import Files, check_files
from solo_gps.interfaces import Contents


def open_aircraft(name: str, root: str, train: bool, download: bool) -> Contents:
    """Opens trainval, or test; classes are variants."""
    listed = FGVCAircraft(root, split="trainval" if train else "test", download=download)
    check_files(listed._image_files, root)
    return Contents(samples=list(zip(listed._image_files, listed._labels, strict=True)), source=Files(root))
