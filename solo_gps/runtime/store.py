"""Artefacts on disk: built by one process at a time, whole under a sealed manifest that names the digest of every file.

A manifest is written last: what it names is whole. It is JSON that a person can read, with a checksum of itself; its text is
canonical, and any other with the same values is refused, so that even a changed blank is found. Each of its ``files`` is the name
of a file beside it, or the middle of one: ``"indices"`` of ``table.json`` is ``table.indices.npy``.
"""

from __future__ import annotations

import hashlib
import logging
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from solo_gps.errors import CacheError, first_line
from solo_gps.runtime.files import file_digest, flush, seal, unseal, whole_file

logger = logging.getLogger("solo_gps.embeddings")

MANIFEST = "manifest.json"
LOCKS = ".locks"
LEAST_BLOCK = 1 << 20
MOST_BLOCKS = 4096
SAMPLE = 16
"""Blocks of a file that are read at each use: other ones each time, and never long."""
REMIND_SECONDS = 30.0


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Holds the lock under which ``path`` is built; while another process has it, says so every now and then.

    Args:
        path: What is built.
        waiting: What the other process is doing, for the log.

    Raises:
        OSError: The folder of ``path`` cannot be written.
    """
    (path.parent / LOCKS).mkdir(parents=True, exist_ok=True)
    lock, patience = FileLock(path.parent / LOCKS / f"{path.name}.lock"), 1.0
    while True:
        try:
            lock.acquire(timeout=patience)
            break
        except Timeout:
            patience = REMIND_SECONDS
            logger.info("%s; waiting for it (%s)", waiting, path)
    try:
        yield
    finally:
        lock.release()


def is_under_way(path: Path) -> bool:
    """Whether a file is a lock, or what a build under way, or a killed one, has of an artefact without a manifest yet."""
    locks = [*path.parent.glob("*.lock"), *path.parent.glob(f"{LOCKS}/*.lock")]
    stems = tuple(lock.name.removesuffix(".lock").removesuffix(".json") + "." for lock in locks)
    return path.name.startswith((".", *stems))


def mend_of(folder: Path) -> str:
    """What to do about a damaged cache."""
    return f"Remove it: solo-gps cache remove {folder.name} --cache-dir {shlex.quote(str(folder.parent))}"


def file_of(manifest: Path, name: str) -> Path:
    """The file that a manifest calls ``name``."""
    return manifest.with_name(name if "." in name else f"{manifest.stem}.{name}.npy")


def write_manifest(path: Path, values: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> None:
    """Flushes files that are whole to the disk, then writes the manifest that makes them valid. One process at a time.

    Args:
        path: The manifest.
        values: JSON values to record.
        files: The name of each file, as the manifest has it, to JSON values to record of it.
    """
    entries = {}
    for name, facts in files.items():
        file = file_of(path, name)
        flush(file)
        entries[name] = {**facts, **_checksums(file)}
    with whole_file(path, locked=True) as unfinished:
        unfinished.write_bytes(seal({**values, "files": entries}))


def check_blocks(path: Path, manifest: Mapping[str, Any], name: str, mend: str, *, at_most: int | None = SAMPLE) -> None:
    """Compares blocks of a file with the checksums in its manifest: its first, its last, and others at random.

    Args:
        path: The manifest.
        manifest: What :func:`read_manifest` returned.
        name: The file, as the manifest calls it.
        mend: What to do about a damaged one, for the user.
        at_most: Blocks to read, ``None`` for all.

    Raises:
        CacheError: A block is not as it was written; or the file cannot be read.
    """
    file, entry = file_of(path, name), manifest["files"][name]
    blocks: Sequence[int] = range(len(entry["blocks"]))
    if at_most is not None and len(blocks) > at_most:
        blocks = sorted({0, len(blocks) - 1, *Random().sample(blocks, at_most - 2)})  # no secret # nosec B311
    try:
        with open(file, "rb") as opened:
            for block in blocks:
                opened.seek(block * entry["block"])
                if _block_digest(opened.read(entry["block"])) != entry["blocks"][block]:
                    first = block * entry["block"]
                    raise CacheError(f"{file} is damaged between byte {first:,} and {first + entry['block']:,}. {mend}")
    except OSError as error:
        raise CacheError(f"{file} cannot be read: {error.strerror}. {mend}") from error


def _checksums(file: Path) -> dict[str, Any]:
    """Size and digest of a whole file, and of its blocks: of 1 MiB, or more where they would be too many."""
    size, digest, blocks = file.stat().st_size, hashlib.sha256(), []
    block = max(LEAST_BLOCK, -(-size // MOST_BLOCKS))
    with open(file, "rb") as opened:
        while part := opened.read(block):
            digest.update(part)
            blocks.append(_block_digest(part))
    return {"bytes": size, "sha256": digest.hexdigest(), "block": block, "blocks": blocks}


def _block_digest(part: bytes) -> str:
    return hashlib.sha256(part).hexdigest()[:16]


def read_manifest(path: Path, version: int, mend: str) -> dict[str, Any]:
    """Reads a manifest, checks it, and checks that each of its files has the recorded size.

    Args:
        path: The manifest.
        version: The ``format`` that its values must have.
        mend: What to do about a damaged one, for the user.

    Raises:
        CacheError: It is missing, damaged or of another format, or a file is missing or truncated.
    """
    try:
        manifest = unseal(path.read_bytes())
        if manifest.get("format") == version:
            files = _files(manifest)
    except OSError as error:
        raise CacheError(f"{path.parent} is not a whole cache: {path.name} cannot be read ({error.strerror}). {mend}") from error
    except ValueError as error:
        raise CacheError(f"{path} is damaged or was edited. {mend}") from error
    if manifest.get("format") != version:
        raise CacheError(f"{path} has format {manifest.get('format')}, this solo-gps reads {version}. {mend}")
    for name, entry in files.items():
        file = file_of(path, name)
        if not file.is_file():
            raise CacheError(f"{file} is missing; wanted what {path.name} names. {mend}")
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise CacheError(f"{file} has {size:,} bytes; wanted {entry['bytes']:,} bytes. {mend}")
    return manifest


def _files(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The entry of each file; ValueError where one lacks what :func:`write_manifest` writes."""
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise ValueError("no files")
    wanted = {"bytes": int, "sha256": str, "block": int, "blocks": list}
    for name, entry in files.items():
        if "/" in name or not isinstance(entry, dict) or any(type(entry.get(key)) is not kind for key, kind in wanted.items()):
            raise ValueError(f"{name}: not the entry of a file")
    return files


