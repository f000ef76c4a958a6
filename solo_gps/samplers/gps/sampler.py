"""GPS: the positive is a neighbour in the prior space (GPS-SSL, arXiv 2401.01990, section 3)."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from solo_gps.errors import ConfigError, DataError
from solo_gps.interfaces import NeighbourTable, Pairs
from solo_gps.neighbours.backends.faiss_here import faiss_missing
from solo_gps.neighbours.config import SearchConfig, check_neighbours
from solo_gps.plugins import registered
from solo_gps.priors.config import JoinConfig, PriorConfig
from solo_gps.samplers.base import Sampler
from solo_gps.samplers.gps.choose import choose_positives, keep_same_label, share_with_positive
from solo_gps.samplers.gps.config import GpsConfig

if TYPE_CHECKING:
    from solo_gps.samplers.space import PriorSpace

log = logging.getLogger(__name__)


class Gps(Sampler):
    """Replaces views of the anchor, as a rule the second, by views of images in its ball; an empty ball keeps the anchor."""

    config_class: ClassVar[type] = GpsConfig
    pairs_images: ClassVar[bool] = True
    refreshable: ClassVar[bool] = True

    def __init__(self, config: GpsConfig, *, seed: int) -> None:
        super().__init__(config, seed=seed if config.seed is None else config.seed)
        self._table: NeighbourTable | None = None

    def check(self, images: int) -> None:
        """Refuses more neighbours than there are other images, more clusters than images, and what is not installed."""
        if self.config.radius is None:
            check_neighbours(images, self.config.k)
        if self.config.within == "clusters":
            if self.config.clusters > images:
                raise DataError(f"sampler.gps.clusters={self.config.clusters}: the training set has {images} images. Use fewer.")
            if missing := faiss_missing():
                raise ConfigError(f"sampler.gps.within=clusters: {missing}")
        if self.config.within == "community" and find_spec("igraph") is None:
            raise ConfigError("sampler.gps.within=community wants igraph. Install it: pip install igraph")

    def check_prior(self, prior: PriorConfig) -> None:
        """Refuses a radius where priors agree: they have no distance in common."""
        if isinstance(prior, JoinConfig) and prior.agree and self.config.radius is not None:
            raise ConfigError(
                f"sampler.gps.radius={self.config.radius} says nothing with prior.combine=agree, whose parts have no distance in "
                "common. Use sampler.gps.k, or prior.combine=join."
            )

    def check_search(self, search: SearchConfig) -> None:
        """Refuses balls of one radius where the search is approximate: it knows the nearest alone."""
        config = self.config
        if config.radius is None or config.radius_of == "image" or search.backend == "auto":
            return
        if not registered("register_search_backends")[search.backend].exact:
            raise ConfigError(
                f"search.backend={search.backend} looks for a number of neighbours, and cannot look for all within "
                f"sampler.gps.radius={config.radius}. Use search.backend=auto, or sampler.gps.k in place of the radius."
            )

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
        from solo_gps.samplers.gps.ball import balls

        table = balls(space, self.config, self.seed)
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
        size = self.config.size
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
        narrowed = [f"{key}={value}" for key, value in (("mutual", self.config.mutual), ("within", self.config.within)) if value]
        narrowed = [text for text in narrowed if text != "within=none"]
        if narrowed:
            larger = "k" if self.config.radius is None else "radius"
            return f"{' and '.join(narrowed)} leave too few neighbours: raise sampler.gps.{larger}, or leave it out."
        if self.config.rule is not None:
            return "The rule gives too small a radius: take another (mean+std, q0.9), a number, or sampler.gps.k."
        if space.embeddings.parts:
            return "The parts of the prior share too few neighbours: raise sampler.gps.k, or use prior.combine=join."
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
        chosen = choose_positives(
            self._table,
            self.config.choose,
            epoch=epoch,
            seed=self.seed,
            keep_anchor=self.config.keep_anchor,
            temperature=1.0 if self.config.temperature is None else self.config.temperature,
            positives=self.config.positives,
        )
        free = pairs.positives == pairs.anchors
        first, *more = (np.where(free, one[pairs.anchors], pairs.positives) for one in chosen.T)
        return Pairs(anchors=pairs.anchors, positives=first, more=np.stack(more, axis=1) if more else None)
