"""solo-learn's own, unmodified main_pretrain.py with its own recipe; needs a checkout, named by SOLO_LEARN_CHECKOUT."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKOUT = os.environ.get("SOLO_LEARN_CHECKOUT", "")
pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(not CHECKOUT, reason="SOLO_LEARN_CHECKOUT names no checkout of solo-learn 1.0.6"),
]


def main_pretrain(digits, out, *overrides):
    arguments = [
        *("--config-path", "scripts/pretrain/cifar", "--config-name", "simclr"),
        *("data.dataset=custom", f"data.train_path={digits / 'train'}", "data.val_path=null", "data.num_workers=2"),
        *("accelerator=cpu", "devices='1'", "strategy=auto", "precision=32", "sync_batchnorm=False"),
        *("wandb.enabled=False", "max_epochs=1", "optimizer.batch_size=16", f"checkpoint.dir={out}"),
    ]
    return subprocess.run(
        [sys.executable, "main_pretrain.py", *arguments, *overrides],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )


def trained(out):
    (file,) = Path(out).rglob("*.ckpt")
    return file, torch.load(file, map_location="cpu", weights_only=True)["state_dict"]


def test_with_and_without_the_switch(digits, tmp_path):
    runs = {}
    for name, overrides in (("stock", []), ("none", ["+sampler=none"]), ("gps", ["+sampler=gps", "sampler.gps.k=3"])):
        done = main_pretrain(digits, tmp_path / name, *overrides)
        assert done.returncode == 0, done.stdout + done.stderr
        runs[name] = (*trained(tmp_path / name), done.stderr)
    assert all(torch.equal(runs["stock"][1][key], runs["none"][1][key]) for key in runs["stock"][1])
    assert not all(torch.equal(runs["stock"][1][key], runs["gps"][1][key]) for key in runs["stock"][1])
    assert "gps on simclr (solo-learn 1.0.6)" in runs["gps"][2]
    assert runs["gps"][0].name.startswith("simclr-cifar10-gps_k=3-")
    assert "-gps" not in runs["stock"][0].name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+sampler=gps", "sampler.gps.choose=farthest"], "Did you mean 'furthest'?"),
        (["+sampler=gps", "method=mae"], "cannot act on method 'mae'"),
        (["+sampler=gps", "sampler.gps.k=48"], "k=48"),
        (["+refresh=features"], "refresh without a sampler"),
        (["+sampler=gps", "sampler.gps.radius=1e-9"], "sampler.gps.radius=1e-09: no image has a positive"),
        (["+sampler=gps", "optimizer.batch_size=49"], "Set optimizer.batch_size to at most 48."),
    ],
)
def test_bad_input_ends_the_program_with_one_clear_line(overrides, message, digits, tmp_path):
    done = main_pretrain(digits, tmp_path / "out", *overrides)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.ckpt"))
