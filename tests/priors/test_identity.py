"""Every key of every prior that changes the embedding changes its identity; the others do not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from image_sets import ArrayImages
from safetensors.torch import save_file

from solo_gps.embeddings import resolve_prior
from solo_gps.priors.base import RUNTIME_KEYS

IMAGES = ArrayImages(np.zeros((30, 8, 8), np.uint8))
PRIORS = ("array", "autoencoder", "checkpoint", "patches", "pca", "pixels", "random", "timm", "torchvision", "vae")
OTHER = {
    "architecture": "resnet34",
    "augmentation": "flip",
    "image_size": 128,
    "layers": ["layer1"],
    "library": "timm",
    "mean": [0.1, 0.1, 0.1],
    "precision": "bf16",
    "resize": 80,
    "std": [0.1, 0.1, 0.1],
    "storage": "float16",
}

ELSEWHERE = ("name", "draws", "kwargs")
"""The name is another prior; draws need an augmentation; keywords of the network are those of its architecture."""
UNUSED = {
    "array": ("augmentation", "seed"),
    "checkpoint": ("architecture", "library", "prefix", "seed", "stem"),
    "pixels": ("seed",),
    "timm": ("pretrained", "seed"),
    "torchvision": ("model", "seed", "weights"),
}
"""Keys that change nothing beside those of :func:`keys_of`, or cannot be changed without others."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of weights, or of embeddings, for each prior that reads one; equal but for their numbers."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("one", "two"):
        torch.save(torchvision.models.resnet18().state_dict(), folder / f"torchvision-{name}.pth")
        save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), folder / f"timm-{name}.safetensors")
        np.save(folder / f"array-{name}.npy", np.random.default_rng(len(name) + ord(name[0])).random((len(IMAGES), 3)))
    (folder / "names.txt").write_text("".join(f"{index}\n" for index in reversed(range(len(IMAGES)))))
    return folder


def keys_of(prior: str, files: Path, which: str = "one") -> dict[str, Any]:
    special = {
        "timm": {"model": "test_resnet", "pretrained": False, "checkpoint": str(files / f"timm-{which}.safetensors")},
        "torchvision": {"model": "resnet18", "checkpoint": str(files / f"torchvision-{which}.pth")},
        "checkpoint": {"path": str(files / f"torchvision-{which}.pth"), "image_size": 32},
        "array": {"path": str(files / f"array-{which}.npy")},
    }
    return {"name": prior, "device": "cpu", **special.get(prior, {})}


def identity(keys: dict[str, Any]) -> dict[str, Any]:
    encoder = resolve_prior(keys, IMAGES)
    encoder.load(torch.device("cpu"))
    return encoder.identity()


def changed(prior: str, key: str, value: Any, files: Path) -> dict[str, Any]:
    """The keys of a prior with one of them changed; a path leads to other numbers of the same form."""
    if key in ("path", "checkpoint"):
        return keys_of(prior, files, "two")
    if key == "names":
        return {**keys_of(prior, files), "names": str(files / "names.txt")}
    if key == "model":
        other = {"timm": ("test_resnet.r160_in1k", "test_vit"), "torchvision": ("resnet18", "resnet34")}[prior][1]
        return {**keys_of(prior, files), "model": other, "checkpoint": None}
    if (prior, key) == ("pca", "image_size"):  # at 128 its covariances would not fit in memory
        return {**keys_of(prior, files), key: 16}
    if key in OTHER:
        return {**keys_of(prior, files), key: OTHER[key]}
    if isinstance(value, bool):
        return {**keys_of(prior, files), key: not value}
    if isinstance(value, (int, float)):
        return {**keys_of(prior, files), key: value + 1 if isinstance(value, int) else value / 2 + 0.01}
    raise AssertionError(f"{key}={value!r}: say in OTHER what to change it to")


@pytest.mark.parametrize("prior", PRIORS)
def test_every_key_changed_alone_is_another_identity(prior: str, files: Path) -> None:
    keys = keys_of(prior, files)
    before = identity(keys)
    assert identity(keys_of(prior, files)) == before
    config, tried = resolve_prior(keys, IMAGES).config, set()
    for field in dataclasses.fields(config):
        if field.name in (*RUNTIME_KEYS, *ELSEWHERE, *UNUSED.get(prior, ())):
            continue
        new = changed(prior, field.name, getattr(config, field.name), files)
        assert identity(new) != before, field.name
        tried.add(field.name)
    assert tried >= {"storage", "augmentation"} - set(UNUSED.get(prior, ()))


@pytest.mark.parametrize("prior", PRIORS)
def test_how_the_work_is_done_is_no_part_of_it(prior: str, files: Path) -> None:
    keys = keys_of(prior, files)
    runtime = {"space": "cosine", "batch_size": 3, "num_workers": 1, "cache_dir": "elsewhere"}
    assert identity({**keys, **runtime}) == identity(keys)


@pytest.mark.parametrize("prior", ["pixels", "random", "vae"])
def test_the_draws_of_an_augmentation_are_part_of_it(prior: str, files: Path) -> None:
    keys = {**keys_of(prior, files), "augmentation": "crop"}
    assert len({str(identity({**keys, **other})) for other in ({}, {"draws": 2}, {"seed": 1}, {"augmentation": "flip"})}) == 4
