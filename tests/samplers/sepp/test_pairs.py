from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_gps.interfaces import Pairs
from solo_gps.samplers.sepp.pairs import (
    Partners,
    _unrank,
    append,
    cap_pairs,
    cut_to_budget,
    draw_images,
    picture_rows,
    random_pairs,
    replace,
    suggest_window,
)


def pairs(anchors, positives):
    return Pairs(anchors=np.array(anchors, np.int32), positives=np.array(positives, np.int32))


def listed(some):
    return list(zip(some.anchors.tolist(), some.positives.tolist(), strict=True))


@given(images=st.integers(2, 200), seed=st.integers(0, 2**31), data=st.data())
def test_images_are_drawn_once_each(images, seed, data):
    wanted = data.draw(st.integers(1, images))
    drawn = draw_images(images, wanted, seed)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert len(drawn) == wanted
    assert drawn.min() >= 0
    assert drawn.max() < images
    assert drawn.tolist() == draw_images(images, wanted, seed).tolist()


def test_every_image_is_drawn_equally_often():
    times = np.bincount(np.concatenate([draw_images(10, 3, seed) for seed in range(3000)]), minlength=10)
    assert (abs(times / 3000 - 0.3) < 0.04).all()  # more than 4 standard deviations


def test_all_images_need_no_draw():
    assert draw_images(5, 5, seed=9).tolist() == [0, 1, 2, 3, 4]


def greedy(first, second, cosines, most):
    """The rule of the docstring, one pair after the other."""
    degree, kept = Counter(), []
    for p in sorted(range(len(first)), key=lambda p: (-cosines[p], first[p], second[p])):
        if degree[first[p]] < most and degree[second[p]] < most:
            degree[first[p]] += 1
            degree[second[p]] += 1
            kept.append(p)
    return sorted(kept)


def test_the_cap_takes_the_most_alike_first():
    # A star round image 0, and a pair that only fits because 0-2 was not taken.
    first, second = np.array([0, 0, 0, 2]), np.array([1, 2, 3, 3])
    cosines = np.array([0.99, 0.98, 0.97, 0.96], np.float32)
    assert cap_pairs(first, second, cosines, 1).tolist() == [0, 3]
    assert cap_pairs(first, second, cosines, 2).tolist() == [0, 1, 3]
    assert cap_pairs(first, second, cosines, 3).tolist() == [0, 1, 2, 3]


@given(data=st.data(), most=st.integers(1, 4))
def test_the_cap_agrees_with_the_rule_one_by_one(data, most):
    images = data.draw(st.integers(2, 9))
    every = [(i, j) for i in range(images) for j in range(i + 1, images)]
    chosen = data.draw(st.lists(st.sampled_from(every), unique=True))
    cosines = np.array(data.draw(st.lists(st.sampled_from([0.5, 0.75, 1.0]), min_size=len(chosen), max_size=len(chosen))), "f4")
    first, second = np.array([i for i, _ in chosen], int), np.array([j for _, j in chosen], int)
    assert cap_pairs(first, second, cosines, most).tolist() == greedy(first.tolist(), second.tolist(), cosines.tolist(), most)


def test_the_cap_of_many_pairs_agrees_with_the_rule():
    rng = np.random.default_rng(3)
    i, j = np.triu_indices(120, 1)
    cosines = rng.random(len(i)).astype(np.float32)
    assert cap_pairs(i, j, cosines, 5).tolist() == greedy(i.tolist(), j.tolist(), cosines.tolist(), 5)


@given(groups=st.lists(st.integers(0, 3), min_size=2, max_size=15), seed=st.integers(0, 99), data=st.data())
def test_random_pairs_are_different_pairs_of_one_group(groups, seed, data):
    every = {(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups)) if groups[i] == groups[j]}
    count = data.draw(st.integers(0, len(every)))
    if not every:
        return
    first, second = random_pairs(np.array(groups), count, seed)
    drawn = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(drawn) == len(set(drawn)) == count
    assert set(drawn) <= every
    assert drawn == sorted(drawn)
    if count == len(every):
        assert set(drawn) == every


def test_random_pairs_are_drawn_equally_often():
    times = Counter()
    for seed in range(2000):
        times.update(zip(*(part.tolist() for part in random_pairs(np.array([0, 1, 0, 0, 1]), 2, seed)), strict=True))
    assert set(times) == {(0, 2), (0, 3), (2, 3), (1, 4)}
    assert all(abs(count / 2000 - 0.5) < 0.05 for count in times.values())


def test_random_pairs_of_a_large_set_stay_pairs_of_the_set():
    groups = np.zeros(10_000_000, np.int64)
    first, second = random_pairs(groups, 10_000, seed=0)
    assert (first < second).all()
    assert first.min() >= 0
    assert second.max() < 10_000_000
    assert abs(first.mean() / 1e7 - 1 / 3) < 0.02
    assert abs(second.mean() / 1e7 - 2 / 3) < 0.02


