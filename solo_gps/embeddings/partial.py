"""A build that may be killed at any moment: rows in place in one file, finished blocks in a journal with checksums.

A block counts as finished only when the bytes in the file match the checksum in the journal. So nothing has to be flushed while
the build runs, and whatever a kill or a power cut left behind is either whole or made again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from solo_gps.embeddings.store import ARRAY
from solo_gps.errors import CacheError
from solo_gps.runtime.files import whole_file
from solo_gps.runtime.store import open_array

JOURNAL = "finished"


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
        for journal in self.folder.glob(f"{JOURNAL}-*.jsonl"):
            journal.unlink()
        free, size = shutil.disk_usage(self.folder).free, math.prod(self.shape) * self.dtype.itemsize
        if free < size:
            raise CacheError(
                f"{self.folder.parent} has {free / 1e9:,.1f} GB free, the embeddings need {size / 1e9:,.1f} GB. Free some, "
                "set prior.cache_dir, or use prior.storage=float16."
            )
        with whole_file(self._path, locked=True) as unfinished:
            np.lib.format.open_memmap(unfinished, "w+", self.dtype, self.shape)

    def finished(self) -> list[tuple[int, int]]:
        """Row ranges ``(start, stop)`` of the blocks whose bytes match a journal, sorted, without overlaps."""
        entries = sorted({entry for journal in self.folder.glob(f"{JOURNAL}-*.jsonl") for entry in _entries(journal)})
        whole: list[tuple[int, int]] = []
        rows = self._rows()
        for start, stop, digest in entries:
            if (whole and start < whole[-1][1]) or not 0 <= start < stop <= self.shape[0]:
                continue
            if hashlib.sha256(rows[start:stop].data).hexdigest() == digest:
                whole.append((start, stop))
        return whole

    def __enter__(self) -> Partial:
        self._offset = self._rows().offset
        self._file = os.open(self._path, os.O_WRONLY)
        self._log = open(self._journal, "ab", buffering=0)
        self._log.write(b"\n")  # ends a line that a kill cut short
        return self

    def write(self, start: int, rows: np.ndarray) -> None:
        """Writes rows (B, D) from row ``start`` on, then enters the block in the journal."""
        assert (rows.dtype, rows.shape[1:]) == (self.dtype, self.shape[1:]), (rows.dtype, rows.shape)
        data = rows.tobytes()
        offset = self._offset + start * self.shape[1] * self.dtype.itemsize
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file, view, offset)
            view, offset = view[count:], offset + count
        entry = [start, start + len(rows), hashlib.sha256(data).hexdigest()]
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


def missing_blocks(images: int, batch_size: int, finished: list[tuple[int, int]]) -> list[range]:
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


def _entries(journal: Path) -> Iterator[tuple[int, int, str]]:
    for line in journal.read_bytes().splitlines():
        try:
            start, stop, digest = json.loads(line)
        except (ValueError, TypeError):
            continue  # cut short by a kill
        if isinstance(start, int) and isinstance(stop, int) and isinstance(digest, str):
            yield start, stop, digest
