"""All pairs of points that may lie within a distance, by float32 products in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch

from solo_gps.runtime.arrays import as_tensor

_TILE_COLUMNS = 1 << 16


class NearPairs:
    """Finds pairs whose distance may be below a limit: no pair is missed, a few too many are returned.

    Args:
        points: (U, D) float32, norms of at most about 1.
        device: ``"cpu"`` or ``"cuda"``.
        budget: Bound of the working memory in bytes.
    """

    def __init__(self, points: np.ndarray, device: str, budget: int) -> None:
        self._array = points
        self._device = device
        self._budget = budget
        # Rounding of norms, product and sums: (D + 8) * 2^-24 * (|x| + |y|)^2 <= (D + 8) * 2^-23 * (|x|^2 + |y|^2).
        self._error = (points.shape[1] + 8) * 2.0**-23

    @cached_property
    def _points(self) -> torch.Tensor:
        return as_tensor(self._array, self._device)

    @cached_property
    def _norms(self) -> torch.Tensor:
        return torch.cat([(block * block).sum(1) for block in self._points.split(1 << 15)])

    @property
    def rows_per_block(self) -> int:
        """Rows to ask for at once: two tiles of float32 and a mask take half of the budget."""
        return max(1, self._budget // (24 * min(_TILE_COLUMNS, len(self._array))))

    def up_to(self, rows: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pairs.

        Args:
            rows: (B,) int64 points.
            limit: (B,) Euclidean distance (not squared) of each row; infinity takes every point.

        Returns:
            Two (P,) int64 arrays: position in ``rows`` and point, in no order. Rows are split until pairs fit the budget.
        """
        found: list[torch.Tensor] = []
        total = 0
        for start, squared in self._tiles(rows, -1):
            near = squared <= self._bound(limit)[:, None]
            total += int(near.sum())
            if total * 64 > self._budget and len(rows) > 1:
                return self._halves(rows, limit)
            position, column = torch.nonzero(near, as_tuple=True)
            found.append(torch.stack([position, column + start]))
        both = torch.cat(found, dim=1).cpu().numpy()
        return both[0], both[1]

    def count(self, rows: np.ndarray, limit: float) -> np.ndarray:
        """(B,) int64 number of points surely closer than ``limit`` to each row, itself included: never one too many."""
        sizes = torch.zeros(len(rows), dtype=torch.int64, device=self._device)
        for _, squared in self._tiles(rows, 1):
            sizes += (squared < limit**2).sum(1)
        return sizes.clamp_(min=1).cpu().numpy()

    def _halves(self, rows: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        half = len(rows) // 2
        first, second = self.up_to(rows[:half], limit[:half]), self.up_to(rows[half:], limit[half:])
        return np.concatenate([first[0], second[0] + half]), np.concatenate([first[1], second[1]])

    def _bound(self, limit: np.ndarray) -> torch.Tensor:
        # Prepared points are never further apart than 2, so 16 is as good as infinity.
        return torch.from_numpy(np.minimum(np.square(limit) * (1 + 1e-5), 16.0)).float().to(self._device)

    def _tiles(self, rows: np.ndarray, bound: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields (first column, (B, C) bounds of the squared distances): from below (-1) or from above (1)."""
        at = torch.from_numpy(rows).to(self._device)
        some, own = self._points[at], self._norms[at]
        scale = 1 + bound * self._error
        for start in range(0, len(self._array), _TILE_COLUMNS):
            piece = slice(start, start + _TILE_COLUMNS)
            squared = torch.addmm(scale * self._norms[None, piece], some, self._points[piece].T, alpha=-2)
            yield start, squared.add_(scale * own[:, None])
