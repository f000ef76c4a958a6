from __future__ import annotations

import logging
import re

import numpy as np
import pytest
from config_keys import composed, defaults

from solo_gps.config import parse
from solo_gps.errors import ConfigError, DataError, RefusedMethodError
from solo_gps.interfaces import Embeddings, Pairs
from solo_gps.neighbours.config import SearchConfig
from solo_gps.samplers.sepp.config import SeppConfig, Window
from solo_gps.samplers.sepp.sampler import Sepp

# Six directions. Cosines: 0-1 and 1-2 24/25 = 0.96 (0-2: 0.8432), 3-4 1 (copies), 3 and 4 with 5 0.8; all others at most 0.28.
DIRECTIONS = np.array([[1, 0, 0, 0], [24, 7, 0, 0], [527, 336, 0, 0], [0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 4, 3]], np.float32)
LABELS = np.array([0, 0, 1, 2, 2, -1])
PLAIN = Pairs(anchors=np.arange(6, dtype=np.int32), positives=np.arange(6, dtype=np.int32))


class Images:
    def __init__(self, labels=LABELS, number=6):
        self.labels, self.number = labels, number

    def __len__(self):
        return self.number


class Space:
    """A prior space whose embeddings are brought along: what `PriorSpace` is to a sampler."""

    def __init__(self, array=DIRECTIONS, labels=LABELS, space="euclidean"):
        self.images = Images(labels, len(array))
        self.embeddings = Embeddings(array=array, fingerprint="f" * 64, folder=None, space=space)
        self.search_config = SearchConfig(device="cpu")


def sampler(labels=LABELS, array=DIRECTIONS, same_label=False, space="euclidean", **keys):
    paper = {} if {"low", "high", "low_quantile", "high_quantile", "window"} & set(keys) else {"window": "paper"}
    made = Sepp(parse({"fraction": 1.0, **paper, **keys}, SeppConfig, "sampler.sepp"), seed=1)
    made.prepare(Space(array, labels, space), same_label=same_label)
    return made


def items(made, epoch=0, before=PLAIN):
    after = made.pairs(before, epoch)
    assert after.anchors.dtype == after.positives.dtype == np.int32
    return list(zip(after.anchors.tolist(), after.positives.tolist(), strict=True))


IMAGES = [(i, i) for i in range(6)]


@pytest.mark.parametrize("space", ["euclidean", "cosine"])
def test_pairs_in_the_window_are_appended(space):
    assert items(sampler(space=space)) == [*IMAGES, (0, 1), (1, 2)]
    assert items(sampler(low=0.75, space=space)) == [*IMAGES, (0, 1), (0, 2), (1, 2), (3, 5), (4, 5)]
    assert items(sampler(high=1.0, space=space)) == [*IMAGES, (0, 1), (1, 2), (3, 4)]


def test_both_ways_gives_each_image_as_the_anchor_once():
    assert items(sampler(both=True)) == [*IMAGES, (0, 1), (1, 2), (1, 0), (2, 1)]


def test_the_cap_counts_pairs_of_an_image():
    assert items(sampler(low=0.75, per_image=1)) == [*IMAGES, (0, 1), (3, 5)]


def test_items_of_earlier_samplers_are_kept():
    before = Pairs(anchors=PLAIN.anchors, positives=np.array([3, 3, 3, 3, 3, 3], np.int32))
    assert items(sampler(), before=before) == [*((i, 3) for i in range(6)), (0, 1), (1, 2)]


def test_replace_shows_partners_in_place_of_plain_views():
    made = sampler(mode="replace", both=True)
    epochs = [items(made, epoch) for epoch in range(30)]
    assert {tuple(epoch[i] for i in (0, 2, 3, 4, 5)) for epoch in epochs} == {((0, 1), (2, 1), (3, 3), (4, 4), (5, 5))}
    assert {epoch[1] for epoch in epochs} == {(1, 0), (1, 2)}
    once = sampler(mode="replace")
    assert items(once) == [(0, 1), (1, 2), (2, 2), (3, 3), (4, 4), (5, 5)]


def test_the_random_control_has_as_many_pairs_of_the_images_drawn():
    window, control = sampler(low=0.75, both=True), sampler(low=0.75, both=True, select="random")
    assert window.number_of_pairs == control.number_of_pairs == 5
    drawn = items(control)[6:]
    assert len(set(drawn)) == 10
    assert all(i != j and (j, i) in drawn for i, j in drawn)
    assert {tuple(items(sampler(low=0.75, select="random", seed=seed))) for seed in range(5)} != {tuple(items(control))}


def test_supervised_methods_get_pairs_of_one_known_class_only():
    assert items(sampler(low=0.75, same_label=True)) == [*IMAGES, (0, 1)]
    control = items(sampler(low=0.75, high=1.0, same_label=True, select="random"))[6:]
    assert control == [(0, 1), (3, 4)]


def test_two_unknown_classes_are_not_one_class():
    made = sampler(labels=np.array([-1, -1, 1, 2, 2, 0]), high=1.0, same_label=True)
    assert items(made) == [*IMAGES, (3, 4)]


