from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from solo_gps.errors import DataError
from solo_gps.samplers.sepp.cosines import UnitRows, find_cosine_pairs, sample_cosines

# Directions of whole-number vectors: (1, 0) and (24, 7) have the cosine 24/25 = 0.96 exactly, (24, 7) and (7, 24) 336/625.
PLANE = np.array([[1, 0], [24, 7], [7, 24], [50, 0], [0, -3]], np.float32)


def naive(array, low, high):
    """All pairs i < j, one by one, by the textbook's formula."""
    wide = array.astype(np.float64)
    inside, above, seen = [], [], []
    for i in range(len(wide)):
        for j in range(i + 1, len(wide)):
            cosine = np.float32(wide[i] @ wide[j] / (np.sqrt(wide[i] @ wide[i]) * np.sqrt(wide[j] @ wide[j])))
            seen.append(cosine)
            if np.float32(low) <= cosine <= np.float32(high):
                inside.append((i, j))
            elif cosine > np.float32(high):
                above.append((i, j))
    return inside, above, seen


def window(array, low, high, **options):
    memory = options.pop("memory_mib", 512)
    return find_cosine_pairs(UnitRows(array, memory_mib=memory), low, high, **options)


def as_list(found):
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))


def test_both_thresholds_are_inclusive():
    found = window(PLANE, 0.96, 0.99)
    assert as_list(found) == [(0, 1), (1, 3)]
    assert found.cosines.tolist() == [np.float32(0.96)] * 2
    assert found.above == 1
    assert found.examples.tolist() == [[0, 3]]
    assert found.example_cosines.tolist() == [1.0]
    assert found.lowest == pytest.approx(-0.96)
    assert found.highest == pytest.approx(1.0)
    assert as_list(window(PLANE, 0.9600001, 0.99)) == []
    assert as_list(window(PLANE, 0.28, 0.96)) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]


def test_a_high_threshold_of_one_takes_exact_duplicates():
    found = window(np.array([[0.1, 0.2, 0.7]] * 3, np.float32), 0.99, 1.0)
    assert as_list(found) == [(0, 1), (0, 2), (1, 2)]
    assert found.above == 0


def points(draw):
    rows, columns = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    values = st.integers(-4, 4).map(float) | st.floats(-2, 2, width=32, allow_subnormal=False)
    array = draw(arrays(np.float32, (rows, columns), elements=values))
    array[~(np.abs(array).max(axis=1) > 1e-3)] = 1.0
    return array


@given(data=st.data())
def test_agrees_with_the_naive_reference(data):
    array = points(data.draw)
    low = data.draw(st.sampled_from([-1.0, 0.0, 0.5, 0.96, 0.999]) | st.floats(-1, 1))
    high = data.draw(st.floats(low, 1.0) | st.just(1.0))
    inside, above, seen = naive(array, low, high)
    found = window(array, low, high, examples=100)
    assert as_list(found) == inside
    assert found.above == len(above)
    assert sorted(map(tuple, found.examples.tolist())) == above
    assert found.lowest == pytest.approx(float(min(seen)), abs=1e-5)
    assert found.highest == pytest.approx(float(max(seen)), abs=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_tiles_of_any_size_give_the_same_pairs(dtype, monkeypatch):
    rng = np.random.default_rng(0)
    array = (rng.normal(size=(20, 6))[rng.integers(0, 20, 150)] + 0.1 * rng.normal(size=(150, 6))).astype(dtype)
    inside, above, _ = naive(array, 0.97, 0.995)
    assert len(inside) > 100
    assert len(above) > 20
    for side in (1, 7, 64, 150, 4096):
        monkeypatch.setattr("solo_gps.samplers.sepp.cosines._LARGEST_SIDE", side)
        rows = UnitRows(array)
        done = []
        found = find_cosine_pairs(rows, 0.97, 0.995, examples=5, progress=done.append)
        assert as_list(found) == inside
        assert found.above == len(above)
        assert len(done) == rows.number_of_tiles
        exact = rows.cosines(*np.array(above).T)
        assert found.example_cosines.tolist() == sorted(exact.tolist(), reverse=True)[:5]


def test_a_users_lower_product_precision_does_not_matter_and_is_kept():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert as_list(window(PLANE, 0.96, 0.99)) == [(0, 1), (1, 3)]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_too_many_pairs_is_an_error_that_says_what_to_change():
    ones = np.ones((60, 2), np.float32)
    with pytest.raises(DataError, match=r"more than max_pairs=100 .*Raise `low`"):
        window(ones, 0.9, 1.0, max_pairs=100)
    found = window(ones, 0.9, 0.95, max_pairs=100)
    assert (len(found.first), found.above) == (0, 60 * 59 // 2)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((1, 3), np.float32), "at least 2 images"),
        (np.array([[1, 0], [0, 0]], np.float32), "row 1 is a zero vector"),
        (np.array([[1, 0], [1, 0], [np.nan, 0]], np.float32), "row 2 is not finite"),
    ],
)
def test_wrong_points_are_refused(array, message):
    with pytest.raises(DataError, match=message):
        UnitRows(array)


def test_a_pass_keeps_to_its_budget_whatever_the_number_of_points():
    """The tiles and numpy's share; benchmarks/sepp_pairs.py measures the whole process."""
    array = np.random.default_rng(1).normal(size=(3000, 8)).astype(np.float32)
    rows = UnitRows(array, memory_mib=16)
    assert max(tile.products.numel() for tile in rows.tiles()) * 12 <= 16 << 20
    tracemalloc.start()
    found = find_cosine_pairs(rows, 0.9, 1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.first) > 100
    assert peak < 3000 * 3000  # one byte a pair would be more


def test_sample_cosines_are_all_pairs_of_a_small_set():
    *_, seen = naive(PLANE, -1, 1)
    assert sample_cosines(PLANE) == pytest.approx(sorted(map(float, seen)), abs=1e-6)


def test_sample_cosines_of_a_large_set_are_those_of_the_images_drawn():
    array = np.random.default_rng(2).normal(size=(500, 3)).astype(np.float32)
    once, again = (sample_cosines(array, images=40, seed=5) for _ in range(2))
    assert len(once) == 40 * 39 // 2
    assert (once == again).all()
    assert (once != sample_cosines(array, images=40, seed=6)).any()
    assert abs(np.quantile(once, 0.5) - np.quantile(sample_cosines(array), 0.5)) < 0.15
