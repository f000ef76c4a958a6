"""What a search backend is. Third parties derive from :class:`SearchBackend`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np

    from solo_gps.neighbours.config import SearchConfig


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What a backend found for B rows.

    Attributes:
        indices: (B, C) integer rows of the candidates, -1 where none, best first as far as the backend knows. The row itself may
            be among them.
        reach: (B,) float32 or float64, or ``None`` from an approximate backend. A promise: every point that is NOT among the
            candidates of a row lies at least this Euclidean distance (not squared) away from it.
        least: (B, C) lower bound of the Euclidean distance of each candidate, or ``None``. Saves work: a candidate that cannot be
            among the nearest is not measured.
    """

    indices: np.ndarray
    reach: np.ndarray | None
    least: np.ndarray | None = None


class SearchBackend(ABC):
    """Finds candidates; the core re-ranks them with one fixed float32 formula, so that equal candidates give equal tables.

    A backend sees prepared points only: float32, contiguous, finite, no two rows equal, centred and scaled so that the largest
    norm is below 1, and of unit length before the centring when the space is cosine. Squared Euclidean distance is therefore the
    only metric. An exact backend proves its candidates by ``Candidates.reach``; rows whose proof fails are completed by the core.
    """

    exact: ClassVar[bool] = True
    """Whether :meth:`candidates` returns ``reach``. An approximate backend has its recall measured instead."""

    device: str = "cpu"
    """Where the core computes distances for this backend, ``"cpu"`` or ``"cuda:<n>"``; set by :meth:`fit`."""

    def __init__(self, config: SearchConfig) -> None:
        self.config = config

    @classmethod
    def missing(cls, config: SearchConfig) -> str | None:
        """Returns why the backend cannot run here, with what to install, or ``None`` when it can."""
        return None

    @abstractmethod
    def fit(self, points: np.ndarray) -> None:
        """Takes the (U, D) float32 points, builds what it needs. Called once, before anything else."""

    @abstractmethod
    def candidates(self, rows: np.ndarray, count: int) -> Candidates:
        """Returns at least the ``count`` points nearest to each of ``rows``.

        Args:
            rows: (B,) int64 rows of the points; usually consecutive, B at most :meth:`rows_per_block`.
            count: Number C of candidates wanted, at most U. The row itself counts.

        Returns:
            (B, C) candidates.
        """

    def surplus(self, count: int) -> int:
        """Returns how many candidates to ask for so that the nearest ``count`` are (almost surely) among them."""
        return count + 8

    def observe(self, unproven: float) -> None:  # noqa: B027 - optional to override
        """Exact backends: told after each block which share of its rows the core had to complete."""

    def rows_per_block(self, points: int, count: int) -> int:
        """Returns how many rows to ask for at once, within the budget."""
        return max(1, min(4096, self.config.budget("cpu") // (32 * max(count, 1))))

    def raise_effort(self) -> bool:
        """Approximate backends: searches harder from now on. Returns whether there was anything left to raise."""
        return False

    def settings(self) -> dict[str, object]:
        """Approximate backends: what determines the result besides the points; part of the cache key."""
        return {}
