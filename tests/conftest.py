"""Fixtures for all tests: real digits as an image folder, small recipes, a cache of the test's own, and what watches training."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():
    # Both generations of solo-learn warn when they are imported on today's stack; none of it is ours.
    warnings.simplefilter("ignore")
    with suppress(ImportError):
        import solo.methods  # noqa: F401

import torch
from image_sets import ArrayImages, FolderImages, digits_pixels
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from programs import Programs

from solo_gps import hookimpl, plugins
from solo_gps.samplers.gps.sampler import Gps

DIGITS = ("0", "1", "2", "3")
PER_DIGIT_TRAIN, PER_DIGIT_VAL = 12, 4


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is marked `full`, whatever else `-m` says, unless it names that marker."""
    if "full" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    # Tiny batches on few cores run many times slower with several threads (OpenMP contention).
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A program that runs in the test's own process sets up logging; the next test finds it as it was."""
    loggers = [logging.getLogger(), logging.getLogger("solo_gps")]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "prior-cache"
    monkeypatch.setenv("SOLO_GPS_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's real handwritten digits 0 to 3, 8 x 8, as PNG files: train/<digit>/ and val/<digit>/."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    data = load_digits()
    for digit in DIGITS:
        images = data.images[data.target == int(digit)]
        for number, image in enumerate(images[: PER_DIGIT_TRAIN + PER_DIGIT_VAL]):
            split = "train" if number < PER_DIGIT_TRAIN else "val"
            file = folder / split / digit / f"{number:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * (255 / 16)).round().astype("uint8")).convert("RGB").save(file)
    return folder


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, named by the environment."""
    monkeypatch.setenv("SOLO_GPS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def digit_images() -> ArrayImages:
    """120 handwritten digits in memory."""
    return ArrayImages(digits_pixels(120))


@pytest.fixture
def folder_images(tmp_path: Path) -> FolderImages:
    """30 handwritten digits as PNG files of mixed sizes."""
    root = tmp_path / "images"
    root.mkdir()
    for index, pixels in enumerate(digits_pixels(30)):
        Image.fromarray(pixels).resize((8 + index % 3, 8 + index % 5)).save(root / f"{index:02d}.png")
    return FolderImages(root)


PLAIN_CROP = {
    "rrc": {"enabled": False, "crop_min_scale": 1.0, "crop_max_scale": 1.0},
    "color_jitter": {"prob": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    "grayscale": {"prob": 0.0},
    "gaussian_blur": {"prob": 0.0},
    "solarization": {"prob": 0.0},
    "equalization": {"prob": 0.0},
    "horizontal_flip": {"prob": 0.0},
    "crop_size": 32,
    "num_crops": 2,
}
METHOD_KWARGS = {
    "all4one": {"pred_hidden_dim": 32, "temperature": 0.2, "queue_size": 16},
    "barlow_twins": {"lamb": 0.0051, "scale_loss": 0.024},
    "byol": {"pred_hidden_dim": 32},
    "deepclusterv2": {"num_prototypes": [4, 4, 4], "temperature": 0.1, "kmeans_iters": 2},
    "dino": {"num_prototypes": 16},
    "mocov2plus": {"temperature": 0.2, "queue_size": 16},
    "mocov3": {"pred_hidden_dim": 32, "temperature": 0.2},
    "nnbyol": {"pred_hidden_dim": 32, "queue_size": 16},
    "nnclr": {"pred_hidden_dim": 32, "temperature": 0.2, "queue_size": 16},
    "nnsiam": {"pred_hidden_dim": 32, "queue_size": 16},
    "ressl": {"temperature_q": 0.1, "temperature_k": 0.04, "queue_size": 16},
    "simclr": {"temperature": 0.2},
    "simsiam": {"pred_hidden_dim": 32},
    "supcon": {"temperature": 0.2},
    "swav": {"num_prototypes": 16, "queue_size": 0, "temperature": 0.1},
    "vibcreg": {"sim_loss_weight": 25.0, "var_loss_weight": 25.0, "cov_loss_weight": 200.0, "iternorm": False},
    "vicreg": {"sim_loss_weight": 25.0, "var_loss_weight": 25.0, "cov_loss_weight": 1.0},
    "wmse": {"whitening_size": 8, "whitening_iters": 1, "whitening_eps": 0.1},
}
MakeRecipe = Callable[..., DictConfig]


@pytest.fixture
def recipe(digits: Path) -> MakeRecipe:
    """Returns a maker of small recipes in the form of solo-learn 1.0.6: ``recipe("byol", sampler={...}, max_steps=3)``."""

    def make(method: str = "simclr", *, flip: float = 0.0, crops: int = 2, batch_size: int = 8, **nodes: object) -> DictConfig:
        crop = {**PLAIN_CROP, "horizontal_flip": {"prob": flip}, "num_crops": crops}
        small = {"proj_hidden_dim": 32, "proj_output_dim": 8}
        cfg = {
            "name": f"{method}-test",
            "method": method,
            "seed": 7,
            "backbone": {"name": "resnet18", "kwargs": {}},
            "method_kwargs": {**small, **METHOD_KWARGS.get(method, {})},
            "momentum": {"base_tau": 0.99, "final_tau": 1.0},
            "augmentations": [crop],
            "data": {
                "dataset": "custom",
                "train_path": str(digits / "train"),
                "val_path": None,
                "format": "image_folder",
                "no_labels": False,
                "fraction": -1,
                "num_workers": 0,
            },
            "optimizer": {"name": "sgd", "batch_size": batch_size, "lr": 0.1, "classifier_lr": 0.1, "weight_decay": 1e-4},
            "scheduler": {"name": "warmup_cosine", "warmup_epochs": 1},
            "checkpoint": {"enabled": False, "dir": "trained_models", "frequency": 1, "keep_prev": False},
            "auto_resume": {"enabled": False},
            "wandb": {"enabled": False},
            "knn_eval": {"enabled": False},
            "max_epochs": 2,
            "max_steps": -1,
            "devices": "1",
            "accelerator": "cpu",
            "strategy": "auto",
            "precision": 32,
            "sync_batchnorm": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        return OmegaConf.merge(OmegaConf.create(cfg), OmegaConf.create(nodes))  # type: ignore[return-value]

    return make


class Record:
    """What a method saw and returned, step by step, and the model that was trained."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]] = []
        self.losses: list[float] = []
        self.classifier_targets: list[torch.Tensor] = []
        self.model: torch.nn.Module | None = None

    def state(self) -> dict[str, torch.Tensor]:
        assert self.model is not None
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


@pytest.fixture
def train() -> Callable[..., Record]:
    """Trains a recipe with the installed solo-learn, through `solo_gps.commands.pretrain`, and records every step."""
    from solo_gps.commands.pretrain import pretrain
    from solo_gps.guide.switch import activate
    from solo_gps.hosts.detect import detect_host

    def run(cfg: DictConfig, *, stock: bool = False) -> Record:
        host, record = detect_host(), Record()
        original = host.methods[cfg.method]

        class Recorded(original):  # type: ignore[misc, valid-type]
            def training_step(self, batch: list, batch_idx: int) -> object:
                items, crops, targets = batch
                record.batches.append((items.clone(), [crop.clone() for crop in crops], targets.clone()))
                out = super().training_step(batch, batch_idx)
                record.losses.append(float(out["loss"] if isinstance(out, dict) else out))
                return out

            def _base_shared_step(self, X: torch.Tensor, targets: torch.Tensor) -> dict:
                if self.training:
                    record.classifier_targets.append(targets.clone())
                return super()._base_shared_step(X, targets)

        host.methods[cfg.method] = Recorded
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if stock:
                    with host.switched_on():
                        record.model = _stock_run(host, cfg)
                else:
                    with activate(cfg):
                        record.model = pretrain(cfg).model
        finally:
            host.methods[cfg.method] = original
        return record

    return run


def _stock_run(host: object, cfg: DictConfig) -> torch.nn.Module:
    """What main_pretrain.py does, by the host's own functions, with solo-gps nowhere in sight."""
    cfg = host.complete(cfg)
    host.lightning.seed_everything(cfg.seed)
    model = host.build_method(cfg, host.methods[cfg.method])
    val_loader = host.build_val_loader(cfg)
    loader = host.build_train_loader(cfg)
    trainer = host.lightning.Trainer(**{**host.trainer_kwargs(cfg), "callbacks": [], "logger": False})
    trainer.fit(model, loader, val_loader)
    return model


class Itself(Gps):
    """All that GPS does, balls found and positives drawn, only to show the anchor itself."""

    def pairs(self, pairs, epoch):
        assert (super().pairs(pairs, epoch).positives != pairs.anchors).all()
        return pairs


@pytest.fixture
def itself():
    """Makes `sampler: {itself: {}}` known: switched on, with nothing to guide."""

    class Plugin:
        @hookimpl
        def register_samplers(self):
            return {"itself": Itself}

    plugin = Plugin()
    plugins.plugin_manager().register(plugin)
    yield
    plugins.plugin_manager().unregister(plugin)


@pytest.fixture
def drawn():
    """Epoch to positives, as announced."""
    seen = {}

    class Watcher:
        @hookimpl
        def on_epoch_pairs(self, epoch, pairs):
            seen[epoch] = np.array(pairs.positives)

    watcher = Watcher()
    plugins.plugin_manager().register(watcher)
    yield seen
    plugins.plugin_manager().unregister(watcher)


@pytest.fixture
def tables():
    """Tables as they were built, the prior's and the refreshed ones."""
    seen = []

    class Watcher:
        @hookimpl
        def on_table_built(self, sampler, table, labels):
            seen.append((sampler, np.array(table.indices), labels))

    watcher = Watcher()
    plugins.plugin_manager().register(watcher)
    yield seen
    plugins.plugin_manager().unregister(watcher)


@pytest.fixture
def programs(tmp_path, digits, recipe):
    """Programs in processes of their own, on the digits, with a recipe of two steps."""
    cfg = recipe("nnclr", max_steps=2, batch_size=16, performance={"disable_channel_last": True})
    cfg.checkpoint.dir = str(tmp_path / "trained")
    text = f"{OmegaConf.to_yaml(cfg)}hydra:\n  run: {{dir: {tmp_path}/run}}\n  sweep: {{dir: {tmp_path}/sweep}}\n"
    return Programs(tmp_path, digits / "train", text)
