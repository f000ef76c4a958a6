"""A torch Dataset of guided pairs, for a DataLoader of one's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import Dataset

from solo_gps.api.images import ItemImages, image_set
from solo_gps.api.positives import Positives
from solo_gps.errors import ConfigError, DataError
from solo_gps.guide.dataset import GuidedDataset
from solo_gps.hosts.images import HostImages
from solo_gps.interfaces import ImageSet, StoredImages, name_of

View = Callable[[Any], Any]


class GuidedPairs(Dataset):
    """Items ``(view of the anchor, view of its positive)``, and the anchor's target where labels are known.

    Call :meth:`set_epoch` before each epoch, as a DistributedSampler's: it draws new pairs into memory that all workers share,
    those that live from epoch to epoch too.

    Args:
        images: The images, in any form that :func:`solo_gps.positives` takes, in the same order; those that it was given, or the
            same ones in another form (larger, or from a dataset that knows their targets).
        transform: From a picture (PIL, RGB) to a view, or two of them: the anchor's and the positive's.
        positives: What :func:`solo_gps.positives` returned.

    Raises:
        ConfigError: ``transform`` cannot be called, or ``positives`` is something else.
        DataError: The images are others than those that the positives were found for.
    """

    def __init__(self, images: Any, transform: View | Sequence[View], positives: Positives) -> None:
        if not isinstance(positives, Positives):
            raise ConfigError(f"positives: wanted what solo_gps.positives() returns, got {type(positives).__name__}.")
        views = [transform, transform] if callable(transform) else list(transform) if isinstance(transform, Sequence) else []
        if len(views) != 2 or not all(map(callable, views)):
            raise ConfigError(f"transform: wanted a function from a picture to a view, or two of them, got {transform!r}.")
        self._positives: Positives | None = positives
        self._guided = GuidedDataset(
            _images(images, positives),
            views,
            (False, True),
            positives.pairs(epoch=0),
            skip=positives.config.on_bad_image == "skip",
        )

    def __len__(self) -> int:
        return len(self._guided)

    def __getitem__(self, item: int) -> tuple[Any, ...]:
        _, (anchor, positive), target = self._guided[item]
        return (anchor, positive) if self._guided.images.labels is None else (anchor, positive, target)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_positives": None}  # a worker draws nothing

    def set_epoch(self, epoch: int) -> None:
        """Draws the pairs of an epoch; call it in the process that made this, between two epochs.

        Args:
            epoch: Number of the epoch, from 0.

        Raises:
            ConfigError: This is a copy: a worker's, or one that was pickled.
        """
        if self._positives is None:
            raise ConfigError(
                "set_epoch: this is a copy (a worker's, or one that was pickled), which has no neighbours to draw from. Call it "
                "in the process that made the pairs; where several train, each calls positives(), which finds the cache."
            )
        pairs = self._positives.pairs(epoch)
        self._guided.draw_with(lambda: pairs)
        self._guided.redraw()

    @property
    def unreadable(self) -> list[str]:
        """With ``on_bad_image="skip"``: the images that were left out since they cannot be read."""
        rows = self._guided.unreadable
        return [] if rows is None else [name_of(self._guided.images, row) for row in rows.nonzero()[:, 0].tolist()]


def _images(brought: Any, positives: Positives) -> ImageSet:
    """The images to show; those of the positives where the same were brought."""
    if _same(brought, positives.brought):
        return positives.images
    theirs = positives.images
    decoding = theirs.decoding if isinstance(theirs, (HostImages, ItemImages)) else None
    images = image_set(brought, decoding=decoding)
    if len(images) != len(theirs):
        raise DataError(f"images: {len(images)} of them, but the positives were found for {len(theirs)}. Give the same images.")
    here, there = (one.names if isinstance(one, StoredImages) and one.place else [] for one in (images, theirs))
    other = next((row for row, names in enumerate(zip(here, there, strict=False)) if len(set(names)) == 2), None)
    if other is not None:
        raise DataError(
            f"images: image {other} is {here[other]!r}, but the positives were found for {there[other]!r} there. Give the same "
            "images, in the same order."
        )
    if isinstance(images, ItemImages) and images.labels is None:
        images.labels = positives.labels
    return images


def _same(one: Any, other: Any) -> bool:
    """Whether two things that callers brought are the same object, or the same path."""
    paths = [os.fspath(brought) for brought in (one, other) if isinstance(brought, (str, os.PathLike))]
    return one is other or (len(paths) == 2 and paths[0] == paths[1])
