"""Fixtures for all tests: real digits as an image folder, small recipes, a cache of the test's own, and what watches training."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():
    # Both generations of solo-learn warn when they are imported on today's stack; none of it is ours.
    warnings.simplefilter("ignore")
    with suppress(ImportError):
        import solo.methods  # noqa: F401

import torch
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from image_sets import ArrayImages, FolderImages, digits_pixels
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from programs import Programs
from trainings import Record, recorded, small_recipe

from solo_gps import hookimpl, plugins
from solo_gps.hosts.detect import detect_host
from solo_gps.samplers.gps.sampler import Gps

# The same examples each time, so that no change is held up by what another brought; new ones: --hypothesis-profile=default.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")
if hasattr(providers, "_get_local_constants"):
    # It draws constants out of whatever modules other tests have imported by then.
    providers._get_local_constants = lambda: providers._local_constants

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
def own_random_numbers() -> None:
    """Whatever a test draws, it draws again, whichever tests ran before it in its process."""
    torch.manual_seed(0)


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
def h5(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An H5 file of the digits, and a home folder for solo-learn's list of it."""
    if detect_host().generation != "1.0.6":
        pytest.skip("H5 came with solo-learn 1.0.6")
    h5py = pytest.importorskip("h5py")
    monkeypatch.setenv("HOME", str(tmp_path))
    with h5py.File(tmp_path / "digits.h5", "w") as file:
        for path in sorted((digits / "train").glob("*/*.png")):
            file.require_group(path.parent.name)[path.name] = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    return tmp_path / "digits.h5"


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


MakeRecipe = Callable[..., DictConfig]


@pytest.fixture
def recipe(digits: Path) -> MakeRecipe:
    """Returns a maker of small recipes in the form of solo-learn 1.0.6: ``recipe("byol", sampler={...}, max_steps=3)``."""
    return partial(small_recipe, str(digits / "train"))


@pytest.fixture
def train() -> Callable[..., Record]:
    """Trains a recipe with the installed solo-learn, through `solo_gps.commands.pretrain`, and records every step."""
    return recorded


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
