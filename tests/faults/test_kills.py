"""Processes that are killed, wait for one that was, or work in one folder at once: the next ends as if nothing had been."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from solo_gps.embeddings import embed, list_caches, verify
from solo_gps.errors import MachineError
from solo_gps.neighbours import find

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="forks and kills processes")]
fork = multiprocessing.get_context("fork")
PRIOR = {"name": "pca", "image_size": 8, "num_workers": 0, "batch_size": 8}


class SlowImages:
    """Images that take their time, and may do something at one of them."""

    def __init__(self, images, *, seconds=0.0, at=None, do=None):
        self.labels, self._images, self._seconds, self._at, self._do = None, images, seconds, at, do

    def __len__(self):
        return len(self._images)

    def image(self, index):
        time.sleep(self._seconds)
        if index == self._at:
            self._do()
        return self._images.image(index)

    def content(self):
        return self._images.content()


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(process, after):
    """Kills a process when something is so; whether it was still at work."""
    deadline = time.monotonic() + 60
    while process.is_alive() and not after():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    alive = process.is_alive()
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return alive


def test_a_search_that_is_killed_at_random_moments_ends_in_the_same_table(digit_images, tmp_path):
    made = embed(digit_images, PRIOR)
    wanted = find(embed(digit_images, {**PRIOR, "cache_dir": str(tmp_path / "undisturbed")}), None, k=5)
    moments, kills, longest = random.Random(0), 0, 60.0
    while kills < 10:
        for path in made.folder.glob("neighbours-*.*"):
            path.unlink()
        started = time.monotonic()
        process = fork.Process(target=find, args=(made, None), kwargs={"k": 5})
        process.start()
        end = started + moments.uniform(0, longest)
        if killed(process, lambda end=end: time.monotonic() > end):
            kills += 1
        else:
            longest = time.monotonic() - started  # what a whole one takes now
        table = find(made, None, k=5)
        np.testing.assert_array_equal(table.indices, wanted.indices)
        np.testing.assert_array_equal(table.distances, wanted.distances)
        assert verify(made.fingerprint) == []


def test_a_waiter_takes_over_from_a_holder_that_is_killed(digit_images, tmp_path):
    prior = {**PRIOR, "name": "pixels"}  # it reads each image once
    wanted = embed(digit_images, {**prior, "cache_dir": str(tmp_path / "undisturbed")})
    holder = fork.Process(target=embed, args=(SlowImages(digit_images, at=100, do=lambda: time.sleep(600)), prior))
    holder.start()
    while not list(Path(os.environ["SOLO_GPS_CACHE"]).glob("*.partial/finished*")):
        time.sleep(0.002)
    waiters = [fork.Process(target=embed, args=(digit_images, prior)) for _ in range(2)]
    for waiter in waiters:
        waiter.start()
    time.sleep(0.3)
    assert all(waiter.is_alive() for waiter in waiters)
    assert killed(holder, lambda: True)
    for waiter in waiters:
        waiter.join(60)
        assert waiter.exitcode == 0
    (info,) = list_caches()
    assert info.status == "whole"
    np.testing.assert_array_equal(embed(digit_images, prior).array, wanted.array)


def test_the_locks_of_dead_processes_keep_nobody_waiting(digit_images):
    made = embed(digit_images, PRIOR)
    find(made, None, k=2)
    locks = [*made.folder.parent.glob(".locks/*"), *made.folder.glob(".locks/*")]
    assert locks
    for path in made.folder.iterdir():
        if path.is_file():
            path.unlink()
    for lock in locks:
        lock.write_text("4194304\nanother-machine\n")  # of whoever died there
    made.folder.joinpath(".locks").rename(made.folder.parent / "locks-of-the-table")
    made.folder.rmdir()
    started = time.monotonic()
    again = embed(digit_images, PRIOR)
    (again.folder / ".locks").mkdir(exist_ok=True)
    for lock in (made.folder.parent / "locks-of-the-table").iterdir():
        (again.folder / ".locks" / lock.name).write_text(lock.read_text())
    assert find(again, None, k=2).indices.shape == (120, 2)
    assert time.monotonic() - started < 60, "it would wait for ever"


def test_a_lock_that_another_process_holds_is_waited_for(digit_images, caplog):
    caplog.set_level("INFO")
    made = embed(digit_images, PRIOR)
    (lock,) = made.folder.parent.glob(".locks/*.lock")
    for path in made.folder.iterdir():
        path.unlink()
    made.folder.rmdir()
    held, release = fork.Event(), fork.Event()

    def hold():
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            held.set()
            release.wait(60)

    def release_when_said(record):
        if "another process is building these embeddings; waiting for it" in record.getMessage():
            release.set()
        return True

    holder = fork.Process(target=hold)
    holder.start()
    assert held.wait(60)
    with patch.object(caplog.handler, "filters", [release_when_said]):
        np.testing.assert_array_equal(embed(digit_images, PRIOR).array, made.array)
    assert release.is_set()
    holder.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_of_the_prior_that_is_killed_is_one_error_and_what_was_done_is_kept(workers, digit_images, tmp_path):
    wanted = embed(digit_images, {**PRIOR, "cache_dir": str(tmp_path / "undisturbed")})
    prior = {**PRIOR, "num_workers": workers}
    parent = os.getpid()
    said = r"^a process that reads images has ended: DataLoader worker .* lower the number of workers"
    with pytest.raises(MachineError, match=said) as error:
        embed(SlowImages(digit_images, at=100, do=lambda: os.getpid() != parent and kill_self()), prior)
    assert "\n" not in str(error.value)
    again = embed(digit_images, prior)
    np.testing.assert_array_equal(again.array, wanted.array)
    assert verify(again.fingerprint) == []


@pytest.mark.host
def test_a_worker_of_the_training_that_is_killed_ends_the_run(recipe, train, monkeypatch):
    from solo_gps.guide.dataset import GuidedDataset

    original, parent = GuidedDataset.__getitem__, os.getpid()
    monkeypatch.setattr(
        GuidedDataset, "__getitem__", lambda self, item: kill_self() if os.getpid() != parent else original(self, item)
    )
    cfg = recipe(max_steps=2, sampler={"gps": {"k": 1}}, prior=PRIOR)
    cfg.data.num_workers = 2
    with pytest.raises(RuntimeError, match=r"^DataLoader worker .* (is killed|exited)"):
        train(cfg)


@pytest.mark.host
def test_two_runs_in_one_folder_of_caches_at_once(programs):
    """Two programs from their first line: one builds, both end as one alone does."""
    arguments = ("+sampler=gps", "+prior=pca", "sampler.gps.k=3", "prior.image_size=8", "prior.num_workers=0")
    environ, place = programs.environ(programs.watch()), programs.place("main")
    runs = [
        subprocess.Popen(
            programs.command("main", *arguments, f"hydra.run.dir={programs.folder}/run-{number}", f"name=run-{number}"),
            cwd=place,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    printed = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    assert sorted("built the embeddings" in text for text in printed) == [False, True]
    (info,) = list_caches()
    assert verify(info.fingerprint) == []


def train_and_keep(cfg, folder, stop=None, checkpoint=None, in_refresh=False):
    """Trains with the images in order, keeps every epoch's checkpoint and the weights; dies at a step, or in a refresh."""
    import solo_gps
    from solo_gps.hosts.detect import detect_host

    warnings.simplefilter("ignore")  # a process of its own
    host = detect_host()
    os.environ["SOLO_GPS_CACHE"] = str(folder / "caches")

    class Keep(host.lightning.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == stop:
                kill_self()

        def on_train_epoch_end(self, trainer, module):
            trainer.save_checkpoint(folder / f"epoch-{trainer.current_epoch}.ckpt")

    with solo_gps.activate(cfg):
        full = host.complete(cfg)
        host.lightning.seed_everything(full.seed)
        model = host.build_method(full, host.methods["simclr"])
        if in_refresh:
            layer = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
            layer.register_forward_hook(lambda layer, given, _: None if layer.training or len(given[0]) == 1 else kill_self())
        made = host.build_train_loader(full)
        loader = type(made)(made.dataset, batch_size=8, drop_last=True)
        trainer = host.lightning.Trainer(**{**host.trainer_kwargs(full), "callbacks": [Keep()], "logger": False})
        trainer.fit(model, loader, ckpt_path=checkpoint)
    torch.save(model.state_dict(), folder / "trained.pth")


@pytest.mark.host
def test_a_guided_run_that_is_killed_resumes_and_ends_as_an_undisturbed_one(recipe, tmp_path):
    """Before any checkpoint, and in an epoch after a refresh, whose table is in the checkpoint."""

    def run(folder, **how):
        cfg = recipe(max_epochs=3, sampler={"gps": {"k": 4, "choose": "uniform"}}, prior=PRIOR, refresh={"every": 2, "start": 1})
        (tmp_path / folder).mkdir(exist_ok=True)
        process = fork.Process(target=train_and_keep, args=(cfg, tmp_path / folder), kwargs=how)
        process.start()
        process.join(300)
        return process.exitcode

    assert run("undisturbed") == 0
    assert run("killed", stop=2) == -signal.SIGKILL
    assert not list((tmp_path / "killed").glob("*.ckpt"))
    assert run("killed", stop=15) == -signal.SIGKILL
    assert run("killed", checkpoint=str(tmp_path / "killed" / "epoch-1.ckpt")) == 0
    wanted, got = (torch.load(tmp_path / folder / "trained.pth") for folder in ("undisturbed", "killed"))
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    assert not list((tmp_path / "killed" / "caches").glob(".scratch-*")), "a refresh leaves nothing behind"


@pytest.mark.host
def test_a_run_that_is_killed_in_the_middle_of_a_refresh_leaves_nothing_and_resumes(recipe, tmp_path):
    cfg = recipe(max_epochs=2, sampler={"gps": {"k": 2}}, prior=PRIOR, refresh={"every": 1, "start": 1})
    (tmp_path / "killed").mkdir()
    process = fork.Process(target=train_and_keep, args=(cfg, tmp_path / "killed"), kwargs={"in_refresh": True})
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    (checkpoint,) = (tmp_path / "killed").glob("*.ckpt")
    assert not list((tmp_path / "killed" / "caches").glob(".scratch-*"))
    process = fork.Process(target=train_and_keep, args=(cfg, tmp_path / "killed"), kwargs={"checkpoint": str(checkpoint)})
    process.start()
    process.join(300)
    assert process.exitcode == 0
