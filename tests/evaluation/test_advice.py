"""The rules: what a random prior, a perfect one and those between are called, and when each suggestion is made."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from image_sets import ArrayImages

from solo_gps.evaluation import advice as rules
from solo_gps.evaluation.advice import VIEWS, advise, knowledge
from solo_gps.evaluation.inspection import inspect_space, telling_labels
from solo_gps.evaluation.neighbourhood import Ball, RadiusBall
from solo_gps.interfaces import Embeddings
from solo_gps.samplers.space import PriorSpace

DRAW = np.random.default_rng(3)
CLASSES = DRAW.integers(0, 10, 1000)


def numbers(points, labels=CLASSES, space="euclidean"):
    images = ArrayImages(np.zeros((len(points), 2, 2), np.uint8), labels)
    placed = PriorSpace.of(images, Embeddings(array=points.astype(np.float32), space=space), None)
    return inspect_space("mine", placed, telling_labels(images), seed=5).numbers


@pytest.fixture(scope="module")
def random():
    return numbers(DRAW.normal(size=(1000, 32)))


@pytest.fixture(scope="module")
def good():
    """A class is a place, with a spread that leaves some images beside others of another class."""
    return numbers(DRAW.normal(size=(10, 8))[CLASSES] + 0.45 * DRAW.normal(size=(1000, 8)))


def test_a_random_prior_says_little(random, good):
    said = advise(random)
    assert said.verdict == "little"
    assert "expect little of it" in said.reason
    assert "another prior" in said.suggestions[0].reason
    assert not any("another prior" in one.reason for one in advise(good).suggestions)
    assert (VIEWS in advise(good).suggestions, VIEWS in said.suggestions) == (True, False)
    assert abs(random.usual.purity["uniform"] - random.chance) < 0.05


@pytest.mark.filterwarnings("ignore")
def test_labels_as_a_prior_are_excellent():
    labels = numbers(np.eye(10)[CLASSES])
    said = advise(labels)
    assert said.verdict == "excellent"
    assert (said.k, labels.usual.purity["furthest"], labels.accuracy) == (50, 1, 1)
    assert any("copy" in one.reason for one in said.suggestions)


def test_labels_with_a_little_noise_are_excellent_without_copies():
    said = advise(numbers(np.eye(10)[CLASSES] + 0.15 * DRAW.normal(size=(1000, 10))))
    assert (said.verdict, said.k) == ("excellent", 50)
    assert not any("copy" in one.reason for one in said.suggestions)


def test_without_labels_geometry_alone_speaks(good):
    unlabelled = numbers(DRAW.normal(size=(300, 4)), None)
    said = advise(unlabelled)
    assert (said.verdict, said.k, said.choose) == ("unknown", 10, "uniform")
    assert said.suggestions[0].keys == "+sampler=gps sampler.gps.k=10 sampler.gps.choose=uniform"
    assert any(one.keys.startswith("sampler.gps.radius=") for one in said.suggestions)
    # in many dimensions all images are as far from one another as any: chi-square's spread is 1 / sqrt(D)
    assert advise(numbers(DRAW.normal(size=(300, 2000)), None)).verdict == "little"


def test_labels_that_tell_nothing_are_none():
    assert not numbers(DRAW.normal(size=(50, 4)), np.zeros(50, np.int64)).labelled
    assert not numbers(DRAW.normal(size=(50, 4)), np.arange(50)).labelled


def test_knowledge_by_hand():
    assert knowledge(0.1, 0.1) == 0
    assert knowledge(1.0, 0.1) == 1
    assert knowledge(0.55, 0.1) == pytest.approx(0.5)


def with_purity(good, purity, **more):
    """The same numbers with other purities: k, and those of uniform and furthest; a tenth is chance."""
    balls = [
        Ball(
            k=k,
            distance=1.0,
            purity={"furthest": furthest, "uniform": uniform, "nearest": purity[0][1], "weighted": uniform},
            covered={"furthest": 0.6, "uniform": 0.9, "nearest": 0.5, "weighted": 0.9},
        )
        for k, uniform, furthest in purity
    ]
    return dataclasses.replace(good, by_k=balls, chance=0.1, **more)


@pytest.mark.parametrize(
    ("purity", "verdict"), [(0.27, "little"), (0.29, "some"), (0.54, "some"), (0.56, "much"), (0.9, "much"), (0.92, "excellent")]
)
def test_the_verdict_changes_at_its_thresholds(good, purity, verdict):
    """0.2, 0.5 and 0.9 of the way from 0.1 to 1 are 0.28, 0.55 and 0.91."""
    assert advise(with_purity(good, [(1, purity, purity), (10, purity, purity)])).verdict == verdict


def test_k_is_the_largest_that_keeps_three_quarters(good):
    # the nearest knows (0.9 - 0.1) / 0.9; three quarters of it are a purity of 0.7
    said = advise(with_purity(good, [(1, 0.9, 0.9), (5, 0.8, 0.8), (10, 0.71, 0.5), (20, 0.69, 0.5)]))
    assert (said.k, said.choose) == (10, "uniform")
    assert advise(with_purity(good, [(1, 0.9, 0.9), (5, 0.8, 0.8), (10, 0.69, 0.5)])).k == 5


def test_the_furthest_is_chosen_where_it_keeps_nine_tenths(good):
    # uniform knows 0.7 / 0.9; nine tenths of it are a purity of 0.73
    assert advise(with_purity(good, [(1, 0.8, 0.8), (10, 0.8, 0.74)])).choose == "furthest"
    assert advise(with_purity(good, [(1, 0.8, 0.8), (10, 0.8, 0.72)])).choose == "uniform"


def test_one_neighbour_leaves_no_choice(good):
    said = advise(with_purity(good, [(1, 0.9, 0.9), (10, 0.2, 0.2)]))
    assert (said.k, said.choose) == (1, "nearest")


def reasons(numbers):
    return {one.keys.split("=")[0]: one.reason for one in advise(numbers).suggestions if one is not VIEWS}


def test_a_ball_of_copies_is_not_what_to_take(good):
    """Each image is stored twice: the nearest has the anchor's label, and shows nothing new."""
    seen = with_purity(good, [(1, 1.0, 1.0), (2, 0.7, 0.5), (10, 0.3, 0.3)], copies=1000)
    seen = dataclasses.replace(seen, by_k=[dataclasses.replace(seen.by_k[0], distance=0.0), *seen.by_k[1:]])
    said = advise(seen)
    assert said.k == 2
    assert "exact copy" in said.suggestions[0].reason


