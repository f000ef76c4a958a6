"""The raw images of a dataset that solo-learn built: its transform set aside, its labels and contents read without decoding."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch.utils.data import Dataset

from solo_gps.errors import DataError
from solo_gps.interfaces import ImageSet
from solo_gps.plugins import registered


class HostImages:
    """Raw images of a dataset whose items end in ``(image, target)`` once its transform is off.

    Args:
        dataset: Dataset of solo-learn or torchvision. It is not changed: a shallow copy, which shares the data, goes without a
            transform.
        labels: (N,) class of each image, or ``None``.
        content: Yields one entry of bytes an image (see :class:`solo_gps.interfaces.ImageSet`).
    """

    def __init__(self, dataset: Dataset, labels: Any, content: Callable[[], Iterator[bytes]]) -> None:
        self._raw = copy.copy(dataset)
        self._raw.transform = None  # type: ignore[attr-defined]
        self._labels = _known_labels(labels)
        self._content = content

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,) int64 classes, -1 where unknown; ``None`` when no image has one."""
        return self._labels

    def __len__(self) -> int:
        return len(self._raw)  # type: ignore[arg-type]

    def image(self, index: int) -> Image:
        """The decoded RGB image of ``index``."""
        return self.item(index)[0]

    def item(self, index: int) -> tuple[Image, int]:
        """The decoded RGB image of ``index`` and its target, by one read of the host's dataset."""
        *_, image, target = self._raw[index]
        return image, target

    def content(self) -> Iterator[bytes]:
        """One entry of bytes an image, in order."""
        return self._content()


def host_images(dataset: Dataset) -> ImageSet:
    """Returns the raw images behind a training set of solo-learn.

    Args:
        dataset: What solo-learn's ``prepare_datasets`` returned, ``data.fraction`` applied.

    Raises:
        DataError: The set is empty, or of a class that neither solo-gps nor a plugin knows how to read.
    """
    readers = {**BUILTIN_READERS, **registered("register_datasets")}
    for cls in type(dataset).__mro__:
        if cls.__qualname__ in readers:
            images: ImageSet = readers[cls.__qualname__](dataset)
            if len(images) == 0:
                raise DataError(f"the training set ({cls.__qualname__}) holds no image. Check data.train_path.")
            return images
    raise DataError(
        f"cannot read the raw images of a {type(dataset).__mro__[1].__qualname__} dataset; known: {', '.join(sorted(readers))}. "
        "A plugin can add a reader by the hook register_datasets (docs/plugins.md)."
    )


def _known_labels(labels: Any) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    array = np.asarray(labels, dtype=np.int64)
    return array if (array >= 0).any() else None


def _image_folder(dataset: Any) -> ImageSet:
    root = Path(dataset.root)

    def content() -> Iterator[bytes]:
        for path, _ in dataset.samples:
            yield _file_entry(root, path)

    return HostImages(dataset, [label for _, label in dataset.samples], content)


def _flat_folder(dataset: Any) -> ImageSet:
    root = Path(dataset.root)

    def content() -> Iterator[bytes]:
        for name in dataset.images:
            yield _file_entry(root, root / name)

    return HostImages(dataset, None, content)


def _arrays(labels: str) -> Callable[[Any], ImageSet]:
    def read(dataset: Any) -> ImageSet:
        def content() -> Iterator[bytes]:
            for image in dataset.data:
                yield np.ascontiguousarray(image).tobytes()

        return HostImages(dataset, getattr(dataset, labels), content)

    return read


def _h5(dataset: Any) -> ImageSet:
    def content() -> Iterator[bytes]:
        import h5py

        with h5py.File(dataset.h5_path, "r") as file:
            for group, name, _ in dataset._data:
                yield f"{group}/{name}\0{file[group][name].shape}".encode()

    return HostImages(dataset, [label for _, _, label in dataset._data], content)


def _file_entry(root: Path, path: str | Path) -> bytes:
    return f"{Path(path).relative_to(root).as_posix()}\0{os.stat(path).st_size}".encode()


BUILTIN_READERS: dict[str, Callable[[Any], ImageSet]] = {
    "ImageFolder": _image_folder,
    "CustomDatasetWithoutLabels": _flat_folder,
    "CIFAR10": _arrays("targets"),
    "CIFAR100": _arrays("targets"),
    "STL10": _arrays("labels"),
    "H5Dataset": _h5,
}
