"""embed: the default prior, finding again, untouched generators, and early errors."""

from __future__ import annotations

import logging
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_sets import ArrayImages

from solo_gps.embeddings import embed, resolve_prior
from solo_gps.errors import ConfigError, DataError, UnknownNameError
from solo_gps.runtime.devices import device_of


@pytest.mark.usefixtures("cache_dir")
def test_default_prior_needs_no_download_and_finds_its_cache_again(digit_images: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "solo_gps.embeddings")
    first = embed(digit_images)
    shape = r"prior patches: built the embeddings of 120 images in \d+\.\d s \(\d+ dimensions\) in "
    assert re.fullmatch(shape + re.escape(str(first.folder)), caplog.messages[-1])
    caplog.clear()
    second = embed(digit_images)
    (line,) = caplog.messages
    dimensions = first.array.shape[1]
    assert line == (
        f"prior patches: found the embeddings of 120 images, built earlier ({dimensions} dimensions) in {first.folder}"
    )
    assert second.fingerprint == first.fingerprint
    assert isinstance(second.array, np.memmap)
    assert not second.array.flags.writeable
    np.testing.assert_array_equal(first.array, second.array)
    assert len(first.array) == 120
    assert np.isfinite(first.array).all()


@pytest.mark.usefixtures("cache_dir")
def test_images_of_mixed_sizes_embed(folder_images: Any) -> None:
    assert embed(folder_images).array.shape[0] == 30


@pytest.mark.usefixtures("cache_dir")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_default_prior_works_on_the_smallest_sets(digit_images: Any, count: int) -> None:
    digit_images.pixels = digit_images.pixels[:count]
    array = embed(digit_images).array
    assert array.shape[0] == count
    assert np.isfinite(array).all()


def states() -> list[Any]:
    return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]


@pytest.mark.usefixtures("cache_dir")
@pytest.mark.parametrize(
    "prior",
    [
        None,
        {"name": "pixels", "augmentation": "simclr", "draws": 2},
        {"name": "pixels", "num_workers": 1},
        {"name": "vae", "epochs": 1, "width": 4, "image_size": 8},
        {"name": "timm", "model": "test_resnet", "pretrained": False},
    ],
)
def test_global_generators_are_left_as_found(digit_images: Any, prior: Any) -> None:
    random.seed(3)
    np.random.seed(4)
    torch.manual_seed(5)
    before = states()
    embed(digit_images, prior)
    assert states() == before
    embed(digit_images, prior)
    assert states() == before


@pytest.mark.parametrize(
    ("prior", "error", "text"),
    [
        ({"name": "pcaa"}, UnknownNameError, "unknown prior 'pcaa'; known: .*Did you mean 'pca'"),
        ({"name": "pca", "dimension": 3}, ConfigError, r"prior.dimension: no such key.*Did you mean 'dimensions'"),
        ({"name": "pca", "dimensions": "many"}, ConfigError, "prior.dimensions"),
        ({"name": "pca", "space": "cosin"}, ConfigError, "Did you mean 'cosine'"),
        ({"name": "pca", "storage": "int8"}, ConfigError, "storage='int8' is not one of float32, float16"),
        ({"name": "pca", "draws": 3}, ConfigError, "draws=3 needs an augmentation"),
        ({"name": "pca", "augmentation": "flip", "seed": 2**64}, ConfigError, f"seed={2**64} must be from 0 to 4294967295"),
        ({"name": "pca", "seed": -1}, ConfigError, "seed=-1 must be from 0 to 4294967295"),
        ({"name": "pca", "device": "gpu"}, ConfigError, "prior.device='gpu' is not a device"),
        ({"dimensions": 3}, ConfigError, "prior.name: wanted the name of an encoder, got None"),
        ("pca", ConfigError, "Hydra did not find the config groups"),
        (["pca"], ConfigError, r"prior: wanted a group of keys, got \['pca'\]"),
        ({"name": "timm", "model": "resnet81"}, UnknownNameError, "Did you mean 'resnet18'"),
        ({"name": "timm", "model": "resnet18.a1_in2k"}, UnknownNameError, "Did you mean 'a1_in1k'"),
        ({"name": "timm", "model": "resnet18", "checkpoint": "no.pth"}, DataError, "prior.checkpoint: no file no.pth"),
        ({"name": "vae", "image_size": 30}, ConfigError, "image_size=30 must be a power of two"),
        ({"name": "array"}, ConfigError, "prior.*path is missing"),
        ({"name": "array", "path": "none.npy"}, DataError, "prior.path: no file none.npy"),
    ],
)
def test_a_wrong_prior_is_one_clear_error_before_any_work(prior: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        resolve_prior(prior)


@pytest.mark.usefixtures("cache_dir")
def test_the_largest_seed_works_in_every_generator(digit_images: Any) -> None:
    for prior in (
        {"name": "vae", "epochs": 1, "width": 4, "image_size": 8},
        {"name": "patches", "image_size": 8, "centroids": 4},
    ):
        drawn = [embed(digit_images, {**prior, "augmentation": "crop", "seed": seed}).array for seed in (0, 2**32 - 1)]
        assert not np.array_equal(*drawn)


@pytest.mark.parametrize(("local_rank", "index"), [(None, 0), ("1", 1), ("3", 1)])
def test_each_local_rank_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, local_rank: str | None, index: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert device_of("auto") == torch.device("cuda", index)


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"prior.device='cuda:1': this machine has 1 CUDA devices"):
        resolve_prior({"name": "pixels", "device": "cuda:1"})


def test_brought_arrays_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.npy"
    cases = [
        (np.zeros((9, 2)), "9 rows, but the training set has 10 images"),
        (np.zeros(10), r"has shape \(10,\)"),
        (np.array([["a"]] * 10), "wanted numbers"),
        (np.array([[None]] * 10, dtype=object), "not a plain .npy array"),
        (np.where(np.arange(20).reshape(10, 2) == 7, np.nan, 0.0), "row 3 holds a number that is not finite"),
        (np.full((10, 1), 1e300), "row 0 holds a number that is not finite in float32"),
    ]
    for array, text in cases:
        np.save(path, array, allow_pickle=True)
        with pytest.raises(DataError, match=text):
            resolve_prior({"name": "array", "path": str(path)}, ArrayImages(np.zeros((10, 2, 2), np.uint8)))


def test_a_brought_array_is_taken_as_it_is(digit_images: Any, cache_dir: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(120, 5))
    np.save(tmp_path / "mine.npy", rows)
    embeddings = embed(digit_images, {"name": "array", "path": str(tmp_path / "mine.npy"), "batch_size": 7, "space": "cosine"})
    np.testing.assert_array_equal(embeddings.array, rows.astype(np.float32))
    assert embeddings.space == "cosine"
    assert embeddings.folder is not None
    assert embeddings.folder.parent == cache_dir


@pytest.mark.usefixtures("cache_dir")
def test_half_precision_storage(digit_images: Any) -> None:
    full, half = (embed(digit_images, {"name": "pixels", "storage": storage}).array for storage in ("float32", "float16"))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, full.astype(np.float16))


@pytest.mark.usefixtures("cache_dir")
def test_no_image_is_an_error(digit_images: Any) -> None:
    digit_images.pixels = digit_images.pixels[:0]
    with pytest.raises(DataError, match="holds no image"):
        embed(digit_images)
