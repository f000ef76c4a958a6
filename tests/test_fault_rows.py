"""Mistakes that were once found late, deep, or not at all: each is one clear error now, before anything is built."""

from __future__ import annotations

import os
from pathlib import Path

import fuzz
import pytest

from solo_gps.hosts.detect import detect_host

pytestmark = [pytest.mark.host, pytest.mark.faults, pytest.mark.filterwarnings("ignore")]
GPS, PIXELS = "+sampler=gps", "+prior=pixels"
PROGRAMS = ["pretrain", *["main"] * bool(os.environ.get("SOLO_LEARN_CHECKOUT"))]
ROWS = {
    "C6-empty-weights": ([GPS, "+prior=checkpoint", "prior.path=empty.pth"], "empty.pth is empty (0 bytes)"),
    "C6-empty-array": ([GPS, "+prior=array", "prior.path=empty.npy"], "empty.npy is empty (0 bytes)"),
    "C6-pointer-for-weights": ([GPS, "+prior=checkpoint", "prior.path=pointer.pth"], "is Git LFS's pointer"),
    "C6-pointer-for-array": ([GPS, "+prior=array", "prior.path=pointer.npy"], "is Git LFS's pointer"),
    "C6-text-for-weights": ([GPS, "+prior=checkpoint", "prior.path=text.pth"], "not a checkpoint of torch's"),
    "C7-batch-of-one": ([GPS, "optimizer.batch_size=1"], "optimizer: batch_size=1 must be at least 2"),
    "C7-no-max-epochs": ([GPS, "~max_epochs", "max_steps=1"], "max_epochs=None: wanted a whole number"),
    "C7-fraction-of-one": ([GPS, "data.fraction=1.0"], "data: fraction=1.0 must be between 0 and 1"),
    "C7-resume-from-nothing": ([GPS, "+resume_from_checkpoint=nope.ckpt"], "resume_from_checkpoint='nope.ckpt': no such file"),
    "C11-brace-in-name": ([GPS, "name='run{1}'", "checkpoint.enabled=true"], "name='run{1}'"),
    "F8-one-crop": ([GPS, "augmentations.0.num_crops=1"], "augmentations: 1 large crops"),
    "F9-beta-inf": (["+sampler=pnn", "sampler.pnn.beta=inf"], "sampler.pnn: beta=inf must be from 0 to 100"),
    "F9-radius-inf": ([GPS, "sampler.gps.radius=inf"], "sampler.gps: radius=inf must be above 0"),
    "F9-prior-rate": ([GPS, "+prior=vae", "prior.learning_rate=inf"], "prior: learning_rate=inf must be above 0"),
    "F9-mean": ([GPS, "+prior=checkpoint", "prior.path=x", "prior.mean=[nan,0,0]"], "prior: mean[0]=nan must be"),
    "F9-learning-rate": ([GPS, "optimizer.lr=nan"], "optimizer.lr=nan must be"),
    "F9-trainer": ([GPS, "+gradient_clip_val=nan"], "gradient_clip_val=nan must be a finite number"),
    "F9-noise": ([GPS, "+prior=vae", "prior.noise=1e-30"], "prior: noise=1e-30 must be from 0.0001 to 1000"),
    "C10-pictures": (["+sampler=sepp", "sampler.sepp.pictures=text.pth"], "sampler.sepp.pictures='text.pth': "),
    "C10-checkpoints": ([GPS, "checkpoint.enabled=true", "checkpoint.dir=text.pth/x"], "checkpoint.dir='text.pth/x': "),
    "C4-no-validation": ([GPS, "data.val_path=nowhere"], "data.val_path='nowhere': no such folder"),
    "C4-empty-class": ([GPS, "data.val_path=val"], "data.val_path='val': class folder 'b' is empty"),
    "C3-validation": ([GPS, "data.val_path=unreadable"], "data.val_path: unreadable/a/0.png cannot be read"),
    "F9-seed-text": ([GPS, "seed=abc"], "seed='abc': wanted a whole number"),
    "F9-seed-half": ([GPS, "seed=1.5"], "seed=1.5: wanted a whole number"),
    "F9-seed-below-0": ([GPS, "seed=-1", "sampler.gps.choose=uniform"], "seed=-1 must be from 0 to 4294967295"),
    "F9-fraction-nan": ([GPS, "data.fraction=nan"], "data.fraction=nan must be"),
    "F9-fraction-0": ([GPS, "data.fraction=0"], "fraction=0.0 must be between 0 and 1"),
    "F9-fraction-below-0": ([GPS, "data.fraction=-0.5"], "fraction=-0.5 must be between 0 and 1"),
    "F10-image-size": ([GPS, PIXELS, "prior.image_size=100000"], "prior: image_size=100000 must be from 1 to 4096"),
    "F10-pca-memory": ([GPS, "+prior=pca", "prior.image_size=1024"], "prior=pca with these sizes: takes"),
    "F10-patches-memory": ([GPS, "+prior=patches", "prior.centroids=65536"], "prior=patches with these sizes: takes"),
    "F10-vae-memory": ([GPS, "+prior=vae", "prior.image_size=2048", "prior.width=4096"], "prior=vae with these sizes: takes"),
    "F10-batch": ([GPS, PIXELS, "prior.batch_size=10000000"], "batch_size=10000000 must be from 1 to 65536"),
    "F10-draws": ([GPS, PIXELS, "prior.augmentation=flip", "prior.draws=100000"], "draws=100000 must be from 1 to 1000"),
    "F10-workers-of-prior": ([GPS, "prior.num_workers=3000", "+prior=pixels"], "num_workers=3000 must be from -1 to"),
    "F10-workers-of-refresh": ([GPS, "+refresh=features", "refresh.num_workers=3000"], "num_workers=3000 must be from -1 to"),
    "F10-workers-of-data": ([GPS, "data.num_workers=3000"], "num_workers=3000 must be from 0 to"),
    "F10-links": ([GPS, "+search=faiss_hnsw", "search.links=100000"], "search: links=100000 must be from 4 to"),
    "F10-memory": ([GPS, "+search=torch", "search.memory_mib=100000000"], "memory_mib=100000000: takes"),
    "F10-k": ([GPS, "sampler.gps.k=100000000000"], "k=100000000000 must be from 1 to"),
    "F10-crops": ([GPS, "augmentations.0.crop_size=100000"], "crop_size=100000 must be from 1 to 4096"),
    "F10-projector": ([GPS, "method_kwargs.proj_hidden_dim=2000000"], "what method_kwargs asks for: takes"),
    "F11-interpolation": ([GPS, "sampler.gps.k=${nope}"], "sampler.gps.k: Interpolation key 'nope' not found"),
    "F11-missing": ([GPS, "sampler.gps.k='???'"], "sampler.gps.k: Missing mandatory value"),
    "F11-group": (["++sampler.gps=${nope}"], "sampler.gps: Interpolation key 'nope' not found"),
    "F11-host": ([GPS, "optimizer.lr=${nope}"], "optimizer.lr: Interpolation key 'nope' not found"),
    "F11-host-missing": ([GPS, "data.train_path='???'"], "data.train_path: "),
    "host-optimizer": ([GPS, "+optimizer.kwargs.foo=1"], "foo"),
    "host-optimizer-value": ([GPS, "+optimizer.kwargs.momentum=-1"], "Invalid momentum value: -1"),
    "host-trainer": ([GPS, "+gradient_clip_val=abc"], "gradient_clip_val"),
    "host-strategy": ([GPS, "strategy=nope"], "strategy"),
    "host-backbone": ([GPS, "+backbone.kwargs.foo=1"], "foo"),
    "host-backbone-name": ([GPS, "backbone.name=nope"], "backbone"),
    "host-scheduler": ([GPS, "scheduler.name=nope"], "scheduler"),
}