@pytest.mark.parametrize("large", [1, 2, 3, 10**6, 94_906_267, 2**31 - 1])
def test_pairs_are_numbered_without_a_gap_where_the_square_root_is_rounded(large):
    number = large * (large - 1) // 2
    small_of, large_of = _unrank(np.array([number, number + large - 1, number + large]))
    assert large_of.tolist() == [large, large, large + 1]
    assert small_of.tolist() == [0, large - 1, 0]


def test_appended_pairs_come_behind_the_items():
    assert listed(append(pairs([0, 1, 2], [0, 2, 2]), pairs([0, 1], [2, 2]))) == [(0, 0), (1, 2), (2, 2), (0, 2), (1, 2)]


def test_further_positives_of_another_sampler_are_kept_and_a_pair_has_its_partner_in_all_crops():
    items = Pairs(
        anchors=np.array([0, 1, 2], np.int32), positives=np.array([3, 4, 5], np.int32), more=np.array([[6], [7], [8]], np.int32)
    )
    pairs = Pairs(anchors=np.array([1], np.int32), positives=np.array([0], np.int32))
    assert append(items, pairs).more.tolist() == [[6], [7], [8], [0]]
    replaced = replace(items, Partners.of(pairs, 3), epoch=0, seed=0)
    assert replaced.positives.tolist() == [3, 0, 5]
    assert replaced.more.tolist() == [[6], [0], [8]]
    cut = cut_to_budget(items, 2, epoch=1, seed=0)
    assert cut.more[:, 0].tolist() == (6 + cut.anchors).tolist()


def test_replace_shows_a_partner_where_there_is_one():
    partners = Partners.of(pairs([1, 3, 1], [2, 0, 4]), images=5)
    seen = Counter()
    for epoch in range(2000):
        items = replace(pairs([0, 1, 2, 3, 4], [4, 1, 2, 3, 4]), partners, epoch=epoch, seed=7)
        assert items.anchors.tolist() == [0, 1, 2, 3, 4]
        assert items.positives[[0, 2, 3, 4]].tolist() == [4, 2, 0, 4]
        seen[int(items.positives[1])] += 1
    assert set(seen) == {2, 4}
    assert abs(seen[2] / 2000 - 0.5) < 0.05


@given(length=st.integers(1, 12), data=st.data(), seed=st.integers(0, 99))
def test_a_budget_goes_through_all_items_once_a_pass(length, data, seed):
    budget = data.draw(st.integers(1, length))
    items = pairs(range(length), range(100, 100 + length))
    epochs = [cut_to_budget(items, budget, epoch=epoch, seed=seed) for epoch in range(length + 1)]
    assert all(len(epoch.anchors) == len(epoch.positives) == budget for epoch in epochs)
    stream = np.concatenate([epoch.anchors for epoch in epochs])
    assert (np.concatenate([epoch.positives for epoch in epochs]) == stream + 100).all()
    passes = [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]
    assert passes
    assert all(sorted(one.tolist()) == list(range(length)) for one in passes)


def test_a_budget_depends_on_seed_and_epoch():
    items = pairs(range(100), range(100))
    one = cut_to_budget(items, 60, epoch=3, seed=1).anchors.tolist()
    assert one == cut_to_budget(items, 60, epoch=3, seed=1).anchors.tolist()
    assert one != cut_to_budget(items, 60, epoch=3, seed=2).anchors.tolist()
    assert one != cut_to_budget(items, 60, epoch=8, seed=1).anchors.tolist()


def test_the_suggested_window_holds_about_one_pair_an_image():
    cosines = np.sort(np.random.default_rng(0).uniform(-1, 0.9, 101 * 100 // 2))
    low, high = suggest_window(cosines, images=101)
    inside = ((cosines >= low) & (cosines <= high)).sum()
    assert 0.9 * 101 <= inside <= 1.1 * 101
    assert (cosines > high).sum() <= 3


def test_copies_of_an_image_do_not_move_the_suggestion():
    cosines = np.array([0.0] * 50 + [0.5] * 5 + [0.7] + [1.0] * 9)
    assert suggest_window(cosines[:56], images=12) == suggest_window(cosines, images=12)
    assert suggest_window(cosines, images=12)[1] <= 0.7


def test_a_set_of_copies_has_a_suggestion_too():
    assert suggest_window(np.array([1.0, 1.0, 1.0]), images=3) == (1.0, 1.0)


def test_picture_rows_are_led_by_the_first_image_of_each_pair():
    leads, partners = picture_rows(np.array([[4, 7], [1, 2], [4, 9], [1, 3], [1, 5], [6, 8]]), rows=2, columns=2)
    assert leads.tolist() == [4, 1]
    assert partners.tolist() == [[7, 9], [2, 3]]
    leads, partners = picture_rows(np.empty((0, 2), int), rows=2, columns=3)
    assert partners.shape == (0, 3)


@pytest.mark.parametrize("count", [0, 1])
def test_no_pairs_are_no_special_case(count):
    first, second = random_pairs(np.array([0, 0]), count, seed=0)
    assert len(first) == len(second) == count
    none = np.empty(0, np.int64)
    assert cap_pairs(none, none, none.astype(np.float32), 3).tolist() == []
