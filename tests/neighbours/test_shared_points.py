"""The ranks of one machine keep the points of a search once, in a file without a name, and find what one process finds."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from processes import torchrun

from solo_gps.errors import CacheError
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours.exact.points import points_of
from solo_gps.runtime import scratch
from solo_gps.runtime.ranks import Ranks

START = """
    import json
    import os
    import signal
    import socket
    import sys
    from pathlib import Path
    from types import SimpleNamespace

    import numpy as np
    import torch.distributed as dist
    from processes import mapped_file

    from solo_gps.interfaces import Embeddings
    from solo_gps.neighbours import find
    from solo_gps.neighbours.exact.points import points_of
    from solo_gps.neighbours.filters.graph import multi_hop
    from solo_gps.runtime import scratch
    from solo_gps.runtime.ranks import training_ranks

    dist.init_process_group("gloo")
    RANK, ALONE = dist.get_rank(), {"distributed": False}
    def rows(name):
        return np.load(name, mmap_mode="r", allow_pickle=False)

    def shared(name, space):
        return Embeddings(array=rows(name), space=space, scratch=Path("scratch"))

    def left():
        return [path.name for path in Path("scratch").iterdir()]
"""


def in_two_ranks(tmp_path: Path, program: str, *arguments: str):
    """Runs a program in two ranks, in a folder with rows of three kinds."""
    draw = np.random.default_rng(3)
    plain = draw.normal(size=(700, 24)).astype(np.float32)
    copies = plain[draw.integers(0, 400, 700)]
    for name, array in {"plain": plain, "copies": copies, "narrow": copies.astype(np.float16)}.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=False)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "program.py").write_text(textwrap.dedent(START) + textwrap.dedent(program))
    return torchrun(tmp_path / "program.py", *arguments, cwd=tmp_path)


@pytest.mark.parametrize("machines", ["one", "two"])
def test_two_ranks_find_what_one_process_finds(machines, tmp_path):
    program = """
        if sys.argv[1] == "two":
            socket.gethostname = lambda: f"machine-{RANK}"
        for name in ("plain", "copies", "narrow"):
            for space, radius in (("cosine", 0.4), ("euclidean", 18.0)):
                for asked in ({"k": 5}, {"radius": radius}):
                    one = find(Embeddings(array=rows(f"{name}.npy"), space=space), ALONE, **asked)
                    two = find(shared(f"{name}.npy", space), None, **asked)
                    assert one.indices.tobytes() == two.indices.tobytes(), (name, space, asked)
                    assert one.distances.tobytes() == two.distances.tobytes(), (name, space, asked)
                one = multi_hop(one, Embeddings(array=rows(f"{name}.npy"), space=space), 2)
                two = multi_hop(two, shared(f"{name}.npy", space), 2, ranks=training_ranks())
                assert one.indices.tobytes() == two.indices.tobytes(), (name, space)
        assert left() == []
        print("all equal", flush=True)
        dist.destroy_process_group()
    """
    done = in_two_ranks(tmp_path, program, machines)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("all equal") == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there the kernel says what a process maps")
@pytest.mark.parametrize(("name", "space"), [("plain", "euclidean"), ("copies", "cosine")])
def test_they_are_in_memory_once(name, space, tmp_path):
    """Both ranks map one file, and of its pages each is charged a half."""
    program = """
        points = points_of(shared(f"{sys.argv[1]}.npy", sys.argv[2]), training_ranks())
        seen = {}
        for kind in ("exact", "search"):
            array = getattr(points, kind)
            assert not array.flags.writeable
            looks = []
            for _ in range(10):  # a machine that is short of memory takes pages back between
                float(array.sum())  # every page is here
                dist.barrier()
                looks.append(mapped_file(array))
                dist.barrier()
            seen[kind] = {"looks": looks, "bytes": array.nbytes, "left": left()}
        Path(f"rank-{RANK}.json").write_text(json.dumps(seen))
        dist.destroy_process_group()
    """
    done = in_two_ranks(tmp_path, program, name, space)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    for kind in ("exact", "search"):
        assert one[kind]["looks"][0]["inode"] == two[kind]["looks"][0]["inode"] > 0
        for rank in (one, two):
            whole = [look for look in rank[kind]["looks"] if look["rss"] << 10 >= rank[kind]["bytes"]]
            assert any(look["pss"] <= look["rss"] / 2 + 1 for look in whole), rank[kind]["looks"]
            assert rank[kind]["left"] == []


def test_nothing_is_left_when_the_rank_that_writes_is_killed(tmp_path):
    program = """
        write = scratch.Scratch.write
        def killed(self, rows, offset):
            write(self, rows, offset)
            Path("written").write_text(str(os.fstat(self.file.fileno()).st_size))
            os.kill(os.getpid(), signal.SIGKILL)
        scratch.Scratch.write = killed
        find(shared("copies.npy", "cosine"), None, k=3)
    """
    done = in_two_ranks(tmp_path, program)
    assert done.returncode != 0
    assert int((tmp_path / "written").read_text()) == 700 * 24 * 4, "it was killed before it wrote: nothing was tested"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_machine_without_room_ends_all_ranks_in_one_line(tmp_path):
    program = """
        if RANK == 0:
            scratch.shutil = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=1000))
        try:
            find(shared("copies.npy", "cosine"), None, k=3)
        except Exception as error:
            print(f"rank {RANK}: {type(error).__name__}: {error}", flush=True)
        assert left() == []
        dist.destroy_process_group()
    """
    done = in_two_ranks(tmp_path, program)
    assert done.returncode == 0, done.stderr[-3000:]
    line = "neighbours: the points of a search need 67.2 kB in scratch for a while, which has 1.0 kB free. Free some, or set"
    assert f"rank 0: CacheError: {line} SOLO_GPS_CACHE" in done.stdout
    assert f"rank 1: ConfigError: another rank failed: rank 0: {line}" in done.stdout


def test_rows_kept_again_take_their_own_place(tmp_path):
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    first = np.array([0, 3, 4, 9, 19])
    with scratch.scratch_file(Ranks(), tmp_path, "the rows") as file:
        for store in (file, scratch.Memory()):
            store.keep("before", [np.ones(3)], (3,), np.float64)
            kept = store.keep("rows", iter([rows[:7], rows[7:]]), rows.shape, np.float32)
            again = store.keep("rows", (kept[first[at : at + 2]] for at in (0, 2, 4)), (5, 2), np.float32)
            assert np.array_equal(again, rows[first])
            assert np.array_equal(store.arrays["rows"], rows[first])
            assert np.array_equal(store.arrays["before"], np.ones(3))
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(again, rows[first]), "what was mapped stays"


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch.os, "pwrite", full)
    with (
        pytest.raises(CacheError, match=r"the rows cannot be written to .*: No space left on device\. Set SOLO_GPS_CACHE or"),
        scratch.scratch_file(Ranks(), tmp_path, "the rows") as file,
    ):
        file.keep("rows", [np.ones(3)], (3,), np.float64)


def test_one_process_keeps_them_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("solo_gps.neighbours.exact.points.scratch_file", lambda *_: pytest.fail("a file for one process"))
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    assert points_of(Embeddings(array=rows, space="cosine", scratch=tmp_path)).search.shape == (30, 4)
