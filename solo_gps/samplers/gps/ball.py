"""The ball of every image: which images may stand in for it, by the keys of GPS."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from solo_gps.errors import DataError
from solo_gps.neighbours.filters.clusters import communities, kmeans_clusters
from solo_gps.neighbours.filters.graph import multi_hop, mutual, same_group
from solo_gps.neighbours.filters.radii import adaptive_radius, cut_table, quantile_radius, shared_radius
from solo_gps.runtime.machine import check_fits
from solo_gps.runtime.ranks import training_ranks
from solo_gps.samplers.gps.config import FIRST, GpsConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solo_gps.interfaces import NeighbourTable
    from solo_gps.samplers.space import PriorSpace

log = logging.getLogger(__name__)


def balls(space: PriorSpace, config: GpsConfig, seed: int) -> NeighbourTable:
    """Finds the ball of every image: by number or distance, then by hops, by both ways, and by groups.

    Args:
        space: The training images in the prior space.
        config: The keys.
        seed: Of k-means and of the order in which communities are looked for.

    Raises:
        DataError: The rule gives no radius, or a ball holds more than ``search.max_ball`` images.
    """
    table, ranks = _near(space, config), training_ranks(space.search_config.distributed)
    if config.hops > 1:
        most, width = space.search_config.max_ball, table.indices.shape[1]
        within = min(most, sum(width**hop for hop in range(1, config.hops + 1)))
        with ranks.failing_together():
            check_fits(
                f"sampler.gps.hops={config.hops}: a table of {len(space.images):,} x {within:,} neighbours",
                16 * len(space.images) * within,
                "Use fewer hops, a smaller k, or a smaller search.max_ball.",
            )
        table = multi_hop(table, space.embeddings, config.hops, most, ranks)
    if config.mutual:
        table = mutual(table)
    if config.within == "clusters":
        assert config.clusters is not None
        return same_group(table, kmeans_clusters(space.embeddings, config.clusters, seed=seed & 0x3FFFFFFF, ranks=ranks))
    if config.within == "community":
        return same_group(table, communities(table, method=config.community, seed=seed))
    return table


def _near(space: PriorSpace, config: GpsConfig) -> NeighbourTable:
    if config.radius is None:
        return space.neighbours(k=config.k)
    if config.rule is None:
        return space.neighbours(radius=config.radius)
    if config.radius_of == "image":
        return _own_balls(space, config)
    first = space.neighbours(k=min(FIRST, len(space.images) - 1))
    quantile = config.quantile
    radius = shared_radius(first, config.rule, FIRST) if quantile is None else quantile_radius(first, quantile, FIRST)
    if radius == 0:
        raise DataError(
            f"sampler.gps.radius={config.radius}: is 0 for the distances of these images to their {FIRST} nearest, so every ball "
            "would be empty. Take another rule, a number, or k."
        )
    log.info("gps: radius=%s is %.6g for these images", config.radius, radius)
    return space.neighbours(radius=float(_just_above(np.float64(radius))))


def _own_balls(space: PriorSpace, config: GpsConfig) -> NeighbourTable:
    """Balls of one radius for each image; as many neighbours are looked for as the largest takes."""
    most, others = space.search_config.max_ball, len(space.images) - 1
    table = space.neighbours(k=min(FIRST, others))
    radii = _just_above(_own_radii(table, config))
    while _may_hold_more(table, radii) and table.indices.shape[1] < others:
        if table.indices.shape[1] > most:
            raise DataError(
                f"sampler.gps.radius={config.radius} of each image: a ball holds more than search.max_ball={most} images. Take "
                f"mean or a smaller quantile, or ++search.max_ball={2 * most}."
            )
        table = space.neighbours(k=min(2 * table.indices.shape[1], most + 1, others))
    return cut_table(table, radii)


def _own_radii(table: NeighbourTable, config: GpsConfig) -> NDArray[np.float64]:
    if config.quantile is None:
        assert config.rule is not None
        return adaptive_radius(table, config.rule, FIRST)
    first = table.distances[:, :FIRST].astype(np.float64)
    return np.nanquantile(np.where(np.isfinite(first), first, np.nan), config.quantile, axis=1)  # approximate searches pad rows


def _may_hold_more(table: NeighbourTable, radii: NDArray[np.float64]) -> bool:
    return bool((table.distances[:, -1] < radii).any())


def _just_above(radius: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    """Balls are open, but what lies at the radius of a rule is inside."""
    return np.nextafter(radius, np.inf)
