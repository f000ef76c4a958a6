"""The raw images of a dataset that solo-learn built: its transform set aside, its labels and contents read without decoding."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset
from torchvision import get_image_backend
from torchvision.datasets.folder import default_loader

from solo_gps.errors import ConfigError, DataError, UnreadableImageError, printable
from solo_gps.hosts.decode import LostValuesError, Scaling, decoded
from solo_gps.hosts.h5 import H5File, has_links
from solo_gps.interfaces import ImageSet
from solo_gps.plugins import registered

REHEARSED = 8
LOOKED_AT = 64
TRUE_HEADS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
"""Formats whose images are decoded to the size in their head; one of TIFF, say, may be turned."""


class HostImages:
    """Raw images of a dataset whose items end in ``(image, target)`` once its transform is off.

    Args:
        dataset: Dataset of solo-learn or torchvision. It is not changed: a shallow copy, which shares the data, goes without a
            transform.
        labels: (N,) class of each image, or ``None``.
        names: (N,) names (see :class:`solo_gps.interfaces.StoredImages`).
        stored: From an index to the bytes that the image is stored in.
        place: Where the images lie, ``None`` in memory.
        files: The file of each image, or one that holds all; ``None`` in memory.
        stamped: The stamps of those files change whenever an image does.
        check_current: Raises :class:`DataError` when what is read is not what the stamps speak of.
        unsorted: Why the order is not that of the names, or ``None``.
        opened: From an index to what Pillow opens, and the target, where the dataset has no part of its own that decodes.
        read: From an index to the image and its target, where that is shorter than the dataset's own way.

    Attributes:
        decoding: What becomes of images with more than 8 bits.
        kept: From an index to its image, or ``None``, by somebody who has decoded them before; asked first.
    """

    def __init__(
        self,
        dataset: Any,
        labels: Any,
        names: Sequence[str],
        stored: Callable[[int], bytes],
        *,
        place: str | None = None,
        files: Sequence[str] | str | None = None,
        stamped: bool = True,
        check_current: Callable[[], None] | None = None,
        unsorted: str | None = None,
        opened: Callable[[int], tuple[Any, int]] | None = None,
        read: Callable[[int], tuple[Image.Image, int]] | None = None,
    ) -> None:
        self._raw = copy.copy(dataset)
        self._raw.transform = None
        if _is_loaded_by_pillow(dataset):
            self._raw.loader = self._decoded
        self._labels = _known_labels(labels)
        self._stored, self._files, self._stamped, self._check_current = stored, files, stamped, check_current
        self._opened, self._read = opened, read
        self.names, self.place, self.unsorted = names, place, unsorted
        self.decoding = Scaling()
        self.kept: Callable[[int], Image.Image | None] | None = None

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,) int64 classes, -1 where unknown; ``None`` when no image has one."""
        return self._labels

    @property
    def identity(self) -> dict[str, Any]:
        """What makes other pixels of the same stored bytes; empty where they are solo-learn's."""
        return self.decoding.identity()

    @property
    def decodes_files(self) -> bool:
        """Whether the pixels depend on the stored bytes and ``decoding`` alone: no code of the dataset's own has a part."""
        return self._opened is not None

    def __len__(self) -> int:
        return len(self._raw)

    def image(self, index: int) -> Image.Image:
        """The decoded RGB image of ``index`` (see :meth:`item`)."""
        return self.item(index)[0]

    def item(self, index: int) -> tuple[Image.Image, int]:
        """The decoded RGB image of ``index`` and its target, as the host's dataset has them.

        Raises:
            UnreadableImageError: It cannot be read.
            LostValuesError: It has more than 8 bits, and nothing says how they become 8.
        """
        if self.kept is not None and (image := self.kept(index)) is not None:
            return image, -1 if self._labels is None else int(self._labels[index])
        try:
            if self._read is not None:
                return self._read(index)
            if self._opened is not None:
                source, target = self._opened(index)
                return self._decoded(source), target
            *_, image, target = self._raw[index]
            return image, target
        except LostValuesError as error:
            raise LostValuesError(f"{self._file(index)} {error}") from error
        except UnreadableImageError:
            raise
        except Exception as error:  # a damaged file brings out errors of any type in Pillow and its codecs
            raise UnreadableImageError(self._file(index), error) from error

    def _decoded(self, source: Any) -> Image.Image:
        """What torchvision's loader and solo-learn's own sets return of a path or file."""
        with open(source, "rb") if isinstance(source, (str, os.PathLike)) else source as file:
            return decoded(Image.open(file), self.decoding)

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of an image that :attr:`decodes_files`, by the head of its file where that can be relied on.

        Raises:
            UnreadableImageError: It cannot be read.
            LostValuesError: As :meth:`item`.
        """
        assert self._opened is not None
        try:
            with Image.open(self._opened(index)[0]) as image:
                if image.format in TRUE_HEADS:
                    return image.size
        except Exception as error:  # as in item()
            raise UnreadableImageError(self._file(index), error) from error
        return self.image(index).size

    def content(self) -> Iterator[bytes]:
        """The stored bytes of every image, in order."""
        return map(self.stored, range(len(self)))

    def stored(self, index: int) -> bytes:
        """The bytes that image ``index`` is stored in.

        Raises:
            DataError: They cannot be read.
        """
        try:
            return self._stored(index)
        except (OSError, KeyError, ValueError) as error:
            raise UnreadableImageError(self._file(index), error) from error

    def _file(self, index: int) -> str:
        """Where an image lies, for the user."""
        if self._files is None:
            return f"image {index} of the training set"
        return printable(f"{self._files}: {self.names[index]}" if isinstance(self._files, str) else self._files[index])

    def stamps(self) -> NDArray[np.int64] | None:
        """(N, 4) size, mtime_ns, ctime_ns and inode of the file that holds each image; ``None`` where they say nothing.

        Raises:
            DataError: A file is gone.
        """
        if self._files is None or not self._stamped:
            return None
        files = [self._files] if isinstance(self._files, str) else self._files
        try:
            if self._check_current is not None:
                self._check_current()
            stats = list(map(os.stat, files))
        except OSError as error:
            raise DataError(f"{printable(error.filename)}: cannot be read: {error.strerror}. Mend or remove it.") from error
        for file, stat in zip(files, stats, strict=True):
            if not S_ISREG(stat.st_mode):  # reading a pipe waits for ever
                raise DataError(f"{printable(file)}: is no regular file, but has an image's name. Remove it.")
        inodes = [stat.st_ino & (1 << 63) - 1 for stat in stats]
        times = [(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats]
        return np.broadcast_to(np.column_stack([np.array(times, np.int64), inodes]), (len(self), 4))


def host_images(dataset: Dataset, decoding: Scaling | None = None) -> ImageSet:
    """Returns the raw images behind a training set of solo-learn.

    Args:
        dataset: What solo-learn's ``prepare_datasets`` returned, ``data.fraction`` applied.
        decoding: What becomes of images with more than 8 bits; ``None`` refuses them.

    Raises:
        ConfigError: A plugin reads these images, and decodes them by itself.
        DataError: The set is empty, or of a class that neither solo-gps nor a plugin knows how to read.
    """
    readers = _readers()
    for cls in type(dataset).__mro__:
        if cls.__qualname__ in readers:
            images: ImageSet = readers[cls.__qualname__](dataset)
            if decoding is not None and decoding != type(decoding)():
                if not isinstance(images, HostImages):
                    raise ConfigError(f"images: a {cls.__qualname__} is read by a plugin, which decodes by itself. Leave it out.")
                images.decoding = decoding
            if len(images) == 0:
                raise DataError(f"the training set ({cls.__qualname__}) holds no image. Check data.train_path.")
            return images
    raise DataError(
        f"cannot read the raw images of a {type(dataset).__mro__[1].__qualname__} dataset; known: {', '.join(sorted(readers))}. "
        "A plugin can add a reader by the hook register_datasets (docs/plugins.md)."
    )


def check_decoding(images: ImageSet) -> None:
    """Decodes a few images, so that a set of more than 8 bits is an error before any long work.

    Raises:
        LostValuesError: Nothing says how their values become 8 bits.
    """
    if not isinstance(images, HostImages):
        return
    for index in range(0, len(images), -(-len(images) // REHEARSED)):
        with suppress(UnreadableImageError):  # whoever needs it says so
            images.image(index)


def check_shapes(images: ImageSet, crop_size: int) -> None:
    """Looks at some images, so that those of which solo-learn can make no batch are an error before any long work.

    Args:
        images: The training images.
        crop_size: What the shorter side alone is scaled to, since nothing is cropped.

    Raises:
        DataError: The longer sides differ.
    """
    shapes = set()
    for index in range(0, len(images), -(-len(images) // LOOKED_AT)):
        with suppress(UnreadableImageError):
            size = images.size(index) if isinstance(images, HostImages) and images.decodes_files else images.image(index).size
            shapes.add(tuple(int(crop_size * side / min(size)) for side in size))
    if len(shapes) > 1:
        some = " and ".join(f"{width} x {height}" for width, height in sorted(shapes)[:2])
        raise DataError(
            f"augmentations: rrc.enabled=False scales the shorter side alone to {crop_size} pixels, which gives images of "
            f"several shapes here ({some}), and no batch. Set rrc.enabled=True; crop_min_scale=1.0 takes the whole of each."
        )


def can_read(dataset: Dataset) -> bool:
    """Whether :func:`host_images` knows the class of a dataset, or one that it derives from."""
    return any(cls.__qualname__ in _readers() for cls in type(dataset).__mro__)


def _readers() -> dict[str, Callable[[Any], ImageSet]]:
    return {**BUILTIN_READERS, **registered("register_datasets")}


def _known_labels(labels: Any) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    array = np.asarray(labels, dtype=np.int64)
    return array if (array >= 0).any() else None


def _image_folder(dataset: Any) -> ImageSet:
    paths = [path for path, _ in dataset.samples]
    as_listed = _is_sorted([(label, *os.path.split(path)) for path, label in dataset.samples])
    opened = dataset.samples.__getitem__ if _is_loaded_by_pillow(dataset) and _is_known(dataset) else None
    return _files(dataset, [label for _, label in dataset.samples], paths, folder_by_folder=as_listed, opened=opened)


def _is_loaded_by_pillow(dataset: Any) -> bool:
    return getattr(dataset, "loader", None) is default_loader and get_image_backend() == "PIL"  # else it is the user's own


def _is_known(dataset: Any) -> bool:
    """Whether an item is made by code of torchvision and solo-learn alone, so that ours may stand in for it."""
    makers = [cls.__module__.partition(".")[0] for cls in type(dataset).__mro__ if "__getitem__" in vars(cls)]
    return dataset.target_transform is None and set(makers) <= {"torch", "torchvision", "solo"}


def _flat_folder(dataset: Any) -> ImageSet:
    names = [str(name) for name in dataset.images]
    paths = [os.path.join(dataset.root, name) for name in names]
    return _files(dataset, None, paths, opened=lambda index: (paths[index], -1))


def _files(
    dataset: Any,
    labels: Any,
    paths: Sequence[str],
    *,
    folder_by_folder: bool = False,
    opened: Callable[[int], tuple[Any, int]] | None = None,
) -> ImageSet:
    root = os.path.join(dataset.root, "")
    names = [(path[len(root) :] if path.startswith(root) else os.path.relpath(path, root)).replace(os.sep, "/") for path in paths]
    return HostImages(
        dataset,
        labels,
        names,
        partial(_bytes_of, paths),
        place=os.path.realpath(dataset.root),
        files=paths,
        unsorted=_why_unsorted(names, folder_by_folder),
        opened=opened,
    )


def _why_unsorted(names: Sequence[str], folder_by_folder: bool) -> str | None:
    if _is_sorted(names):
        return None
    if not folder_by_folder:
        return "solo-learn has its files in the file system's order, or shuffled by data.fraction"
    first, second = next((one, other) for one, other in pairwise(names) if one > other)
    return f"solo-learn goes folder by folder ({first!r} comes before {second!r}), which is not the order of sorted paths"


def _bytes_of(paths: Sequence[str], index: int) -> bytes:
    return Path(paths[index]).read_bytes()


def _arrays(labels: str) -> Callable[[Any], ImageSet]:
    def read(dataset: Any) -> ImageSet:
        def stored(index: int) -> bytes:
            image = np.ascontiguousarray(dataset.data[index])
            return f"{image.dtype.str}{image.shape}".encode() + image.tobytes()

        names, targets = [str(index) for index in range(len(dataset))], getattr(dataset, labels)
        return HostImages(dataset, targets, names, stored, read=_rows(dataset.data, targets) if _is_known(dataset) else None)

    return read


def _rows(pixels: NDArray[np.uint8], targets: Sequence[int]) -> Callable[[int], tuple[Image.Image, int]] | None:
    """Reads images of an (N, H, W, 3) array as ``Image.fromarray`` does, in half its time; ``None`` for another array."""
    if not (pixels.ndim == 4 and pixels.shape[3] == 3 and pixels.dtype == np.uint8 and pixels.flags.c_contiguous and len(pixels)):
        return None
    blank, size, values = Image.new("RGB", pixels.shape[2:0:-1]), pixels[0].size, pixels.data.cast("B")

    def read(index: int) -> tuple[Image.Image, int]:
        image = blank.copy()
        image.frombytes(values[index * size : (index + 1) * size])
        return image, targets[index]

    return read


def _h5(dataset: Any) -> ImageSet:
    file = H5File(dataset.h5_path)

    def stored(index: int) -> bytes:
        group, name, _ = dataset._data[index]
        return file.stored(f"{group}/{name}")

    names = [f"{group}/{name}" for group, name, _ in dataset._data]
    return HostImages(
        dataset,
        [label for *_, label in dataset._data],
        names,
        stored,
        place=os.path.realpath(dataset.h5_path),
        files=os.fspath(dataset.h5_path),
        stamped=not has_links(dataset.h5_path),
        check_current=file.check_current,
        unsorted=None if _is_sorted(names) else "the images are not in the order of their names in the H5 file",
        opened=lambda index: (io.BytesIO(stored(index)), dataset._data[index][2]),
    )


def _named(dataset: Any) -> ImageSet:
    source, samples = dataset.source, dataset.samples
    names = [source.name(where) for where, _ in samples]

    def opened(index: int) -> tuple[Any, int]:
        where, target = samples[index]
        return source.file(where), target

    def read(index: int) -> tuple[Image.Image, int]:
        where, target = samples[index]
        return source.image(where), target

    return HostImages(
        dataset,
        [label for _, label in samples],
        names,
        lambda index: source.stored(samples[index][0]),
        place=os.path.realpath(dataset.root),
        files=[source.file(where) for where, _ in samples],
        unsorted=None if _is_sorted(names) else "the data set lists its images in another order, or data.fraction shuffled them",
        opened=opened if source.decodes_files else None,
        read=None if source.decodes_files else read,
    )


def _is_sorted(keys: Sequence[Any]) -> bool:
    return all(one <= other for one, other in pairwise(keys))


BUILTIN_READERS: dict[str, Callable[[Any], ImageSet]] = {
    "ImageFolder": _image_folder,
    "CustomDatasetWithoutLabels": _flat_folder,
    "CIFAR10": _arrays("targets"),
    "CIFAR100": _arrays("targets"),
    "STL10": _arrays("labels"),
    "H5Dataset": _h5,
    "NamedSet": _named,
}
