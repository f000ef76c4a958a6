"""Training settings of the process must not change a table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find
from solo_gps.neighbours.precision import true_float32


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
