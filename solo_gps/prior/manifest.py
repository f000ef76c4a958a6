"""The manifest of a cache folder: readable by a person, and such that no byte of any file can change unnoticed.

The manifest names each file with its size and SHA-256, and carries a checksum of itself. Its text is canonical: any other text
with the same values is refused, so that even a changed blank is found.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from solo_gps.encoders.digest import file_digest
from solo_gps.errors import CacheError

NAME = "manifest.json"
FORMAT = 1


def write_manifest(folder: Path, values: Mapping[str, Any], files: Iterable[str]) -> None:
    """Writes the manifest of files that are whole, and then flushes them and it to the disk. One process at a time.

    Args:
        folder: Folder that holds the files.
        values: JSON values to record.
        files: File names.
    """
    entries = {}
    for file in files:
        path = folder / file
        _flush(path)
        entries[file] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    temporary = folder / f"{NAME}.tmp"
    temporary.write_bytes(seal({**values, "format": FORMAT, "files": entries}))
    _flush(temporary)
    os.replace(temporary, folder / NAME)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads a manifest, checks it, and checks that each of its files has the recorded size.

    Raises:
        CacheError: It is missing, damaged or of another format, or a file is missing or truncated.
    """
    path = folder / NAME
    mend = f"Remove it: solo-gps cache remove {folder.name}"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CacheError(f"{folder} is not a whole cache: {NAME} cannot be read ({error.strerror}). {mend}") from error
    try:
        manifest = unseal(text)
    except ValueError as error:
        raise CacheError(f"{path} is damaged or was edited. {mend}") from error
    if manifest["format"] != FORMAT:
        raise CacheError(f"{path} has format {manifest['format']}, this solo-gps reads {FORMAT}. {mend}")
    for file, entry in manifest["files"].items():
        size = (folder / file).stat().st_size if (folder / file).is_file() else None
        if size != entry["bytes"]:
            came = "is missing" if size is None else f"has {size:,} bytes"
            raise CacheError(f"{folder / file} {came}; wanted {entry['bytes']:,} bytes. {mend}")
    return manifest


def seal(values: Mapping[str, Any]) -> bytes:
    """The canonical JSON text of ``values``, with a checksum of itself."""
    return _canonical({**values, "checksum": _checksum(values)})


def unseal(text: bytes) -> dict[str, Any]:
    """Returns the values of a text that :func:`seal` made.

    Raises:
        ValueError: Any byte of it changed.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        checksum = values.pop("checksum")
        whole = seal(values) == text and checksum == _checksum(values)
    except (KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError("not a sealed text") from error
    if not whole:
        raise ValueError("the text was changed")
    return values


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
