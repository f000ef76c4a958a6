"""Images that are decoded once: their pixels in memory that processes share while a run lasts, or in files for every run.

Both hold the same two arrays: ``places``, (N, 3) int64, with the first byte, the height and the width of each image (0 x 0 where
it cannot be decoded), and ``pixels``, (P,) uint8, with one RGB image after the other. Files are found again by what the images
hold and what decoded them. The memory has no name: other processes come by it through the one that has it open, and it is gone
with the last of them, however they end.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, features
from torch.utils.data import Dataset

from solo_gps.embeddings.digests import RECORDS, Digests
from solo_gps.embeddings.fingerprint import fingerprint
from solo_gps.embeddings.store import (
    DECODED,
    ENVIRONMENT,
    FORMAT,
    NAME,
    PARTIAL,
    PIXELS,
    PLACES,
    cache_root,
    make_root,
    read_manifest,
    remember_place,
)
from solo_gps.errors import CacheError, ConfigError, DataError, UnreadableImageError, first_line
from solo_gps.interfaces import ImageSet, StoredImages
from solo_gps.priors.parts.loading import batches, consecutive, worker_count
from solo_gps.runtime import store
from solo_gps.runtime.files import in_bytes, write_text
from solo_gps.runtime.machine import check_fits
from solo_gps.runtime.progress import Progress, duration
from solo_gps.version import __version__

logger = logging.getLogger("solo_gps.embeddings")

CODECS = ("pil", "jpg", "libjpeg_turbo", "jpg_2000", "webp")
"""Pillow's names of what may decode the same bytes to other pixels in another version."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Another for each machine, and each time that it starts."""
BLOCK = 32
CHANGED = "the images were changed while they were decoded, or since. Run again when they are all there."
WAITING = "images: another process is decoding them"


class Decodable(StoredImages, Protocol):
    """Images that are decoded by Pillow, from files.

    Attributes:
        kept: Asked for an image before it is decoded.
    """

    kept: Callable[[int], Image.Image | None] | None

    @property
    def identity(self) -> Mapping[str, Any]:
        """What makes other pixels of the same stored bytes."""

    @property
    def decodes_files(self) -> bool:
        """Whether the pixels depend on the stored bytes and ``identity`` alone."""

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of the decoded image."""


class Pixels:
    """The pixels of N images.

    Args:
        places: (N, 3) int64, see above.
        pixels: (P,) uint8.
        digests: Of the images that were decoded, each known.
        file: What other processes reach the memory through; it stays open for them.
    """

    def __init__(
        self, places: NDArray[np.int64], pixels: NDArray[np.uint8], digests: Digests, file: BinaryIO | None = None
    ) -> None:
        self.places, self._bytes = places, pixels.data
        self.listing, self._digests = digests.of_listing(), digests.values.copy()
        if file is not None:
            weakref.finalize(self, file.close)

    def __call__(self, index: int) -> Image.Image | None:
        """The image, to the bit as it was decoded; ``None`` for one that could not be."""
        first, height, width = self.places[index].tolist()
        if not height:
            return None
        return Image.frombytes("RGB", (width, height), self._bytes[first : first + 3 * height * width])

    def digest(self, index: int) -> bytes | None:
        """The digest of the bytes that the image was decoded from; ``None`` for one that could not be."""
        return self._digests[index].tobytes() if self.places[index, 1] else None

    @property
    def unreadable(self) -> list[int]:
        """The images that could not be decoded."""
        return np.flatnonzero(self.places[:, 1] == 0).tolist()


def keep_decoded(images: Decodable, kind: str, cache_dir: str | None = None, *, skip: bool = False) -> None:
    """Decodes every image once, unless that is done already, and lets ``images`` have them from there.

    Any number of processes may ask at once: one decodes, the others wait and share what it made.

    Args:
        images: N images.
        kind: ``"memory"`` or ``"mapped"``.
        cache_dir: Folder of all caches.
        skip: Leave out images that cannot be decoded: whoever asks for one decodes it, and has the error.

    Raises:
        ConfigError: There is nothing to decode.
        UnreadableImageError: An image cannot be read.
        CacheError: The disk is full or cannot be written, or what is found there is damaged.
        MachineError: Memory would not do.
    """
    if not images.decodes_files:
        raise ConfigError(
            f"images.store={kind}: these images are no files to decode (they lie in memory as they are, or code of the "
            "program's own reads them). Leave it out."
        )
    root, started = cache_root(cache_dir), time.monotonic()
    try:
        pixels, where, built = (_in_memory if kind == "memory" else _mapped)(images, root, skip)
    except OSError as error:
        raise _unwritable(f"{error.filename or root}", error) from error
    if not skip:
        for index in pixels.unreadable:
            images.image(index)  # which says why
    images.kept = pixels
    logger.info(
        "images: %s %s decoded images%s %s",
        "kept" if built else "found",
        f"{len(images):,}",
        f", which took {duration(time.monotonic() - started)}," if built else "",
        where,
    )


def _made_by(images: Decodable) -> dict[str, Any]:
    """All but their stored bytes that the pixels depend on."""
    return {"decoder": {codec: features.version(codec) for codec in CODECS}, **images.identity}


def _mapped(images: Decodable, root: Path, skip: bool) -> tuple[Pixels, str, bool]:
    digests = Digests(images, root)
    digests.read()
    folder, built = root / fingerprint({"kind": DECODED, **_made_by(images)}, digests.of_all()), False
    if not os.path.lexists(folder):
        make_root(root)
        with store.locked(folder, WAITING):
            if built := not os.path.lexists(folder):
                _build_folder(images, folder, digests, skip)
    places, pixels = open_decoded(folder, len(images))
    remember_place(folder, getattr(images, "place", None))
    return Pixels(places, pixels, digests), f"in {folder}", built


def pixels_of(images: ImageSet) -> Pixels | None:
    """What :func:`keep_decoded` made for these images; ``None`` before."""
    kept = getattr(images, "kept", None)
    return kept if isinstance(kept, Pixels) else None


def open_decoded(folder: Path, images: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Maps the places and the pixels in a whole folder.

    Args:
        folder: Folder named by the fingerprint.
        images: Number N of images that is wanted.

    Raises:
        CacheError: The folder is damaged or foreign; the message names the file and the mend.
    """
    manifest, mend = read_manifest(folder), store.mend_of(folder)
    if (manifest.get("kind"), manifest["images"], manifest.get("fingerprint")) != (DECODED, images, folder.name):
        raise CacheError(f"{folder} does not hold {images:,} decoded images. {mend}")
    places = store.open_array(folder / PLACES, (images, 3), "int64", mend)
    pixels = store.open_array(folder / PIXELS, (manifest["pixel_bytes"],), "uint8", mend)
    store.check_blocks(folder / NAME, manifest, PLACES, mend, at_most=None)
    store.check_blocks(folder / NAME, manifest, PIXELS, mend)
    with suppress(OSError):  # the time of last use is a convenience; the cache may be read-only
        os.utime(folder / NAME)
    return np.array(places), pixels