@pytest.mark.parametrize(
    ("labels", "message"), [(None, "has no labels"), (np.array([0, 1, 0, 2, 3, -1]), "none of the 2 pairs .* is of one class")]
)
def test_supervised_methods_without_such_pairs_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        sampler(labels=labels, same_label=True)


def test_an_equal_budget_keeps_the_length_and_shows_every_item_in_turn():
    made = sampler(equal_budget=True)
    epochs = [items(made, epoch) for epoch in range(4)]
    assert [len(epoch) for epoch in epochs] == [6] * 4
    stream = [item for epoch in epochs for item in epoch]
    for start in (0, 8, 16):
        assert sorted(stream[start : start + 8]) == sorted([*IMAGES, (0, 1), (1, 2)])


def test_only_the_images_drawn_have_pairs():
    array = np.tile(np.array([[1, 0], [24, 7]], np.float32), (50, 1))
    made = sampler(labels=None, array=array, images=20, low=0.95)
    added = items(made, before=Pairs(anchors=np.arange(100, dtype=np.int32), positives=np.arange(100, dtype=np.int32)))[100:]
    drawn = {i for pair in added for i in pair}
    assert len(drawn) == 20
    assert len(added) == sum(1 for i in drawn for j in drawn if i < j and i % 2 != j % 2)
    assert made.purity is None


def test_a_fraction_is_that_share_of_the_images():
    array = np.tile(np.array([[1, 0], [24, 7]], np.float32), (50, 1))
    made = sampler(labels=None, array=array, fraction=0.08, low=-1, high=1)
    assert made.number_of_pairs == 8 * 7 // 2


def test_purity_counts_pairs_with_both_classes_known():
    assert sampler().purity == 0.5
    assert sampler(low=0.75).purity == pytest.approx(1 / 3)


def test_quantiles_are_those_of_all_pairs():
    # 15 pairs: the three largest cosines (1, 0.96, 0.96) lie at and above quantile 12/14.
    made = sampler(low_quantile=12 / 14 - 1e-6, high_quantile=13 / 14)
    assert items(made) == [*IMAGES, (0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"both": True}, "; an epoch has 4 items more; "),
        ({"mode": "replace"}, "; an image with a pair shows a partner as its positive; "),
        ({"equal_budget": True}, "; pairs and images take turns in epochs as long as without pairs; "),
        ({"select": "random"}, "sepp: 2 random pairs among 6 images drawn of 6, as many as have cosine 0.9600 to 0.9900, "),
    ],
)
def test_the_line_says_what_the_pairs_do_to_the_training(keys, said, caplog):
    with caplog.at_level(logging.INFO, logger="solo_gps"):
        sampler(labels=None, **keys)
    assert said in caplog.messages[-1]


def test_near_duplicates_are_counted_logged_and_shown(caplog, own_cache, tmp_path):
    with caplog.at_level(logging.INFO, logger="solo_gps"):
        made = sampler(low=0.75, high=0.9)
    assert re.sub(r"\d+\.\d s", "0.0 s", caplog.messages[-1]) == (
        "sepp: 3 pairs among 6 images drawn of 6, cosine 0.7500 to 0.9000, found in 0.0 s; 83.3 % of the images drawn "
        "(83.3 % of all) have a pair; 0.0 % of the pairs are of one class; an epoch has 3 items more; 3 near-duplicate pairs "
        "above are left out"
    )
    (exhibit,) = made.exhibits()
    assert exhibit.path.parent == own_cache / "sepp"
    assert exhibit.anchors.tolist() == [3, 0, 1]
    assert exhibit.positives[:, :2].tolist() == [[4, -1], [1, -1], [2, -1]]
    assert sampler(low=0.75, high=0.9, pictures=str(tmp_path)).exhibits()[0].path.parent == tmp_path
    assert sampler(low=0.75, high=1.0).exhibits() == ()


def test_an_empty_window_names_the_range_and_what_to_try():
    with pytest.raises(DataError) as error:
        sampler(array=DIRECTIONS[[0, 2, 3, 5]], labels=None, low=0.97, high=0.99)
    text = str(error.value)
    assert "no pair of the 4 images drawn (of 4) has a cosine from 0.97 to 0.99" in text
    assert "between 0.0000 and 0.8432" in text
    assert "solo-gps sepp sweep" in text
    low, high = (float(text.split(f"sampler.sepp.{key}=")[1].split()[0]) for key in ("low", "high"))
    assert len(items(sampler(array=DIRECTIONS[[0, 2, 3, 5]], labels=None, low=low, high=high))) > 6


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"images": 7}, r"sampler.sepp.images asks for 7 images, but the training set has 6"),
        ({"low": 0.5, "max_pairs": 2}, "max_pairs=2"),
    ],
)
def test_what_the_data_cannot_give_is_refused(keys, message):
    with pytest.raises(DataError, match=message):
        sampler(**keys)


