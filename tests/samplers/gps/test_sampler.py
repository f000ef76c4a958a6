from __future__ import annotations

import logging
import re
import warnings

import numpy as np
import pytest
from config_keys import composed, defaults
from hypothesis import given
from hypothesis import strategies as st
from image_sets import ArrayImages
from sklearn.datasets import load_digits

from solo_gps.config import parse
from solo_gps.errors import ConfigError, DataError
from solo_gps.interfaces import Embeddings, NeighbourTable, Pairs
from solo_gps.samplers.gps.choose import ball_sizes, choose_positives, keep_same_label
from solo_gps.samplers.gps.config import GpsConfig
from solo_gps.samplers.gps.sampler import Gps
from solo_gps.samplers.space import PriorSpace

# Four images on a line at 0, 1, 3 and 100; the ball of image 3 is empty, image 0 has one neighbour.
TABLE = NeighbourTable(
    indices=np.array([[1, -1], [0, 2], [1, 0], [-1, -1]], dtype=np.int32),
    distances=np.array([[1, np.inf], [1, 4], [4, 9], [np.inf, np.inf]], dtype=np.float32),
)


def choose_first(*args, **kwargs):
    return choose_positives(*args, **kwargs)[:, 0]


def test_furthest_takes_the_last_of_the_ball():
    assert choose_first(TABLE, "furthest", epoch=0, seed=0).tolist() == [1, 2, 0, 3]


def test_nearest_takes_the_first_of_the_ball():
    assert choose_first(TABLE, "nearest", epoch=0, seed=0).tolist() == [1, 0, 1, 3]


def test_several_are_the_furthest_ones_or_the_nearest_and_come_in_turn():
    assert choose_positives(TABLE, "furthest", epoch=0, seed=0, positives=3).tolist() == [[1] * 3, [2, 0, 2], [0, 1, 0], [3] * 3]
    assert choose_positives(TABLE, "nearest", epoch=0, seed=0, positives=3).tolist() == [[1] * 3, [0, 2, 0], [1, 0, 1], [3] * 3]


def test_a_table_of_empty_balls_keeps_every_anchor():
    nothing = NeighbourTable(indices=np.empty((3, 0), np.int32), distances=np.empty((3, 0), np.float32))
    for choose in ("furthest", "uniform", "nearest"):
        assert choose_first(nothing, choose, epoch=0, seed=0).tolist() == [0, 1, 2]


def test_uniform_draws_each_member_equally_often_and_nothing_else():
    draws = np.stack([choose_first(TABLE, "uniform", epoch=epoch, seed=3) for epoch in range(4000)])
    assert set(draws[:, 0]) == {1}
    assert set(draws[:, 3]) == {3}
    for image, members in ((1, (0, 2)), (2, (0, 1))):
        assert set(draws[:, image]) == set(members)
        assert abs((draws[:, image] == members[0]).mean() - 0.5) < 0.03  # about 4 standard deviations


@given(seed=st.integers(0, 2**31), epoch=st.integers(0, 1000))
def test_draws_depend_on_seed_and_epoch_alone(seed, epoch):
    again = [choose_first(TABLE, "uniform", epoch=epoch, seed=seed) for _ in range(2)]
    assert again[0].tolist() == again[1].tolist()


