"""Every rank of a distributed training is guided, whoever starts it: Lightning itself, torchrun, or Slurm."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
from programs import Steps, check_guided

from solo_gps.errors import ConfigError
from solo_gps.runtime.devices import device_of

pytestmark = pytest.mark.host
TWO_RANKS = ("method_kwargs.queue_size=32", "devices='2'", "strategy=ddp", "max_epochs=2")
NODES = "prior: {name: pixels, image_size: 8}\nsampler: {gps: {k: 3}}\n"
SLURM = {
    **{"SLURM_JOB_ID": "12345", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
    **{"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"},
}


def free_port():
    """Below the range that the kernel gives away by itself: nobody takes it by chance before it is used."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


def by_lightning(programs, command, watch):
    return [(command, {})]


def by_torchrun(programs, command, watch):
    script = command[1:] if command[1] != "-m" else ["--module", *command[2:]]
    return [([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *script], {})]


def by_slurm(programs, command, watch):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [(command, {**SLURM, **address, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}) for rank in ("0", "1")]


@pytest.mark.parametrize(
    ("program", "start"),
    [("main", by_lightning), ("main", by_torchrun), ("main", by_slurm), ("pretrain", by_lightning), ("pretrain", by_slurm)],
)
def test_each_rank_is_guided_on_its_own_share(program, start, programs):
    programs.recipe(programs.text + NODES)
    watch = programs.watch()
    command = programs.command(program, *TWO_RANKS)
    runs = [
        subprocess.Popen(
            argv,
            cwd=programs.place(program),
            env=programs.environ(watch, **environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for argv, environ in start(programs, command, watch)
    ]
    try:
        printed = "".join(run.communicate(timeout=900)[0] for run in runs)
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0] * len(runs), printed
    steps = Steps(watch).all
    for rank in (0, 1):
        check_guided([step for step in steps if step["rank"] == rank], "gps", programs.images)
    for number in (0, 1):
        seen = np.concatenate([step["items"] for step in steps if step["step"] == number])
        assert len(set(seen.tolist())) == len(seen) == 32, "the ranks share the images"
    assert printed.count("64 items seen in 2 steps (finished)") == 1, "one receipt, over both ranks"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere each process has memory of its own")
def test_the_ranks_of_one_machine_share_the_decoded_images(programs, own_cache):
    programs.recipe(f"{programs.text}{NODES}images: {{store: memory}}\n")
    watch = programs.watch()
    command, environ = programs.command("pretrain", *TWO_RANKS), programs.environ(watch)
    run = subprocess.Popen(command, cwd=programs.folder, env=environ, stderr=subprocess.PIPE, text=True)
    assert "kept 48 decoded images" in run.communicate(timeout=900)[1]
    assert run.returncode == 0
    for rank in (0, 1):
        check_guided([step for step in Steps(watch).all if step["rank"] == rank], "gps", programs.images)
    (record,) = own_cache.glob(".records/*.json")
    assert json.loads(record.read_text())["pid"] == run.pid, "the second rank, which starts later, made none of its own"


@pytest.mark.parametrize(
    ("environ", "device"),
    [
        ({}, "cuda:0"),
        ({"LOCAL_RANK": "1"}, "cuda:1"),
        ({"SLURM_PROCID": "5", "SLURM_LOCALID": "1"}, "cuda:1"),
        ({"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "LOCAL_RANK": "0"}, "cuda:0"),
        ({"LOCAL_RANK": "3"}, "cuda:1"),
    ],
)
def test_the_prior_of_a_rank_is_on_that_ranks_own_device(environ, device, monkeypatch):
    for name in ("LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("auto") == torch.device(device)
    with pytest.raises(ConfigError, match="2 CUDA devices"):
        device_of("cuda:2")
