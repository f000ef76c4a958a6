"""What a sampler is given: the training images in the space of the prior."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from solo_gps.embeddings import embed
from solo_gps.errors import DataError
from solo_gps.interfaces import Embeddings, ImageSet, NeighbourTable, name_of
from solo_gps.neighbours import advise, find
from solo_gps.neighbours.choose import resolve_search
from solo_gps.neighbours.config import SearchConfig
from solo_gps.neighbours.exact.duplicates import at_one_point
from solo_gps.neighbours.exact.fitting import RadiusAdvice
from solo_gps.neighbours.filters.graph import agreed
from solo_gps.priors import DEFAULT_ENCODER
from solo_gps.runtime.ranks import training_ranks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOOK_ALIKE = (
    "Look at these files: 16-bit and float images decode to white unless images.scale says how, or they are converted to 8 bits; "
    "and a downloader may have left one placeholder for many. If they do differ, take another prior."
)
COLLAPSED = "The network being trained has collapsed. Lower optimizer.lr, or let it refresh later (refresh.start)."
MOST_AT_ONE_POINT = 0.9


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
        self._brought = False

    @classmethod
    def of(cls, images: ImageSet, embeddings: Embeddings, search: Mapping[str, Any] | None, cause: str = COLLAPSED) -> PriorSpace:
        """Returns the space of embeddings that are there already: by default those of the network being trained.

        Args:
            images: The N training images.
            embeddings: The images in that space.
            search: The recipe's ``search`` node, or ``None`` for the default search.
            cause: What may be wrong where nearly all images lie at one point, and the mend, for the user.
        """
        space = cls(images, None, search)
        check_apart(embeddings, images, cause)
        space.embeddings, space._brought = embeddings, True
        return space

    @cached_property
    def embeddings(self) -> Embeddings:
        """(N, D) embeddings, from the cache or built now.

        Raises:
            DataError: Nearly all images lie at one point.
        """
        embeddings = embed(self.images, self._prior)
        for space in (embeddings, *embeddings.parts):
            check_apart(space, self.images, LOOK_ALIKE)
        return embeddings

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
            radius: Bound on the distance, exclusive (``d < radius``), in the prior's own distance; of priors that agree none.

        Returns:
            The table; of priors that agree the images among the ``k`` of each part, so that a row may be shorter, and empty.
        """
        name = partial(name_of, self.images)
        if not self.embeddings.parts:
            return find(self.embeddings, self._search, k=k, radius=radius, name=name)
        assert radius is None, "check_prior refuses it"
        tables = [find(part, self._search, k=k, name=name) for part in self.embeddings.parts]
        return agreed(tables, self.embeddings, training_ranks(self.search_config.distributed))

    def place(self, others: ImageSet) -> NDArray[np.floating] | None:
        """Returns (M, D) points of other images; ``None`` where embeddings were brought, and no encoder for others.

        Args:
            others: M raw images.
        """
        from solo_gps.embeddings.others import embed_others, has_views

        prior = {"name": DEFAULT_ENCODER} if self._prior is None else self._prior
        return None if self._brought or not has_views(prior) else embed_others(others, prior, self.images)

    def advise(self, *, share: float) -> RadiusAdvice:
        """Returns the distances seen, and a radius that :meth:`neighbours` accepts; costs two searches.

        Args:
            share: Share of the images that should have a neighbour at that radius.
        """
        return advise(self.embeddings, self._search, share=share)


def check_apart(embeddings: Embeddings, images: ImageSet, cause: str) -> None:
    """Refuses a space in which nearly all images lie at one point: every neighbour there is drawn by lot.

    Args:
        embeddings: The N images in the space.
        images: The images, for their names.
        cause: What may be wrong, and the mend, for the user.

    Raises:
        DataError: They do.
    """
    same = at_one_point(embeddings.array)
    if len(same) < max(2, MOST_AT_ONE_POINT * len(images)):
        return
    some = ", ".join(name_of(images, int(index)) for index in same[:3])
    raise DataError(
        f"{len(same):,} of {len(images):,} images lie at one point of the prior's space, for example {some}: it cannot tell them "
        f"apart. {cause}"
    )
