from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from solo_gps.errors import SoloGpsError
from solo_gps.samplers.pnn.support import RowRecord, SupportSet, combine, nearest_rows, ring_slices, similarity


def filled(size, batches, *, sphere=False, dimension=3):
    """A support set and what a plain deque of the same length holds after the same batches."""
    support, plain, generator = SupportSet(size, dimension, sphere=sphere), deque(maxlen=size), torch.Generator().manual_seed(0)
    number = 0
    for count in batches:
        z = torch.randn(count, dimension, generator=generator)
        index = torch.arange(number, number + count)
        support.push(z, index % 4, index)
        support.tick()
        plain.extend(zip(z, (index % 4).tolist(), index.tolist(), strict=True))
        number += count
    return support, plain


@settings(max_examples=60)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(1, 12), max_size=8))
def test_it_holds_the_last_keys_whatever_the_batch_sizes(size, batches):
    support, plain = filled(size, batches)
    pool = support.pool()
    assert support.filled == len(pool.keys) == len(plain)
    held = sorted(zip(pool.index.tolist(), pool.label.tolist(), pool.keys.tolist(), strict=True))
    assert held == sorted((index, label, z.tolist()) for z, label, index in plain)


@given(pointer=st.integers(0, 8), count=st.integers(0, 30), size=st.integers(9, 9))
def test_ring_slices_write_each_row_at_most_once_and_keep_the_last(pointer, count, size):
    rows, written = [], []
    for to, source in ring_slices(pointer, count, size):
        rows += list(range(to.start, to.stop))
        written += list(range(source.start, source.stop))
    assert written == list(range(max(0, count - size), count))
    assert rows == [(pointer + item) % size for item in written]


def test_the_age_is_that_of_the_step():
    support, _ = filled(4, [2, 2, 1])
    assert support.born.tolist() == [2, 0, 1, 1]
    assert support.step == 3


def test_no_random_number_at_construction():
    before = torch.random.get_rng_state()
    SupportSet(10, 4, sphere=True)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_on_the_sphere_keys_have_unit_length():
    support, plain = filled(5, [3], sphere=True)
    torch.testing.assert_close(support.pool().keys, torch.stack([normalize(z, dim=0) for z, _, _ in plain]))


@pytest.mark.parametrize("sphere", [True, False])
def test_the_nearest_are_those_of_a_naive_search(sphere):
    support, plain = filled(40, [16, 16], sphere=sphere)
    queries = torch.randn(20, 3)
    pool = support.pool()
    rows, valid = nearest_rows(similarity(queries, pool.keys, pool.offset), 3)
    assert valid.all()
    for query, found in zip(queries, rows, strict=True):
        if sphere:
            distance = [1 - float(torch.cosine_similarity(query, z, dim=0)) for z, _, _ in plain]
        else:
            distance = [float(((query - z) ** 2).sum()) for z, _, _ in plain]
        nearest = sorted(range(len(plain)), key=distance.__getitem__)[:3]
        assert pool.index[found].tolist() == [plain[row][2] for row in nearest]


def test_rows_that_were_never_written_are_not_found():
    # Every key points away from the query; an empty row, all zero, would be nearer.
    support = SupportSet(100, 2, sphere=True)
    support.push(torch.tensor([[-1.0, 0.0], [-1.0, -1.0]]), torch.tensor([0, 1]), torch.tensor([7, 8]))
    pool = support.pool()
    rows, _ = nearest_rows(similarity(torch.tensor([[1.0, 0.0]]), pool.keys, pool.offset), 1)
    assert pool.index[rows].tolist() == [[8]]


def test_an_empty_set_returns_the_anchor():
    pool = SupportSet(10, 2, sphere=True).pool()
    z = torch.randn(3, 2)
    rows, valid = nearest_rows(similarity(z, pool.keys, pool.offset), 2)
    choice = combine(pool.keys, z, rows, valid, average=False, generator=torch.Generator())
    assert torch.equal(choice.neighbour, z)
    assert not choice.valid.any()


SCORES = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])


def test_blocked_rows_are_passed_over_and_all_blocked_returns_the_anchor():
    blocked = torch.tensor([[True, False, True, False], [True, True, True, True]])
    rows, valid = nearest_rows(SCORES.clone(), 3, blocked)
    assert rows[0, :2].tolist() == [1, 3]
    assert valid.tolist() == [[True, True, False], [False, False, False]]
    keys, z = torch.arange(8.0).reshape(4, 2), torch.tensor([[50.0, 50.0], [60.0, 60.0]])
    averaged = combine(keys, z, rows, valid, average=True, generator=torch.Generator())
    assert averaged.neighbour.tolist() == [[4.0, 5.0], [60.0, 60.0]]  # mean of rows 1 and 3; nobody
    drawn = combine(keys, z, rows, valid, average=False, generator=torch.Generator().manual_seed(0))
    assert drawn.neighbour[1].tolist() == [60.0, 60.0]
    assert drawn.valid.tolist() == [[True], [False]]


def test_the_average_is_the_mean_of_the_k_nearest():
    rows, valid = nearest_rows(SCORES.clone(), 2)
    keys = torch.arange(8.0).reshape(4, 2)
    choice = combine(keys, torch.zeros(2, 2), rows, valid, average=True, generator=torch.Generator())
    assert choice.neighbour.tolist() == [[1.0, 2.0], [5.0, 6.0]]


def test_each_of_the_k_nearest_is_drawn_equally_often_and_nobody_else():
    rows, valid = nearest_rows(SCORES[:1].repeat(6000, 1), 3, torch.tensor([[False, True, False, False]]).repeat(6000, 1))
    keys = torch.eye(4)
    generator = torch.Generator().manual_seed(1)
    choice = combine(keys, torch.zeros(6000, 4), rows, valid, average=False, generator=generator)
    share = choice.neighbour.mean(0)
    assert share[1] == 0
    assert (share[[0, 2, 3]] - 1 / 3).abs().max() < 0.025  # about 4 standard deviations


def test_more_neighbours_than_rows_takes_all_rows():
    rows, _ = nearest_rows(SCORES.clone(), 9)
    assert rows.shape == (2, 4)


@pytest.mark.parametrize("sphere", [True, False])
def test_saved_and_loaded_it_goes_on_as_if_nothing_had_happened(sphere, tmp_path):
    one, _ = filled(7, [3, 3, 3], sphere=sphere)
    torch.save(one.state_dict(), tmp_path / "support.pt")
    other = SupportSet(7, 3, sphere=sphere)
    other.load_state_dict(torch.load(tmp_path / "support.pt", weights_only=True))
    for support in (one, other):
        support.push(torch.full((2, 3), 0.5), torch.tensor([1, 1]), torch.tensor([90, 91]))
        support.tick()
    assert (one.step, one.filled) == (other.step, other.filled) == (4, 7)
    for a, b in zip(vars(one.pool()).values(), vars(other.pool()).values(), strict=True):
        assert (a is b is None) or torch.equal(a, b)


def test_a_half_filled_set_is_still_half_filled_when_loaded():
    one, _ = filled(9, [2, 2])
    other = SupportSet(9, 3, sphere=False)
    other.load_state_dict(one.state_dict())
    assert other.filled == 4


@pytest.mark.parametrize("kind", [lambda size: SupportSet(size, 3, sphere=True), RowRecord])
def test_another_size_is_one_clear_error(kind):
    with pytest.raises(SoloGpsError, match=r"has 5 rows, this run's 8\. Set sampler\.pnn\.queue_size=5"):
        kind(8).load_state_dict(kind(5).state_dict())
