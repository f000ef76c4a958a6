"""Embeddings of a network that goes on changing."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from solo_gps.embeddings.live import LiveNetwork
from solo_gps.embeddings.snapshot import check_same_images, snapshot
from solo_gps.errors import DataError
from solo_gps.priors.base import PriorConfig
from solo_gps.priors.parts.loading import worker_count
from solo_gps.runtime import scratch


def live(forward, **keys):
    config = PriorConfig(name="network", **keys)
    return LiveNetwork(config, forward, device=torch.device("cpu"), image_size=8, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))


def by_hand(images):
    raw = np.stack([np.asarray(images.image(index), np.float32) / 255 for index in range(len(images))])
    return ((raw - np.float32([0.5, 0.25, 0.0])) / np.float32([0.5, 1.0, 2.0])).transpose(0, 3, 1, 2).reshape(len(images), -1)


@pytest.mark.parametrize(("batch_size", "workers"), [(7, 0), (120, 0), (1000, 2), (16, 2)])
def test_it_holds_what_the_network_sees(batch_size, workers, digit_images, cache_dir):
    encoder = live(lambda pixels: pixels.contiguous().flatten(1), batch_size=batch_size, num_workers=workers, space="cosine")
    with snapshot(digit_images, encoder) as embeddings:
        assert (embeddings.space, embeddings.folder) == ("cosine", None)
        assert not embeddings.array.flags.writeable
        np.testing.assert_allclose(embeddings.array, by_hand(digit_images), atol=1e-6)


def test_a_later_look_sees_the_later_network(digit_images, cache_dir):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
    looks = []
    for _ in range(2):
        with snapshot(digit_images, live(network)) as embeddings:
            looks.append(np.array(embeddings.array))
        torch.nn.init.normal_(network[1].weight)
    assert looks[0].shape == looks[1].shape == (120, 5)
    assert (looks[0] != looks[1]).all(axis=1).all()


def test_nothing_is_left_on_disk_even_while_it_is_read(digit_images, cache_dir):
    with snapshot(digit_images, live(torch.nn.Flatten())) as embeddings:
        left = [path for path in cache_dir.iterdir() if path.name != ".locks"]
        assert left == []
        assert np.isfinite(embeddings.array).all()
    array = embeddings.array  # who keeps it may go on reading
    del embeddings
    gc.collect()
    assert array.shape == (120, 192)


def test_an_error_leaves_nothing_either(digit_images, cache_dir):
    def broken(pixels):
        rows = pixels.flatten(1)
        rows[5 % len(rows), 3] = float("nan")
        return rows

    with pytest.raises(DataError, match="gives image 5 an embedding that is not finite"), snapshot(digit_images, live(broken)):
        pass
    assert [path for path in cache_dir.iterdir() if path.name != ".locks"] == []


def test_random_generators_are_left_as_they_were(digit_images, cache_dir):
    def greedy(pixels):
        random.random()
        np.random.rand()
        return pixels.flatten(1) + torch.rand(1)

    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    with snapshot(digit_images, live(greedy, num_workers=2, batch_size=16)):
        pass
    after = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    assert before[0] == after[0]
    assert (before[1] == after[1]).all()
    assert torch.equal(before[2], after[2])


def rank_main(rank, meeting, take, answers):
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        answers.put((rank, take(rank)))
    except Exception as error:  # noqa: BLE001
        answers.put((rank, f"{type(error).__name__}: {error}"))
    torch.distributed.destroy_process_group()


def in_two_ranks(take):
    """What ``take(rank)`` returns, or the error that it raises, in each of two ranks (gloo)."""
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "ranks"
        processes = [fork.Process(target=rank_main, args=(rank, meeting, take, answers), daemon=True) for rank in (0, 1)]
        for process in processes:
            process.start()
        got = dict(answers.get(timeout=300) for _ in processes)
        for process in processes:
            process.join()
    return got[0], got[1]


def look(images):
    with snapshot(images, live(torch.nn.Flatten(), batch_size=16)) as embeddings:
        return np.array(embeddings.array)


@pytest.mark.parametrize("machines", ["one", "one by name alone", "two"])
def test_two_ranks_see_what_one_process_sees(machines, digit_images, cache_dir, monkeypatch):
    def take(rank):
        if machines == "two":
            monkeypatch.setattr(socket, "gethostname", lambda: f"machine-{rank}")
        if machines == "one by name alone" and rank == 1:
            monkeypatch.setattr(scratch, "open", absent_when_reading, raising=False)
        return look(digit_images)

    for got in in_two_ranks(take):
        np.testing.assert_allclose(got, by_hand(digit_images), atol=1e-6)
    assert [path.name for path in cache_dir.iterdir()] == [".locks"]


def absent_when_reading(file, mode="r", *args, **keys):
    if mode == "rb":
        raise FileNotFoundError(file)
    return open(file, mode, *args, **keys)


def test_an_error_of_one_rank_ends_both(digit_images, cache_dir):
    whole = digit_images.image

    def take(rank):
        def image(index):
            if index == 20:
                raise OSError("image file is truncated")
            return whole(index)

        digit_images.image = image
        return look(digit_images)

    first, second = in_two_ranks(take)
    assert "image 20 cannot be read: OSError: image file is truncated" in second
    assert second.startswith("UnreadableImageError")
    assert "rank 1: image 20" in first


def test_a_full_disk_of_one_rank_ends_both(digit_images, cache_dir, monkeypatch):
    def take(rank):
        def full(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        return look(digit_images)

    first, second = in_two_ranks(take)
    assert first.startswith("CacheError: refresh: the embeddings of the network being trained cannot be written")
    assert "rank 0" in second


def test_ranks_with_their_images_in_another_order_are_refused(digit_images):
    def take(rank):
        if rank == 1:
            digit_images.pixels = digit_images.pixels[::-1].copy()
        return check_same_images(digit_images, None)

    for got in in_two_ranks(take):
        assert got.startswith("DataError: ranks 0 and 1 list different training images")
    digests = in_two_ranks(lambda _: check_same_images(digit_images, None))
    assert digests[0] == digests[1]
    assert len(digests[0]) == 64


def test_ranks_of_one_machine_share_its_cpus(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(6), raising=False)
    assert [worker_count(-1, 10_000, processes) for processes in (1, 2, 4, 8)] == [6, 3, 1, 1]
    assert (worker_count(5, 10, 8), worker_count(-1, 10, 1)) == (5, 0)
