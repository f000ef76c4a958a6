"""The one formula behind every distance of a table, and the order by (distance, index).

The squares are summed by folding the second half of the columns onto the first until one is left. Each step is an elementwise
float32 operation, so the result is the same bit for bit on any device, with any block size and any number of threads; a plain sum
is not. Its relative error is at most about (log2 D + 3) * 2^-24, better than a running float32 sum.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from solo_gps.runtime.arrays import as_tensor

_HOST_BLOCK = 1 << 18  # float32 values: a block and its operands stay in a core's second-level cache
_CUDA_BLOCK = 1 << 27


class Distances(Protocol):
    """Squared Euclidean distances between pairs of a fixed set of points."""

    def __call__(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns (B, C) float32 distances of (B,) points to (B, C) others, both integers."""


def distances_between(points: np.ndarray, device: str) -> Distances:
    """Returns the formula over (U, D) float32 or float16 points, computing on ``device``."""
    return HostDistances(points) if device == "cpu" else CudaDistances(points, device)


class HostDistances:
    """NumPy, one thread for each of torch's: torch's own threads cost more than they bring on blocks that fit a cache."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = points

    def __call__(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """See :class:`Distances`."""
        out = np.empty(columns.shape, np.float32)
        threads = torch.get_num_threads()
        if out.size * self.points.shape[1] < _HOST_BLOCK or threads == 1:
            self._fill(rows, columns, out)
            return out
        cuts = [len(rows) * part // threads for part in range(threads + 1)]
        pieces = [slice(start, stop) for start, stop in pairwise(cuts)]
        list(_pool(threads).map(lambda piece: self._fill(rows[piece], columns[piece], out[piece]), pieces))
        return out

    def _fill(self, rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
        count, width = columns.shape[1], self.points.shape[1]
        step = max(1, _HOST_BLOCK // max(1, count * width))
        room = np.empty((min(step, len(rows)) * count, width), self.points.dtype)
        for start in range(0, len(rows), step):
            piece = slice(start, start + step)
            flat = columns[piece].reshape(-1)
            others = np.take(self.points, flat, axis=0, out=room[: len(flat)], mode="clip").astype(np.float32, copy=False)
            difference = others.reshape(-1, count, width)
            difference -= self.points[rows[piece], None]
            others *= others
            out[piece] = _folded_sum(others).reshape(-1, count)


class CudaDistances:
    """The same operations in torch on a GPU."""

    def __init__(self, points: np.ndarray, device: str) -> None:
        self.device = device
        self.points = as_tensor(points, device)

    def __call__(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """See :class:`Distances`."""
        at, others = (torch.from_numpy(np.ascontiguousarray(a, np.int64)).to(self.device) for a in (rows, columns))
        out = torch.empty(others.shape, dtype=torch.float32, device=self.device)
        step = max(1, _CUDA_BLOCK // max(1, others.shape[1] * self.points.shape[1]))
        for start in range(0, len(at), step):
            piece = slice(start, start + step)
            difference = self.points[others[piece]].float()
            difference -= self.points[at[piece], None].float()
            difference *= difference
            out[piece] = _folded_sum(difference.view(-1, self.points.shape[1])).view(-1, others.shape[1])
        return out.cpu().numpy()


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


@lru_cache(maxsize=2)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="solo-gps-distances")
