"""Training settings of the process must not change a table."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from solo_gps.embeddings import embed
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find
from solo_gps.runtime.determinism import true_float32


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


def test_an_inherited_setting_goes_on_following_the_one_for_all():
    backends = torch.backends
    places = [backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv]
    before, own = backends.fp32_precision, [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "none"
        backends.fp32_precision = "tf32"
        with true_float32():
            assert [place.fp32_precision for place in places] == ["ieee"] * 3
        assert [place.fp32_precision for place in places] == ["tf32"] * 3
        backends.fp32_precision = "ieee"
        assert [place.fp32_precision for place in places] == ["ieee"] * 3
    finally:
        backends.fp32_precision = before
        for place, value in zip(places, own, strict=True):
            place.fp32_precision = value


def test_two_threads_that_overlap_leave_the_settings_as_they_were(medium):
    place = torch.backends.mkldnn.matmul
    before, entered, first_left = place.fp32_precision, threading.Event(), threading.Event()
    seen = []

    def second():
        with true_float32():
            entered.set()
            first_left.wait(10)
            seen.append(place.fp32_precision)

    thread = threading.Thread(target=second)
    with true_float32():
        thread.start()
        entered.wait(10)
    first_left.set()
    thread.join()
    assert seen == ["ieee"]
    assert place.fp32_precision == before
    assert torch.get_float32_matmul_precision() == "medium"


def test_an_error_within_leaves_them_too(medium):
    with pytest.raises(RuntimeError, match="within"), true_float32():
        raise RuntimeError("within")
    assert torch.get_float32_matmul_precision() == "medium"


def test_torchs_own_flags_can_be_read_within():
    before = torch.backends.cudnn.allow_tf32
    with true_float32():
        assert not torch.backends.cudnn.allow_tf32
        with torch.backends.cudnn.flags(enabled=False):
            pass
    assert torch.backends.cudnn.allow_tf32 == before


def test_single_operations_of_cudnn_that_the_program_has_set_come_back_too():
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    conv.fp32_precision = "none" if before == "tf32" else "tf32"
    changed = conv.fp32_precision
    try:
        with true_float32():
            assert conv.fp32_precision in ("ieee", "none")
        assert conv.fp32_precision == changed
    finally:
        conv.fp32_precision = before


@pytest.mark.parametrize("name", ["pca", "patches"])
def test_an_autocast_around_it_changes_no_embedding(name, digit_images, tmp_path):
    prior = {"name": name, "image_size": 16, "precision": "fp32"}
    plain = np.array(embed(digit_images, {**prior, "cache_dir": str(tmp_path / "plain")}).array)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = embed(digit_images, {**prior, "cache_dir": str(tmp_path / "within")}).array
    np.testing.assert_array_equal(plain, within)


def test_products_are_float32_within(medium):
    array = torch.from_numpy(np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32))
    true = array.double() @ array.double().T
    with true_float32():
        assert (array @ array.T - true).abs().max() < 1e-3


def test_lightnings_recommendation_changes_no_table(medium, monkeypatch):
    monkeypatch.setattr("solo_gps.neighbours.backends.torch_exact.bfloat16_pays", lambda *_: False)
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
    places = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv]
    before = [place.fp32_precision for place in places]
    embeddings = Embeddings(array=np.eye(20, 8, dtype=np.float32) + 1, fingerprint="f", folder=None, space="cosine")
    find(embeddings, radius=0.5)
    find(embeddings, {"backend": "torch"}, k=5)
    with true_float32():
        assert [place.fp32_precision for place in places] == ["ieee"] * 3
    assert [place.fp32_precision for place in places] == before


def test_one_fingerprint_is_one_array(medium, digit_images, tmp_path):
    """An embedding in fp32 does not depend on what the program allows its training."""
    prior = {"name": "pca"}
    medium_array = np.array(embed(digit_images, {**prior, "cache_dir": str(tmp_path / "medium")}).array)
    torch.set_float32_matmul_precision("highest")
    highest = embed(digit_images, {**prior, "cache_dir": str(tmp_path / "highest")}).array
    np.testing.assert_array_equal(medium_array, highest)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="this torch has no setting for all operations")
@pytest.mark.parametrize("place", [torch.backends, torch.backends.cudnn], ids=["all", "cudnn"])
def test_convolutions_follow_no_setting_for_all_operations(place):
    cudnn, before = torch.backends.cudnn, place.fp32_precision
    place.fp32_precision = "tf32"
    try:
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("tf32", "tf32")
        with true_float32():
            assert {cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision} <= {"ieee", "none"}
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("tf32", "tf32")
    finally:
        place.fp32_precision = before


def test_both_halves_of_the_setting_for_reduced_precision_come_back():
    matmul, get = torch.backends.cuda.matmul, torch._C._get_cublas_allow_bf16_reduced_precision_reduction
    before = get()
    if not isinstance(before, tuple):
        pytest.skip("this torch has one half alone")
    matmul.allow_bf16_reduced_precision_reduction = (False, False)
    try:
        with true_float32():
            assert get() == (False, False)
        assert get() == (False, False)
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before
