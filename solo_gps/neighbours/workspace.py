"""What every step of a search works with."""

from __future__ import annotations

from dataclasses import dataclass

from solo_gps.neighbours.base import SearchConfig
from solo_gps.neighbours.pairs import NearPairs
from solo_gps.neighbours.prepare import Points
from solo_gps.neighbours.rerank import Distances, distances_between


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


def open_workspace(points: Points, config: SearchConfig, device: str) -> Workspace:
    """Returns a workspace that computes on ``device``, ``"cpu"`` or ``"cuda"``."""
    return Workspace(
        points=points,
        near=NearPairs(points.search, device, config.budget(device)),
        distances=distances_between(points.exact, device),
        config=config,
    )
