"""The guided training set and its loader: crop k is made by pipeline k, from the anchor or from the positive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from solo_gps.errors import HostError, UnexpectedError, UnreadableImageError
from solo_gps.guide.apart import ApartBatches
from solo_gps.hosts.images import HostImages
from solo_gps.interfaces import ImageSet, Pairs

Pipeline = Callable[[Any], Any]
BOTH, ANCHOR, POSITIVE = range(3)
"""What an item of a batch showed: both of its images, or one of them alone."""


class GuidedDataset(Dataset):
    """Items ``(item, crops, target)``: item m shows its anchor and, in the crops that ``from_positive`` marks, its positives.

    An image is decoded once an item, and only when a crop shows it; no random number is drawn here, so an item that falls back
    on its anchor is, to the bit, the host's own. The pairs live in shared memory: all workers see those of the current epoch.

    Args:
        images: The N raw images.
        pipelines: One transform for each crop.
        from_positive: For each crop, which of an item's positives it shows, from 1; 0 for the anchor.
        pairs: The items of the first epoch.
        of_positive: One transform for each crop, for items that show another image than the anchor; ``None`` for ``pipelines``.
        keep_apart: Whether its loader keeps an anchor and its positive's own item in different batches.
        skip: An item of which one image cannot be read shows the other one alone; else that is an error.

    Attributes:
        pairs: Of the epoch under way, in the shared memory.
        unreadable: (N,) uint8, 1 for each image that was skipped; ``None`` without ``skip``.
    """

    def __init__(
        self,
        images: ImageSet,
        pipelines: Sequence[Pipeline],
        from_positive: Sequence[int],
        pairs: Pairs,
        *,
        of_positive: Sequence[Pipeline] | None = None,
        keep_apart: bool = False,
        skip: bool = False,
    ) -> None:
        assert len(pipelines) == len(from_positive), "one mark for each crop"
        self.images, self.keep_apart = images, keep_apart
        self.pipelines = tuple(pipelines)
        self.from_positive = tuple(from_positive)
        self._crops = tuple(zip(self.pipelines, of_positive or self.pipelines, self.from_positive, strict=True))
        self._item = _reader(images)
        items, positives = len(pairs.anchors), max(self.from_positive, default=0)
        self.anchors, self.positives = (torch.empty(items, dtype=torch.int32).share_memory_() for _ in range(2))
        self.more = None if positives < 2 else torch.empty((items, positives - 1), dtype=torch.int32).share_memory_()
        # Views of the same memory: indexing a tensor costs ten times as much, twice an item.
        self.pairs = self._views()
        self._take(pairs)
        self.unreadable = torch.zeros(len(images), dtype=torch.uint8).share_memory_() if skip else None
        # What an item showed when it was last read: workers write here, and the main process reads it with the item's batch.
        self._shown = torch.zeros(len(self.anchors), dtype=torch.uint8).share_memory_() if skip else None
        self._draw: Callable[[], Pairs] | None = None

    def __len__(self) -> int:
        return len(self.anchors)

    def __getitem__(self, item: int) -> tuple[int, list[Any], int]:
        pairs = self.pairs
        anchor, positive = int(pairs.anchors[item]), int(pairs.positives[item])
        try:
            image, target, other = self._images(item, anchor, positive)
            shown = [image, other]
            if pairs.more is not None:
                shown += self._further(pairs.more[item].tolist(), {positive: other, anchor: image})
            crops = [(own if shown[which] is image else theirs)(shown[which]) for own, theirs, which in self._crops]
        except StopIteration as error:  # Lightning would take it for the end of the epoch
            raise UnexpectedError(f"reading item {item} of the training set raised StopIteration.") from error
        return item, crops, target

    def _images(self, item: int, anchor: int, positive: int) -> tuple[Any, int, Any]:
        """The anchor, its target, and the positive; one for both where the other cannot be read and ``skip`` is on."""
        if self._shown is None:
            image, target = self._item(anchor)
            return image, target, image if positive == anchor else self._item(positive)[0]
        read: dict[int, tuple[Any, int]] = {}
        for index in {anchor: None, positive: None}:
            try:
                read[index] = self._item(index)
            except UnreadableImageError:
                if index == positive and not read:
                    raise
                self.unreadable[index] = 1  # type: ignore[index]
        self._shown[item] = BOTH if len(read) == 2 or anchor == positive else ANCHOR if anchor in read else POSITIVE
        image, target = read.get(anchor, read.get(positive))  # type: ignore[misc]
        return image, target, read.get(positive, (image, target))[0]

    def _further(self, indices: Sequence[int], read: dict[int, Any]) -> list[Any]:
        """The images of further positives, each read once an item."""
        for index in indices:
            if index not in read:
                read[index] = self._item(index)[0]
        return [read[index] for index in indices]

    def _views(self) -> Pairs:
        more = None if self.more is None else self.more.numpy()
        return Pairs(anchors=self.anchors.numpy(), positives=self.positives.numpy(), more=more)

    def __getstate__(self) -> dict[str, Any]:
        # Workers only read the shared pairs; the samplers behind them stay in the main process.
        return {**self.__dict__, "_draw": None, "pairs": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.pairs = self._views()

    def rows(self, items: NDArray[np.integer]) -> list[NDArray[np.int32]]:
        """Returns the (B,) anchors that (B,) items of a batch showed, and for each of their positives (B,), as image indices."""
        anchors, *positives = (rows[items] for rows in (self.pairs.anchors, *self.pairs.in_turn))
        if self._shown is None:
            return [anchors, *positives]
        shown = self._shown.numpy()[items]
        return [np.where(shown == POSITIVE, positives[0], anchors), np.where(shown == ANCHOR, anchors, positives[0])]

    def skipped(self, items: NDArray[np.integer]) -> int:
        """Returns how many of (B,) items of a batch showed one image alone, because the other cannot be read."""
        return 0 if self._shown is None else int((self._shown.numpy()[items] != BOTH).sum())

    def draw_with(self, draw: Callable[[], Pairs]) -> None:
        """Sets the function that returns the pairs of the epoch about to start."""
        self._draw = draw

    def redraw(self) -> None:
        """Draws the pairs of a new epoch into the memory that all workers share."""
        if self._draw is None:
            return
        pairs = self._draw()
        assert len(pairs.anchors) == len(self), "the number of items must not change from epoch to epoch"
        self._take(pairs)
        if self._shown is not None:
            self._shown.zero_()

    def _take(self, pairs: Pairs) -> None:
        self.pairs.anchors[:], self.pairs.positives[:] = pairs.anchors, pairs.positives
        if self.pairs.more is not None:  # there are none before the first refresh, where nothing but the network guides
            self.pairs.more[:] = pairs.positives[:, None] if pairs.more is None else pairs.more


def _reader(images: ImageSet) -> Callable[[int], tuple[Any, int]]:
    """From an index to the image and its target."""
    return images.item if isinstance(images, HostImages) else partial(_item, images, images.labels)


def _item(images: ImageSet, labels: NDArray[np.int64] | None, index: int) -> tuple[Any, int]:
    return images.image(index), -1 if labels is None else int(labels[index])


class HostItems(Dataset):
    """Items ``(index, crops, target)`` as the host's own set makes them, of raw images.

    Args:
        images: The N raw images.
        transform: The host's, from an image to its crops.
    """

    def __init__(self, images: ImageSet, transform: Callable[[Any], Any]) -> None:
        self.images, self.transform = images, transform
        self._item = _reader(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Any, int]:
        image, target = self._item(index)
        return index, self.transform(image), target


class GuidedLoader(DataLoader):
    """A loader that has its guided dataset draw new pairs whenever an epoch's iterator is made."""

    def __iter__(self) -> Any:
        guided_dataset(self.dataset).redraw()
        return super().__iter__()

    @property
    def _index_sampler(self) -> Any:
        """What gives the loader its batches, whichever sampler a trainer put into it meanwhile."""
        batches, dataset = super()._index_sampler, guided_dataset(self.dataset)
        if not dataset.keep_apart:
            return batches
        return ApartBatches(batches, dataset.pairs)


