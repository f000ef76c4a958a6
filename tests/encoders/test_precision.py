"""Training settings of the process must not change a table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from solo_gps.encoders.precision import true_float32
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find
from solo_gps.prior import embed


@pytest.fixture
def medium():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def test_settings_come_back(medium):
    reduced = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    with true_float32():
        assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert torch.get_float32_matmul_precision() == "medium"
    assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction == reduced


def test_products_are_float32_within(medium):
    array = torch.from_numpy(np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32))
    true = array.double() @ array.double().T
    with true_float32():
        assert (array @ array.T - true).abs().max() < 1e-3


def test_lightnings_recommendation_changes_no_table(medium, monkeypatch):
    monkeypatch.setattr("solo_gps.neighbours.torch_exact.bfloat16_pays", lambda *_: False)
    array = np.random.default_rng(1).standard_normal((2000, 128)).astype(np.float32)
    embeddings = Embeddings(array=array, fingerprint="f", folder=None, space="euclidean")
    tables = [find(embeddings, {"backend": "torch"}, k=5)]
    balls = [find(embeddings, radius=150.0)]
    torch.set_float32_matmul_precision("highest")
    tables.append(find(embeddings, {"backend": "torch"}, k=5))
    balls.append(find(embeddings, radius=150.0))
    assert tables[0].indices.tobytes() == tables[1].indices.tobytes()
    assert balls[0].indices.tobytes() == balls[1].indices.tobytes()
    assert balls[0].indices.shape[1] > 1


def test_no_setting_of_the_process_leaks(medium):
    """Also the settings of single operations, which torch keeps beside the one for all of them."""
    torch.set_float32_matmul_precision("highest")
    places = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.cudnn.conv]
    before = [place.fp32_precision for place in places]
    embeddings = Embeddings(array=np.eye(20, 8, dtype=np.float32) + 1, fingerprint="f", folder=None, space="cosine")
    find(embeddings, radius=0.5)
    find(embeddings, {"backend": "torch"}, k=5)
    with true_float32():
        assert [place.fp32_precision for place in places] == ["ieee"] * 4
    assert [place.fp32_precision for place in places] == before


def test_one_fingerprint_is_one_array(medium, digit_images, tmp_path):
    """An embedding in fp32 does not depend on what the program allows its training."""
    prior = {"name": "pca"}
    medium_array = np.array(embed(digit_images, {**prior, "cache_dir": str(tmp_path / "medium")}).array)
    torch.set_float32_matmul_precision("highest")
    highest = embed(digit_images, {**prior, "cache_dir": str(tmp_path / "highest")}).array
    np.testing.assert_array_equal(medium_array, highest)