def _build_folder(images: Decodable, folder: Path, digests: Digests, skip: bool) -> None:
    work = folder.with_name(folder.name + PARTIAL)
    if work.is_dir():  # of a build that was killed
        shutil.rmtree(work)
    places, size = _measured(images, skip)
    free = shutil.disk_usage(folder.parent).free
    if free < size:
        raise CacheError(
            f"{folder.parent} has {in_bytes(free)} free, {len(images):,} decoded images need {in_bytes(size)}. Free some, set "
            f"prior.cache_dir or {ENVIRONMENT}, or leave images.store out."
        )
    work.mkdir()
    try:
        first = np.lib.format.open_memmap(work / PIXELS, "w+", np.uint8, (size,)).offset
        with open(work / PIXELS, "r+b") as file:
            _decode(images, places, file, first, skip)
        if Digests(images, folder.parent).of_listing() != digests.of_listing():
            raise DataError(CHANGED)
        np.save(work / PLACES, places)
        values = {
            "format": FORMAT,
            "kind": DECODED,
            "fingerprint": folder.name,
            "images": len(images),
            "pixel_bytes": size,
            "description": {**_made_by(images), "data": digests.of_all()},
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {"solo_gps": __version__, "numpy": np.__version__},
        }
        store.write_manifest(work / NAME, values, {PIXELS: {}, PLACES: {}})
        os.replace(work, folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _in_memory(images: Decodable, root: Path, skip: bool) -> tuple[Pixels, str, bool]:
    make_root(root)
    machine = BOOT.read_text()[:8] if BOOT.exists() else ""
    digests = Digests(images, root)
    digests.read()
    name = fingerprint(_made_by(images), digests.of_listing())
    record = root / RECORDS / f"{name}-{machine}.json"
    with store.locked(root / record.stem, WAITING):
        file = _opened_elsewhere(record)
        if built := file is None:
            file = _filled_memory(images, skip)
            if Digests(images, root).of_listing() != digests.of_listing():
                file.close()
                raise DataError(CHANGED)
            stat = os.fstat(file.fileno())
            owner = {"pid": os.getpid(), "file": file.fileno(), "is": [stat.st_dev, stat.st_ino, stat.st_size]}
            write_text(record, json.dumps(owner))
    assert file is not None
    head = 24 * len(images)
    pixels = np.memmap(file, np.uint8, "r", offset=head)
    places = np.array(np.memmap(file, np.int64, "r", shape=(len(images), 3)))
    return Pixels(places, pixels, digests, file), f"in memory ({in_bytes(len(pixels))})", built


def _opened_elsewhere(record: Path) -> BinaryIO | None:
    """The memory of a process that still has it open, this one or another."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # no record, of a process that is gone, or of another user's
        owner = json.loads(record.read_text())
        file = open(f"/proc/{owner['pid']}/fd/{owner['file']}", "rb")  # noqa: SIM115 - it stays open
        stat = os.fstat(file.fileno())
        if [stat.st_dev, stat.st_ino, stat.st_size] == owner["is"]:
            return file
        file.close()
    return None


def _filled_memory(images: Decodable, skip: bool) -> BinaryIO:
    places, size = _measured(images, skip)
    head = places.nbytes
    check_fits(
        f"images.store=memory with {len(images):,} decoded images",
        head + size,
        "Set images.store=mapped, which takes as much of the disk, or leave it out.",
    )
    if hasattr(os, "memfd_create"):  # counted as memory of this process, unlike a file of /dev/shm, which is small in containers
        file: Any = open(os.memfd_create("solo-gps"), "r+b", buffering=0)  # noqa: SIM115 - it stays open
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the same
    try:
        os.ftruncate(file.fileno(), head + size)
        _decode(images, places, file, head, skip)
        _write(file.fileno(), places.tobytes(), 0)
    except BaseException:
        file.close()
        raise
    return file


def _measured(images: Decodable, skip: bool) -> tuple[NDArray[np.int64], int]:
    """Where each image will lie, and the bytes that all of them take."""

    def measure(index: int) -> tuple[int, int]:
        width, height = images.size(index)
        return height, width

    sizes = _of_each(images, measure, skip, "measuring the images")
    lengths = 3 * sizes.prod(axis=1)
    return np.column_stack([lengths.cumsum() - lengths, sizes]), max(1, int(lengths.sum()))


def _decode(images: Decodable, places: NDArray[np.int64], file: BinaryIO, first: int, skip: bool) -> None:
    """Writes the pixels of all images into a file, the first of them at byte ``first``, and their sizes into ``places``."""
    descriptor = file.fileno()

    def write(index: int) -> tuple[int, int]:
        start, height, width = places[index].tolist()
        if not height:
            return 0, 0
        image = images.image(index)
        if image.size != (width, height):  # its head lies: it is decoded each time
            return 0, 0
        _write(descriptor, image.tobytes(), first + start)
        return height, width

    places[:, 1:] = _of_each(images, write, skip, "decoding the images, once")


def _write(descriptor: int, data: bytes, start: int) -> None:
    view = memoryview(data)
    try:
        while view:
            count = os.pwrite(descriptor, view, start)
            view, start = view[count:], start + count
    except OSError as error:
        raise _unwritable("the decoded images", error) from error


def _unwritable(what: str, error: OSError) -> CacheError:
    return CacheError(
        f"{what}: {error.strerror or first_line(error)}. Mend the disk or its permissions, set prior.cache_dir or {ENVIRONMENT} "
        "to another place, or leave images.store out."
    )


class _Each(Dataset):
    """What is to be done with each image, for worker processes: (2,) int64 height and width, 0 and 0 of one that was left out."""

    def __init__(self, images: Decodable, work: Callable[[int], tuple[int, int]], skip: bool) -> None:
        self._images, self._work, self._skip = images, work, skip

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> torch.Tensor:
        try:
            return torch.tensor(self._work(index))
        except UnreadableImageError:
            if not self._skip:
                raise
            return torch.zeros(2, dtype=torch.int64)


def _of_each(images: Decodable, work: Callable[[int], tuple[int, int]], skip: bool, doing: str) -> NDArray[np.int64]:
    blocks, rows = consecutive(len(images), BLOCK), []
    workers = worker_count(-1, len(images))
    loaded = batches(_Each(images, work, skip), blocks, num_workers=workers, device=torch.device("cpu"))
    with Progress(doing, len(images)) as progress:
        for sizes in loaded:
            rows.append(sizes.numpy())
            progress.update(len(sizes))
    return np.concatenate(rows)
