"""Every key of GPS, and their combinations, against the naive reference."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from gps_by_hand import ball_by_hand, chosen_by_hand, radius_of_all, squared_distances
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from solo_gps.config import parse
from solo_gps.errors import ConfigError, DataError, MachineError
from solo_gps.interfaces import Embeddings, NeighbourTable, Pairs
from solo_gps.neighbours.filters.clusters import communities, kmeans_clusters
from solo_gps.samplers.gps.ball import balls
from solo_gps.samplers.gps.config import GpsConfig
from solo_gps.samplers.gps.sampler import Gps
from solo_gps.samplers.space import PriorSpace

SEED = 5


class Images:
    labels = None

    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count


def space_of(points, **search):
    array = np.asarray(points, np.float32)
    embeddings = Embeddings(array=array, fingerprint="by hand", folder=None, space="euclidean")
    return PriorSpace.of(Images(len(array)), embeddings, {"device": "cpu", "memory_mib": 16, **search})


def rows(table):
    return [[image for image in row if image >= 0] for row in table.indices.tolist()]


def table_of(ball, distances):
    width = max(1, *map(len, ball))
    indices, measured = np.full((len(ball), width), -1, np.int32), np.full((len(ball), width), np.inf, np.float32)
    for anchor, images in enumerate(ball):
        indices[anchor, : len(images)] = images
        measured[anchor, : len(images)] = [distances[anchor][image] for image in images]
    return NeighbourTable(indices=indices, distances=measured)


@st.composite
def keys(draw):
    chosen = {}
    size = draw(st.sampled_from(["k", "number", "rule"]))
    if size == "k":
        chosen["k"] = draw(st.integers(1, 12))
    elif size == "number":
        chosen["radius"] = float(draw(st.integers(1, 40)))
    else:
        chosen["radius"] = draw(st.sampled_from(["mean", "mean+std", "mean-std", "q0", "q0.25", "q0.9", "q1"]))
        chosen["radius_of"] = draw(st.sampled_from(["all", "image"]))
    chosen["hops"] = draw(st.sampled_from([1, 1, 2, 3]))
    if size == "k" or chosen.get("radius_of") == "image":
        chosen["mutual"] = draw(st.booleans())
    chosen["within"] = draw(st.sampled_from(["none", "clusters", "community"]))
    if chosen["within"] == "clusters":
        chosen["clusters"] = draw(st.integers(2, 5))
    if chosen["within"] == "community":
        chosen["community"] = draw(st.sampled_from(["louvain", "leiden"]))
    chosen["choose"] = draw(st.sampled_from(["furthest", "nearest", "uniform", "weighted"]))
    if chosen["choose"] in ("uniform", "weighted"):
        chosen["keep_anchor"] = draw(st.booleans())
    if chosen["choose"] == "weighted":
        chosen["temperature"] = draw(st.sampled_from([None, 0.01, 0.5, 100.0]))
    chosen["positives"] = draw(st.integers(1, min(4, chosen.get("k", 4)) if chosen["hops"] == 1 else 4))
    return chosen


@settings(max_examples=250)
@given(keys=keys(), seed=st.integers(0, 10**6), images=st.integers(25, 45), columns=st.integers(2, 3), epoch=st.integers(0, 3))
def test_every_combination_is_what_the_naive_reference_says(keys, seed, images, columns, epoch):
    """On whole numbers, where sums are exact and ties abound."""
    points = np.random.default_rng(seed).integers(0, 8, (images, columns)).astype(np.float64)
    space, distances = space_of(points), squared_distances(points.tolist())
    config = parse(keys, GpsConfig, "sampler.gps")
    sampler = Gps(config, seed=SEED)

    def group_of(so_far):
        assume(any(so_far))
        if keys["within"] == "clusters":
            return kmeans_clusters(space.embeddings, keys["clusters"], seed=SEED)
        return communities(table_of(so_far, distances), method=keys["community"], seed=SEED)

    wanted = ball_by_hand(distances, keys, None if keys["within"] == "none" else group_of)
    assume(any(wanted))
    if keys.get("radius_of") == "all":
        assume(radius_of_all(distances, keys["radius"]) > 0)  # else it is refused
    assert rows(balls(space, config, SEED)) == wanted
    sampler.prepare(space, same_label=False)
    generator = np.random.default_rng([SEED, epoch])
    draws = [generator.random(images).tolist() for _ in range(keys["positives"])]
    plain = np.arange(images, dtype=np.int32)
    found = sampler.pairs(Pairs(anchors=plain, positives=plain), epoch)
    assert np.stack(found.in_turn, axis=1).tolist() == chosen_by_hand(distances, wanted, keys, draws)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"radius": "meen"}, r"radius='meen': wanted a distance, mean, mean\+std.*Did you mean 'mean'"),
        ({"radius": "q1.5"}, "radius='q1.5': wanted a distance"),
        ({"radius": True}, "radius=True: wanted a distance"),
        ({"radius": 0.0}, "radius=0.0 must be above 0"),
        ({"radius_of": "image"}, "radius_of=image says nothing without a rule for the radius"),
        ({"radius": 2.0, "radius_of": "image"}, "radius_of=image says nothing without a rule"),
        ({"radius": 2.0, "mutual": True}, "mutual=true says nothing without k, or radius_of=image"),
        ({"radius": "mean", "mutual": True}, "mutual=true says nothing without k"),
        ({"clusters": 3}, "clusters says nothing without within=clusters"),
        ({"within": "clusters"}, "within=clusters wants the number of clusters"),
        ({"within": "cluster"}, "Did you mean 'clusters'"),
        ({"community": "leiden"}, "community=leiden says nothing without within=community"),
        ({"temperature": 1.0}, "temperature says nothing without choose=weighted"),
        ({"choose": "weighted", "temperature": 0}, "temperature=0.0 must be above 0"),
        ({"keep_anchor": True}, "keep_anchor=true says nothing without choose=uniform or weighted"),
        ({"keep_anchor": True, "choose": "nearest"}, "keep_anchor=true says nothing without"),
        ({"hops": 0}, "hops=0 must be from 1 to 8"),
        ({"positives": 0}, "positives=0 must be from 1 to 16"),
        ({"positives": 4, "k": 3}, r"positives=4 says nothing without as many neighbours \(k=3\)"),
        ({"positives": 2, "on_bad_image": "skip"}, "on_bad_image=skip: of an item with positives=1 the other image"),
        ({"show": "big"}, "show='big' is not one of second, large, all"),
        ({"augmentation": "first"}, "augmentation='first': wanted the number"),
        ({"augmentation": -1}, "augmentation=-1: wanted the number|augmentation=-1 must be"),
        ({"augmentation": True}, "augmentation=True: wanted the number"),
    ],
)
def test_what_is_wrong_or_says_nothing_is_one_error(keys, message):
    with pytest.raises(ConfigError, match=message):
        parse(keys, GpsConfig, "sampler.gps")


def test_a_rule_that_gives_no_radius_is_one_error():
    far = [[0.0, 0.0], [1.0, 0.0], [1000.0, 0.0]]
    with pytest.raises(DataError, match=r"sampler.gps.radius=q0: is 0.*Take another rule"):
        balls(space_of([*far, far[0]]), GpsConfig(radius="q0"), SEED)


def test_own_radii_reach_beyond_the_twenty_nearest():
    """Twenty at distance 1 but one, and forty more at 1.2: mean + std takes them in."""
    ring = [[np.cos(angle), np.sin(angle)] for angle in np.linspace(0, 6, 19)]
    points = [[0.0, 0.0], [0.01, 0.0], *ring, *(np.array(ring) * 1.05).tolist()]
    distances = squared_distances(np.asarray(points, np.float32).astype(float).tolist())
    radius = by_mean_and_std([sorted(distances[0])[1:21]])[0]
    within = sum(distance <= radius for distance in distances[0]) - 1
    table = balls(space_of(points), GpsConfig(radius="mean+std", radius_of="image"), SEED)
    assert within > 20
    assert len(rows(table)[0]) == within
    with pytest.raises(DataError, match=r"holds more than search.max_ball=20 images.*max_ball=40"):
        balls(space_of(points, max_ball=20), GpsConfig(radius="mean+std", radius_of="image"), SEED)


def by_mean_and_std(rows):
    return [np.mean(row) + np.std(row) for row in rows]


def test_draws_with_the_anchor_are_as_often_as_their_weights():
    points = [[0.0], [1.0], [2.0], [4.0]]
    config = GpsConfig(k=3, choose="weighted", keep_anchor=True, temperature=0.5)
    sampler = Gps(config, seed=0)
    sampler.prepare(space_of(points), same_label=False)
    plain = Pairs(anchors=np.arange(4, dtype=np.int32), positives=np.arange(4, dtype=np.int32))
    seen = np.stack([sampler.pairs(plain, epoch).positives for epoch in range(4000)])
    squared = np.array([0.0, 1.0, 4.0, 16.0])
    weights = np.exp(-squared / (0.5 * 7.0))
    shares = [(seen[:, 0] == image).mean() for image in range(4)]
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.03)


def test_several_draws_are_as_often_as_without_putting_back():
    """Three images at distances 1, 2 and 4: the pairs of them by their weights, one after the other."""
    points = [[0.0], [1.0], [2**0.5], [2.0]]
    sampler = Gps(GpsConfig(k=3, choose="weighted", positives=2), seed=0)
    sampler.prepare(space_of(points), same_label=False)
    plain = Pairs(anchors=np.arange(4, dtype=np.int32), positives=np.arange(4, dtype=np.int32))
    seen = np.stack([[one[0] for one in sampler.pairs(plain, epoch).in_turn] for epoch in range(4000)])
    weights = dict(zip((1, 2, 3), np.exp(-np.array([1.0, 2.0, 4.0]) / (7 / 3)), strict=True))
    for first, second in ((1, 2), (2, 1), (3, 1), (1, 3)):
        left = sum(weight for image, weight in weights.items() if image != first)
        share = weights[first] / sum(weights.values()) * weights[second] / left
        assert abs((seen == [first, second]).all(axis=1).mean() - share) < 0.03


@pytest.mark.parametrize("missing", ["faiss", "igraph"])
def test_what_is_not_installed_is_said_before_anything_is_embedded(missing, monkeypatch):
    keys = {"within": "clusters", "clusters": 2} if missing == "faiss" else {"within": "community"}
    monkeypatch.setattr("solo_gps.samplers.gps.sampler.faiss_missing", lambda: "no FAISS is installed")
    monkeypatch.setattr("solo_gps.samplers.gps.sampler.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sampler.gps.within=.*(no FAISS|igraph)"):
        Gps(GpsConfig(**keys), seed=0).check(100)


def test_more_clusters_than_images_are_refused():
    with pytest.raises(DataError, match=r"sampler.gps.clusters=11: the training set has 10 images"):
        Gps(GpsConfig(k=3, within="clusters", clusters=11), seed=0).check(10)


def test_few_positives_name_the_keys_that_narrow(caplog):
    points = np.arange(12.0)[:, None] ** 2
    sampler = Gps(GpsConfig(k=1, mutual=True, min_share=1.0), seed=0)
    sampler.prepare(space_of(points), same_label=False)
    assert "mutual=True leave too few neighbours: raise sampler.gps.k, or leave it out" in caplog.text


def test_settings_are_named():
    assert SimpleNamespace(size=GpsConfig(radius="q0.9").size).size == "radius=q0.9"
    assert GpsConfig(radius=2).radius == 2.0


def test_hops_that_would_not_fit_in_memory_are_refused(monkeypatch):
    space = space_of(np.random.default_rng(0).standard_normal((2000, 3)))
    assert rows(balls(space, GpsConfig(k=3, hops=2), SEED))
    monkeypatch.setattr("solo_gps.runtime.machine.free_memory", lambda: 20 << 20)
    with pytest.raises(MachineError, match=r"sampler.gps.hops=8: a table of 2,000 x 1,024 neighbours"):
        balls(space, GpsConfig(k=3, hops=8), SEED)
