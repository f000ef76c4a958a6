"""How images of named data sets are read: whole files, parts of them, rows of an array, rows of an H5 file."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets.folder import default_loader

from solo_gps.errors import DataError, printable

Box = tuple[int, int, int, int]


class Files:
    """An image is a file; it is named by its path below ``root``.

    Args:
        root: Folder of the data set.
    """

    decodes_files = True

    def __init__(self, root: str) -> None:
        self.root = root

    def image(self, where: str) -> Image.Image:
        """The file, as torchvision reads it."""
        return default_loader(where)

    def stored(self, where: str) -> bytes:
        """Its bytes."""
        return Path(where).read_bytes()

    def name(self, where: str) -> str:
        """Its path below ``root``."""
        return os.path.relpath(where, self.root).replace(os.sep, "/")

    def file(self, where: str) -> str:
        """Itself."""
        return where


class Crops:
    """An image is a rectangle of a file: ``(path, (left, top, right, bottom))`` in pixels, the right and lower edge left out.

    Args:
        root: Folder of the data set.
    """

    decodes_files = False

    def __init__(self, root: str) -> None:
        self._files = Files(root)

    def image(self, where: tuple[str, Box]) -> Image.Image:
        """The rectangle."""
        photo, (_, _, right, lower) = self._files.image(where[0]), where[1]
        if right > photo.width or lower > photo.height:  # Pillow would fill up with black
            raise ValueError(f"an annotation has the object {where[1]}, and the photo {photo.width} x {photo.height} pixels")
        return photo.crop(where[1])

    def stored(self, where: tuple[str, Box]) -> bytes:
        """The file's bytes, and the corners."""
        return self._files.stored(where[0]) + repr(where[1]).encode()

    def name(self, where: tuple[str, Box]) -> str:
        """The file's path below ``root``, and the corners."""
        return f"{self._files.name(where[0])}/{'-'.join(map(str, where[1]))}"

    def file(self, where: tuple[str, Box]) -> str:
        """The file."""
        return where[0]


class Rows:
    """An image is a row of an array in memory, named by its number.

    Args:
        rows: (N, H, W) or (N, H, W, 3) uint8.
        file: Where they come from.
    """

    decodes_files = False

    def __init__(self, rows: NDArray[np.uint8], file: str) -> None:
        self.rows, self._file = rows, file

    def image(self, where: int) -> Image.Image:
        """The row; grey ones have three equal channels."""
        return Image.fromarray(self.rows[where]).convert("RGB")

    def stored(self, where: int) -> bytes:
        """Its shape and its bytes."""
        row = np.ascontiguousarray(self.rows[where])
        return f"{row.dtype.str}{row.shape}".encode() + row.tobytes()

    def name(self, where: int) -> str:
        """Its number."""
        return f"{where:08d}"

    def file(self, where: int) -> str:
        """The file that the rows come from."""
        return self._file


def check_rows(rows: Any, labels: Any, shape: tuple[int, ...], findings: int, file: str) -> None:
    """Checks what a file of images, and their labels, say of themselves.

    Args:
        rows: The images; of an H5 file, nothing is read.
        labels: Theirs.
        shape: Of each image.
        findings: Number of labels of each image.
        file: Where they come from.

    Raises:
        DataError: They are others: of another set or size, cut short, or changed.
    """
    came = f"{tuple(rows.shape)} {rows.dtype}, with {tuple(labels.shape)} {labels.dtype} labels"
    each = labels.size // len(labels) if len(labels) else findings
    if (
        rows.dtype != np.uint8
        or rows.shape[1:] != shape
        or labels.dtype.kind not in "iu"
        or (len(labels), each) != (len(rows), findings)
    ):
        wanted = ", ".join(map(str, ("N", *shape)))
        raise DataError(
            f"{printable(file)}: has images of {came}; wanted ({wanted}) uint8, with {findings} whole numbers for each. Is it "
            "another set or size under this name? Remove it: it is fetched again."
        )


class H5Rows(Rows):
    """An image is a row of an H5 file, named by its number. Each process opens the file for itself: h5py's files do not fork.

    Args:
        file: The H5 file.
        key: Name of its (N, H, W, 3) uint8 data.
    """

    def __init__(self, file: str, key: str) -> None:
        self._file, self._key = file, key
        self._opened: tuple[int, Any] | None = None

    @property
    def rows(self) -> Any:  # type: ignore[override]
        """The file's data, as this process has opened it."""
        import h5py

        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), h5py.File(self._file, "r")[self._key]
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def check_files(paths: Iterable[str], root: str) -> None:
    """Checks by listing that files are there, each once: an archive whose unpacking was cut short looks whole to torchvision.

    Raises:
        DataError: One is missing, or listed twice: it would be its own neighbour.
    """
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, name = os.path.split(path)
        folders[folder].append(name)
    for folder, names in folders.items():
        if len(set(names)) < len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise DataError(f"{printable(os.path.join(folder, twice))}: a list in {printable(root)} has it twice. Mend the list.")
        there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        missing = [name for name in names if name not in there]
        if missing:
            raise DataError(
                f"{printable(os.path.join(folder, missing[0]))}: no such file, though a list in {printable(root)} has it, and "
                f"{len(missing) - 1} others. Perhaps an archive was not unpacked to its end: unpack it again, or remove "
                "the folder, so that it is fetched again."
            )
