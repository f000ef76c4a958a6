"""What a sampler is given: the training images in the space of the prior."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from solo_gps.embeddings import embed
from solo_gps.interfaces import Embeddings, ImageSet, NeighbourTable
from solo_gps.neighbours import advise, find
from solo_gps.neighbours.choose import resolve_search
from solo_gps.neighbours.config import SearchConfig
from solo_gps.neighbours.exact.fitting import RadiusAdvice


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
        return embed(self.images, self._prior)

    @property
    def fingerprint(self) -> str | None:
        """Of the embeddings, once somebody has asked for them."""
        embeddings = self.__dict__.get("embeddings")
        return None if embeddings is None else embeddings.fingerprint

    @cached_property
    def search_config(self) -> SearchConfig:
        """Device and working memory of searches that a sampler makes by itself."""
        return resolve_search(self._search)

    def neighbours(self, *, k: int | None = None, radius: float | None = None) -> NeighbourTable:
        """Returns the neighbours of all N images; exactly one of ``k`` and ``radius`` is given.

        Args:
            k: Number of nearest neighbours.
            radius: Bound on the distance, exclusive (``d < radius``), in the prior's own distance.
        """
        return find(self.embeddings, self._search, k=k, radius=radius)

    def advise(self, *, share: float) -> RadiusAdvice:
        """Returns the distances seen, and a radius that :meth:`neighbours` accepts; costs two searches.

        Args:
            share: Share of the images that should have a neighbour at that radius.
        """
        return advise(self.embeddings, self._search, share=share)