def check_whole(folder: Path | None) -> None:
    """Reads every byte of a cache before something lasting is made of it; a folder without a manifest is the caller's own.

    Raises:
        CacheError: A byte is not as it was written.
    """
    if folder is not None and (folder / MANIFEST).exists():
        problems, _ = verify_manifest(folder / MANIFEST, mend_of(folder))
        if problems:
            raise CacheError(problems[0])


def verify_manifest(path: Path, mend: str) -> tuple[list[str], set[str]]:
    """Reads every byte that a manifest answers for; returns what is wrong, a line each, and the names that belong to it."""
    try:
        entries = _files(unseal(path.read_bytes()))
    except (OSError, ValueError):
        return [f"{path} is damaged or was edited. {mend}"], {other.name for other in path.parent.glob(f"{path.stem}.*")}
    files = {file_of(path, name): entry["sha256"] for name, entry in entries.items()}
    problems = [
        f"{file} is damaged: its bytes are not those that {path.name} names. {mend}"
        for file, digest in files.items()
        if not file.is_file() or file_digest(file) != digest
    ]
    return problems, {path.name, *(file.name for file in files)}


def open_array(path: Path, shape: Sequence[int], dtype: str, mend: str) -> np.memmap:
    """Maps a .npy file read-only, and refuses one that is not the whole of the wanted array.

    Args:
        path: The file.
        shape: Wanted shape.
        dtype: Name of the wanted type, for example ``"float32"``.
        mend: What to do about another one, for the user.

    Raises:
        CacheError: It is missing, damaged, or another array.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # about odd literals, which only damage makes
            array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header makes numpy and Python's parser raise anything
        raise CacheError(f"{path} is damaged: {first_line(error)}. {mend}") from error
    came, wanted = (*array.shape, str(array.dtype)), (*shape, dtype)
    if came != wanted or array.offset + array.nbytes != path.stat().st_size:
        raise CacheError(f"{path} holds {came} in {path.stat().st_size:,} bytes; wanted {wanted} and no more. {mend}")
    return array