def guided_dataset(dataset: Any) -> GuidedDataset:
    """Returns the guided set inside the wrappers that plugins put around it (each keeps the inner one as ``.dataset``)."""
    while not isinstance(dataset, GuidedDataset):
        if not hasattr(dataset, "dataset"):
            raise HostError(
                f"{type(dataset).__name__} wraps the guided training set but has no attribute 'dataset' that holds it; "
                "the hook wrap_dataset must return a dataset that keeps the one it wraps there."
            )
        dataset = dataset.dataset
    return dataset


def loaders_of(trainer: Any) -> list[Any]:
    """Returns the loaders that a Lightning trainer of either generation trains on."""
    loaders = trainer.train_dataloader
    loaders = getattr(loaders, "loaders", loaders)  # 1.9 keeps them in a CombinedLoader
    if isinstance(loaders, dict):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]


def crop_pipelines(transform: Any) -> list[Pipeline]:
    """Returns one transform a crop, in the order of the host's crops.

    Args:
        transform: The host's ``FullTransformPipeline``: its ``transforms`` each hold a ``transform`` and ``num_crops``.

    Raises:
        HostError: The transform has another form.
    """
    return list(_flatten(transform))


def _flatten(transform: Any) -> Iterator[Pipeline]:
    parts = getattr(transform, "transforms", None)
    if parts is None or not all(hasattr(part, "num_crops") and hasattr(part, "transform") for part in parts):
        raise HostError(
            f"wanted solo-learn's FullTransformPipeline as the training set's transform, got {type(transform).__name__}. "
            "Build it with solo-learn's prepare_n_crop_transform."
        )
    for part in parts:
        yield from [part.transform] * part.num_crops
