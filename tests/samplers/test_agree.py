"""Neighbours that several priors share: against a naive reference, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import ArrayImages
from omegaconf import OmegaConf

from solo_gps import positives
from solo_gps.embeddings import embed
from solo_gps.errors import ConfigError, DataError
from solo_gps.guide.check import read_recipe
from solo_gps.samplers.space import PriorSpace

SEARCH = {"backend": "torch", "device": "cpu"}
AGREE = {"name": "join", "parts": ["pca", "pixels"], "combine": "agree"}


def nearest_by_hand(rows: np.ndarray, image: int, k: int) -> set[int]:
    others = [other for other in range(len(rows)) if other != image]
    return set(sorted(others, key=lambda other: (((rows[image] - rows[other]) ** 2).sum(), other))[:k])


def check_against_hand(space: PriorSpace, parts: list[np.ndarray], k: int) -> None:
    table, joined = space.neighbours(k=k), space.embeddings.array.astype(np.float64)
    for image, row in enumerate(table.indices):
        found = [int(other) for other in row if other >= 0]
        assert set(found) == set.intersection(*(nearest_by_hand(part.astype(np.float64), image, k) for part in parts))
        wanted = [((joined[image] - joined[other]) ** 2).sum() for other in found]
        np.testing.assert_allclose(table.distances[image, : len(found)], wanted, rtol=1e-4, atol=1e-6)
        assert (np.diff(table.distances[image, : len(found)]) >= 0).all()
        assert (row[len(found) :] == -1).all()
        assert np.isinf(table.distances[image, len(found) :]).all()


@pytest.mark.parametrize("k", [1, 5, 40])
def test_neighbours_are_those_of_every_part(digit_images: Any, cache_dir: Path, k: int) -> None:
    parts = [{"name": "pca", "dimensions": 3}, {"name": "random", "image_size": 32, "device": "cpu"}]
    space = PriorSpace(digit_images, {**AGREE, "parts": parts}, SEARCH)
    check_against_hand(space, [embed(digit_images, part).array for part in parts], k)


@settings(max_examples=8)
@given(data=st.data(), images=st.integers(3, 12), parts=st.integers(2, 3))
def test_any_points(data: Any, images: int, parts: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("points")
    seed, k = data.draw(st.integers(0, 999)), data.draw(st.integers(1, images - 1))
    arrays = [np.random.default_rng(seed + part).integers(-9, 9, (images, 2)).astype(np.float32) for part in range(parts)]
    for place, array in enumerate(arrays):
        np.save(folder / f"{place}.npy", array)
    prior = {
        **AGREE,
        "parts": [{"name": "array", "path": str(folder / f"{place}.npy")} for place in range(parts)],
        "cache_dir": str(folder / "cache"),
    }
    check_against_hand(PriorSpace(ArrayImages(np.zeros((images, 2, 2), np.uint8)), prior, SEARCH), arrays, k)


def test_priors_that_share_none_are_an_error_with_a_mend(tmp_path: Path, cache_dir: Path) -> None:
    """Four points on a line, and the same with the middle ones at the ends: nobody has one nearest neighbour in both."""
    for name, line in (("one", [0, 1, 10, 11]), ("two", [0, 10, 1, 11])):
        np.save(tmp_path / f"{name}.npy", np.array([[1, number] for number in line], np.float32))
    prior = {**AGREE, "parts": [{"name": "array", "path": str(tmp_path / f"{name}.npy")} for name in ("one", "two")]}
    images = np.zeros((4, 2, 2), np.uint8)
    with pytest.raises(DataError, match=r"share too few neighbours: raise k, or use prior.combine=join"):
        positives(images, prior=prior, k=1, search=SEARCH)
    assert (positives(images, prior=prior, k=3, search=SEARCH).table.indices >= 0).all()


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ({"gps": {"radius": 0.5}}, "sampler.gps.radius=0.5 says nothing with prior.combine=agree"),
        ({"gps": {"radius": "mean"}}, "sampler.gps.radius=mean says nothing"),
        ({"sepp": {}}, "says nothing to sampler.sepp"),
        ({"pnn": {"space": "prior"}}, "says nothing to sampler.pnn"),
    ],
)
def test_what_has_no_k_is_refused_before_any_work(sampler: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_recipe(OmegaConf.create({"sampler": sampler, "prior": AGREE, "method": "simclr"}))


def test_the_api_refuses_it_too() -> None:
    with pytest.raises(ConfigError, match=r"radius=2.0 says nothing"):
        positives(np.zeros((4, 2, 2), np.uint8), prior=AGREE, radius=2.0)
