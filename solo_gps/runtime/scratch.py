"""A file without a name: what the ranks of one machine keep once, in the page cache and not in the memory of each of them."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np

from solo_gps.errors import CacheError
from solo_gps.runtime.files import in_bytes
from solo_gps.runtime.ranks import Ranks

ENVIRONMENT = "SOLO_GPS_CACHE"
"""Names the folder of all caches, where scratch files lie too."""
PAGE = 4096

Place: TypeAlias = "tuple[int, tuple[int, ...], str]"
"""Where an array lies in a file: its first byte, shape and dtype."""


class Store(Protocol):
    """Where arrays are kept."""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that are kept, by their names."""

    def keep(self, name: str, blocks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Keeps an array, and returns it.

        Args:
            name: Of the array. One that is kept again takes its own place: a block is read before it is written.
            blocks: Its rows, in their order.
            shape: Of all of them; at most that of before, where it is kept again.
            dtype: Theirs.
        """


class Memory:
    """A :class:`Store` in the memory of this process."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def keep(self, name: str, blocks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """See :class:`Store`."""
        array = self.arrays[name][: shape[0]] if name in self.arrays else np.empty(shape, dtype)
        start = 0
        for block in blocks:
            array[start : start + len(block)] = block
            start += len(block)
        self.arrays[name] = array
        return array


@dataclass(kw_only=True)
class Scratch:
    """The file, as one rank has it; a :class:`Store` in the rank that writes.

    Attributes:
        file: Open, to write and read in the rank that writes, to read alone in the others.
        writes: Whether this rank writes it.
        here: The ranks of this machine, the one that writes first.
        folder: Where it lies, for the user.
        what: What it is for, for the user.
        places: Where each kept array lies; in the rank that writes.
    """

    file: BinaryIO
    writes: bool
    here: list[int]
    folder: Path
    what: str
    places: dict[str, Place] = field(default_factory=dict)
    _end: int = 0

    def write(self, rows: np.ndarray, offset: int) -> None:
        """Writes contiguous rows from byte ``offset`` on.

        Raises:
            CacheError: The disk refuses.
        """
        view = memoryview(rows.data).cast("B")
        try:
            while view:
                written = os.pwrite(self.file.fileno(), view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise _unwritable(self.what, self.folder, error) from error

    def keep(self, name: str, blocks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """See :class:`Store`.

        Raises:
            CacheError: The folder has no room, or the disk refuses.
        """
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        if name in self.places:
            start = self.places[name][0]
        else:
            check_room(self.folder, size, self.what)
            start, self._end = self._end, self._end + -(-size // PAGE) * PAGE
        offset = start
        for block in blocks:
            self.write(np.ascontiguousarray(block, kind), offset)
            offset += block.size * kind.itemsize
        self.places[name] = (start, shape, kind.str)
        return self.map(self.places[name])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """See :class:`Store`."""
        return {name: self.map(place) for name, place in self.places.items()}

    def map(self, place: Place) -> np.ndarray:
        """An array of the file, read-only."""
        offset, shape, kind = place
        return np.memmap(self.file, np.dtype(kind), "r", offset, shape).view(np.ndarray)


def check_room(folder: Path, size: int, what: str) -> None:
    """Checks that a folder has room.

    Args:
        folder: The folder; it is there.
        size: Bytes.
        what: What needs them, for the user.

    Raises:
        CacheError: It has not.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise CacheError(
            f"{what} need {in_bytes(size)} in {folder} for a while, which has {in_bytes(free)} free. Free some, or set "
            f"{ENVIRONMENT} or prior.cache_dir."
        )


@contextmanager
def scratch_file(ranks: Ranks, folder: Path, what: str) -> Iterator[Scratch]:
    """A file that the ranks of one machine share, and the first of them writes; every rank must enter.

    It loses its name before anything is written: however a process ends, nothing is left behind. What was mapped stays when the
    context ends, for as long as somebody holds it.

    Args:
        ranks: All ranks.
        folder: A folder, there and writable.
        what: What the file is for, for the user: "refresh: the embeddings".

    Raises:
        CacheError: A file cannot be made there.
        ConfigError: Another rank failed.
    """
    machines = ranks.gather(socket.gethostname())
    here = [rank for rank in range(ranks.world) if machines[rank] == machines[ranks.rank]]
    error: Exception | None = None
    with ExitStack() as stack:
        file: Any = None
        path: Path | None = None
        if here[0] == ranks.rank:
            try:
                file, path = stack.enter_context(_named_file(folder, what))
            except CacheError as problem:
                error = problem
        shared = ranks.gather(path and str(path))[here[0]]
        if shared and path is None:
            try:
                file = stack.enter_context(open(shared, "rb"))
            except FileNotFoundError:  # another machine of the same name, as containers may be
                here = [ranks.rank]
                file, path = stack.enter_context(_named_file(folder, what))
        ranks.all_agree(error)  # every rank has it open
        if path:
            path.unlink()
        yield Scratch(file=file, writes=path is not None, here=here, folder=folder, what=what)


@contextmanager
def _named_file(folder: Path, what: str) -> Iterator[tuple[BinaryIO, Path]]:
    try:
        descriptor, path = tempfile.mkstemp(prefix=".scratch-", dir=folder)
    except OSError as error:
        raise _unwritable(what, folder, error) from error
    try:
        with open(descriptor, "w+b", buffering=0) as file:
            yield file, Path(path)
    finally:
        Path(path).unlink(missing_ok=True)


def _unwritable(what: str, folder: Path, error: OSError) -> CacheError:
    return CacheError(
        f"{what} cannot be written to {folder}: {error.strerror}. Set {ENVIRONMENT} or prior.cache_dir to a folder with room."
    )