def test_a_fitted_window_of_images_less_alike_than_most_is_refused():
    array = np.repeat(np.array([[1.0], [-1.0]], np.float32), (6, 2), axis=0)
    with pytest.raises(DataError, match=r"cosines up to -1\.0000, less alike than most.*or give low and high"):
        sampler(labels=np.zeros(8, np.int64), array=array, window="fit")


@pytest.mark.parametrize(("keys", "other"), [({"high": 0.5}, "low"), ({"low": 0.995}, "high")])
def test_one_threshold_beyond_the_papers_other_names_what_to_give(keys, other):
    with pytest.raises(ValueError, match=f"alone goes with {other}=.*Give {other} too"):
        SeppConfig(**keys)


def test_thresholds_that_cross_once_placed_are_refused():
    with pytest.raises(DataError, match=r"lower threshold 0\.9600 lies above the upper one"):
        sampler(low=0.96, high_quantile=0.5)


def test_a_budget_is_refused_where_items_are_remembered():
    budget = Sepp(SeppConfig(equal_budget=True), seed=0)
    with pytest.raises(RefusedMethodError, match="equal_budget=true cannot act on method 'deepclusterv2'"):
        budget.wrap_method(object, {"method": "deepclusterv2"})
    assert budget.wrap_method(int, {"method": "simclr"}) is int
    for allowed in (SeppConfig(), SeppConfig(equal_budget=True, mode="replace")):
        assert Sepp(allowed, seed=0).wrap_method(int, {"method": "deepclusterv2"}) is int
    assert "reconstructs" in Sepp.refusal("mae")
    assert Sepp.refusal("simclr") is None


def test_the_seed_of_the_node_comes_before_the_recipes():
    assert Sepp(SeppConfig(seed=3), seed=1).seed == 3
    assert Sepp(SeppConfig(), seed=1).seed == 1


def test_the_yaml_group_lists_every_key_with_its_default():
    assert composed("+sampler=sepp")["sampler"]["sepp"] == defaults(SeppConfig)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lo": 0.9}, r"sampler.sepp.lo: no such key.*Did you mean 'low'\?"),
        ({"low": "high"}, r"sampler.sepp.low: Value 'high'"),
        ({"low": 0.99, "high": 0.96}, r"low=0.99 must not be above high=0.96"),
        ({"low_quantile": 0.9, "high_quantile": 0.8}, r"low_quantile=0.9 must not be above"),
        ({"high": 1.1}, r"high=1.1 must be from -1 to 1"),
        ({"high_quantile": 99}, r"high_quantile=99.0 must be from 0 to 1"),
        ({"fraction": 0}, r"fraction=0.0 must be above 0 and at most 1"),
        ({"fraction": 1000}, r"fraction=1000.0 must be above 0 and at most 1"),
        ({"images": 1}, r"images=1 must be at least 2"),
        ({"per_image": 0}, r"per_image=0 must be at least 1"),
        ({"seed": -1}, r"sampler.sepp: seed=-1 must be from 0 to 4294967295"),
        ({"mode": "apend"}, r"mode='apend' is not one of append, replace.*Did you mean 'append'\?"),
        ({"select": "rand"}, r"select='rand' is not one of window, random.*Did you mean 'random'\?"),
    ],
)
def test_a_wrong_key_is_one_clear_error(keys, message):
    with pytest.raises(ConfigError, match=message):
        parse(keys, SeppConfig, "sampler.sepp")


def test_a_window_is_checked_by_value_only_where_both_are_values():
    Window(low=0.99, high=0.5, low_quantile=0.1).check()
    with pytest.raises(ValueError, match="must not be above"):
        Window(low=0.99, high=0.5).check()


@pytest.mark.parametrize("scale", [0.05, 1.0, 4.0])
def test_the_window_fits_any_prior(scale):
    """Of points in a cone, however narrow: as many pairs as images, less 2 % of them; of few images the most alike stay."""
    array = np.random.default_rng(3).standard_normal((400, 6)).astype(np.float32) + np.float32(scale) * 5
    found = sampler(array=array, labels=None, window="fit").number_of_pairs
    assert 390 <= found <= 410
    few = sampler(array=array[:20], labels=None, window="fit")
    unit = array[:20].astype(np.float64) / np.linalg.norm(array[:20].astype(np.float64), axis=1, keepdims=True)
    cosines = np.triu(unit @ unit.T, 1)
    best = tuple(int(i) for i in np.unravel_index(cosines.argmax(), cosines.shape))
    assert best in items(few)[6:], "d1: the most alike pair belongs to it"
    assert len(items(few)) == 6 + few.number_of_pairs >= 6 + 18


def test_copies_are_no_pairs_of_a_fitted_window():
    array = np.random.default_rng(3).standard_normal((60, 6)).astype(np.float32)
    array[30:40] = array[20:30]
    assert not {(i, i + 10) for i in range(20, 30)} & set(items(sampler(array=array, labels=None, window="fit"))[6:])


def test_the_papers_window_beside_a_threshold_says_nothing():
    with pytest.raises(ConfigError, match=r"window=paper says nothing beside low"):
        parse({"window": "paper", "low": 0.5}, SeppConfig, "sampler.sepp")
