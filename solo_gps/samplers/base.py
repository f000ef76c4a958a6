"""What every sampler is: a small stateful shell around pure functions of the neighbour table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from solo_gps.methods import facts_of

if TYPE_CHECKING:
    from solo_gps.interfaces import Embeddings, Exhibit, ImageSet, NeighbourTable, Pairs
    from solo_gps.neighbours.backend import SearchConfig
    from solo_gps.neighbours.fitting import RadiusAdvice


class PriorSpace:
    """The training images in the space of the prior; embedded and searched only when a sampler asks.

    Args:
        images: The N training images.
        prior: The recipe's ``prior`` node, or ``None`` for the default prior.
        search: The recipe's ``search`` node, or ``None`` for the default search.
    """

    def __init__(self, images: ImageSet, prior: Mapping[str, Any] | None, search: Mapping[str, Any] | None) -> None:
        self.images = images
        self._prior = prior
        self._search = search

    @classmethod
    def of(cls, images: ImageSet, embeddings: Embeddings, search: Mapping[str, Any] | None) -> PriorSpace:
        """Returns the space of embeddings that are there already."""
        space = cls(images, None, search)
        space.embeddings = embeddings
        return space

    @cached_property
    def embeddings(self) -> Embeddings:
        """(N, D) embeddings, from the cache or built now."""
        from solo_gps.embeddings import embed

        return embed(self.images, self._prior)

    @property
    def fingerprint(self) -> str | None:
        """Of the embeddings, once somebody has asked for them."""
        embeddings = self.__dict__.get("embeddings")
        return None if embeddings is None else embeddings.fingerprint

    @cached_property
    def search_config(self) -> SearchConfig:
        """Device and working memory of searches that a sampler makes by itself."""
        from solo_gps.neighbours.resolve import resolve_search

        return resolve_search(self._search)

    def neighbours(self, *, k: int | None = None, radius: float | None = None) -> NeighbourTable:
        """Returns the neighbours of all N images; exactly one of ``k`` and ``radius`` is given.

        Args:
            k: Number of nearest neighbours.
            radius: Bound on the distance, exclusive (``d < radius``), in the prior's own distance.
        """
        from solo_gps.neighbours import find

        return find(self.embeddings, self._search, k=k, radius=radius)

    def advise(self, *, share: float) -> RadiusAdvice:
        """Returns the distances seen, and a radius that :meth:`neighbours` accepts; costs two searches.

        Args:
            share: Share of the images that should have a neighbour at that radius.
        """
        from solo_gps.neighbours import advise

        return advise(self.embeddings, self._search, share=share)


class Sampler:
    """Base of every sampler. Override what it acts on; the defaults leave the host untouched.

    Attributes:
        config_class: Frozen dataclass of the keys under ``sampler.<name>``.
        pairs_images: Whether :meth:`pairs` chooses positives in the dataset. The host then checks that its training loader was
            really guided, so that a run can never be plain by accident.
        refreshable: Whether :meth:`prepare` may be called again during training with the space of the network being trained, and
            its table be put back by :meth:`use`.
    """

    config_class: ClassVar[type]
    pairs_images: ClassVar[bool] = False
    refreshable: ClassVar[bool] = False

    def __init__(self, config: Any, *, seed: int) -> None:
        self.config = config
        self.seed = seed

    @property
    def reads_prior(self) -> bool:
        """Whether :meth:`prepare` must be called even when no sampler chooses positives in the dataset."""
        return False

    @classmethod
    def refusal(cls, method: str) -> str | None:
        """Returns why this sampler cannot act on the solo-learn method of that name, or ``None`` when it can."""
        return (facts_of(method).refusal or None) if cls.pairs_images else None

    def check(self, images: int) -> None:
        """Checks the keys against the number of training images, before anything is embedded.

        Raises:
            ConfigError: They do not fit.
        """

    def prepare(self, space: PriorSpace, *, same_label: bool) -> NeighbourTable | None:
        """Builds what :meth:`pairs` needs, before training, in the main process of each rank; again where ``refreshable``.

        Args:
            space: The training images in the prior's space.
            same_label: Positives must have the anchor's label (supervised methods use the label as their mask).

        Returns:
            The neighbour table for those who watch (hook ``on_table_built``), or ``None``.
        """
        return None

    def use(self, table: NeighbourTable) -> None:
        """Takes a table that :meth:`prepare` returned in an earlier run, out of its checkpoint. Needed where ``refreshable``."""
        raise NotImplementedError

    def pairs(self, pairs: Pairs, epoch: int) -> Pairs:
        """Returns the items of an epoch, given those of the samplers before this one.

        A pure function of its arguments, the seed and what :meth:`prepare` built: a resumed run draws the same pairs. The number
        of items must not change from epoch to epoch.
        """
        return pairs

    def exhibits(self) -> Sequence[Exhibit]:
        """Returns pictures for the host to draw after :meth:`prepare`."""
        return ()

    def measured(self, method: Any) -> Mapping[str, float]:
        """Returns what this sampler's part of the trained method measured over the whole training, for the receipt."""
        return {}

    def wrap_method(self, method: type, cfg: Mapping[str, Any]) -> type:
        """Returns the method class to train in place of ``method``: itself, or a subclass."""
        return method
