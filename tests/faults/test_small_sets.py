"""Training sets of hardly any image, and of classes of one."""

from __future__ import annotations

import numpy as np
import pytest
from image_sets import digits_pixels
from PIL import Image

from solo_gps.errors import SoloGpsError

pytestmark = [pytest.mark.faults, pytest.mark.host]
PRIOR = {"name": "pca", "image_size": 8, "num_workers": 0}
K = 3


def write(folder, count, classes):
    for number, pixels in enumerate(digits_pixels(count)):
        file = folder / f"{number % classes:03d}" / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("RGB").save(file)
    return str(folder)


def small(recipe, folder, count, **nodes):
    cfg = recipe(max_epochs=1, batch_size=min(2, count), **nodes)
    cfg.data.train_path = folder
    return cfg


@pytest.mark.parametrize("count", [1, 2, K, K + 1, K + 2])
@pytest.mark.parametrize("sampler", [{"gps": {"k": K}}, {"pnn": {}}, {"sepp": {"low_quantile": 0.1, "high_quantile": 1.0}}])
def test_training_sets_of_hardly_any_image_train_or_are_one_error(sampler, count, recipe, train, tmp_path, drawn):
    folder = write(tmp_path / "images", count, classes=1)
    cfg = small(recipe, folder, count, sampler=sampler, prior=PRIOR, method_kwargs={"queue_size": 2})
    try:
        record = train(cfg)
    except SoloGpsError as error:
        said = str(error)
    else:
        assert record.losses
        if "gps" in sampler:
            assert count > K
            assert (drawn[0] != np.arange(count)).all()
        return
    assert "\n" not in said
    assert count <= K or "gps" not in sampler, f"k={K} of {count} images is possible: {said}"


@pytest.mark.parametrize("count", [K, K + 1])
def test_a_refresh_of_so_few_images(count, recipe, train, tmp_path):
    cfg = small(recipe, write(tmp_path / "images", count, classes=1), count, sampler={"gps": {"k": K - 1}}, refresh={"every": 1})
    cfg.max_epochs = 2
    assert train(cfg).losses


def test_500_classes_of_one_image_each(recipe, train, tmp_path, drawn):
    """No neighbour is of an image's own class: purity is nought, and nothing divides by it."""
    cfg = recipe(max_steps=3, batch_size=16, sampler={"gps": {"k": 5}}, prior=PRIOR)
    cfg.data.train_path = write(tmp_path / "images", 500, classes=500)
    assert np.isfinite(train(cfg).losses).all()
    assert (drawn[0] != np.arange(500)).all()
