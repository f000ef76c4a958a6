"""Inspections of handwritten digits, with names that HTML must not take for its own."""

from __future__ import annotations

import numpy as np
import pytest
from image_sets import digits_pixels
from PIL import Image
from sklearn.datasets import load_digits

import solo_gps

IMAGES = 90


@pytest.fixture(scope="session")
def odd_classes(tmp_path_factory):
    """Digits in class folders of odd names."""
    folder = tmp_path_factory.mktemp("odd") / "train"
    names = {digit: f"{digit} <b>&amp; \"x\" $y$ 'z'" for digit in range(10)}
    for row, (pixels, label) in enumerate(zip(digits_pixels(IMAGES), load_digits().target, strict=False)):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / names[label] / f"{row:03d}.png")
    return folder


@pytest.fixture(scope="session")
def labelled(odd_classes, tmp_path_factory):
    rows = np.random.default_rng(0).normal(size=(IMAGES, 5)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOLO_GPS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return solo_gps.inspect(odd_classes, {"pixels": "pixels", "<script>alert(1)</script>": rows})


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOLO_GPS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return solo_gps.inspect(digits_pixels(60), "pixels")
