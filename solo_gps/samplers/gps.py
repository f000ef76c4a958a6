"""GPS: the positive is a neighbour in the prior space (GPS-SSL, arXiv 2401.01990, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from solo_gps.config import check_at_least, check_choice, check_seed
from solo_gps.errors import DataError
from solo_gps.interfaces import NeighbourTable, Pairs
from solo_gps.samplers.base import PriorSpace, Sampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHOICES = ("furthest", "uniform", "nearest")


@dataclass(frozen=True, kw_only=True)
class GpsConfig:
    """Keys under ``sampler.gps``."""

    k: int = 10
    """Size of the ball in neighbours, the anchor left out; not used when ``radius`` is given."""
    radius: float | None = None
    """Size of the ball as a distance of the prior space (squared Euclidean, or 1 - cosine), exclusive: tau of the paper."""
    choose: str = "furthest"
    """Which image of the ball: furthest (the paper), uniform (drawn anew each epoch, the authors' code), or nearest."""
    seed: int | None = None
    """Seed of the draws; null takes the recipe's."""

    def __post_init__(self) -> None:
        check_at_least("k", self.k, 1)
        check_choice("choose", self.choose, CHOICES)
        check_seed(self.seed)
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius={self.radius} must be above 0.")


class Gps(Sampler):
    """Replaces the anchor's second view by a view of an image in its ball; an empty ball keeps the anchor."""

    config_type: ClassVar[type] = GpsConfig
    pairs_images: ClassVar[bool] = True
    refreshable: ClassVar[bool] = True

    def __init__(self, config: GpsConfig, *, seed: int) -> None:
        super().__init__(config, seed=seed if config.seed is None else config.seed)
        self._table: NeighbourTable | None = None

    @classmethod
    def refusal(cls, method: str) -> str | None:
        """Refuses the methods whose loss has no positive view."""
        if method == "mae":
            return "it reconstructs the pixels of one crop, so there is no positive view to guide"
        return None

    def check(self, images: int) -> None:
        """Refuses more neighbours than there are other images."""
        from solo_gps.neighbours.prepare import check_neighbours

        if self.config.radius is None:
            check_neighbours(images, self.config.k)

    def prepare(self, space: PriorSpace, *, same_label: bool) -> NeighbourTable:
        """Finds the ball of every image."""
        if same_label and space.images.labels is None:
            raise DataError(
                "sampler.gps: this method takes images with the same label as positives, but the training set has no labels. "
                "Use a method without supervision, or a labelled set."
            )
        by_radius = self.config.radius is not None
        table = space.neighbours(k=None if by_radius else self.config.k, radius=self.config.radius if by_radius else None)
        if same_label:
            table = keep_same_label(table, np.asarray(space.images.labels))
        self.use(table)
        return table

    def use(self, table: NeighbourTable) -> None:
        """Takes the balls of all images."""
        self._table = table

    def pairs(self, pairs: Pairs, epoch: int) -> Pairs:
        """Chooses a positive for each item that has none yet; pairs of another sampler stay as they are."""
        assert self._table is not None, "prepare() comes before pairs()"
        chosen = choose_positives(self._table, self.config.choose, epoch=epoch, seed=self.seed)
        positives = np.where(pairs.positives == pairs.anchors, chosen[pairs.anchors], pairs.positives)
        return Pairs(anchors=pairs.anchors, positives=positives)


def choose_positives(table: NeighbourTable, choose: str, *, epoch: int, seed: int) -> NDArray[np.int32]:
    """Chooses one image of each ball (GPS-SSL, section 3; uniform as in the authors' code).

    Args:
        table: Neighbours of N images, nearest first, padded with -1.
        choose: ``"furthest"``, ``"uniform"`` or ``"nearest"``.
        epoch: Number of the epoch; only ``"uniform"`` depends on it.
        seed: Seed of the draws.

    Returns:
        (N,) int32 image indices; the anchor itself where its ball is empty.
    """
    n, width = table.indices.shape
    anchors = np.arange(n, dtype=np.int32)
    sizes = ball_sizes(table)
    if choose == "nearest" or width == 0:
        column = np.zeros(n, dtype=np.int64)
    elif choose == "furthest":
        column = sizes - 1
    else:
        draws = np.random.default_rng([seed, epoch]).random(n)
        column = (draws * sizes).astype(np.int64)
    empty = sizes == 0
    if empty.all():
        return anchors
    chosen = table.indices[anchors, np.where(empty, 0, column)].astype(np.int32)
    return np.where(empty, anchors, chosen)


def ball_sizes(table: NeighbourTable) -> NDArray[np.int64]:
    """Returns the (N,) number of neighbours in each row of the table."""
    return np.asarray((table.indices >= 0).sum(axis=1), dtype=np.int64)


def keep_same_label(table: NeighbourTable, labels: NDArray[Any]) -> NeighbourTable:
    """Drops neighbours whose label differs from the anchor's, keeping the order of the rest.

    Args:
        table: Neighbours of N images.
        labels: (N,) int64.

    Returns:
        A table of the same width, padded at the end of each row.
    """
    keep = (table.indices >= 0) & (labels[table.indices] == labels[:, None])
    order = np.argsort(~keep, axis=1, kind="stable")
    kept = np.take_along_axis(keep, order, axis=1)
    indices = np.where(kept, np.take_along_axis(table.indices, order, axis=1), -1).astype(np.int32)
    distances = np.where(kept, np.take_along_axis(table.distances, order, axis=1), np.inf).astype(np.float32)
    return NeighbourTable(indices=indices, distances=distances)
