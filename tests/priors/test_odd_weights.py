"""Files that are no checkpoint, or one of another kind than their name says."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from solo_gps.errors import DataError
from solo_gps.priors.parts.weights import fill_weights, read_state

STATE = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS's pointer"),
        (b"<!DOCTYPE html>", "is damaged, or not a checkpoint"),
        (b"PK\x03\x04 and no more", "is damaged, or not a checkpoint"),
        (b"\x80\x02", "is damaged, or not a checkpoint"),
        (b"\x00" * 100, "is damaged, or not a checkpoint"),
    ],
    ids=["C6-empty", "C6-pointer", "C6-page", "C6-cut-zip", "C6-cut-pickle", "C6-zeros"],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.ckpt", "weights.safetensors"])
def test_one_error_names_the_file_and_what_it_is(content, message, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_state(str(tmp_path / name), where="prior.path")
    message = "no safetensors file" if name.endswith("safetensors") and "damaged" in message else message
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "weights_only" not in str(caught.value), "torch's advice to switch safety off"


def test_c6_safetensors_under_another_name_are_read(tmp_path):
    save_file(STATE, tmp_path / "weights.pth")
    assert read_state(str(tmp_path / "weights.pth"), where="prior.path").keys() == STATE.keys()


def test_c6_code_in_a_pickle_is_named_and_not_run(tmp_path):
    (tmp_path / "weights.pth").write_bytes(pickle.dumps({"a": print}, protocol=2))
    with pytest.raises(DataError, match=r"not read for safety.*print") as caught:
        read_state(str(tmp_path / "weights.pth"), where="prior.path")
    assert "weights_only" not in str(caught.value)


def test_f12_weights_that_are_not_finite_are_refused_by_name():
    state = {**STATE, "bias": torch.tensor([0, float("nan")])}
    with pytest.raises(DataError, match=r"weights bias in x.pth are not finite"):
        fill_weights(torch.nn.Linear(3, 2), state, path="x.pth", where="prior.path", prefix="")
