"""Listing, showing, verifying and removing caches. Nothing is removed unasked."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from solo_gps.embeddings.store import (
    DECODED,
    NAME,
    PARTIAL,
    build_lock,
    cache_folders,
    cache_root,
    forget_place,
    open_cache,
    place_of,
    read_manifest,
)
from solo_gps.errors import CacheError, did_you_mean
from solo_gps.runtime.store import is_under_way, mend_of, verify_manifest

REMOVED = ".removed-"
"""Beginning of the name that a folder has while it is removed: no cache any more, whatever is left of it."""


@dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """One cache folder.

    Attributes:
        fingerprint: Name of the folder.
        folder: Its path.
        status: ``"whole"``, ``"partial"`` (a build that did not end, or is under way) or ``"damaged"``.
        prior: Name of the encoder, or ``"decoded images"``; ``None`` where unknown.
        model: Name of its network, where it has one.
        place: Folder or file that the images lay in when the cache was last used; ``None`` where unknown.
        tables: Names of the neighbour tables in it.
        images: Number of images, ``None`` where unknown.
        dimensions: Dimensions of the embedding, ``None`` where unknown.
        dtype: Type of the numbers, ``None`` where unknown.
        size: Bytes on disk.
        age: Seconds since it was built, or last written to.
        idle: Seconds since it was last used.
        problem: What is wrong with a damaged one.
    """

    fingerprint: str
    folder: Path
    status: str
    prior: str | None = None
    model: str | None = None
    place: str | None = None
    tables: tuple[str, ...] = ()
    images: int | None = None
    dimensions: int | None = None
    dtype: str | None = None
    size: int = 0
    age: float = 0.0
    idle: float = 0.0
    problem: str | None = None


def list_caches(cache_dir: str | None = None) -> list[CacheInfo]:
    """Returns all caches under ``cache_dir`` (default as in ``prior.cache_dir``), the most recently used first."""
    infos = [_info(folder) for folder in cache_folders(cache_root(cache_dir))]
    return sorted(infos, key=lambda info: (info.idle, info.fingerprint))


def show(fingerprint: str, cache_dir: str | None = None) -> dict[str, Any]:
    """Returns the manifest of a cache, where its images were last seen (``last_seen_in``), and its neighbour ``tables``.

    Args:
        fingerprint: Its fingerprint, or the first few digits of it.
        cache_dir: Folder of all caches.

    Raises:
        CacheError: There is no such cache, it is not whole, or the digits fit several.
    """
    folder = _whole(_find(fingerprint, cache_dir))
    tables = {path.stem: _request_of(path) for path in _tables(folder)}
    return {**read_manifest(folder), "last_seen_in": place_of(folder), "tables": tables}


def verify(fingerprint: str, cache_dir: str | None = None) -> list[str]:
    """Reads every byte of a cache, and of what was derived from it, and compares it with the manifests.

    Args:
        fingerprint: Its fingerprint, or the first few digits of it.
        cache_dir: Folder of all caches.

    Returns:
        What is wrong, one line for each file; empty when all is well.

    Raises:
        CacheError: There is no such cache, or the digits fit several.
    """
    folder = _find(fingerprint, cache_dir)
    try:
        manifest = read_manifest(_whole(folder))
    except CacheError as error:
        return [str(error)]
    problems, known = [], set()
    for path in sorted(folder.glob("*.json")):
        found, names = verify_manifest(
            path, mend_of(folder) if path.name == NAME else f"Delete {path.name} to have it built again."
        )
        problems += found
        known |= names
    if not problems:
        try:
            if manifest.get("kind") == DECODED:
                from solo_gps.embeddings.decoded import open_decoded

                open_decoded(folder, manifest["images"])
            else:
                open_cache(folder, space="", images=manifest["images"])
        except CacheError as error:
            problems = [str(error)]
    foreign = [path for path in sorted(folder.iterdir()) if path.name not in known and not is_under_way(path)]
    return problems + [f"{path} does not belong to this cache." for path in foreign]


def remove(fingerprint: str, cache_dir: str | None = None) -> CacheInfo:
    """Removes one cache, whole, partial or damaged, and what interrupted removals had left; returns what the cache was.

    Args:
        fingerprint: Its fingerprint, or the first few digits of it.
        cache_dir: Folder of all caches.

    Raises:
        CacheError: There is no such cache, the digits fit several, or the folder cannot be written.
    """
    root = cache_root(cache_dir)
    try:
        for leftover in cache_folders(root, REMOVED):
            _delete(leftover)
        folder = _find(fingerprint, cache_dir)
        info = _info(folder)
        with build_lock(root / info.fingerprint):
            forget_place(folder)
            doomed = folder.with_name(f"{REMOVED}{folder.name}")
            folder.rename(doomed)
            _delete(doomed)
    except OSError as error:
        raise CacheError(
            f"cache {fingerprint!r} cannot be removed: {error.filename or root}: {error.strerror or error}. "
            f"Make {root} writable, and what lies in it, then remove it again."
        ) from error
    return info


def _delete(folder: Path) -> None:
    """Deletes a folder, also while another process deletes the same one."""
    while os.path.lexists(folder):
        with suppress(FileNotFoundError):
            if folder.is_symlink() or not folder.is_dir():
                folder.unlink()  # what a link leads to is not ours to delete
            else:
                shutil.rmtree(folder)


def _find(fingerprint: str, cache_dir: str | None) -> Path:
    root = cache_root(cache_dir)
    folders = sorted(cache_folders(root))
    exact = [folder for folder in folders if folder.name == fingerprint]
    found = exact or [folder for folder in folders if fingerprint and folder.name.startswith(fingerprint)]
    if len(found) == 1:
        return found[0]
    names = [folder.name for folder in folders]
    if found:
        raise CacheError(f"{fingerprint!r} fits {len(found)} caches: {', '.join(path.name for path in found)}. Give more digits.")
    listed = ", ".join(names) or "none"
    raise CacheError(f"no cache {fingerprint!r} in {root}; there: {listed}.{did_you_mean(fingerprint, names)}")


def _whole(folder: Path) -> Path:
    if folder.name.endswith(PARTIAL):
        raise CacheError(f"{folder} is a build that did not end, or is under way. The next run that wants it finishes it.")
    return folder


def _tables(folder: Path) -> list[Path]:
    """The manifests of what was derived from a cache."""
    return sorted(path for path in folder.glob("*.json") if path.name != NAME)


def _request_of(table: Path) -> Any:
    """What a table was asked for."""
    try:
        return json.loads(table.read_text(encoding="utf-8"))["request"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{table} is damaged or was edited. Delete {table.name} to have it built again.") from error


def _info(folder: Path) -> CacheInfo:
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    size, changed = (
        sum(file.st_size for file in files),
        max((file.st_mtime for file in files), default=folder.lstat().st_mtime),
    )
    common: dict[str, Any] = {"fingerprint": folder.name.removesuffix(PARTIAL), "folder": folder, "size": size}
    now = time.time()
    if folder.name.endswith(PARTIAL) and folder.is_dir():
        return CacheInfo(**common, status="partial", age=now - changed, idle=now - changed)
    try:
        manifest = read_manifest(folder)
    except CacheError as error:
        return CacheInfo(**common, status="damaged", age=now - changed, idle=now - changed, problem=str(error))
    identity = manifest["description"].get("identity") or {}
    return CacheInfo(
        **common,
        status="whole",
        prior=manifest.get("prior", manifest.get("kind")),
        model=identity.get("model") or identity.get("architecture"),
        place=place_of(folder),
        tables=tuple(path.stem for path in _tables(folder)),
        images=manifest["images"],
        dimensions=manifest.get("dimensions"),
        dtype=manifest.get("dtype"),
        age=now - datetime.fromisoformat(manifest["created"]).timestamp(),
        idle=now - (folder / NAME).stat().st_mtime,
    )