@pytest.fixture(scope="module", params=PROGRAMS)
def fuzzer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    for name in ("empty.pth", "empty.npy"):
        (folder / name).touch()
    for name in ("pointer.pth", "pointer.npy"):
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    (folder / "text.pth").write_text("no weights\n")
    for name in ("val/a/0.png", "unreadable/a/0.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"no image")
    (folder / "val" / "b").mkdir()
    return fuzz.Fuzzer(folder, request.param)


@pytest.mark.parametrize("row", ROWS)
def test_one_error_before_anything_is_built(row, fuzzer, own_cache):
    typed, message = ROWS[row]
    outcome = fuzzer.run(["method=simclr", *typed])
    assert outcome.kind == "error", outcome.text
    assert message in outcome.text
    assert not own_cache.exists(), "embedded all the same"


def test_c7_queue_is_no_multiple_of_the_batch(fuzzer, own_cache):
    outcome = fuzzer.run(["method=nnclr", GPS, "method_kwargs.queue_size=20"])
    assert outcome.kind == "error", outcome.text
    assert "method_kwargs.queue_size=20 must be a multiple of batch x devices = 8" in outcome.text
    assert "For example method_kwargs.queue_size=16" in outcome.text
    assert not own_cache.exists()
    assert fuzzer.run(["method=nnclr", GPS, PIXELS, "method_kwargs.queue_size=16"]).kind == "ran"


def test_c7_a_prior_of_one_channel_is_one_error_before_its_images_are_embedded(fuzzer):
    outcome = fuzzer.run(["method=simclr", GPS, "+prior=random", "prior.library=timm", "++prior.kwargs.in_chans=1"])
    assert outcome.kind == "error", outcome.text
    assert "prior 'random' cannot embed an image of shape (3, 64, 64)" in outcome.text
    assert "kwargs" in outcome.text


@pytest.mark.parametrize(
    "typed",
    [
        [],
        [PIXELS, "sampler.gps.k=5"],
        ["+refresh=features", "refresh.start=0"],
        ["optimizer.lr=${seed}"],
        [PIXELS, "+own.key=[1,-inf]", "+limit=inf", "name=exp1/fuzz", "+auto_resume.max_hours=1.5"],
    ],
)
def test_what_is_right_trains(typed, fuzzer):
    outcome = fuzzer.run(["method=simclr", GPS, *typed])
    assert outcome.kind == "ran", outcome.text
    assert "receipt: 8 items seen in 1 steps (finished); 100.0 % of them guided" in outcome.text


def test_c9_the_radius_that_is_suggested_is_accepted(fuzzer):
    outcome = fuzzer.run(["method=simclr", GPS, PIXELS, "sampler.gps.radius=100000", "++search.max_ball=5"])
    assert outcome.kind == "error", outcome.text
    suggested = outcome.text.partition("radius=")[2].partition("radius=")[2].split(" ")[0]
    again = fuzzer.run(["method=simclr", GPS, PIXELS, f"sampler.gps.radius={suggested}", "++search.max_ball=5"])
    assert again.kind == "ran", again.text


def test_f10_an_effort_beyond_the_points_is_all_of_them(fuzzer):
    pytest.importorskip("faiss")
    outcome = fuzzer.run(["method=simclr", GPS, PIXELS, "+search=faiss_hnsw", "search.effort=2000000000"])
    assert outcome.kind == "ran", outcome.text


def test_b4_images_that_all_look_alike_are_an_error_that_names_some(fuzzer, tmp_path):
    from PIL import Image

    for number in range(20):
        file = tmp_path / "white" / str(number % 2) / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "white" if number else "black").save(file)
    for prior in (PIXELS, "+prior=patches"):
        outcome = fuzzer.run(["method=simclr", GPS, prior, f"data.train_path={tmp_path}/white"])
        assert outcome.kind == "error", outcome.text
        assert "19 of 20 images lie at one point" in outcome.text
        assert "0/02.png" in outcome.text
        assert "16-bit" in outcome.text


def test_c8_the_jobs_after_a_bad_one_run(fuzzer):
    """Hydra goes on, reports the bad job and exits with 1."""
    outcome = fuzzer.run(["method=simclr", GPS, PIXELS, "--multirun", "sampler.gps.k=5,100,7"])
    assert outcome.text.count("switched on") == 3
    assert outcome.text.count("receipt: by gps with k=7") == 1
    assert "k=100 neighbours of N=48" in outcome.text
    assert outcome.kind != "ran"


@pytest.mark.slow
def test_random_configurations_train_or_end_with_one_error(fuzzer, tmp_path):
    bad = []
    fuzz.fuzz(40, 0, fuzzer.program, Path(tmp_path), lambda typed, outcome: bad.append((typed, outcome)))
    assert not bad
    assert detect_host()