@pytest.mark.parametrize("temperature", [1e-3, 5e-324])
def test_a_temperature_near_none_takes_the_nearest_without_a_warning(temperature):
    indices = np.array([[1, 2, 3], [0, -1, -1], [3, 0, -1], [-1, -1, -1]], np.int32)
    distances = np.array([[5, 900, 1000], [7, np.inf, np.inf], [2, 4, np.inf], [np.inf] * 3], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = choose_first(
            NeighbourTable(indices=indices, distances=distances), "weighted", epoch=0, seed=0, temperature=temperature
        )
    assert pairs.tolist() == [1, 0, 3, 3]


def test_draws_differ_between_epochs_and_between_seeds():
    wide = NeighbourTable(
        indices=np.tile(np.arange(1, 51, dtype=np.int32), (60, 1)), distances=np.ones((60, 50), dtype=np.float32)
    )
    first = choose_first(wide, "uniform", epoch=0, seed=0)
    assert (first != choose_first(wide, "uniform", epoch=1, seed=0)).mean() > 0.8
    assert (first != choose_first(wide, "uniform", epoch=0, seed=1)).mean() > 0.8


@st.composite
def tables(draw):
    n, width = draw(st.integers(1, 12)), draw(st.integers(0, 5))
    rows = [draw(st.permutations([j for j in range(n) if j != i])) for i in range(n)]
    sizes = [draw(st.integers(0, min(width, n - 1))) for _ in range(n)]
    indices = np.full((n, width), -1, dtype=np.int32)
    for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        indices[i, :size] = row[:size]
    distances = np.where(indices >= 0, np.arange(width, dtype=np.float32), np.inf).astype(np.float32)
    return NeighbourTable(indices=indices, distances=distances)


@given(table=tables(), choose=st.sampled_from(["furthest", "uniform", "nearest"]), epoch=st.integers(0, 5))
def test_agrees_with_the_rule_written_out(table, choose, epoch):
    chosen = choose_first(table, choose, epoch=epoch, seed=1)
    for anchor, row in enumerate(table.indices):
        ball = [j for j in row if j >= 0]
        if not ball:
            assert chosen[anchor] == anchor
        elif choose == "uniform":
            assert chosen[anchor] in ball
        else:
            assert chosen[anchor] == (ball[-1] if choose == "furthest" else ball[0])


@given(table=tables(), labels=st.data())
def test_keep_same_label_keeps_order_and_only_the_anchors_label(table, labels):
    n = len(table.indices)
    of = np.array(labels.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), dtype=np.int64)
    kept = keep_same_label(table, of)
    for anchor in range(n):
        wanted = [j for j in table.indices[anchor] if j >= 0 and of[j] == of[anchor]]
        row = kept.indices[anchor].tolist()
        assert row == wanted + [-1] * (len(row) - len(wanted))
        assert np.isinf(kept.distances[anchor][len(wanted) :]).all()


def test_pairs_leave_appended_items_alone():
    sampler = Gps(GpsConfig(choose="nearest"), seed=0)
    sampler._table = TABLE
    before = Pairs(anchors=np.array([0, 1, 2, 3, 1], np.int32), positives=np.array([0, 1, 2, 3, 3], np.int32))
    after = sampler.pairs(before, epoch=0)
    assert after.anchors.tolist() == [0, 1, 2, 3, 1]
    assert after.positives.tolist() == [1, 0, 1, 3, 3]
    assert before.positives.tolist() == [0, 1, 2, 3, 3]


def test_pairs_of_another_sampler_have_one_positive_in_all_crops():
    sampler = Gps(GpsConfig(choose="nearest", positives=2), seed=0)
    sampler._table = TABLE
    before = Pairs(anchors=np.array([0, 1, 2, 3, 1], np.int32), positives=np.array([0, 1, 2, 3, 3], np.int32))
    after = sampler.pairs(before, epoch=0)
    assert after.positives.tolist() == [1, 0, 1, 3, 3]
    assert after.more.tolist() == [[1], [2], [0], [3], [3]]


def test_the_yaml_group_lists_every_key_with_its_default():
    assert composed("+sampler=gps")["sampler"]["gps"] == defaults(GpsConfig)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kk": 3}, r"sampler.gps.kk: no such key.*Did you mean 'k'\?"),
        ({"k": "many"}, r"sampler.gps.k: Value 'many'"),
        ({"k": 0}, r"sampler.gps: k=0 must be at least 1"),
        ({"radius": -1}, r"sampler.gps: radius=-1.0 must be above 0"),
        ({"choose": "farthest"}, r"choose='farthest' is not one of furthest.*Did you mean 'furthest'\?"),
        ({"on_bad_image": "skipp"}, r"on_bad_image='skipp' is not one of stop, skip. Did you mean 'skip'"),
        ({"min_share": 1.5}, r"sampler.gps: min_share=1.5 must be from 0 to 1"),
        ({"min_share": float("nan")}, r"min_share=nan must be from 0 to 1"),
        ({"seed": -1}, r"sampler.gps: seed=-1 must be from 0 to 4294967295"),
        (["k"], r"sampler.gps: wanted a group of keys"),
    ],
)
def test_a_wrong_key_is_one_clear_error(keys, message):
    with pytest.raises(ConfigError, match=message):
        parse(keys, GpsConfig, "sampler.gps")


