"""Image sets for tests: real handwritten digits in memory and in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image


class ArrayImages:
    """Images in memory: (N, H, W) or (N, H, W, 3) uint8."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray | None = None) -> None:
        self.pixels, self._labels = pixels, labels

    @property
    def labels(self) -> np.ndarray | None:
        return self._labels

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def content(self) -> Iterator[bytes]:
        for image in self.pixels:
            yield image.tobytes()


class FolderImages:
    """Image files below a folder, in order of their names; counts how many are read."""

    unsorted = None

    def __init__(self, root: Path) -> None:
        self.root, self.place = root, str(root.resolve())
        self.files = sorted(path for path in root.rglob("*") if path.suffix in (".png", ".jpg"))
        self.names = [path.relative_to(root).as_posix() for path in self.files]
        self.read = 0

    @property
    def labels(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> Image.Image:
        with Image.open(self.files[index]) as image:
            return image.convert("RGB")

    def stored(self, index: int) -> bytes:
        self.read += 1
        return self.files[index].read_bytes()

    def stamps(self) -> np.ndarray:
        stats = [path.stat() for path in self.files]
        return np.array([(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for stat in stats], np.int64)

    def content(self) -> Iterator[bytes]:
        return map(self.stored, range(len(self)))


def digits_pixels(count: int) -> np.ndarray:
    """(count, 8, 8) uint8 scans of handwritten digits."""
    from sklearn.datasets import load_digits

    return (load_digits().images[:count] / 16 * 255).astype(np.uint8)
