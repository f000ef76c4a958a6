"""Several priors: side by side, and what is wrong with their keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from config_keys import composed
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import ArrayImages, FolderImages
from PIL import Image

from solo_gps.embeddings import embed, list_caches, service
from solo_gps.embeddings.resolve import parse_prior
from solo_gps.errors import ConfigError, DataError, SoloGpsError
from solo_gps.priors.config import JoinConfig
from solo_gps.samplers.space import PriorSpace

PCA = {"name": "pca", "image_size": 8, "dimensions": 9}
PIXELS = {"name": "pixels", "image_size": 8}


def joined(*parts: Any, **keys: Any) -> dict[str, Any]:
    return {"name": "join", "parts": list(parts), **keys}


def by_hand(parts: list[np.ndarray], weights: list[float]) -> np.ndarray:
    rows = []
    for image in range(len(parts[0])):
        row: list[float] = []
        for part, weight in zip(parts, weights, strict=True):
            numbers = [float(number) for number in part[image]]
            length = sum(number**2 for number in numbers) ** 0.5
            row += [weight * number / length if length else 0.0 for number in numbers]
        rows.append(row)
    return np.array(rows)


def test_rows_are_those_of_the_parts_each_of_its_weight_in_length(digit_images: Any, cache_dir: Path) -> None:
    found = embed(digit_images, joined(PCA, {**PIXELS, "weight": 0.5}, space="cosine"))
    parts = [embed(digit_images, PCA).array, embed(digit_images, PIXELS).array]
    np.testing.assert_allclose(found.array, by_hand(parts, [1, 0.5]), atol=1e-6)
    assert found.space == "cosine"
    assert not found.parts
    assert len(list_caches()) == 3, "the parts were built once, and found when asked for alone"


@settings(max_examples=8)
@given(
    rows=st.lists(st.tuples(*[st.floats(-(2.0**99), 2.0**99, width=32)] * 3), min_size=2, max_size=6),
    weights=st.tuples(st.floats(0.01, 1000), st.floats(0.01, 1000)),
)
def test_any_numbers_and_weights(rows: Any, weights: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rows")
    parts = [np.array(rows, np.float32), np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2)]
    keys = []
    for place, part in enumerate(parts):
        np.save(folder / f"{place}.npy", part)
        keys.append({"name": "array", "path": str(folder / f"{place}.npy"), "weight": weights[place]})
    images = ArrayImages(np.zeros((len(rows), 2, 2), np.uint8))
    found = embed(images, joined(*keys, cache_dir=str(folder / "cache"))).array
    np.testing.assert_allclose(found, by_hand(parts, list(weights)), rtol=1e-5, atol=1e-30)


def test_identity_is_the_parts_and_the_weights(digit_images: Any, cache_dir: Path) -> None:
    asked = [
        joined(PCA, PIXELS),
        joined(PIXELS, PCA),
        joined(PCA, {**PIXELS, "weight": 2}),
        joined({**PCA, "dimensions": 8}, PIXELS),
        joined(PCA, PIXELS, combine="agree"),
        joined(PCA, {**PIXELS, "space": "cosine"}, combine="agree"),
    ]
    assert len({embed(digit_images, prior).fingerprint for prior in asked}) == len(asked)
    same = joined({**PCA, "batch_size": 7}, {**PIXELS, "weight": 1.0}, space="cosine", batch_size=5)
    assert embed(digit_images, same).fingerprint == embed(digit_images, asked[0]).fingerprint


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        (joined(), r"prior: parts=\[\]: wanted two priors or more, for example"),
        (joined("pca"), "wanted two priors or more"),
        (joined("pca", "pcaa"), "pcaa.*Did you mean"),
        (joined("pca", {"weight": 2}), r"parts\[1\]=.*wanted a prior's name, or a mapping"),
        (joined("pca", 3), r"parts\[1\]=3: wanted a prior's name"),
        (joined("pca", {"name": "pixels", "weight": 0}), r"parts\[1\].weight=0 must be above 0"),
        (joined("pca", {"name": "pixels", "weight": -1}), r"parts\[1\].weight=-1 must be above 0"),
        (joined("pca", {"name": "pixels", "weight": True}), r"parts\[1\].weight=True: wanted a number"),
        (joined("pca", {"name": "pixels", "weight": "two"}), r"parts\[1\].weight='two': wanted a number"),
        (joined("pca", joined("pca", "pixels")), r"parts\[1\]: a join within a join"),
        (joined("pca", {"name": "pca", "weight": 2}), r"parts\[1\] is there twice"),
        (joined("pca", "pixels", {"name": "pca", "batch_size": 7, "dimensions": 64}), r"parts\[2\] is there twice"),
        (joined("pixels", "pcaa"), r"prior.parts\[1\]: unknown prior 'pcaa'"),
        ({"name": "join", "parts": "patches,pca"}, r"prior.parts: wanted a list, for example \[a,b\]"),
        ({"name": "join", "parts": {"a": "pca"}}, "prior: wanted a list"),
        (joined("pixels", {"name": "pca", "dimension": 3}), r"prior.parts\[1\].dimension: no such key.*dimensions"),
        (joined("pixels", {"name": "pca", "dimensions": 0}), r"prior.parts\[1\]: dimensions=0 must be"),
        (joined("pixels", {"name": "array"}), r"prior.parts\[1\]: path is missing"),
        (joined("pixels", "pca", combine="agreed"), "combine='agreed' is not one of join, agree"),
        (joined("pixels", "pca", augmentation="flip"), "augmentation='flip' is a key of each part"),
        (joined("pixels", {"name": "pca", "space": "cosine"}), r"parts\[1\].space says nothing with combine=join"),
        (joined("pixels", {"name": "pca", "weight": 2}, combine="agree"), r"parts\[1\].weight says nothing with combine=agree"),
        (joined("pixels", "pca", combine="agree", space="cosine"), "space says nothing with combine=agree"),
    ],
)
def test_a_wrong_key_is_one_error_before_any_work(prior: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_prior(prior)


def test_a_part_that_does_not_fit_is_told_before_another_is_built(digit_images: Any, cache_dir: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((3, 2)))
    with pytest.raises(DataError, match=r"prior.parts\[1\].path: .*3 rows, but the training set has"):
        embed(digit_images, joined("pca", {"name": "array", "path": str(tmp_path / "rows.npy")}))
    with pytest.raises(SoloGpsError, match=r"prior.parts\[1\].path: no file"):
        embed(digit_images, joined("pca", {"name": "array", "path": str(tmp_path / "none.npy")}))
    assert not list(cache_dir.rglob("*.npy"))


def test_a_part_that_lies_at_one_point_is_refused_where_parts_agree(digit_images: Any, cache_dir: Path, tmp_path: Path) -> None:
    rows = np.zeros((len(digit_images), 2), np.float32)
    rows[0] = 1
    np.save(tmp_path / "rows.npy", rows)
    for combine in ("agree", "join"):
        prior = joined("pca", {"name": "array", "path": str(tmp_path / "rows.npy")}, combine=combine)
        if combine == "join":
            assert PriorSpace(digit_images, prior, None).embeddings is not None
        else:
            with pytest.raises(DataError, match="lie at one point"):
                PriorSpace(digit_images, prior, None).neighbours(k=3)


def test_images_that_change_between_two_parts_are_an_error(tmp_path: Path, cache_dir: Path, monkeypatch: Any) -> None:
    for index in range(5):
        Image.new("L", (8, 8), 40 * index).save(tmp_path / f"{index}.png")
    really = service._find_or_build

    def built(*given: Any) -> Any:
        found = really(*given)
        Image.new("L", (9, 9), 7).save(tmp_path / "4.png")
        return found

    monkeypatch.setattr(service, "_find_or_build", built)
    with pytest.raises(DataError, match="changed while a prior was made of them"):
        embed(FolderImages(tmp_path), joined("pixels", {"name": "pixels", "image_size": 4}))


def test_hydra_composes_parts_as_typed() -> None:
    prior = composed("+prior=join", "prior.parts=[patches,{name:pca,weight:0.5}]", "prior.combine=join")["prior"]
    config = parse_prior(prior)
    assert isinstance(config, JoinConfig)
    assert config == JoinConfig(parts=["patches", {"name": "pca", "weight": 0.5}])
    assert config.weights == [1, 0.5]
