"""Kills, locks and ranks, with real processes."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import torchrun

from solo_gps.embeddings import build, embed, service, verify
from solo_gps.errors import CacheError, DataError, SoloGpsError
from solo_gps.neighbours import find

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes")
fork = multiprocessing.get_context("fork")


def many_digits(images: Any, count: int) -> Any:
    """Real digits, each shifted in brightness so that all differ."""
    repeats = -(-count // len(images))
    tiled = np.concatenate([images.pixels // 2 + shift for shift in range(repeats)])
    images.pixels = tiled[:count].astype(np.uint8)
    return images


def run_quietly(images: Any, prior: dict[str, Any]) -> None:
    embed(images, prior)
    os._exit(0)


def assert_same_files(folder: Path, other: Path) -> None:
    """All files but the manifest, which holds times; says where they differ rather than how their bytes look."""
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        if name == "manifest.json":
            continue
        one, two = (np.frombuffer((place / name).read_bytes(), np.uint8) for place in (folder, other))
        assert len(one) == len(two), name
        differ = np.flatnonzero(one != two)
        assert not len(differ), f"{name}: {len(differ)} of {len(one)} bytes differ, from {differ[0]} to {differ[-1]}"


def test_killed_at_twenty_random_moments_the_result_is_the_same(digit_images: Any, tmp_path: Path) -> None:
    """kill -9 during a build of 10,000 images: fitting, embedding, hashing and renaming are all hit."""
    images = many_digits(digit_images, 10_000)
    prior = {"name": "pca", "image_size": 8, "dimensions": 32, "batch_size": 64, "num_workers": 0, "fit_images": 2000}
    wanted = embed(images, {**prior, "cache_dir": str(tmp_path / "undisturbed")})
    assert wanted.folder is not None
    moments = random.Random(0)
    kills: list[int] = []
    rounds = 0
    while len(kills) < 20 or sum(count > 0 for count in kills) < 10:  # half of them while blocks were being written
        rounds += 1
        root = tmp_path / f"killed-{rounds}"
        folder = root / wanted.fingerprint
        while not folder.exists():
            process = fork.Process(target=run_quietly, args=(images, {**prior, "cache_dir": str(root)}))
            process.start()
            if wait_for_progress(process, folder, moments):
                os.kill(process.pid or 0, signal.SIGKILL)
                kills.append(finished_blocks(folder))
            process.join()
        assert_same_files(folder, wanted.folder)
        assert verify(folder.name, str(root)) == []


@pytest.mark.parametrize("step", ["fsync", "replace", "unlink"])
def test_killed_before_and_after_every_step_on_the_disk_nothing_is_left_over(
    digit_images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    digit_images.pixels = digit_images.pixels[:40]
    prior = {"name": "pca", "image_size": 8, "batch_size": 16, "num_workers": 0}
    wanted = embed(digit_images, {**prior, "cache_dir": str(tmp_path / "undisturbed")})
    assert wanted.folder is not None
    original, kills = getattr(os, step), 0
    while True:
        fatal, calls = kills // 2, [0]

        def stepping(*args: Any, fatal: int = fatal, calls: list[int] = calls, after: bool = kills % 2 == 1, **keys: Any) -> Any:
            calls[0] += 1
            if calls[0] == fatal + 1 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **keys)
            if calls[0] == fatal + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        root = tmp_path / f"killed-{kills}"
        with monkeypatch.context() as patched:
            patched.setattr(os, step, stepping)
            process = fork.Process(target=run_quietly, args=(digit_images, {**prior, "cache_dir": str(root)}))
            process.start()
            process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        embed(digit_images, {**prior, "cache_dir": str(root)})
        assert_same_files(root / wanted.fingerprint, wanted.folder)
        assert verify(wanted.fingerprint, str(root)) == []
    assert kills >= 2


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_search_killed_before_it_renames_leaves_a_cache_that_is_whole(
    digit_images: Any, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    embeddings = embed(digit_images, {"name": "pixels"})
    assert embeddings.folder is not None
    left, original = [steps], os.replace

    def fatal(*args: Any) -> None:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        original(*args)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fatal)
        process = fork.Process(target=find, args=(embeddings,), kwargs={"k": 3})
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(embeddings.folder.glob(".neighbours-*.part"))
    assert verify(embeddings.fingerprint) == []
    find(embeddings, k=3)
    assert not list(embeddings.folder.glob(".neighbours-*.part"))
    assert verify(embeddings.fingerprint) == []


def test_a_learned_state_lies_where_every_process_would_lay_it(digit_images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """BLAS promises equal bits for equally aligned memory only; a resumed build must give the undisturbed one's."""
    from solo_gps.priors.pca import PcaEncoder

    remainders = []
    load_state = PcaEncoder.load_state

    def record(self: Any, state: Any) -> None:
        remainders.append({tensor.data_ptr() % 64 for tensor in state.values()})
        load_state(self, state)

    monkeypatch.setattr(PcaEncoder, "load_state", record)
    embed(digit_images, {"name": "pca", "image_size": 8})
    assert remainders[-1] == {0}


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def finished_blocks(folder: Path) -> int:
    with suppress(FileNotFoundError):  # whole by now: the build may rename its folder at any moment
        return sum(journal.read_bytes().count(b"]") for journal in folder.parent.glob("*.partial/finished*.jsonl"))
    return 0


