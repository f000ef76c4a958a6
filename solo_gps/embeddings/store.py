"""Where caches lie, how one is opened, and the lock under which one is built."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from solo_gps.embeddings.manifest import read_manifest
from solo_gps.embeddings.npy import read_header
from solo_gps.errors import CacheError
from solo_gps.interfaces import Embeddings

logger = logging.getLogger("solo_gps.embeddings")

ARRAY = "embeddings.npy"
STATE = "encoder.safetensors"
PARTIAL = ".partial"
LOCKS = ".locks"
ENVIRONMENT = "SOLO_GPS_CACHE"
REMIND_SECONDS = 30.0


def cache_root(cache_dir: str | None = None) -> Path:
    """The folder of all caches: ``cache_dir``, or SOLO_GPS_CACHE, or ``~/.cache/solo_gps``."""
    return Path(cache_dir or os.environ.get(ENVIRONMENT) or "~/.cache/solo_gps").expanduser().absolute()


def make_root(root: Path) -> None:
    """Makes the folder of caches.

    Raises:
        CacheError: It cannot be written.
    """
    try:
        (root / LOCKS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"the cache folder {root} cannot be made: {error.strerror}. Set prior.cache_dir or {ENVIRONMENT} to one that can."
        ) from error


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
    if manifest.get("fingerprint") != folder.name:
        raise CacheError(
            f"{folder} holds the cache {manifest.get('fingerprint')}, not its own. Remove it: solo-gps cache remove {folder.name}"
        )
    array = _open_array(folder, manifest)
    if len(array) != images:
        raise CacheError(f"{folder / ARRAY} has {len(array):,} rows for {images:,} images.")
    with suppress(OSError):  # the time of last use is a convenience; the cache may be read-only
        os.utime(folder / "manifest.json")
    return Embeddings(array=array, fingerprint=folder.name, folder=folder, space=space)


def _open_array(folder: Path, manifest: Mapping[str, Any]) -> np.ndarray:
    path = folder / ARRAY
    mend = f"Remove it: solo-gps cache remove {folder.name}"
    try:
        shape, dtype, offset = read_header(path)
    except (ValueError, OSError) as error:
        raise CacheError(f"{path} is damaged: {error}. {mend}") from error
    wanted = (manifest["images"], manifest["dimensions"], manifest["dtype"])
    if (*shape, dtype) != wanted or path.stat().st_size != offset + np.dtype(dtype).itemsize * shape[0] * shape[1]:
        raise CacheError(f"{path} holds {(*shape, dtype)}, the manifest says {wanted} (images, dimensions, type). {mend}")
    return np.memmap(path, np.dtype(dtype), "r", offset, shape)


@contextmanager
def build_lock(root: Path, fingerprint: str) -> Iterator[None]:
    """Holds the lock of one fingerprint; waits, with a line in the log every so often, while another process builds."""
    lock = FileLock(root / LOCKS / f"{fingerprint}.lock")
    patience = 1.0
    while True:
        try:
            lock.acquire(timeout=patience)
            break
        except Timeout:
            patience = REMIND_SECONDS
            logger.info("prior: another process is building these embeddings; waiting for it (%s)", root / fingerprint)
    try:
        yield
    finally:
        lock.release()
