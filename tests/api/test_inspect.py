"""inspect(): any images, any priors, several side by side, and an error with the argument's name for all else."""

from __future__ import annotations

import json
import math
import shlex

import numpy as np
import pytest
from image_sets import digits_pixels
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

import solo_gps
from solo_gps.api.inspect import Inspection, name_of_prior, words_of_prior
from solo_gps.commands.recipes import compose_recipe
from solo_gps.errors import ConfigError, DataError
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours.filters.graph import hubness, in_degree

PIXELS, LABELS = digits_pixels(150), load_digits().target[:150]
ROWS = np.random.default_rng(1).normal(size=(150, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOLO_GPS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return solo_gps.inspect(PIXELS, ["pixels", {"name": "pca", "dimensions": 8}, ROWS], labels=LABELS)


def test_the_numbers_are_of_the_neighbours_that_a_training_finds(seen):
    assert isinstance(seen, Inspection)
    assert list(seen.numbers) == ["pixels", "pca dimensions=8", "array 3"]
    found = solo_gps.positives(PIXELS, prior="pixels", labels=LABELS, k=10)
    numbers, table = seen.numbers["pixels"], seen.tables["pixels"]
    assert np.array_equal(table.indices[:, :10], found.table.indices)
    assert numbers.by_rank == pytest.approx((LABELS[table.indices] == LABELS[:, None]).mean(axis=0))
    assert numbers.usual.purity["furthest"] == pytest.approx(found.purity(epoch=0))
    assert numbers.hubness == pytest.approx(hubness(found.table))
    assert numbers.most_in == in_degree(found.table).max()
    assert numbers.never_in == pytest.approx(np.mean(~np.isin(np.arange(150), found.table.indices)))
    assert numbers.nearest == pytest.approx(np.median(found.table.distances[:, 0]))


def test_what_two_priors_share(seen):
    one, other = (seen.tables[name].indices[:, :10] for name in ("pixels", "pca dimensions=8"))
    wanted = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(one.tolist(), other.tolist(), strict=True)])
    assert seen.agreement["pixels", "pca dimensions=8"] == pytest.approx(wanted)
    assert wanted > 0.5
    assert seen.agreement["pixels", "array 3"] == pytest.approx(10 / 149, abs=0.03)
    assert len(seen.agreement) == 3


def test_verdicts_of_a_prior_that_knows_and_of_one_that_does_not(seen):
    assert seen.advice["pixels"].verdict in ("much", "excellent")
    assert seen.advice["array 3"].verdict == "little"


@pytest.mark.filterwarnings("ignore")
def test_labels_as_a_prior_are_excellent(tmp_path):
    np.save(tmp_path / "labels.npy", np.eye(10, dtype=np.float32)[LABELS])
    (advice,) = solo_gps.inspect(PIXELS, {"name": "array", "path": str(tmp_path / "labels.npy")}, labels=LABELS).advice.values()
    assert advice.verdict == "excellent"


def test_flips_and_crops_are_known_where_there_is_an_encoder(seen):
    assert 0 <= seen.numbers["pixels"].flip < seen.numbers["pixels"].crop <= 1
    assert math.isnan(seen.numbers["array 3"].flip)


def test_json_has_every_number_and_no_nan(seen):
    text = json.dumps(seen.as_json(), allow_nan=False)
    back = json.loads(text)
    assert [one["name"] for one in back["priors"]] == list(seen.numbers)
    assert back["priors"][2]["flip"] is None
    assert back["priors"][0]["advice"]["suggestions"][0]["keys"].startswith("+prior=pixels +sampler=gps sampler.gps.k=")
    assert back["agreement"]["shared"][0]["priors"] == ["pixels", "pca dimensions=8"]
    assert set(back["priors"][0]) == {*vars(seen.numbers["pixels"]), "advice"}


WORDS = [
    (None, "patches", "+prior=patches"),
    ("pca", "pca", "+prior=pca"),
    (
        {"name": "pca", "whiten": 0.5, "cache_dir": "a b"},
        "pca whiten=0.5",
        shlex.join(["+prior=pca", "prior.whiten=0.5", "prior.cache_dir='a b'"]),
    ),
    (
        {"name": "checkpoint", "path": "runs/a-ep=1.ckpt"},
        None,
        shlex.join(["+prior=checkpoint", "prior.path='runs/a-ep=1.ckpt'"]),
    ),
    ({"name": "array", "path": "(a, 'b').npy"}, None, None),
    ({"name": "array", "path": "a\\'b\\"}, None, None),
    ({"name": "array", "path": "a\\{b}~.npy"}, None, None),
    ({"name": "timm", "pretrained": False, "checkpoint": None}, None, "+prior=timm prior.pretrained=false prior.checkpoint=null"),
    (
        {"name": "join", "parts": ["pixels", {"name": "pca", "weight": 2}]},
        None,
        "+prior=join 'prior.parts=[pixels,{name:pca,weight:2}]'",
    ),
    (ROWS, "array", ""),
]


