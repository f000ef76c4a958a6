"""The manifest of a cache folder: readable by a person, and such that no byte of any file can change unnoticed.

The manifest names each file with its size and SHA-256, and carries a checksum of itself. Its text is canonical: any other text
with the same values is refused, so that even a changed blank is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from solo_gps.errors import CacheError
from solo_gps.runtime.files import file_digest, flush, seal, unseal, whole_file

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
        flush(path)
        entries[file] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    with whole_file(folder / NAME, locked=True) as unfinished:
        unfinished.write_bytes(seal({**values, "format": FORMAT, "files": entries}))


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
