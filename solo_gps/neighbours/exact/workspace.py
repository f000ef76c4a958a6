"""What every step of a search works with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solo_gps.neighbours.config import SearchConfig
from solo_gps.neighbours.exact.near_points import NearPairs
from solo_gps.neighbours.exact.prepare import Points
from solo_gps.neighbours.exact.rerank import Distances, distances_between, sort_key


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Prepared points and what measures them.

    Attributes:
        points: The U different vectors.
        near: Pairs within a distance, over ``points.search``.
        distances: The formula of the table, over ``points.exact``.
        config: The node ``search``.
    """

    points: Points
    near: NearPairs
    distances: Distances
    config: SearchConfig

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


def open_workspace(points: Points, config: SearchConfig, device: str) -> Workspace:
    """Returns a workspace that computes on ``device``, ``"cpu"`` or ``"cuda"``."""
    return Workspace(
        points=points,
        near=NearPairs(points.search, device, config.budget(device)),
        distances=distances_between(points.exact, device),
        config=config,
    )
