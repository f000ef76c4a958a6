"""What every step of a search works with."""

from __future__ import annotations

import numpy as np

from solo_gps.neighbours.config import SearchConfig
from solo_gps.neighbours.exact.near_points import NearPairs
from solo_gps.neighbours.exact.points import Points
from solo_gps.neighbours.exact.rerank import distances_between, sort_key


class Workspace:
    """The U different vectors, and what measures them.

    Args:
        points: Prepared points.
        config: The node ``search``.
        device: Where to compute, ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, points: Points, config: SearchConfig, device: str) -> None:
        self.points = points
        self.config = config
        self.near = NearPairs(points.search, device, config.budget(device))
        self.distances = distances_between(points.exact, device)

    def within(self, rows: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Finds the points strictly closer than a radius: the one test of what is in a ball.

        Args:
            rows: (B,) int64 points.
            radius: In the units of the table.

        Returns:
            (P,) ascending positions in ``rows``, and (P,) keys of the points in their balls, themselves included, sorted in each.
        """
        limit = float(self.points.search_distance(np.asarray(radius)))
        row, point = self.near.up_to(rows, np.full(len(rows), limit))
        squared = self.distances(rows[row], point[:, None])[:, 0]
        inside = self.table_distance(squared) < radius
        row, key = row[inside], sort_key(squared, point)[inside]
        order = np.lexsort((key, row))
        return row[order], key[order]

    def table_distance(self, squared: np.ndarray) -> np.ndarray:
        """Float32 squared distances between points as the table holds them, widened to float64 to be compared with a radius."""
        return (squared * np.float32(self.points.factor)).astype(np.float64)
