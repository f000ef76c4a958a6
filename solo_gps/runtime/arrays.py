"""Large arrays: a few rows at a time, and as tensors over the same memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch

_CHUNK_BYTES = 16 << 20


def chunks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (start, block of rows) of about 16 MiB, so that no second copy of a large array is ever held."""
    rows = rows_of_chunk(array)
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def rows_of_chunk(array: np.ndarray) -> int:
    """How many rows of an (N, D) array a block of :func:`chunks` has."""
    return max(1, _CHUNK_BYTES // max(1, 8 * array.shape[1]))


def as_tensor(array: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """Returns a tensor over the same memory (copied only for another device); read-only arrays are only ever read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)
