"""Inspections of handwritten digits, with names that HTML must not take for its own."""

from __future__ import annotations

import numpy as np
import pytest
from image_sets import digits_pixels
from PIL import Image
from sklearn.datasets import load_digits

import solo_gps
from solo_gps.comparison.records import Record
from solo_gps.comparison.table import lines

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


@pytest.fixture(scope="session")
def long_names(tmp_path_factory):
    """Five priors called by paths."""
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOLO_GPS_CACHE", str(tmp_path_factory.mktemp("cache")))
        names = [f"checkpoints/{'encoder_of_the_first_stage_' * 3}{number}.pth" for number in range(5)]
        return solo_gps.inspect(digits_pixels(60), dict.fromkeys(names, rows))


@pytest.fixture(scope="session")
def compared():
    """The table of a comparison: a prior alone, two seeds of a plain row, of one that gains and of one that does in one seed."""
    shares = {
        "<script>alert(1)</script>": [0.5],
        'plain & "weak"': [0.30, 0.40],
        "GPS 'k=3'": [0.35, 0.43],
        "$x$ <b>": [0.31, 0.39],
    }
    records = []
    for place, (row, values) in enumerate(shares.items()):
        for seed, value in enumerate(values):
            curve = [{"epochs": after, "figures": {"knn_weighted": value * after / 11}} for after in (1, 11)]
            records.append(
                Record(
                    row=row,
                    place=place,
                    values={"positives": row} if place else {},
                    seed=seed if place else None,
                    key=f"{row}{seed}",
                    overrides=["+sampler=gps", "a='b'"],
                    steps=468 if place else None,
                    figures={"knn_weighted": value, "rank_me": None},
                    curve=curve if place else [],
                    baseline='plain & "weak"' if place > 1 else None,
                )
            )
    return lines(records)
