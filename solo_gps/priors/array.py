"""Embeddings that the user brings: one file, its rows matched to the images by name or by position, copied into the cache."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from solo_gps.errors import DataError, first_line
from solo_gps.interfaces import ImageSet, StoredImages
from solo_gps.priors.base import Encoder
from solo_gps.priors.config import ArrayConfig
from solo_gps.runtime.files import file_digest

ROWS_AT_A_TIME = 1 << 14


class ArrayEncoder(Encoder):
    """Rows of a file, by image index."""

    config_class = ArrayConfig
    cost = "nothing but reading the file; its own dimensions"
    reads_images = False

    def check(self, images: ImageSet | None = None) -> None:
        """Checks that the file exists, is a plain array of finite numbers, and has one row for each image.

        Raises:
            DataError: It is not so, or nothing says which row is whose.
        """
        array, names = self._open()
        where = f"prior.path: {self.config.path}"
        if array.dtype.kind not in "fiu":
            raise DataError(f"{where} holds {array.dtype}; wanted numbers. Save it as float32.")
        if array.ndim != 2 or array.shape[1] == 0:
            raise DataError(f"{where} has shape {array.shape}; wanted (images, dimensions).")
        if names is not None and len(names) != len(array):
            raise DataError(
                f"{where} has {len(array):,} rows, but there are {len(names):,} names for them; wanted one name a row."
            )
        if images is not None:
            self._rows = _rows_by_position(images, len(array), where) if names is None else _rows_by_name(images, names, where)
        _check_finite(array, where)

    def load(self, device: torch.device) -> None:
        """Maps the file."""
        super().load(device)
        self._array, _ = self._open()

    def identity(self) -> dict[str, Any]:
        """The digests of the file and of the order of its rows in place of paths."""
        identity = super().identity()
        del identity["path"], identity["names"]
        return {**identity, "file": file_digest(self._path()), "rows": hashlib.sha256(self._rows.tobytes()).hexdigest()}

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, D) float32, the rows of (B,) int64 indices."""
        return torch.from_numpy(self._array[self._rows[batch.cpu().numpy()]].astype(np.float32))

    def _path(self) -> Path:
        return Path(self.config.path).expanduser()

    def _open(self) -> tuple[np.ndarray, list[str] | None]:
        """The rows, and the name of each where the user gave them."""
        path = self._path()
        if not path.is_file():
            raise DataError(f"prior.path: no file {path} (looked in {path.absolute().parent}).")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if isinstance(array, np.ndarray):
                return array, None if self.config.names is None else _names_in(Path(self.config.names).expanduser())
            with array as archive:
                arrays = dict(archive)
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            with path.open("rb") as opened:
                start = opened.read(64)
            if not start or start.startswith(b"version https://git-lfs"):
                what = "Git LFS's pointer to a file, not the file" if start else "empty (0 bytes)"
                raise DataError(f"prior.path: {path} is {what}. Save or download it again (git lfs pull).") from error
            raise DataError(
                f"prior.path: {path} is not a plain .npy array ({first_line(error)}). Save it by numpy.save, as numbers."
            ) from error
        names = arrays.pop("names", None)
        if names is None or names.ndim != 1 or names.dtype.kind not in "SU" or len(arrays) != 1 or self.config.names is not None:
            raise DataError(
                f"prior.path: {path} is an archive of {', '.join(map(repr, arrays)) or 'nothing'} and "
                f"{'no' if names is None else 'the'} names; wanted one array of rows and one array `names` of texts in it, and "
                "no prior.names beside it. Save them by numpy.savez(path, rows=rows, names=names)."
            )
        (rows,) = arrays.values()
        return rows, [os.fsdecode(name) for name in names.tolist()]


def _names_in(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise DataError(f"prior.names: {path} cannot be read: {error.strerror} (looked in {path.absolute().parent}).") from error
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _rows_by_position(images: ImageSet, rows: int, where: str) -> np.ndarray:
    by_name = "give the name of each row's image: prior.names=FILE, with the names that `solo-gps data order` prints."
    if rows != len(images):
        raise DataError(
            f"{where} has {rows:,} rows, but the training set has {len(images):,} images; wanted one row each. Or {by_name}"
        )
    if isinstance(images, StoredImages) and images.unsorted is not None:
        raise DataError(f"{where}: nothing says which row is whose: {images.unsorted}. To match them, {by_name}")
    return np.arange(rows)


def _rows_by_name(images: ImageSet, names: list[str], where: str) -> np.ndarray:
    """The row of each image."""
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) != len(names):
        twice = next(name for row, name in enumerate(names) if rows[name] != row)
        raise DataError(f"{where}: the name {twice!r} stands for more than one row. Give each row a name of its own.")
    wanted = images.names if isinstance(images, StoredImages) else [str(index) for index in range(len(images))]
    without = [name for name in wanted if name not in rows]
    if without:
        raise DataError(
            f"{where}: {len(without):,} of {len(wanted):,} images have no row by their name, the first {without[0]!r}; the first "
            f"row's name is {names[0]!r}. Name the rows as `solo-gps data order` prints the images."
        )
    return np.array([rows[name] for name in wanted], np.int64)


def _check_finite(array: np.ndarray, where: str) -> None:
    for start in range(0, len(array), ROWS_AT_A_TIME):
        with np.errstate(over="ignore"):
            rows = array[start : start + ROWS_AT_A_TIME].astype(np.float32)
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            row = start + int(bad.argmax())
            raise DataError(f"{where}: row {row} holds a number that is not finite in float32. Mend or remove it.")
