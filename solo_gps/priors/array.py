"""Embeddings that the user brings: one .npy file, checked and copied into the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from solo_gps.errors import DataError, first_line
from solo_gps.priors.base import Encoder
from solo_gps.priors.config import ArrayConfig
from solo_gps.runtime.files import file_digest

ROWS_AT_A_TIME = 1 << 14


class ArrayEncoder(Encoder):
    """Rows of a file, by image index."""

    config_class = ArrayConfig
    reads_images = False

    def check(self, images: int | None = None) -> None:
        """Checks that the file exists, is a plain array of finite numbers, and has one row for each image.

        Raises:
            DataError: It is not so.
        """
        array = self._open()
        where = f"prior.path: {self.config.path}"
        if array.dtype.kind not in "fiu":
            raise DataError(f"{where} holds {array.dtype}; wanted numbers. Save it as float32.")
        if array.ndim != 2 or array.shape[1] == 0:
            raise DataError(f"{where} has shape {array.shape}; wanted (images, dimensions).")
        if images is not None and len(array) != images:
            raise DataError(f"{where} has {len(array):,} rows, but the training set has {images:,} images; wanted one row each.")
        _check_finite(array, where)

    def load(self, device: torch.device) -> None:
        """Maps the file."""
        super().load(device)
        self._array = self._open()

    def identity(self) -> dict[str, Any]:
        """The digest of the file in place of its path."""
        identity = super().identity()
        del identity["path"]
        return {**identity, "file": file_digest(self._path())}

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, D) float32, the rows of (B,) int64 indices."""
        return torch.from_numpy(self._array[batch.cpu().numpy()].astype(np.float32))

    def _path(self) -> Path:
        return Path(self.config.path).expanduser()

    def _open(self) -> np.ndarray:
        path = self._path()
        if not path.is_file():
            raise DataError(f"prior.path: no file {path} (looked in {path.absolute().parent}).")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(
                f"prior.path: {path} is not a plain .npy array ({first_line(error)}). Save it by numpy.save, as numbers."
            ) from error
        if not isinstance(array, np.ndarray):
            raise DataError(f"prior.path: {path} is an archive; wanted one .npy array. Save the array alone by numpy.save.")
        return array


def _check_finite(array: np.ndarray, where: str) -> None:
    for start in range(0, len(array), ROWS_AT_A_TIME):
        with np.errstate(over="ignore"):
            rows = array[start : start + ROWS_AT_A_TIME].astype(np.float32)
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            row = start + int(bad.argmax())
            raise DataError(f"{where}: row {row} holds a number that is not finite in float32. Mend or remove it.")
