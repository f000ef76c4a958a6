"""What a caller may bring for images: a folder, an array, a list, or a dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from solo_gps.errors import ConfigError, DataError, UnreadableImageError
from solo_gps.hosts.data_folder import is_image_name, wrong_with_classes
from solo_gps.hosts.decode import LostValuesError, Scaling, decoded
from solo_gps.hosts.images import REHEARSED, HostImages, can_read, host_images
from solo_gps.interfaces import ImageSet


def image_set(images: Any, *, labels: Any = None, decoding: Scaling | None = None) -> ImageSet:
    """Returns what a caller brought as a set of raw images.

    Args:
        images: A path to class folders or to one flat folder; an array of (N, H, W) or (N, H, W, 3) uint8; a sequence or dataset
            of N pictures or arrays, or of tuples that end in ``(picture, target)``; or an ImageSet.
        labels: (N,) classes, -1 where unknown, of images that have none of their own.
        decoding: What becomes of images with more than 8 bits; ``None`` refuses them.

    Raises:
        DataError: There are no images, or they or the labels are of another form.
        ConfigError: ``labels`` are given, but the images have their own.
    """
    decoding = decoding or Scaling()
    if isinstance(images, (str, os.PathLike)):
        found = _folder(os.path.expanduser(os.fspath(images)), labels, decoding)
    elif not (hasattr(images, "__len__") and (hasattr(images, "__getitem__") or isinstance(images, ImageSet))):
        raise DataError(
            f"images: wanted a folder, an array, a list of pictures or a dataset of pictures, got {type(images).__name__}."
        )
    elif len(images) == 0:
        raise DataError(f"images: this {type(images).__name__} holds no image.")
    elif isinstance(images, ImageSet) or can_read(images):
        _refuse(labels, f"a {type(images).__name__}")
        found = images if isinstance(images, ImageSet) else host_images(images, decoding)
    else:
        found = ItemImages(images, checked_labels(labels, len(images)), decoding)
    for index in range(0, len(found), -(-len(found) // REHEARSED)):
        with suppress(UnreadableImageError):  # whoever needs it says so
            found.image(index)
    return found


class ItemImages:
    """Raw images of whatever gives a picture for an index.

    Args:
        items: Sequence, array or dataset of N pictures or arrays, or of tuples that end in ``(picture, target)``.
        labels: (N,) int64 classes, or ``None``.
        decoding: What becomes of pictures with more than 8 bits.
    """

    def __init__(self, items: Any, labels: NDArray[np.int64] | None, decoding: Scaling) -> None:
        self.labels, self.decoding = labels, decoding
        self._items = items
        for item in items if isinstance(items, (list, tuple)) else ():
            if isinstance(item, Image.Image):
                item.load()  # an open file would be shared by all workers, its position too

    def __len__(self) -> int:
        return len(self._items)

    def image(self, index: int) -> Image.Image:
        """The RGB image of ``index``.

        Raises:
            UnreadableImageError: Reading it raised something.
            DataError: It is no picture, or has more than 8 bits and nothing says how they become 8.
        """
        try:
            item = self._items[index]
        except Exception as error:  # it is the caller's code
            raise UnreadableImageError(f"images[{index}]", error) from error
        picture = item[-2] if isinstance(item, tuple) and len(item) > 1 else item
        try:
            if isinstance(picture, Image.Image):
                return decoded(picture, self.decoding)
            made = _picture(picture)
            return made if made.mode == "RGB" else decoded(made, self.decoding)  # which would copy it
        except LostValuesError as error:
            raise LostValuesError(f"images[{index}] {error}") from error
        except TypeError as error:
            shape = getattr(picture, "shape", None)
            kind = type(picture).__name__ if shape is None else f"{type(picture).__name__} of {tuple(shape)} {picture.dtype}"
            raise DataError(
                f"images[{index}]: wanted a picture, or an array of (H, W) or (H, W, 3) uint8, got {kind}. A dataset must "
                "have no transform that makes tensors: GuidedPairs takes the transform."
            ) from error

    def content(self) -> Iterator[bytes]:
        """The pixels of every image, with its size."""
        for index in range(len(self)):
            image = self.image(index)
            yield f"{image.size}".encode() + image.tobytes()


def some_of(images: ImageSet, most: int) -> ImageSet:
    """Returns at most so many of the images, evenly spaced, without their labels."""
    chosen = np.linspace(0, len(images) - 1, min(most, len(images))).astype(int)
    return ItemImages(_Some(images, chosen), None, Scaling())


class _Some:
    def __init__(self, images: ImageSet, chosen: NDArray[np.integer]) -> None:
        self._images, self._chosen = images, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Image.Image:
        return self._images.image(int(self._chosen[index]))


def _picture(array: Any) -> Image.Image:
    """An (H, W) or (H, W, C) array as a picture; a tensor has its channels first, and is none.

    Raises:
        TypeError: It is no array of a picture's form.
    """
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or 0 in array.shape:
        raise TypeError
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _folder(path: str, labels: Any, decoding: Scaling) -> ImageSet:
    """Class folders by torchvision's rules; of a flat folder the files whose names are images', in the order of their names."""
    if not os.path.isdir(path):
        raise DataError(f"images={path!r}: no such folder. Relative paths start at {Path.cwd()}.")
    with os.scandir(path) as entries:
        entry_is_folder = {entry.name: entry.is_dir() for entry in entries}
    files = sorted(name for name, is_folder in entry_is_folder.items() if not is_folder and is_image_name(name))
    if files and any(entry_is_folder.values()):
        raise DataError(
            f"images={path!r} holds images ({files[0]!r}) beside folders: wanted class folders alone, or images alone."
        )
    if files:
        return _flat(path, files, checked_labels(labels, len(files)), decoding)
    wrong = next(wrong_with_classes(path), None) if any(entry_is_folder.values()) else "it holds no image and no class folder."
    if wrong is not None:
        raise DataError(f"images={path!r}: {wrong}")
    from torchvision.datasets import ImageFolder

    _refuse(labels, "a folder of classes")
    return host_images(ImageFolder(path), decoding)


def _flat(folder: str, names: list[str], labels: NDArray[np.int64] | None, decoding: Scaling) -> HostImages:
    paths = [os.path.join(folder, name) for name in names]
    files = _Files(paths, labels)
    images = HostImages(files, labels, names, files.stored, place=os.path.realpath(folder), files=paths, opened=files.opened)
    images.decoding = decoding
    return images


class _Files:
    """The files of a flat folder, with the classes that the caller brought for them."""

    def __init__(self, paths: list[str], labels: NDArray[np.int64] | None) -> None:
        self._paths, self._labels = paths, labels

    def __len__(self) -> int:
        return len(self._paths)

    def opened(self, index: int) -> tuple[str, int]:
        return self._paths[index], -1 if self._labels is None else int(self._labels[index])

    def stored(self, index: int) -> bytes:
        return Path(self._paths[index]).read_bytes()


def checked_labels(labels: Any, images: int) -> NDArray[np.int64] | None:
    """Returns (N,) int64 classes; ``None`` for none.

    Raises:
        DataError: They are not one whole number an image.
    """
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.shape != (images,) or array.dtype.kind not in "iu":
        raise DataError(f"labels: wanted {images} whole numbers, one an image, got {array.dtype} of shape {array.shape}.")
    return array.astype(np.int64)


def _refuse(labels: Any, whose: str) -> None:
    if labels is not None:
        raise ConfigError(f"labels: {whose} says its own. Leave them out; purity(labels=...) takes others.")
