"""GPS: the positive is a neighbour in the prior space (GPS-SSL, arXiv 2401.01990, section 3)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from solo_gps.config import LARGEST_SEED, Keys, check_choice, number
from solo_gps.errors import DataError
from solo_gps.interfaces import NeighbourTable, Pairs
from solo_gps.neighbours.config import check_neighbours
from solo_gps.samplers.base import Sampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solo_gps.samplers.space import PriorSpace

log = logging.getLogger(__name__)

CHOICES = ("furthest", "uniform", "nearest")


@dataclass(frozen=True, kw_only=True)
class GpsConfig(Keys):
    """Keys under ``sampler.gps``."""

    k: int = number(10, least=1)
    """Size of the ball in neighbours, the anchor left out; not used when ``radius`` is given."""
    radius: float | None = number(None, above=0)
    """Size of the ball as a distance of the prior space (squared Euclidean, or 1 - cosine), exclusive: tau of the paper."""
    choose: str = "furthest"
    """Which image of the ball: furthest (the paper), uniform (drawn anew each epoch, the authors' code), or nearest."""
    min_share: float = number(0.5, least=0, most=1)
    """A smaller share of images with a positive is a warning with what to change, from 0 to 1; none at all is always an error."""
    on_bad_image: str = "stop"
    """An image that cannot be read during training: stop ends the run, skip shows the item's other image alone, counts it as not guided and names the image at the end."""  # noqa: E501
    seed: int | None = number(None, least=0, most=LARGEST_SEED)
    """Seed of the draws; null takes the recipe's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("choose", self.choose, CHOICES)
        check_choice("on_bad_image", self.on_bad_image, ("stop", "skip"))


class Gps(Sampler):
    """Replaces the anchor's second view by a view of an image in its ball; an empty ball keeps the anchor."""

    config_class: ClassVar[type] = GpsConfig
    pairs_images: ClassVar[bool] = True
    refreshable: ClassVar[bool] = True

    def __init__(self, config: GpsConfig, *, seed: int) -> None:
        super().__init__(config, seed=seed if config.seed is None else config.seed)
        self._table: NeighbourTable | None = None

    def check(self, images: int) -> None:
        """Refuses more neighbours than there are other images."""
        if self.config.radius is None:
            check_neighbours(images, self.config.k)

    def prepare(self, space: PriorSpace, *, same_label: bool) -> NeighbourTable:
        """Finds the ball of every image.

        Raises:
            DataError: Labels are needed and there are none, or no image has a positive: the run would be a plain one.
        """
        if same_label and space.images.labels is None:
            raise DataError(
                "sampler.gps: this method takes images with the same label as positives, but the training set has no labels. "
                "Use a method without supervision, or a labelled set."
            )
        by_radius = self.config.radius is not None
        table = space.neighbours(k=None if by_radius else self.config.k, radius=self.config.radius if by_radius else None)
        found = share_with_positive(table)
        if same_label:
            table = keep_same_label(table, np.asarray(space.images.labels))
        self._check_share(space, found, share_with_positive(table))
        self.use(table)
        return table

    def _check_share(self, space: PriorSpace, found: float, share: float) -> None:
        """Refuses a table without a positive, and warns of one with few.

        Args:
            space: Where the balls were found.
            found: Share of images with a neighbour, of whatever label.
            share: Share of images with a positive.
        """
        least = self.config.min_share
        if share >= least and share > 0:
            return
        size = f"k={self.config.k}" if self.config.radius is None else f"radius={self.config.radius}"
        mend = self._mend(space, masked=found > share)
        if share == 0:
            raise DataError(f"sampler.gps.{size}: no image has a positive, so the run would be a plain one. {mend}")
        log.warning(
            "sampler.gps.%s: %.1f %% of the images have a positive, fewer than sampler.gps.min_share=%g. The others train on two "
            "views of their own. %s",
            size,
            100 * share,
            least,
            mend,
        )

    def _mend(self, space: PriorSpace, *, masked: bool) -> str:
        """What to change so that more images have a positive; ``masked`` when neighbours there are, but of other labels."""
        if masked:
            labels, most = np.asarray(space.images.labels), len(space.images) - 1
            if np.unique(labels, return_counts=True)[1].max() == 1:
                return "This method takes images of one class as positives, but no class has two. Use one without supervision."
            key = "sampler.gps.k" if self.config.radius is None else "sampler.gps.radius, or set it to null and sampler.gps.k"
            return (
                f"This method takes images of the anchor's class as positives, and their balls hold none. Raise {key} to at most "
                f"{most}, or take a prior that tells the classes apart (with refresh, a later refresh.start)."
            )
        if self.config.radius is None:
            return "The search missed their neighbours; ++search.backend=torch is exact and misses none."
        distance = "1 - cosine" if space.embeddings.space == "cosine" else "squared"
        return f"{space.advise(share=self.config.min_share).text('sampler.gps.')} Distances are {distance}, in the prior's space."

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


def share_with_positive(table: NeighbourTable) -> float:
    """Returns the share of images whose ball is not empty."""
    return float((ball_sizes(table) > 0).mean())


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
