"""Blocks and journals of a build that may be killed."""

from __future__ import annotations

import collections
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_gps.embeddings.partial import Partial, missing_blocks
from solo_gps.errors import CacheError


@given(st.integers(1, 60), st.integers(1, 20), st.lists(st.integers(0, 60), max_size=8))
def test_missing_blocks_cover_the_rest_once(images: int, batch_size: int, cuts: list[int]) -> None:
    marks = sorted({min(cut, images) for cut in cuts})
    finished = list(zip(marks[::2], marks[1::2], strict=False))
    blocks = missing_blocks(images, batch_size, finished)
    rows = [row for block in blocks for row in block] + [row for start, stop in finished for row in range(start, stop)]
    assert sorted(rows) == list(range(images))
    for block in blocks:
        assert 0 < len(block) <= batch_size
        assert block.start // batch_size == (block.stop - 1) // batch_size


def test_an_undisturbed_build_uses_whole_batches() -> None:
    assert missing_blocks(7, 3, []) == [range(0, 3), range(3, 6), range(6, 7)]
    assert missing_blocks(7, 3, [(3, 6)]) == [range(0, 3), range(6, 7)]
    assert missing_blocks(7, 3, [(0, 7)]) == []


@pytest.fixture
def partial(tmp_path: Path) -> Partial:
    partial = Partial(tmp_path, (10, 3), "float32")
    partial.create()
    return partial


def ranges(partial: Partial) -> list[tuple[int, int]]:
    return [(block.start, block.stop) for block in partial.finished()]


def rows(start: int, stop: int) -> np.ndarray:
    return np.arange(start * 3, stop * 3, dtype=np.float32).reshape(-1, 3)


def test_written_blocks_are_finished_and_readable(partial: Partial) -> None:
    with partial:
        partial.write(4, rows(4, 7))
        partial.write(0, rows(0, 2))
    assert ranges(partial) == [(0, 2), (4, 7)]
    partial.create()
    assert ranges(partial) == [(0, 2), (4, 7)], "creating again keeps what is there"
    with partial:
        for start, stop in [(2, 4), (7, 10)]:
            partial.write(start, rows(start, stop))
    array = np.load(partial.folder / "embeddings.npy", allow_pickle=False)
    np.testing.assert_array_equal(array, rows(0, 10))


def test_a_block_whose_bytes_changed_is_not_finished(partial: Partial) -> None:
    with partial:
        partial.write(0, rows(0, 5))
        partial.write(5, rows(5, 10))
    path = partial.folder / "embeddings.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert ranges(partial) == [(0, 5)]


@given(cut=st.integers(0, 200))
def test_a_journal_cut_anywhere_is_read_up_to_there(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    partial = Partial(folder, (4, 3), "float16")
    partial.create()
    with partial:
        partial.write(0, rows(0, 2).astype(np.float16))
        partial.write(2, rows(2, 4).astype(np.float16))
    journal = folder / "finished-0.jsonl"
    text = journal.read_bytes()
    ends = [index for index, byte in enumerate(text) if byte == ord("]")]
    journal.write_bytes(text[:cut])
    assert len(partial.finished()) == sum(cut > end for end in ends)
    with partial:
        partial.write(0, rows(0, 2).astype(np.float16))
    assert (0, 2) in ranges(partial), "an entry after a broken line is read"
    shutil.rmtree(folder)


def test_nonsense_in_a_journal_is_ignored(partial: Partial) -> None:
    (partial.folder / "finished-3.jsonl").write_text('[0, 99, "x", ""]\n[5, 2, "x", ""]\n{"a": 1}\n[1]\n17\n[0, 1, 2, 3]\n\xff\n')
    assert partial.finished() == []


def test_another_shape_starts_anew(partial: Partial) -> None:
    with partial:
        partial.write(0, rows(0, 5))
    other = Partial(partial.folder, (10, 4), "float32")
    other.create()
    assert other.finished() == []
    assert np.load(partial.folder / "embeddings.npy").shape == (10, 4)


def test_a_full_disk_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(CacheError, match=r"has 1.0 MB free, the embeddings need 4.0 GB.*prior.storage=float16"):
        Partial(tmp_path, (10**6, 1000), "float32").create()
