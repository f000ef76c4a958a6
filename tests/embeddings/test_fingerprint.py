"""Two runs that differ in anything that matters never share a cache; runs that differ in nothing do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from solo_gps.embeddings import embed
from solo_gps.embeddings.fingerprint import describe, fingerprint
from solo_gps.priors.pca import PcaConfig, PcaEncoder


def print_of(images: Any, **prior: Any) -> str:
    return embed(images, prior).fingerprint


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[str]:
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        paths.append(str(tmp_path / f"{seed}.pth"))
        torch.save(torchvision.models.resnet18().state_dict(), paths[-1])
    return paths


def test_every_difference_gives_another_cache(
    digit_images: Any, checkpoints: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digit_images.pixels = digit_images.pixels[:24]
    pca = {"name": "pca", "image_size": 8}
    vae = {"name": "vae", "image_size": 8, "width": 4, "epochs": 1}
    net = {"name": "checkpoint", "path": checkpoints[0], "image_size": 32}
    np.save(tmp_path / "a.npy", np.zeros((24, 2)))
    np.save(tmp_path / "b.npy", np.ones((24, 2)))
    priors: dict[str, dict[str, Any]] = {
        "pca": pca,
        "size": {**pca, "image_size": 9},
        "dimensions": {**pca, "dimensions": 3},
        "whitening": {**pca, "whiten": 0.5},
        "images to fit": {**pca, "fit_images": 20},
        "storage": {**pca, "storage": "float16"},
        "precision": {**pca, "precision": "bf16"},
        "flip": {**pca, "augmentation": "flip"},
        "crop": {**pca, "augmentation": "crop"},
        "simclr": {**pca, "augmentation": "simclr"},
        "draws": {**pca, "augmentation": "crop", "draws": 2},
        "seed of draws": {**pca, "augmentation": "crop", "seed": 1},
        "pixels": {"name": "pixels", "image_size": 8},
        "vae": vae,
        "seed of vae": {**vae, "seed": 1},
        "epochs": {**vae, "epochs": 2},
        "rate": {**vae, "learning_rate": 2e-3},
        "autoencoder": {**vae, "name": "autoencoder"},
        "patches": {"name": "patches", "image_size": 8, "centroids": 4},
        "seed of patches": {"name": "patches", "image_size": 8, "centroids": 4, "seed": 1},
        "network": net,
        "weights": {**net, "path": checkpoints[1]},
        "crop size": {**net, "image_size": 40},
        "resize": {**net, "resize": 40},
        "normalisation": {**net, "mean": [0.5, 0.5, 0.5]},
        "layer": {**net, "layers": ["layer1"]},
        "layers": {**net, "layers": ["layer1", "layer2"]},
        "order of layers": {**net, "layers": ["layer2", "layer1"]},
        "random": {"name": "random", "image_size": 32},
        "seed of random": {"name": "random", "image_size": 32, "seed": 1},
        "timm": {"name": "timm", "model": "test_resnet", "pretrained": False},
        "timm model": {"name": "timm", "model": "test_vit", "pretrained": False},
        "array": {"name": "array", "path": str(tmp_path / "a.npy")},
        "other array": {"name": "array", "path": str(tmp_path / "b.npy")},
    }
    found = {name: print_of(digit_images, **prior) for name, prior in priors.items()}

    whole = digit_images.pixels
    changed = whole.copy()
    changed[3, 0, 0] += 1
    for name, pixels in {"one pixel": changed, "one image less": whole[:-1], "order": whole[::-1]}.items():
        digit_images.pixels = pixels
        found[name] = print_of(digit_images, **pca)
    digit_images.pixels = whole

    monkeypatch.setattr(PcaEncoder, "version", PcaEncoder.version + 1)
    found["code"] = print_of(digit_images, **pca)
    shared = {(one, other) for one in found for other in found if one < other and found[one] == found[other]}
    assert not shared


def test_a_moved_folder_keeps_its_cache(folder_images: Any, tmp_path: Path) -> None:
    before = embed(folder_images, {"name": "pixels"})
    moved = tmp_path / "elsewhere" / "deeper"
    shutil.copytree(folder_images.root, moved)
    again = embed(type(folder_images)(moved), {"name": "pixels"})
    assert again.fingerprint == before.fingerprint
    assert again.folder == before.folder


def test_how_the_work_is_done_does_not_matter(digit_images: Any) -> None:
    prior = {"name": "pca", "image_size": 8}
    first = embed(digit_images, prior)
    for keys in ({"batch_size": 7}, {"num_workers": 1}, {"device": "cpu"}, {"space": "cosine"}, {"seed": 0}):
        assert embed(digit_images, {**prior, **keys}).fingerprint == first.fingerprint


def test_code_that_moves_keeps_its_caches(digit_images: Any) -> None:
    class Moved(PcaEncoder):
        """The same prior in another module, as after a move of the code."""

    here = PcaEncoder(PcaConfig())
    moved = Moved(PcaConfig())
    assert fingerprint(describe(here, ()), "images") == fingerprint(describe(moved, ()), "images")
    moved.version = here.version + 1
    assert fingerprint(describe(here, ()), "images") != fingerprint(describe(moved, ()), "images")
