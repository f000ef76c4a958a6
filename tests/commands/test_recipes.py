"""The papers' rows by name: each composes, says in its first line what it is, is typed, and trains on images of its shape."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from named_data import OWN_WRITERS, WRITERS
from omegaconf import OmegaConf

from solo_gps.commands.recipes import compose_recipe, recipe_names, recipe_table
from solo_gps.datasets import SETS
from solo_gps.guide.check import read_recipe
from solo_gps.hosts.detect import detect_host
from solo_gps.hosts.keys import check_host_keys

TOLD = {name: told for name, *told in recipe_table()}
ROWS = [name for name in recipe_names() if name != "simclr_digits"]
SAMPLE = (
    *("gps/cifar10/simclr_weak", "gps/fgvc_aircraft/vicreg_weak", "gps/pathmnist/byol_strong"),
    *("pnnclr/tiny_imagenet", "sepp/stl10/mocov2plus", "sepp/cifar10/simsiam"),
)
DATA = {
    **{"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "stl10": "STL-10", "imagenet": "ImageNet", "hotel_id": "Hotel-ID"},
    **{"fgvc_aircraft": "FGVC-Aircraft", "tiny_imagenet": "Tiny-ImageNet", "voc2007": "Pascal VOC 2007, objects", "pcam": "PCAM"},
    **{"pathmnist": "PathMNIST", "tissuemnist": "TissueMNIST", "bloodmnist": "BloodMNIST"},
}
METHODS = {
    **{"simclr": "SimCLR", "byol": "BYOL", "barlow_twins": "Barlow Twins", "vicreg": "VICReg", "nnclr": "NNCLR"},
    **{"mocov2plus": "MoCo v2+", "simsiam": "SimSiam"},
}
SAMPLERS = {"gps": "GPS-SSL", "pnn": "pNNCLR", "sepp": "SePP"}
IMAGES = {"cifar10": "50,000", "cifar100": "50,000", "stl10": "105,000", "imagenet": "1,281,167", "hotel_id": "train/"}


@cache
def composed(name):
    return compose_recipe(name)


def test_every_row_of_the_papers_is_there():
    methods = ("simclr", "byol", "barlow_twins", "vicreg", "nnclr")
    of_gps = ("cifar10", "fgvc_aircraft", "pathmnist", "tissuemnist", "hotel_id")
    of_pnn = ("stl10", "cifar10", "cifar100", "tiny_imagenet", "voc2007", "bloodmnist", "pcam", "pathmnist")
    gps = {f"gps/{data}/{method}_{crops}" for data in of_gps for method in methods for crops in ("weak", "strong")}
    sepp = {
        f"sepp/{data}/{method}" for data in ("imagenet", "stl10", "cifar10") for method in ("simclr", "mocov2plus", "simsiam")
    }
    assert set(ROWS) == gps | sepp | {f"pnnclr/{data}" for data in of_pnn}


def test_the_page_of_recipes_has_every_row_as_it_is_listed():
    lines = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text().splitlines()
    shown = [line.strip("| ").split(" | ")[:4] for line in lines if line.startswith(("| `gps/", "| `pnnclr/", "| `sepp/"))]
    assert sorted(shown) == sorted([f"`{name}`", *TOLD[name][1:]] for name in ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_its_name_and_its_first_line_say(name):
    cfg, (paper, row, data, size) = composed(name), TOLD[name]
    assert SAMPLERS[next(iter(cfg.sampler))] == paper
    assert DATA[cfg.data.dataset] == data
    assert row.partition(", ")[0] == METHODS[cfg.method]
    side = cfg.augmentations[0].crop_size
    images = IMAGES.get(cfg.data.dataset) or SETS[cfg.data.dataset].trained_on.rpartition(", ")[2]
    assert size == f"{images} images, {side} x {side}"
    if paper == "GPS-SSL":
        words = (cfg.data.dataset, f"{cfg.method}_{'weak' if row.endswith('RHFlip') else 'strong'}")
        assert name == "/".join(("gps", *words))
        jitter = max(crop.color_jitter.prob for crop in cfg.augmentations)
        assert (jitter == 0) == row.endswith("RHFlip")
        assert all(crop.horizontal_flip.prob == 0.5 for crop in cfg.augmentations)
        assert (cfg.backbone.name, cfg.sampler.gps.k, cfg.prior.name, cfg.prior.model) == (
            "resnet50",
            1,
            "torchvision",
            "resnet50",
        )
    elif paper == "SePP":
        assert name == f"sepp/{cfg.data.dataset}/{cfg.method}"
        assert (cfg.max_epochs, cfg.optimizer.batch_size, cfg.backbone.name) == (800, 1024, "resnet50")
        assert (cfg.sampler.sepp.fraction, cfg.sampler.sepp.window) == (0.1, "paper")
    else:
        assert name == f"pnnclr/{cfg.data.dataset}"
        # The paper's rate is 0.001 for batches of 64; solo-learn scales by batch / 256.
        assert math.isclose(cfg.optimizer.lr * cfg.optimizer.batch_size / 256, 0.001)
        assert (cfg.sampler.pnn.alpha, cfg.sampler.pnn.beta, cfg.sampler.pnn.ema) == (0.05, 0.1, 0.99)
        assert (cfg.backbone.name, cfg.method_kwargs.proj_output_dim) == ("resnet50", 2048)


@pytest.mark.host
@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_typed_guided_and_free_of_interpolations(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = composed(name).copy()
    asked = read_recipe(cfg)
    check_host_keys(cfg)
    assert list(asked.samplers) == list(cfg.sampler)
    assert (asked.prior is not None) == (TOLD[name][0] != "pNNCLR")
    assert OmegaConf.to_container(cfg, resolve=True) == OmegaConf.to_container(cfg, resolve=False), "args.json is not resolved"
    large = sum(crop.num_crops for crop in cfg.augmentations)
    assert large == 2


@pytest.mark.parametrize("name", ["gps/cifar10/byol_strong", "sepp/imagenet/simclr", "pnnclr/stl10"])
def test_sampler_none_is_the_rows_baseline(name):
    cfg, guided = compose_recipe(name, ["sampler=none"]), composed(name)
    assert cfg.sampler == {}
    assert "prior" not in cfg
    assert {key: cfg[key] for key in cfg if key != "sampler"} == {
        key: guided[key] for key in guided if key not in ("sampler", "prior")
    }


@pytest.mark.parametrize("name", ["gps/hotel_id/byol_weak", "sepp/imagenet/simclr", "pnnclr/stl10"])
def test_groups_may_be_added_to_a_row(name):
    cfg = compose_recipe(
        name, ["+refresh=features", "+search=faiss", "+watch=pictures", "prior=patches" if name[0] != "p" else "seed=1"]
    )
    assert cfg.refresh.of == "features"
    assert cfg.search.backend == "faiss"
    assert cfg.watch.every == 10


def small(name, root):
    """A row for few images and a CPU: its own crops, data set, method and sampler; a smaller network, batch and prior."""
    cfg = composed(name).copy()
    of_class = {"train_path": str(root), "val_path": str(root)}
    if cfg.data.dataset == "imagenet":
        of_class = {"train_path": str(root / "train"), "val_path": str(root / "val")}
    for key, value in {**of_class, "num_workers": 0}.items():
        cfg.data[key] = value
    cfg.backbone.name, cfg.optimizer.batch_size = "resnet18", 4 if cfg.augmentations[0].crop_size == 224 else 8
    for key, value in {"proj_hidden_dim": 64, "proj_output_dim": 32, "pred_hidden_dim": 64, "queue_size": 16}.items():
        if key in cfg.method_kwargs:
            cfg.method_kwargs[key] = value
    if "prior" in cfg:
        cfg.prior = {"name": "pixels"}  # ImageNet's weights would have to be fetched
    if "sepp" in cfg.sampler:
        cfg.sampler.sepp.fraction, cfg.sampler.sepp.window = 1.0, "fit"
    if "pnn" in cfg.sampler and detect_host().generation == "1.0.2":
        cfg.sampler.pnn.ema = None  # which is an error there that says so
    cfg.checkpoint.enabled = cfg.auto_resume.enabled = cfg.enable_progress_bar = cfg.enable_model_summary = False
    cfg.accelerator, cfg.precision, cfg.max_epochs, cfg.max_steps, cfg.limit_val_batches = "cpu", 32, 1, 2, 1
    cfg.scheduler.warmup_epochs = 0
    return cfg


@pytest.mark.host
@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.full) for name in ROWS])
def test_a_row_trains_on_images_of_its_shape(name, tmp_path, train, monkeypatch):
    for module in ("cifar", "stl10"):  # the sums of the true files
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *_, **__: True)
    dataset = composed(name).data.dataset
    written = {**WRITERS, **OWN_WRITERS}[dataset](tmp_path)
    cfg = small(name, tmp_path)
    run = train(cfg)
    side, batch = cfg.augmentations[0].crop_size, cfg.optimizer.batch_size
    assert len(run.losses) == 2
    assert all(map(math.isfinite, run.losses))
    assert run.model.classifier.out_features == written.classes
    for _, crops, _ in run.batches:
        assert [tuple(crop.shape) for crop in crops] == [(batch, 3, side, side)] * 2
    if TOLD[name][1].endswith("RHFlip"):
        first, second = run.batches[0][1]
        same = [
            torch.allclose(one, other) or torch.allclose(one.flip(-1), other) for one, other in zip(first, second, strict=True)
        ]
        assert not any(same), "a flipped image in place of its neighbour"
    assert "solo_gps.guide.method" in {cls.__module__ for cls in type(run.model).__mro__}
