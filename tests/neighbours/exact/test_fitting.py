"""A radius that is too large is refused with one that is not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from solo_gps.errors import DataError
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import advise, find
from solo_gps.neighbours.config import SearchConfig
from solo_gps.neighbours.exact.fitting import largest_radius
from solo_gps.neighbours.exact.points import points_of
from solo_gps.neighbours.exact.workspace import Workspace


def points(array, space="euclidean"):
    return Embeddings(array=np.asarray(array, np.float32), fingerprint="f" * 8, folder=None, space=space)


def digits(*, copies=0, scale=1.0):
    """400 handwritten digits, some of them again."""
    pixels = load_digits().data[:400] * scale
    return np.concatenate([pixels, np.repeat(pixels[:2], copies, axis=0)])


def sizes(table):
    return (table.indices >= 0).sum(1)


@pytest.mark.parametrize("space", ["euclidean", "cosine"])
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e9])
@pytest.mark.parametrize("max_ball", [1, 7, 30, 1024])
@pytest.mark.parametrize("copies", [0, 5, 25])
def test_the_radius_is_accepted_exactly_as_printed(space, scale, max_ball, copies):
    embeddings, search = points(digits(copies=copies, scale=scale), space), {"max_ball": max_ball, "device": "cpu"}
    if max_ball < len(embeddings.array) - 1:
        with pytest.raises(DataError) as caught:
            find(embeddings, search, radius=1e30)
        text = str(caught.value)
    else:
        text = advise(embeddings, search).text("sampler.gps.")
    if copies > max_ball:
        assert "no radius gives any image a neighbour" in text
        assert "Use k" in text or "Use sampler.gps.k" in text
        return
    printed = re.search(r"radius=(\S+) fits: (\S+) %", text)
    typed = OverridesParser.create().parse_override(f"sampler.gps.radius={printed[1]}").value()
    assert typed == float(printed[1])
    table = find(embeddings, search, radius=typed)
    assert sizes(table).max() <= max_ball
    share = (sizes(table) > 0).mean()
    assert f"{100 * share:.1f}" == printed[2]
    assert share > 0
    if max_ball == 1024:
        assert (sizes(table) >= 10).mean() >= 0.5


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), columns=st.integers(1, 3), max_ball=st.integers(1, 12), start=st.sampled_from([0.5, 4.0, 1e3]))
def test_the_largest_radius_is_the_largest(seed, columns, max_ball, start):
    """On integers, where ties and copies abound: the smallest distance to the first image too many."""
    array = np.random.default_rng(seed).integers(0, 5, (40, columns)).astype(np.float32)
    squared = np.sort(np.square(array[:, None] - array[None]).sum(-1), axis=1)[:, 1:]
    expected = min(start, squared[:, max_ball].min())
    config = SearchConfig(max_ball=max_ball, device="cpu", memory_mib=16)
    assert largest_radius(Workspace(points_of(points(array)), config, "cpu"), start) == expected


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), columns=st.sampled_from([2, 16, 64]), levels=st.integers(2, 4), max_ball=st.integers(1, 40))
def test_c8_the_radius_is_accepted_where_many_distances_are_equal(seed, columns, levels, max_ball):
    """Codes of a few whole numbers: many images lie at the very radius, which is outside its ball."""
    array = np.random.default_rng(seed).integers(0, levels, (300, columns)).astype(np.float32)
    search = {"max_ball": max_ball, "device": "cpu"}
    with pytest.raises(DataError) as caught:
        find(points(array), search, radius=1e6)
    printed = re.search(r"radius=(\S+) fits: (\S+) %", str(caught.value))
    if printed is None:
        assert "no radius gives any image a neighbour" in str(caught.value)
        return
    table = find(points(array), search, radius=float(printed[1]))
    assert sizes(table).max() <= max_ball
    assert f"{100 * (sizes(table) > 0).mean():.1f}" == printed[2]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_the_share_asked_for_is_reached(share):
    advice = advise(points(digits()), {"device": "cpu"}, share=share)
    table = find(points(digits()), {"device": "cpu"}, radius=advice.radius)
    assert (sizes(table) > 0).mean() == advice.share >= max(share, 0.5)
    nearest = find(points(digits()), {"device": "cpu"}, k=1).distances[:, 0]
    assert (advice.lowest, advice.highest) == (nearest.min(), nearest.max())
    assert advice.median == pytest.approx(np.median(nearest))


def test_equal_distances_have_no_radius_between_none_and_all():
    corners = points(np.eye(12))
    assert advise(corners, {"max_ball": 10}).radius is None
    assert sizes(find(corners, {"max_ball": 11}, radius=advise(corners, {"max_ball": 11}).radius)).tolist() == [11] * 12


def test_digits_are_added_where_fewer_would_cost_images():
    """Triangles far apart, with squared sides 1.0005, 1.0008 and 1.0008; a ball of two exceeds the bound."""
    base, side = 1.0005, 1.0008
    triangle = np.array([[0, 0], [base**0.5, 0], [base**0.5 / 2, (side - base / 4) ** 0.5]])
    triangles = points(np.concatenate([triangle + np.array([50 * number, 0]) for number in range(3)]) - 50)
    advice = advise(triangles, {"max_ball": 1})
    assert 1.0005 < advice.radius < 1.0009
    assert advice.share == pytest.approx(2 / 3)
    assert sizes(find(triangles, {"max_ball": 1}, radius=advice.radius)).tolist() == [1, 1, 0] * 3