@pytest.mark.parametrize(("prior", "name", "words"), WORDS)
def test_what_to_type_is_read_by_hydra_as_the_same_prior(prior, name, words):
    assert words in (None, words_of_prior(prior))
    words = words_of_prior(prior)
    assert name in (None, name_of_prior(prior, "array"))
    if isinstance(prior, dict):
        group, *keys = shlex.split(words)
        read = compose_recipe("simclr_digits", ["+sampler=gps", group, *keys]).prior
        assert {key: OmegaConf.to_container(read)[key] for key in prior} == prior


def test_without_labels_what_needs_them_is_not_known():
    bare = solo_gps.inspect(PIXELS, {"mine": ROWS})
    (numbers,) = bare.numbers.values()
    assert (bare.classes, numbers.by_rank, numbers.classes, numbers.other_space) == ({}, [], [], {})
    assert math.isnan(numbers.usual.purity["uniform"])
    assert numbers.mutual > 0
    json.dumps(bare.as_json(), allow_nan=False)


def test_priors_that_agree_are_refused_since_their_neighbours_are_those_of_a_k():
    parts = {"name": "join", "parts": ["pixels", {"name": "pca", "dimensions": 4}], "combine": "agree"}
    with pytest.raises(ConfigError, match=r"combine=agree says which neighbours count, .* or its parts"):
        solo_gps.inspect(PIXELS, parts, labels=LABELS)


def test_few_images_have_few_neighbours():
    (numbers,) = solo_gps.inspect(PIXELS[:4], "pixels", labels=[0, 0, 1, 1]).numbers.values()
    assert (numbers.looked_at, numbers.k, [ball.k for ball in numbers.by_k]) == (3, 3, [1, 2, 3])


def test_another_space_is_looked_at_too():
    """Directions of two classes, of any length: by angle the classes are apart, by distance the lengths count."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 150)
    rows = np.eye(2)[labels] + draw.normal(scale=0.05, size=(150, 2))
    rows *= draw.lognormal(mean=-2, sigma=4, size=(150, 1))
    numbers = solo_gps.inspect(PIXELS, rows, labels=labels).numbers["array"]
    assert numbers.other_space["cosine"] == 1
    assert numbers.other_space["euclidean"] == pytest.approx(numbers.usual.purity["uniform"], abs=0.06)
    assert numbers.other_space["euclidean"] < 0.97
    cosine = solo_gps.inspect(PIXELS, Embeddings(array=rows.astype(np.float32), space="cosine"), labels=labels)
    assert cosine.numbers["array"].usual.purity["uniform"] == 1


@pytest.mark.parametrize(
    ("images", "priors", "kind", "says"),
    [
        (PIXELS[:3], "pixels", DataError, "3 images; wanted 4 or more"),
        (PIXELS, ["pixels", "pixels"], ConfigError, "'pixels' is there twice"),
        (PIXELS, [], ConfigError, "none given"),
        (PIXELS, ["pixels"] * 2 + ["pca"] * 2, ConfigError, "twice"),
        (PIXELS, {str(number): "pixels" for number in range(13)}, ConfigError, "13 of them; 12 fit"),
        (PIXELS, ["pixels", "pxels"], ConfigError, r"pxels: unknown prior.*Did you mean 'pixels'"),
        (PIXELS, ["pixels", ROWS[:9]], DataError, r"array 2: prior: wanted embeddings of shape \(150, D\)"),
        (PIXELS, 7, ConfigError, "wanted a prior's name"),
        (PIXELS, {"name": "pixels", "image_sise": 3}, ConfigError, "Did you mean 'image_size'"),
    ],
)
def test_what_cannot_be_inspected_is_one_error(images, priors, kind, says, own_cache):
    with pytest.raises(kind, match=says):
        solo_gps.inspect(images, priors)
    assert not own_cache.exists()