def test_a_nearest_image_below_chance_sets_no_measure(good):
    said = advise(with_purity(good, [(1, 0.05, 0.05), (10, 0.08, 0.09), (50, 0.1, 0.1)]))
    assert (said.verdict, said.k, said.choose) == ("little", 10, "uniform")
    assert any("knows no more than chance" in one.reason for one in said.suggestions)


@pytest.mark.parametrize("frames", [2, 5, 20])
def test_frames_of_a_film_are_near_copies_however_many(frames):
    scenes = DRAW.normal(size=(15, 32))
    points = np.repeat(scenes, frames, axis=0) + 1e-4 * DRAW.normal(size=(15 * frames, 32))
    seen = numbers(points, np.repeat(np.arange(15), frames))
    assert seen.near_copies == 1
    assert "near" in " ".join(one.reason for one in advise(seen).suggestions)


def test_few_dimensions_alone_make_no_near_copies():
    assert numbers(DRAW.normal(size=(300, 6)), None).near_copies < 0.01


def test_few_images_are_not_voted_on_by_all_others():
    """By all others, each of two equal classes is the smaller without the image itself: all would be told wrong."""
    points = np.concatenate([DRAW.normal(size=(8, 4)), DRAW.normal(size=(8, 4)) + 9])
    seen = numbers(points, np.repeat([0, 1], 8))
    assert (seen.votes, seen.accuracy) == (3, 1)


def test_each_suggestion_at_its_threshold(good):
    plain = dataclasses.replace(
        good, hubness=2.9, copies=10, near_copies=0.01, flip=0.5, rank=2.0, other_space={"euclidean": 0.5, "cosine": 0.52}
    )
    assert not {"sampler.gps.mutual", "prior.space", "prior.augmentation", ""} & set(reasons(plain))
    changes = {
        "sampler.gps.mutual": {"hubness": 3.1},
        "prior.space": {"other_space": {"euclidean": 0.5, "cosine": 0.53}},
        "prior.augmentation": {"flip": 0.49},
        "": {"copies": 11},
    }
    for key, change in changes.items():
        assert set(reasons(dataclasses.replace(plain, **change))) - set(reasons(plain)) == {key}
    assert "closer than 0.01" in reasons(dataclasses.replace(plain, near_copies=0.011))[""]
    assert "one line" in reasons(dataclasses.replace(plain, rank=1.9))[""]
    assert "prior.augmentation" not in reasons(dataclasses.replace(plain, flip=math.nan))


def test_a_radius_is_named_where_it_fits_and_praised_where_it_is_purer(good):
    ball = RadiusBall(radius=0.4, size=10.0, empty=0.5, full=0.1, purity=0.83, covered=0.8)
    seen = with_purity(good, [(1, 0.9, 0.9), (10, 0.8, 0.8)], accepted=ball)
    assert reasons(seen)["sampler.gps.radius"].startswith("A radius in place of k")
    tame = dataclasses.replace(seen, accepted=dataclasses.replace(ball, purity=0.82))
    assert reasons(tame)["sampler.gps.radius"].startswith("If you want")
    smaller = dataclasses.replace(seen, accepted=dataclasses.replace(ball, size=9.0))  # to be compared with k=1
    assert reasons(smaller)["sampler.gps.radius"].startswith("If you want")
    for none in (None, dataclasses.replace(ball, empty=0.51)):
        assert "sampler.gps.radius" not in reasons(dataclasses.replace(seen, accepted=none))


def test_the_page_on_inspect_states_the_thresholds():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text()
    for name in (
        "LITTLE",
        "SOME",
        "EXCELLENT",
        "FAR",
        "BALL_KEEPS",
        "FURTHEST_KEEPS",
        "BETTER",
        "HUBS",
        "COPIES",
        "STILL",
        "UNUSED",
        "LINE",
    ):
        assert f"`{name}` = {getattr(rules, name):g}" in text, name
