"""A build that may be killed at any moment: rows in place in one file, finished blocks in a journal with checksums.

A block counts as finished only when the bytes in the file match the checksum in the journal. So nothing has to be flushed while
the build runs, and whatever a kill or a power cut left behind is either whole or made again. With each block stand the digests of
the images that it was made from: they are taken where the images are read anyway, and the cache is named by them at the end.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from solo_gps.embeddings.store import ARRAY
from solo_gps.errors import CacheError
from solo_gps.runtime.files import in_bytes, whole_file
from solo_gps.runtime.store import open_array

JOURNAL = "finished"


class Block(NamedTuple):
    """A finished block.

    Attributes:
        start: Its first row.
        stop: The row after its last.
        checksum: SHA-256 of its rows, in hex.
        images: Digests of its images one after the other, in hex; empty where none was read.
    """

    start: int
    stop: int
    checksum: str
    images: str


class Partial:
    """The array of a build under way.

    Args:
        folder: Folder of the build; it exists.
        shape: (N, D) of the whole array.
        dtype: ``"float32"`` or ``"float16"``.
        rank: Number of this process; each writes its own journal.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], dtype: str, rank: int = 0) -> None:
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self._path = folder / ARRAY
        self._journal = folder / f"{JOURNAL}-{rank}.jsonl"

    def create(self) -> None:
        """Makes the file with room for all rows, unless the one at hand is of this array.

        Raises:
            CacheError: The disk is too full.
        """
        with suppress(CacheError):
            self._rows()
            return
        self.forget()
        free, size = shutil.disk_usage(self.folder).free, math.prod(self.shape) * self.dtype.itemsize
        if free < size:
            raise CacheError(
                f"{self.folder.parent} has {in_bytes(free)} free, the embeddings need {in_bytes(size)}. Free some, "
                "set prior.cache_dir, or use prior.storage=float16."
            )
        with whole_file(self._path, locked=True) as unfinished:
            np.lib.format.open_memmap(unfinished, "w+", self.dtype, self.shape)

    def finished(self) -> list[Block]:
        """The blocks whose bytes match a journal, sorted, without overlaps."""
        entries = sorted({entry for journal in self._journals() for entry in _entries(journal)})
        whole: list[Block] = []
        rows = self._rows()
        for block in entries:
            if (whole and block.start < whole[-1].stop) or not 0 <= block.start < block.stop <= self.shape[0]:
                continue
            if hashlib.sha256(rows[block.start : block.stop].data).hexdigest() == block.checksum:
                whole.append(block)
        return whole

    def keep(self, blocks: list[Block]) -> None:
        """Makes the journals name these blocks alone."""
        with whole_file(self.folder / f"{JOURNAL}.jsonl", locked=True) as unfinished:
            unfinished.write_text("".join(json.dumps(block) + "\n" for block in blocks))
        for journal in self._journals():
            if journal.name != f"{JOURNAL}.jsonl":
                journal.unlink()

    def forget(self) -> None:
        """Makes the journals name no block."""
        for journal in self._journals():
            journal.unlink()

    def _journals(self) -> list[Path]:
        return sorted(self.folder.glob(f"{JOURNAL}*.jsonl"))

    def __enter__(self) -> Partial:
        self._offset = self._rows().offset
        self._file = os.open(self._path, os.O_WRONLY)
        self._log = open(self._journal, "ab", buffering=0)
        self._log.write(b"\n")  # ends a line that a kill cut short
        return self

    def write(self, start: int, rows: np.ndarray, images: bytes = b"") -> None:
        """Writes rows (B, D) from row ``start`` on, then enters the block in the journal, with the digests of its images."""
        assert (rows.dtype, rows.shape[1:]) == (self.dtype, self.shape[1:]), (rows.dtype, rows.shape)
        data = rows.tobytes()
        offset = self._offset + start * self.shape[1] * self.dtype.itemsize
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file, view, offset)
            view, offset = view[count:], offset + count
        entry = Block(start, start + len(rows), hashlib.sha256(data).hexdigest(), images.hex())
        self._log.write(json.dumps(entry).encode() + b"\n")

    def __exit__(self, *error: object) -> None:
        os.close(self._file)
        self._log.close()

    def keep_only(self, files: Collection[str]) -> None:
        """Removes the journals of a build that is whole, and what a kill left under temporary names."""
        for path in self.folder.iterdir():
            if path.name not in files:
                path.unlink()

    def _rows(self) -> np.memmap:
        return open_array(self._path, self.shape, str(self.dtype), "Run again.")


def missing_blocks(images: int, batch_size: int, finished: Sequence[tuple[int, int]]) -> list[range]:
    """Row ranges that are still to do, cut at the multiples of ``batch_size``.

    Args:
        images: Number of rows N.
        batch_size: Rows of a block at most.
        finished: Sorted ranges ``(start, stop)`` without overlaps.
    """
    blocks: list[range] = []
    row = 0
    for start, stop in [*finished, (images, images)]:
        while row < start:
            end = min(start, (row // batch_size + 1) * batch_size)
            blocks.append(range(row, end))
            row = end
        row = stop
    return blocks


def _entries(journal: Path) -> Iterator[Block]:
    for line in journal.read_bytes().splitlines():
        try:
            block = Block(*json.loads(line))
        except (ValueError, TypeError, RecursionError):
            continue  # cut short by a kill
        if [type(value) for value in block] == [int, int, str, str]:
            yield block
