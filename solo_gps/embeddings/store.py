"""Where caches lie, and how one is opened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from solo_gps.embeddings.fingerprint import LENGTH
from solo_gps.errors import CacheError
from solo_gps.interfaces import Embeddings
from solo_gps.runtime import store
from solo_gps.runtime.files import write_text
from solo_gps.runtime.scratch import ENVIRONMENT as ENVIRONMENT

NAME = store.MANIFEST
FORMAT = 2
"""Raised when the files or their meaning change. 2: a cache is named by the bytes of its images, and has checksums of blocks."""
ARRAY = "embeddings.npy"
STATE = "encoder.safetensors"
DECODED = "decoded images"
"""What a manifest says under ``kind`` where a folder does not hold embeddings."""
PLACES_SEEN = ".seen"
PIXELS = "pixels.npy"
PLACES = "places.npy"
PARTIAL = ".partial"


_FACTS = {"images": int, "created": str, "description": dict}
_FACTS_OF: dict[Any, dict[str, type]] = {
    None: {**_FACTS, "dimensions": int, "dtype": str, "prior": str},
    DECODED: {**_FACTS, "pixel_bytes": int},
}
_FILES_OF: dict[Any, set[str]] = {None: {ARRAY}, DECODED: {PIXELS, PLACES}}


def cache_root(cache_dir: str | None = None) -> Path:
    """The folder of all caches: ``cache_dir``, or SOLO_GPS_CACHE, or ``~/.cache/solo_gps``."""
    return Path(cache_dir or os.environ.get(ENVIRONMENT) or "~/.cache/solo_gps").expanduser().absolute()


def make_root(root: Path) -> None:
    """Makes the folder of caches.

    Raises:
        CacheError: It cannot be written.
    """
    try:
        (root / store.LOCKS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"the cache folder {root} cannot be made: {error.strerror}. Set prior.cache_dir or {ENVIRONMENT} to one that can."
        ) from error


def cache_folders(root: Path, prefix: str = "") -> Iterator[Path]:
    """The folders of caches, whole or not, and whatever else is named by a fingerprint, after ``prefix``."""
    if root.is_dir():
        for path in root.iterdir():
            name = path.name.removeprefix(prefix).removesuffix(PARTIAL)
            if path.name.startswith(prefix) and len(name) == LENGTH and all(digit in "0123456789abcdef" for digit in name):
                yield path


def remember_place(folder: Path, place: str | None) -> None:
    """Notes, beside the caches, where the images of one lay when it was last used; for the user alone, so never an error."""
    note = _note_of(folder)
    if place is not None and place_of(folder) != place:
        with suppress(OSError):  # the cache may be read-only
            write_text(note, json.dumps(place))


def place_of(folder: Path) -> str | None:
    """Where the images of a cache lay when it was last used; ``None`` where nobody noted it."""
    try:
        place = json.loads(_note_of(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return place if isinstance(place, str) else None


def forget_place(folder: Path) -> None:
    """Removes the note of :func:`remember_place`."""
    _note_of(folder).unlink(missing_ok=True)


def _note_of(folder: Path) -> Path:
    return folder.parent / PLACES_SEEN / f"{folder.name}.json"


def build_lock(folder: Path) -> AbstractContextManager[None]:
    """The lock under which one cache is built or removed."""
    return store.locked(folder, "prior: another process is building these embeddings")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a cache, checks it, and checks that each of its files has the recorded size.

    Raises:
        CacheError: It is missing, damaged or of another format, or a file is missing or truncated.
    """
    manifest = store.read_manifest(folder / NAME, FORMAT, store.mend_of(folder))
    try:
        kind = manifest.get("kind")
        whole = all(type(manifest.get(key)) is wanted for key, wanted in _FACTS_OF[kind].items())
        whole = whole and _FILES_OF[kind] <= set(manifest["files"])
        datetime.fromisoformat(str(manifest.get("created")))
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise CacheError(f"{folder / NAME} is damaged or was edited. {store.mend_of(folder)}")
    return manifest


def open_cache(folder: Path, *, space: str, images: int) -> Embeddings:
    """Opens a whole cache as a read-only memory map.

    Args:
        folder: Folder named by the fingerprint.
        space: Space that the embeddings are used in.
        images: Number N of images that is wanted.

    Raises:
        CacheError: The folder is damaged or foreign; the message names the file and the mend.
    """
    manifest = read_manifest(folder)
    if (manifest.get("fingerprint"), manifest.get("kind")) != (folder.name, None):
        raise CacheError(f"{folder} holds the cache {manifest.get('fingerprint')}, not its own. {store.mend_of(folder)}")
    array = store.open_array(
        folder / ARRAY, (manifest["images"], manifest["dimensions"]), manifest["dtype"], store.mend_of(folder)
    )
    store.check_blocks(folder / NAME, manifest, ARRAY, store.mend_of(folder))
    if len(array) != images:
        raise CacheError(f"{folder / ARRAY} has {len(array):,} rows for {images:,} images.")
    with suppress(OSError):  # the time of last use is a convenience; the cache may be read-only
        os.utime(folder / NAME)
    return Embeddings(array=array, fingerprint=folder.name, folder=folder, space=space)
