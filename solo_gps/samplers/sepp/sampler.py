"""SePP: semantic positive pairs, found in the prior space and added to the training set (arXiv 2306.16122)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from solo_gps.embeddings.store import cache_root
from solo_gps.errors import ConfigError, DataError, RefusedMethodError
from solo_gps.interfaces import Exhibit, Pairs
from solo_gps.methods import facts_of
from solo_gps.priors.config import JoinConfig, PriorConfig
from solo_gps.runtime.files import check_can_write
from solo_gps.runtime.progress import duration
from solo_gps.runtime.store import check_whole
from solo_gps.samplers.base import Sampler
from solo_gps.samplers.sepp import pairs as sepp_pairs
from solo_gps.samplers.sepp.config import SeppConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solo_gps.interfaces import Embeddings
    from solo_gps.samplers.sepp.search import SemanticPairs
    from solo_gps.samplers.space import PriorSpace

log = logging.getLogger(__name__)

EXHIBIT_ROWS, EXHIBIT_COLUMNS = 24, 6


class Sepp(Sampler):
    """Adds pairs of images that mean the same as items of their own; an item shows one view of each image.

    Attributes:
        number_of_pairs: Unordered pairs trained on, after the cap; 0 before :meth:`prepare`.
        purity: Share of them of one class, among those with both classes known; ``None`` without labels.
    """

    config_class: ClassVar[type] = SeppConfig
    pairs_images: ClassVar[bool] = True

    def __init__(self, config: SeppConfig, *, seed: int) -> None:
        super().__init__(config, seed=seed if config.seed is None else config.seed)
        self._pairs: Pairs | None = None
        self._partners: sepp_pairs.Partners | None = None
        self._exhibits: tuple[Exhibit, ...] = ()
        self.number_of_pairs = 0
        self.purity: float | None = None

    def wrap_method(self, method: type, cfg: Mapping[str, Any]) -> type:
        """Refuses the budget where the loss remembers items by number from one epoch to the next."""
        if self.config.equal_budget and self.config.mode == "append" and facts_of(cfg["method"]).remembers_items:
            raise RefusedMethodError(
                f"sampler.sepp.equal_budget=true cannot act on method {cfg['method']!r}: it keeps a cluster for each item "
                "of the last epoch, and under a budget other items follow. Set sampler.sepp.equal_budget=false and the same "
                "max_steps in both runs, or sampler.sepp.mode=replace."
            )
        return method

    def check(self, images: int) -> None:
        """Refuses a folder of pictures that cannot be written."""
        if self.config.pictures is not None:
            check_can_write(self.config.pictures, "sampler.sepp.pictures")

    def check_prior(self, prior: PriorConfig) -> None:
        """Refuses priors that agree on nearest neighbours: nothing here asks for those."""
        if isinstance(prior, JoinConfig) and prior.agree:
            raise ConfigError("prior.combine=agree says nothing to sampler.sepp, which asks for no k nearest. Use combine=join.")

    def prepare(self, space: PriorSpace, *, same_label: bool) -> None:
        """Draws images and finds, caps or replaces by random ones, their pairs."""
        from solo_gps.samplers.sepp.search import search_pairs

        labels = space.images.labels
        if same_label and labels is None:
            raise DataError(
                "sampler.sepp: this method takes images with the same label as positives, but the training set has no labels. "
                "Use a method without supervision, or a labelled set."
            )
        embeddings, begun = space.embeddings, time.perf_counter()
        check_whole(embeddings.folder)
        found = search_pairs(
            embeddings,
            self.config.thresholds,
            space.search_config,
            images=number_to_draw(self.config, len(space.images)),
            seed=self.seed,
            labels=labels if same_label else None,
            max_pairs=self.config.max_pairs,
        )
        first, second = self._select(found, labels if same_label else None)
        self.number_of_pairs, self.purity = len(first), sepp_pairs.pairs_purity(first, second, labels)
        self._log(found, first, second, images=len(space.images), seconds=time.perf_counter() - begun)
        self._exhibits = self._near_duplicates(found, embeddings)
        if self.config.both:
            first, second = np.concatenate([first, second]), np.concatenate([second, first])
        self._pairs = Pairs(anchors=first, positives=second)
        self._partners = sepp_pairs.Partners.of(self._pairs, len(space.images))

    def pairs(self, pairs: Pairs, epoch: int) -> Pairs:
        """Adds the pairs to the items of the samplers before this one, or shows partners in their place."""
        assert self._pairs is not None, "prepare() comes before pairs()"
        assert self._partners is not None
        if self.config.mode == "replace":
            return sepp_pairs.replace(pairs, self._partners, epoch=epoch, seed=self.seed)
        longer = sepp_pairs.append(pairs, self._pairs)
        if self.config.equal_budget:
            return sepp_pairs.cut_to_budget(longer, len(pairs.anchors), epoch=epoch, seed=self.seed)
        return longer

    def exhibits(self) -> Sequence[Exhibit]:
        """Pairs above the window, for the eye to judge the upper threshold."""
        return self._exhibits

    def _select(self, found: SemanticPairs, labels: NDArray[np.int64] | None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(P,) images and (P,) images: the pairs of the window, capped, or as many random ones."""
        kept = np.arange(len(found.first))
        if self.config.per_image is not None:
            kept = sepp_pairs.cap_pairs(found.first, found.second, found.cosines, self.config.per_image)
        if self.config.select == "window":
            return found.first[kept], found.second[kept]
        drawn = found.drawn if labels is None else found.drawn[labels[found.drawn] >= 0]
        groups = np.zeros(len(drawn), np.int64) if labels is None else labels[drawn]
        first, second = sepp_pairs.random_pairs(groups, len(kept), self.seed)
        return drawn[first].astype(np.int32), drawn[second].astype(np.int32)

    def _log(
        self, found: SemanticPairs, first: NDArray[np.int32], second: NDArray[np.int32], *, images: int, seconds: float
    ) -> None:
        covered, purity, random = sepp_pairs.coverage(first, second), self.purity, self.config.select == "random"
        log.info(
            "sepp: %s%s pairs among %s images drawn of %s, %scosine %.4f to %.4f, found in %s; %.1f %% of the images drawn "
            "(%.1f %% of all) have a pair%s; %s; %s near-duplicate pairs above are left out",
            f"{len(first):,}",
            " random" if random else "",
            f"{len(found.drawn):,}",
            f"{images:,}",
            "as many as have " if random else "",
            found.low,
            found.high,
            duration(seconds),
            100 * covered / len(found.drawn),
            100 * covered / images,
            "" if purity is None else f"; {100 * purity:.1f} % of the pairs are of one class",
            self._effect(len(first)),
            f"{found.near_duplicates:,}",
        )

    def _effect(self, pairs: int) -> str:
        """What the pairs do to the training, in words."""
        if self.config.mode == "replace":
            return "an image with a pair shows a partner as its positive"
        if self.config.equal_budget:
            return "pairs and images take turns in epochs as long as without pairs"
        return f"an epoch has {pairs * (1 + self.config.both):,} items more"

    def _near_duplicates(self, found: SemanticPairs, embeddings: Embeddings) -> tuple[Exhibit, ...]:
        if not found.near_duplicates:
            return ()
        folder = cache_root() / "sepp" if self.config.pictures is None else Path(self.config.pictures)
        name = f"near-duplicates-{embeddings.fingerprint[:12]}-{len(found.drawn)}-{self.seed}-above-{found.high:.4f}.png"
        return (near_duplicates(found.examples, found.near_duplicates, found.high, folder / name),)


def number_to_draw(config: SeppConfig, images: int) -> int:
    """Returns the number K of images to draw of N.

    Raises:
        DataError: There are fewer.
    """
    wanted = max(2, round(config.fraction * images)) if config.images is None else config.images
    if wanted > images:
        key = "fraction" if config.images is None else "images"
        raise DataError(f"sampler.sepp.{key} asks for {wanted:,} images, but the training set has {images:,}.")
    return wanted


def near_duplicates(examples: NDArray[np.integer], number: int, high: float, path: Path) -> Exhibit:
    """Returns the picture of pairs above the window.

    Args:
        examples: (E, 2) images of the most alike of them, those first.
        number: Number of all of them.
        high: Upper threshold of the window.
        path: PNG file to write.
    """
    anchors, positives = sepp_pairs.picture_rows(examples, EXHIBIT_ROWS, EXHIBIT_COLUMNS)
    title = f"{number:,} pairs above {high:.4f}; the most alike: image | near-duplicates"
    return Exhibit(path=path, title=title, anchors=anchors, positives=positives)