def wait_for_progress(process: Any, folder: Path, moments: random.Random) -> bool:
    """Waits for a random number of further blocks and a random moment more; returns whether the process still runs."""
    wanted = finished_blocks(folder) + moments.choice([0, 1, 5, 20, 60])
    while process.is_alive() and not folder.exists() and finished_blocks(folder) < wanted:
        time.sleep(0.001)
    process.join(moments.uniform(0, 0.05))
    return bool(process.is_alive())


def ask(images: Any, prior: dict[str, Any], barrier: Any, answers: Any) -> None:
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("solo_gps.embeddings")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    barrier.wait()
    array = embed(images, prior).array
    answers.put((hashlib.sha256(array.tobytes()).hexdigest(), any(": built the" in record for record in records)))


def test_eight_processes_ask_at_once_and_one_builds(digit_images: Any) -> None:
    images = many_digits(digit_images, 2000)
    barrier, answers = fork.Barrier(8), fork.Queue()
    prior = {"name": "pca", "image_size": 8, "num_workers": 0}
    processes = [fork.Process(target=ask, args=(images, prior, barrier, answers)) for _ in range(8)]
    for process in processes:
        process.start()
    got = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len({digest for digest, _ in got}) == 1
    assert sum(built for _, built in got) == 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_main(rank: int, world: int, port: int, images: Any, prior: dict[str, Any], answers: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        embeddings = embed(images, prior, together=True)
        answers.put((rank, hashlib.sha256(embeddings.array.tobytes()).hexdigest()))
    except Exception as error:  # noqa: BLE001
        answers.put((rank, f"{type(error).__name__}: {error}"))


def run_ranks(world: int, images: Any, prior: dict[str, Any]) -> dict[int, str]:
    port, answers = free_port(), fork.Queue()
    processes = [fork.Process(target=rank_main, args=(rank, world, port, images, prior, answers)) for rank in range(world)]
    for process in processes:
        process.start()
    got = dict(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return got


@pytest.mark.parametrize("prior", [{"name": "pca", "image_size": 8}, {"name": "random", "image_size": 32, "layers": ["layer1"]}])
def test_two_ranks_equal_one_process(digit_images: Any, tmp_path: Path, prior: dict[str, Any]) -> None:
    digit_images.pixels = digit_images.pixels[:100]
    keys = {**prior, "batch_size": 8, "num_workers": 0}
    alone = embed(digit_images, {**keys, "cache_dir": str(tmp_path / "alone")})
    got = run_ranks(2, digit_images, {**keys, "cache_dir": str(tmp_path / "together")})
    digest = hashlib.sha256(alone.array.tobytes()).hexdigest()
    assert got == {0: digest, 1: digest}
    assert alone.folder is not None
    assert_same_files(tmp_path / "together" / alone.fingerprint, alone.folder)


class BrokenImages:
    """Images of which one cannot be read."""

    def __init__(self, images: Any, broken: int) -> None:
        self._images, self.broken, self.labels = images, broken, None

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> Any:
        if index == self.broken:
            raise OSError("image file is truncated")
        return self._images.image(index)

    def content(self) -> Any:
        return self._images.content()


def test_an_error_of_one_rank_ends_all(digit_images: Any) -> None:
    broken = BrokenImages(digit_images, 13)
    got = run_ranks(2, broken, {"name": "pixels", "batch_size": 8, "num_workers": 0})
    assert "image 13" in got[1]
    assert "image file is truncated" in got[1]
    assert "rank 1" in got[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_and_the_rest_is_kept(digit_images: Any, cache_dir: Path, workers: int) -> None:
    prior = {"name": "pixels", "batch_size": 8, "num_workers": workers}
    with pytest.raises(
        DataError,
        match=r"^image 50 cannot be read: OSError: image file is truncated. Mend or remove it.$",
    ):
        embed(BrokenImages(digit_images, 50), prior)
    assert [path.name.endswith(".partial") for path in cache_dir.iterdir() if path.name != ".locks"] == [True]
    assert embed(digit_images, prior).array.shape[0] == 120


def test_an_embedding_that_is_not_finite_is_refused(digit_images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from solo_gps.priors.pixels import PixelsEncoder

    monkeypatch.setattr(PixelsEncoder, "embed", lambda self, batch: batch.flatten(1).float() / (batch.float().mean() * 0))
    with pytest.raises(DataError, match=r"the embedding of image 0 is not finite. Try prior.precision=fp32"):
        embed(digit_images, {"name": "pixels", "precision": "bf16"})
    monkeypatch.setattr(PixelsEncoder, "embed", lambda self, batch: batch.flatten(1).float() * 1e6)
    with pytest.raises(DataError, match=r"is not finite. Try prior.storage=float32"):
        embed(digit_images, {"name": "pixels", "storage": "float16"})


def test_a_write_that_fails_is_a_clear_error(digit_images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CacheError, match=r": No space left on device. What was written before is kept: mend the disk"):
        embed(digit_images, {"name": "pixels"})
    monkeypatch.undo()


def test_a_broken_state_of_an_interrupted_build_is_learned_anew(
    digit_images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = {"name": "pca", "image_size": 8}
    wanted = embed(digit_images, {**prior, "cache_dir": str(tmp_path / "a")})
    monkeypatch.setattr("solo_gps.embeddings.build._finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(digit_images, {**prior, "cache_dir": str(tmp_path / "b")})
    monkeypatch.undo()
    (work,) = (tmp_path / "b").glob("*.partial")
    (work / "encoder.safetensors").write_bytes(b"\x10\x00")
    got = embed(digit_images, {**prior, "cache_dir": str(tmp_path / "b")})
    np.testing.assert_array_equal(got.array, wanted.array)


@pytest.mark.slow
def test_torchrun_equals_one_process(folder_images: Any, tmp_path: Path) -> None:
    script = tmp_path / "build.py"
    script.write_text(
        "import pathlib\n"
        "from image_sets import FolderImages\n"
        "from solo_gps.embeddings import embed\n"
        f"images = FolderImages(pathlib.Path({str(folder_images.root)!r}))\n"
        f"embed(images, {{'name': 'pca', 'batch_size': 4, 'cache_dir': {str(tmp_path / 'together')!r}}}, together=True)\n"
    )
    done = torchrun(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = embed(folder_images, {"name": "pca", "batch_size": 4, "cache_dir": str(tmp_path / "alone")})
    assert alone.folder is not None
    assert_same_files(tmp_path / "together" / alone.fingerprint, alone.folder)


def build_without_a_lock(images: Any, prior: dict[str, Any], answers: Any, seed: int) -> None:
    """As on another machine whose network disk locks nothing: at its own pace."""
    service.build_lock = lambda folder: nullcontext()
    pace, embed_batch = random.Random(seed), build.embed_batch
    build.embed_batch = lambda *given: (time.sleep(pace.random() / 200), embed_batch(*given))[1]
    try:
        answers.put(embed(images, prior).fingerprint)
    except SoloGpsError as error:
        answers.put(f"refused: {error}")


@pytest.mark.parametrize("seed", range(4))
def test_two_machines_whose_locks_do_not_see_each_other_never_leave_a_wrong_cache(
    seed: int, digit_images: Any, tmp_path: Path
) -> None:
    """Both build into one folder at once: each has the true cache in the end, or one error; run again, it is there."""
    images = many_digits(digit_images, 600)
    prior = {"name": "pca", "image_size": 8, "dimensions": 8, "batch_size": 16, "num_workers": 0}
    wanted = embed(images, {**prior, "cache_dir": str(tmp_path / "alone")})
    shared = {**prior, "cache_dir": str(tmp_path / "shared")}
    answers = fork.Queue()
    machines = [fork.Process(target=build_without_a_lock, args=(images, shared, answers, 2 * seed + side)) for side in (0, 1)]
    for machine in machines:
        machine.start()
    said = [answers.get(timeout=120) for _ in machines]
    for machine in machines:
        machine.join()
    assert all(one == wanted.fingerprint or one.startswith("refused: ") for one in said), said
    np.testing.assert_array_equal(embed(images, shared).array, wanted.array)
    assert verify(wanted.fingerprint, str(tmp_path / "shared")) == []
