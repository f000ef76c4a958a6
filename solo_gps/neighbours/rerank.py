"""The one formula behind every distance of a table, and the order by (distance, index).

The squares are summed by folding the second half of the columns onto the first until one is left. Each step is an elementwise
float32 operation, so the result is the same bit for bit on any device, with any block size and any number of threads; a plain sum
is not. Its relative error is at most about (log2 D + 3) * 2^-24, better than a running float32 sum.
"""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

_HOST_BLOCK = 1 << 18  # float32 values: a block and its operands stay in a core's second-level cache
_CUDA_BLOCK = 1 << 27


class Distances(Protocol):
    """Squared Euclidean distances between pairs of a fixed set of points."""

    def __call__(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns (P,) float32 for two (P,) integer arrays of points."""


def distances_between(points: np.ndarray, device: str) -> Distances:
    """Returns the formula over (U, D) float32 or float16 points, computing on ``device``."""
    return HostDistances(points) if device == "cpu" else CudaDistances(points, device)


class HostDistances:
    """NumPy, one thread for each core: torch's own threads cost more than they bring on blocks that fit a cache."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = points

    def __call__(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """See :class:`Distances`."""
        out = np.empty(len(rows), np.float32)
        block = max(1, _HOST_BLOCK // self.points.shape[1])

        def fill(start: int) -> None:
            piece = slice(start, start + block)
            difference = np.take(self.points, columns[piece], axis=0).astype(np.float32, copy=False)
            difference -= np.take(self.points, rows[piece], axis=0)
            difference *= difference
            out[piece] = _folded_sum(difference)

        starts = range(0, len(rows), block)
        if len(starts) < 2:
            for start in starts:
                fill(start)
        else:
            list(_pool().map(fill, starts))
        return out


class CudaDistances:
    """The same operations in torch on a GPU."""

    def __init__(self, points: np.ndarray, device: str) -> None:
        self.device = device
        self.points = as_tensor(points, device)

    def __call__(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """See :class:`Distances`."""
        import torch

        pairs = [torch.from_numpy(np.ascontiguousarray(a, np.int64)).to(self.device) for a in (rows, columns)]
        return self.on_device(*pairs).cpu().numpy()

    def on_device(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(P,) float32 for two (P,) int64 tensors on the device."""
        import torch

        out = torch.empty(len(rows), dtype=torch.float32, device=self.device)
        block = max(1, _CUDA_BLOCK // self.points.shape[1])
        for start in range(0, len(rows), block):
            piece = slice(start, start + block)
            difference = self.points.index_select(0, columns[piece]).float()
            difference -= self.points.index_select(0, rows[piece]).float()
            difference *= difference
            out[piece] = _folded_sum(difference)
        return out


def as_tensor(array: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """Returns a tensor over the same memory (copied only for another device); read-only arrays are only ever read."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)


def sort_key(distances: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Packs distances (float32, never negative) and indices (below 2^31) into int64 that sort by distance, then by index."""
    # Bits of non-negative floats are ordered like the floats.
    return (np.ascontiguousarray(distances, np.float32).view(np.int32).astype(np.int64) << 32) | indices


def unpack_key(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the float32 distances and int64 indices of packed keys."""
    return (keys >> 32).astype(np.int32).view(np.float32), keys & 0xFFFFFFFF


def _folded_sum(values: Any) -> Any:
    """Sums (P, D) over D in the fixed order; overwrites ``values``, an array or a tensor."""
    width = values.shape[1]
    while width > 16:
        half = (width + 1) // 2
        values[:, : width - half] += values[:, half:width]
        width = half
    # The last folds run over short rows; turned round, they run over long ones.
    values = values[:, :width].T
    values = np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values.contiguous()
    while width > 1:
        half = (width + 1) // 2
        values[: width - half] += values[half:width]
        width = half
    return values[0]


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(min(cores, 16), thread_name_prefix="solo-gps-distances")
