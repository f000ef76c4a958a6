"""What a killed build, or a checkpoint, holds for the next run: used as it was, made anew, or refused; never used damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from damages import damage, damages
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from solo_gps.embeddings import embed, list_caches, verify
from solo_gps.errors import DataError

pytestmark = pytest.mark.faults
PRIOR = {"name": "pca", "image_size": 4, "dimensions": 3, "num_workers": 0, "batch_size": 8}


class Interrupted(BaseException):
    pass


class Stopped:
    """Images that stop a build at one of them, until they are mended."""

    def __init__(self, images):
        self.labels, self.images, self.reads = None, images, 0

    def __len__(self):
        return len(self.images)

    def image(self, index):
        self.reads += 1
        if self.reads == 120 + 1 + 70:  # all for the state, one for the dimensions, then batches
            raise Interrupted
        return self.images.image(index)

    def content(self):
        return self.images.content()


@pytest.fixture
def stopped(digit_images, tmp_path):
    wanted = embed(digit_images, {**PRIOR, "cache_dir": str(tmp_path / "undisturbed")})
    with pytest.raises(Interrupted):
        embed(Stopped(digit_images), PRIOR)
    (info,) = list_caches()
    assert info.status == "partial"
    assert {"embeddings.npy", "encoder.safetensors", "fitted_on", "finished-0.jsonl"} <= {
        path.name for path in info.folder.iterdir()
    }
    shutil.copytree(info.folder.parent, tmp_path / "kept")
    return digit_images, info.folder.parent, tmp_path / "kept", wanted


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 4), how=damages)
@example(which=2, how=("grow", 0.99, ord("[")))
@example(which=3, how=("grow", 0.99, ord("[")))
def test_whatever_happened_to_a_build_that_did_not_end_the_next_one_is_right(stopped, which, how):
    images, root, kept, wanted = stopped
    (work,) = root.glob("*.partial")
    files = sorted(path for path in work.iterdir() if path.is_file())
    path = files[which % len(files)]
    path.write_bytes(damage(path.read_bytes(), *how))
    got = embed(images, PRIOR)
    np.testing.assert_array_equal(got.array, wanted.array)
    assert got.fingerprint == wanted.fingerprint
    assert verify(got.fingerprint) == []
    shutil.rmtree(root)
    shutil.copytree(kept, root)


HARMS = [
    lambda state: state["refresh"]["tables"]["gps"]["indices"].bitwise_xor_(1),
    lambda state: state["refresh"]["tables"]["gps"]["distances"].mul_(-1),
    lambda state: state["refresh"]["tables"].pop("gps"),
    lambda state: state["refresh"].update(refreshed_epoch=0),
    lambda state: state["counts"].update(items=-1),
    lambda state: state.pop("checksum"),
    lambda state: state.update(steps_before="many"),
]


@pytest.mark.host
def test_a_damaged_state_in_a_checkpoint_is_refused_and_a_whole_one_taken(recipe, tmp_path):
    """torch.load does not look at the checksums of the archive: a flipped byte of a table would guide the rest of the run."""
    import warnings

    import solo_gps
    from solo_gps.hosts.detect import detect_host

    host, whole, damaged = detect_host(), tmp_path / "whole.ckpt", tmp_path / "damaged.ckpt"

    def fit(epochs, checkpoint=None):
        cfg = recipe(max_epochs=epochs, sampler={"gps": {"k": 2}}, prior={"name": "pixels"}, refresh={"every": 1, "start": 1})
        with warnings.catch_warnings(), solo_gps.activate(cfg):
            warnings.simplefilter("ignore")
            full = host.complete(cfg)
            model, loader = host.build_method(full, host.methods["simclr"]), None
            loader = host.build_train_loader(full)
            trainer = host.lightning.Trainer(**{**host.trainer_kwargs(full), "callbacks": [], "logger": False})
            trainer.fit(model, loader, ckpt_path=checkpoint and str(checkpoint))
            trainer.save_checkpoint(whole)

    fit(2)
    for harm in HARMS:
        content = torch.load(whole, weights_only=False)
        harm(content["solo_gps"])
        torch.save(content, damaged)
        with pytest.raises(DataError, match=r"^what solo-gps keeps in the checkpoint .* is damaged. Resume from another check"):
            fit(3, damaged)
    fit(3, whole)


def test_receipts_are_written_and_never_read():
    """Nothing that a run does hangs on a file of an earlier one that no checksum covers."""
    import solo_gps

    readers = [
        path.name
        for path in Path(solo_gps.__file__).parent.rglob("*.py")
        if "solo_gps_receipt" in (text := path.read_text()) or "receipt.FILE" in text
    ]
    assert readers == ["receipt.py"]
