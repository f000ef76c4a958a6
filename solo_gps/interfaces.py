"""What the layers promise each other, with shapes. No heavy import: arrays and tensors are named for the type checker only.

Sizes: N images, D dimensions of the prior space, K neighbours, M items of one epoch, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from solo_gps.errors import printable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor


StandIn: TypeAlias = "tuple[Callable[..., Any], Callable[..., Any]]"
"""A function of the host's, and what stands in for it."""


@runtime_checkable
class ImageSet(Protocol):
    """N raw images, in the order in which the host's training set indexes them (after ``data.fraction``)."""

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) int64 class of each image, -1 where unknown; ``None`` when the set has no labels."""

    def __len__(self) -> int:
        """Number of images N."""

    def image(self, index: int) -> Image:
        """The decoded RGB image of ``index``, before any augmentation."""

    def content(self) -> Iterator[bytes]:
        """One entry an image, in order, of bytes that change when the image does; never an absolute path."""


@runtime_checkable
class StoredImages(ImageSet, Protocol):
    """Images whose bytes can be read one by one, so that they are known again without being read.

    Attributes:
        names: (N,) names, each once: a path below the training folder with ``/``, a place in an H5 file, or a number.
        place: Absolute path of the folder or file that the images lie in; ``None`` for images in memory.
        unsorted: Why the order is not that of the names, for the user; ``None`` where it is.
    """

    names: Sequence[str]
    place: str | None
    unsorted: str | None

    def stored(self, index: int) -> bytes:
        """The bytes that image ``index`` is stored in."""

    def stamps(self) -> NDArray[np.int64] | None:
        """(N, 4) size, mtime_ns, ctime_ns and inode of the file that holds each image; ``None`` where they say nothing."""


class ImageSource(Protocol):
    """How the images of a named data set are read, by whatever says where each is. Workers get a copy of it.

    Attributes:
        decodes_files: Whether an image is a whole file, ``file(where)``, as Pillow reads it.
    """

    decodes_files: bool

    def image(self, where: Any) -> Image:
        """The decoded RGB image."""

    def stored(self, where: Any) -> bytes:
        """Bytes that change when the image does."""

    def name(self, where: Any) -> str:
        """Its name, each once: a path below the data set's folder with ``/``, or a number with leading zeros."""

    def file(self, where: Any) -> str:
        """The file that holds it."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The images of one part of a named data set.

    Attributes:
        samples: For each image, where it is, as ``source`` understands it, and its class; -1 where unknown.
        source: How they are read.
    """

    samples: Sequence[tuple[Any, int]]
    source: ImageSource


@dataclass(frozen=True, kw_only=True)
class NamedDataset:
    """A data set that ``data.dataset`` names, beside solo-learn's own.

    Attributes:
        open: Where a function is, ``"package.module:function"``. ``function(name, root, train, download)`` returns the
            :class:`Contents` of the part that is trained on, or of the one that is held out, below the folder ``root``. It is
            called without ``download`` first; where it raises ``RuntimeError`` or ``OSError``, once more with it, by one process
            at a time.
        classes: Number of classes, or where a function from ``root`` to it is.
        mean: Mean of the three channels, for crops and held-out images, where the recipe names none.
        std: Their standard deviation.
        size: Side of the held-out images in pixels.
        shorter_side: What their shorter side is scaled to, before the centre is cropped; ``None`` scales both sides to ``size``.
        layout: What lies below ``root``, for the user.
        trained_on: Which part is trained on, for the user.
        held_out: Which part is held out, for the user.
    """

    open: str
    classes: int | str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    shorter_side: int | None
    layout: str
    trained_on: str
    held_out: str


def name_of(images: ImageSet, index: int) -> str:
    """What to call an image, for the user."""
    return f"image {index} ({printable(images.names[index])})" if isinstance(images, StoredImages) else f"image {index}"


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Images in the prior space.

    Attributes:
        array: (N, D) float32 or float16, finite; a read-only memory map when it comes from the cache.
        fingerprint: Hex digest of data, encoder, weights and preprocessing: equal fingerprints mean equal arrays. Needed where
            there is a folder.
        folder: Cache folder that holds the array, or ``None`` for an array that was not cached.
        space: ``"euclidean"`` (squared L2 distance) or ``"cosine"`` (1 - cosine similarity).
        parts: The embeddings that must agree on a neighbour; empty where ``array`` alone decides.
        scratch: A folder, there and writable, where ranks that search together keep their points once a machine; without one,
            ``folder``.
    """

    array: np.ndarray
    fingerprint: str = ""
    folder: Path | None = None
    space: str = "euclidean"
    parts: tuple[Embeddings, ...] = ()
    scratch: Path | None = None


@dataclass(frozen=True, kw_only=True)
class NeighbourTable:
    """Neighbours of every image in the prior space, the image itself left out.

    Attributes:
        indices: (N, K) int32, nearest first, ties by index; -1 pads a row that has fewer than K.
        distances: (N, K) float32, squared Euclidean or 1 - cosine; ``inf`` where padded.
    """

    indices: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The items of one epoch: item m shows image ``anchors[m]`` and, in the positive's crops, ``positives[m]``.

    Attributes:
        anchors: (M,) int32 image indices.
        positives: (M,) int32 image indices; equal to the anchor where an item falls back on plain augmentation.
        more: (M, P - 1) int32 further positives, where items have P of them, each for a crop of its own; else ``None``.
    """

    anchors: np.ndarray
    positives: np.ndarray
    more: np.ndarray | None = None

    @property
    def in_turn(self) -> list[np.ndarray]:
        """The (M,) first positives, the second, ... of all items: P arrays."""
        return [self.positives, *(() if self.more is None else self.more.T)]


@dataclass(frozen=True, kw_only=True)
class ShownCrops:
    """Whose image and class each crop of a batch shows; a guided method has it as ``shown_crops`` from the batch's arrival on.

    Attributes:
        images: For each crop, the (B,) int64 index of the image that it shows, on the batch's device.
        targets: For each crop, the (B,) int64 class of that image, on the batch's device; the host's own where the set has no
            labels.
    """

    images: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """Images that a sampler found worth looking at; the host draws them.

    Attributes:
        path: PNG file to write.
        title: Line above the rows.
        anchors: (R,) int32 images, one a row.
        positives: (R, P) int32 images beside them, -1 for none.
    """

    path: Path
    title: str
    anchors: NDArray[np.int32]
    positives: NDArray[np.int32]


def read_only(array: np.ndarray) -> np.ndarray:
    """Returns a view that cannot be written to, for those who only watch."""
    view = array.view()
    view.flags.writeable = False
    return view
