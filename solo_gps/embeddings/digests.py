"""Which bytes the images are: a digest of each, remembered beside the caches for as long as the stamp of its file stays."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solo_gps.errors import DataError
from solo_gps.interfaces import ImageSet, StoredImages
from solo_gps.runtime.files import whole_file
from solo_gps.runtime.progress import Progress

logger = logging.getLogger("solo_gps.embeddings")

RECORDS = ".records"
LENGTH = 16
"""Bytes of a digest."""
SETTLED_NS = 2_000_000_000
"""A file that was touched so shortly before it was looked at may be written to again without another stamp: not remembered."""
TOGETHER = 64
READERS = 8


def image_digest(stored: bytes) -> bytes:
    """The first 16 bytes of the SHA-256 of an image's stored bytes."""
    return hashlib.sha256(stored).digest()[:LENGTH]


def digest_of_names(images: ImageSet) -> str:
    """A digest of the images' names in their order, where they have any."""
    return hashlib.sha256(_joined(images.names if isinstance(images, StoredImages) else ())).hexdigest()


def same_listing(one: ImageSet, other: ImageSet) -> bool:
    """Whether two sets of one process are the same images in the same order; files are compared by name and stamp."""
    if isinstance(one, StoredImages) and isinstance(other, StoredImages) and None not in (one.place, other.place):
        if (one.place, list(one.names)) != (other.place, list(other.names)):
            return False
        stamps = one.stamps(), other.stamps()
        if stamps[0] is not None and stamps[1] is not None:
            return bool((stamps[0] == stamps[1]).all())
    return list(map(image_digest, one.content())) == list(map(image_digest, other.content()))


class Digests:
    """The digest of every image, as far as it is known without reading the images.

    Args:
        images: N images.
        root: Folder of all caches, where the records lie.

    Attributes:
        values: (N, 16) uint8 digests.
        known: (N,) bool, which of them are known.
    """

    def __init__(self, images: ImageSet, root: Path) -> None:
        self.values = np.zeros((len(images), LENGTH), np.uint8)
        self.known = np.zeros(len(images), bool)
        self._images, self._root = images, root
        self._stamps: NDArray[np.int64] | None = None
        self._looked = time.time_ns()  # before: a listing may take longer than a file needs to settle
        if isinstance(images, StoredImages) and images.place is not None:
            self._stamps = images.stamps()
        if self._stamps is None:
            with Progress("reading the images to know them", len(images)) as progress:
                for row, stored in enumerate(images.content()):
                    self.learn([row], image_digest(stored))
                    progress.update(1)
            return
        assert isinstance(images, StoredImages)
        self._path = root / RECORDS / f"{hashlib.sha256(os.fsencode(images.place or '')).hexdigest()[:32]}.npz"
        self._names = list(images.names)
        self._look_up()

    @property
    def whole(self) -> bool:
        """Whether every digest is known."""
        return bool(self.known.all())

    def of_all(self) -> str:
        """The digest of all images in their order, in hex; each must be known."""
        assert self.whole, "read() comes first"
        return hashlib.sha256(len(self.values).to_bytes(8, "little") + self.values.tobytes()).hexdigest()

    def of_listing(self) -> str:
        """A digest that changes when an image does, or the list of them, and perhaps when neither did; nothing is read."""
        if self._stamps is None:
            return self.of_all()
        stamps = np.ascontiguousarray(self._stamps).tobytes()
        return hashlib.sha256(b"\0".join([self._path.name.encode(), _joined(self._names), stamps])).hexdigest()

    def check_unchanged(self) -> None:
        """Raises :class:`DataError` when an image, or the list of them, is not what it was when this was made."""
        if Digests(self._images, self._root).of_listing() != self.of_listing():
            raise DataError("the training images were changed while a prior was made of them. Run again once they stay.")

    def learn(self, rows: Iterable[int], digests: bytes) -> None:
        """Takes the digests of images that somebody has read."""
        rows = np.fromiter(rows, np.int64)
        self.values[rows] = np.frombuffer(digests, np.uint8).reshape(-1, LENGTH)
        self.known[rows] = True

    def read(self, rows: Iterable[int] | None = None) -> None:
        """Reads the images whose digests are not known, all or some, and remembers them.

        Raises:
            DataError: A file cannot be read.
        """
        wanted = np.arange(len(self.known)) if rows is None else np.fromiter(rows, np.int64)
        missing = wanted[~self.known[wanted]]
        if not len(missing):
            return
        parts = [missing[start : start + TOGETHER] for start in range(0, len(missing), TOGETHER)]
        with ThreadPoolExecutor(READERS) as pool, Progress("reading the images to know them again", len(missing)) as progress:
            for first in range(0, len(parts), READERS):
                some = parts[first : first + READERS]
                for part, digests in zip(some, pool.map(self._digests_of, some), strict=True):
                    self.learn(part, digests)
                    progress.update(len(part))
        self.save()

    def save(self) -> None:
        """Remembers the digests of all files that are settled; those of other images of the same place stay remembered."""
        if self._stamps is None:
            return
        settled = self.known & (self._stamps[:, 1:3].max(axis=1) < self._looked - SETTLED_NS)
        names, stamps, digests = _load(self._path, self._stamps.shape[1])
        current = set(self._names)
        of_others = np.array([row for row, name in enumerate(names) if name not in current], np.int64)
        kept = np.flatnonzero(settled)
        try:
            with whole_file(self._path) as unfinished, unfinished.open("wb") as file:
                np.savez(
                    file,
                    names=np.frombuffer(
                        _joined([names[row] for row in of_others] + [self._names[row] for row in kept]), np.uint8
                    ),
                    stamps=np.concatenate([stamps[of_others], self._stamps[kept]]),
                    digests=np.concatenate([digests[of_others], self.values[kept]]),
                )
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s): the next run reads all images again, to know them.", self._path, error.strerror
            )

    def _look_up(self) -> None:
        assert self._stamps is not None
        names, stamps, digests = _load(self._path, self._stamps.shape[1])
        if names == self._names:
            rows = np.arange(len(names))
        else:
            place = {name: row for row, name in enumerate(names)}
            rows = np.array([place.get(name, -1) for name in self._names], np.int64)
        found = np.flatnonzero(rows >= 0)
        same = found[(stamps[rows[found]] == self._stamps[found]).all(axis=1)]
        self.values[same], self.known[same] = digests[rows[same]], True

    def _digests_of(self, rows: NDArray[np.int64]) -> bytes:
        assert isinstance(self._images, StoredImages)
        return b"".join(image_digest(self._images.stored(int(row))) for row in rows)


def _joined(names: Sequence[str]) -> bytes:
    return "\0".join(names).encode("utf-8", "surrogateescape")


def _load(record: Path, stamp: int) -> tuple[list[str], NDArray[np.int64], NDArray[np.uint8]]:
    """What a record holds; nothing, when there is none or it is damaged: it only saves time."""
    try:
        with record.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = arrays["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
            stamps, digests = arrays["stamps"], arrays["digests"]
        wanted = (np.int64, np.uint8, (len(names), stamp), (len(names), LENGTH))
        if (stamps.dtype, digests.dtype, stamps.shape, digests.shape) == wanted:
            return names, stamps, digests
    except Exception:  # damage brings out errors of any type in zipfile and numpy
        logger.debug("%s: not a whole record", record, exc_info=True)
    return [], np.empty((0, stamp), np.int64), np.empty((0, LENGTH), np.uint8)
