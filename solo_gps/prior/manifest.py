"""The manifest of a cache folder: readable by a person, and such that no byte of any file can change unnoticed.

The manifest names each file with its size and SHA-256, and carries a checksum of itself. Its text is canonical: any other text
with the same values is refused, so that even a changed blank is found.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from solo_gps.encoders.digest import file_digest
from solo_gps.errors import CacheError

NAME = "manifest.json"
FORMAT = 1


def write_manifest(folder: Path, values: Mapping[str, Any], files: Mapping[str, str | None], name: str = NAME) -> None:
    """Writes the manifest of files that are whole, and then flushes them and it to the disk.

    Args:
        folder: Folder that holds the files.
        values: JSON values to record.
        files: File names, each with its SHA-256 where it is known already.
        name: File name of the manifest.
    """
    entries = {}
    for file, digest in files.items():
        path = folder / file
        _flush(path)
        entries[file] = {"bytes": path.stat().st_size, "sha256": digest or file_digest(path)}
    body = {**values, "format": FORMAT, "files": entries}
    temporary = folder / f"{name}.{os.getpid()}.tmp"
    temporary.write_bytes(_canonical({**body, "checksum": _checksum(body)}))
    _flush(temporary)
    os.replace(temporary, folder / name)


def read_manifest(folder: Path, name: str = NAME) -> dict[str, Any]:
    """Reads a manifest, checks it, and checks that each of its files has the recorded size.

    Raises:
        CacheError: It is missing, damaged or of another format, or a file is missing or truncated.
    """
    path = folder / name
    mend = f"Remove it: solo-gps cache remove {folder.name}"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CacheError(f"{folder} is not a whole cache: {name} cannot be read ({error.strerror}). {mend}") from error
    try:
        manifest = json.loads(text)
        body = {key: value for key, value in manifest.items() if key != "checksum"}
        whole = _canonical(manifest) == text and manifest["checksum"] == _checksum(body)
    except (ValueError, KeyError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise CacheError(f"{path} is damaged or was edited. {mend}")
    if manifest["format"] != FORMAT:
        raise CacheError(f"{path} has format {manifest['format']}, this solo-gps reads {FORMAT}. {mend}")
    for file, entry in manifest["files"].items():
        size = (folder / file).stat().st_size if (folder / file).is_file() else None
        if size != entry["bytes"]:
            came = "is missing" if size is None else f"has {size:,} bytes"
            raise CacheError(f"{folder / file} {came}; wanted {entry['bytes']:,} bytes. {mend}")
    return manifest


def damaged_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Names of the files whose bytes differ from the manifest's digests."""
    return [file for file, entry in manifest["files"].items() if file_digest(folder / file) != entry["sha256"]]


def _canonical(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
