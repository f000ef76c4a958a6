"""Files: digests, sealed texts, and writing that leaves a whole file or none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from solo_gps.errors import MachineError

CHUNK = 1 << 20


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def in_bytes(size: int) -> str:
    """A number of bytes, for the user: ``"3.1 GB"``."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= one:
            return f"{size / one:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"


def check_can_write(folder: str | Path, where: str) -> None:
    """Checks that files can be written to a folder, which may have to be made first.

    Args:
        folder: The folder.
        where: What names it, for the user, for example ``"checkpoint.dir"``.

    Raises:
        MachineError: They cannot.
    """
    there = Path(folder).absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise MachineError(f"{where}={str(folder)!r}: {there} is no folder. Set {where} to another place.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise MachineError(f"{where}={str(folder)!r}: {there} cannot be written to. Mend its permissions, or set another.")


def check_can_be_file(path: str | Path, where: str) -> None:
    """Checks that a file can be written at a path, whose folder may have to be made first (see :func:`check_can_write`).

    A device or a pipe is refused: what takes its place would be a file.
    """
    if Path(path).is_dir():
        raise MachineError(f"{where}={str(path)!r}: is a folder. Name a file in it.")
    if os.path.lexists(path) and not Path(path).is_file():
        raise MachineError(f"{where}={str(path)!r}: is no file. Name another.")
    check_can_write(Path(path).absolute().parent, where)


@contextmanager
def whole_file(path: Path, *, locked: bool = False) -> Iterator[Path]:
    """Gives the name of a file to write; at the end it is flushed and takes the place of ``path``, or is gone after an error.

    Args:
        path: The file; whoever looks sees the one before or the new one, never a part. Its folder is made.
        locked: One process at a time writes it: the remains of one that was killed are then written over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{'part' if locked else os.getpid()}")
    try:
        yield unfinished
        flush(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a whole UTF-8 text (:func:`whole_file`); where a link leads to a file, to that file."""
    with whole_file(Path(os.path.realpath(path))) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


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


def flush(path: Path) -> None:
    """Flushes a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