def prepared(caplog, *, labels=None, images=400, search=None, space="euclidean", same_label=False, **keys):
    """The table of real digits by the sampler, and what it warned of."""
    digits = load_digits()
    shown = ArrayImages(digits.images[:images], digits.target[:images] if labels is None else labels)
    rows = digits.data[:images].astype(np.float32)
    embeddings = Embeddings(array=rows, fingerprint="f" * 8, folder=None, space=space)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="solo_gps.samplers"):
        table = Gps(GpsConfig(**keys), seed=0).prepare(PriorSpace.of(shown, embeddings, search), same_label=same_label)
    return table, caplog.text


@pytest.mark.parametrize("space", ["euclidean", "cosine"])
@pytest.mark.parametrize("min_share", [0.0, 0.5, 0.95])
def test_balls_that_are_all_empty_are_an_error_whose_radius_works(space, min_share, caplog):
    with pytest.raises(
        DataError, match=r"^sampler\.gps\.radius=1e-05: no image has a positive, .*nearest other image is"
    ) as error:
        prepared(caplog, radius=1e-5, space=space, min_share=min_share)
    assert "\n" not in str(error.value)
    radius = re.search(r"sampler\.gps\.radius=(\S+) fits", str(error.value))[1]
    table, warned = prepared(caplog, radius=float(radius), space=space, min_share=min_share)
    assert not warned
    assert (ball_sizes(table) > 0).mean() >= max(0.5, min_share)


def test_few_positives_are_a_warning_whose_radius_works(caplog):
    nearest = np.sort(prepared(caplog, k=1)[0].distances[:, 0])
    few = float(nearest[len(nearest) // 5])
    share = 100 * (nearest < few).mean()
    _, warned = prepared(caplog, radius=few)
    assert (
        f"sampler.gps.radius={few}: {share:.1f} % of the images have a positive, fewer than sampler.gps.min_share=0.5" in warned
    )
    radius = re.search(r"sampler\.gps\.radius=(\S+) fits", warned)[1]
    assert not prepared(caplog, radius=float(radius))[1]
    assert not prepared(caplog, radius=few, min_share=0.1)[1]


def test_what_the_largest_ball_allows_is_said_where_it_is_not_enough(caplog):
    _, warned = prepared(caplog, radius=150.0, search={"max_ball": 6})
    radius, share = re.search(r"radius=(\S+) fits: (\S+) % of the images", warned).groups()
    table, again = prepared(caplog, radius=float(radius), search={"max_ball": 6})
    assert f"{100 * (ball_sizes(table) > 0).mean():.1f}" == share
    assert "Larger balls: ++search.max_ball=12, or sampler.gps.k." in again
    assert not prepared(caplog, k=10, search={"max_ball": 6})[1]


def test_balls_without_the_anchors_class_are_said_to_be_that(caplog):
    two_each, alone = np.arange(400) % 200, np.arange(400)
    assert (two_each != two_each[prepared(caplog, k=1)[0].indices[:, 0]]).all()
    with pytest.raises(DataError, match=r"\.k=1: no image has a positive.*anchor's class.*Raise sampler\.gps\.k to at most 399,"):
        prepared(caplog, k=1, labels=two_each, same_label=True)
    assert not prepared(caplog, k=399, labels=two_each, same_label=True)[1]
    with pytest.raises(
        DataError, match=r"radius=150\.0: .*Raise sampler\.gps\.radius, or set it to null and sampler\.gps\.k to at"
    ):
        prepared(caplog, radius=150.0, labels=two_each, same_label=True)
    with pytest.raises(DataError, match="no class has two"):
        prepared(caplog, labels=alone, same_label=True)
    _, warned = prepared(caplog, k=10, labels=two_each, same_label=True)
    assert "sampler.gps.k=10: " in warned
    assert "anchor's class" in warned
    assert not prepared(caplog, k=10, same_label=True)[1]
