"""keep_apart: no anchor in a batch with its positive's own item, each item once, on one rank and on two."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler

from solo_gps.errors import DataError
from solo_gps.guide.apart import ApartBatches, apart
from solo_gps.hosts.data_folder import BATCHES_APART, check_batch
from solo_gps.interfaces import Pairs


def drawn(items, seed, *, hubs=0):
    """Random pairs; the first images are the positives of more than their share."""
    rng = np.random.default_rng(seed)
    positives = rng.integers(0, items, items)
    positives[rng.random(items) < hubs] = 0
    return Pairs(anchors=np.arange(items, dtype=np.int32), positives=positives.astype(np.int32))


def partners_meet(batch, pairs):
    """By the definition, one pair of items after the other."""
    return any(
        one != other and pairs.positives[one] == pairs.anchors[other] and pairs.positives[one] != pairs.anchors[one]
        for one in batch
        for other in batch
    )


@settings(max_examples=150)
@given(
    items=st.integers(24, 120),
    size=st.integers(2, 6),
    ranks=st.integers(1, 2),
    seed=st.integers(0, 10**6),
    drop_last=st.booleans(),
)
def test_partners_never_meet_and_every_item_comes_once(items, size, ranks, seed, drop_last):
    assume(items // ranks // size >= BATCHES_APART)  # fewer cannot always do it: three that point in a circle need three batches
    pairs = drawn(items, seed)
    order = np.random.default_rng(seed + 1).permutation(items)
    orders = [order[rank : items // ranks * ranks : ranks].tolist() for rank in range(ranks)]
    batches = apart(orders, pairs, size, drop_last=drop_last)
    share = items // ranks
    assert [len(of_rank) for of_rank in batches] == [share // size + (not drop_last and share % size > 0)] * ranks
    for number in range(len(batches[0])):
        together = [item for of_rank in batches for item in of_rank[number]]
        assert not partners_meet(together, pairs)
        if number < share // size:
            assert [len(of_rank[number]) for of_rank in batches] == [size] * ranks
    seen = [item for of_rank in batches for batch in of_rank for item in batch]
    assert len(set(seen)) == len(seen) == (share // size * size if drop_last else share) * ranks
    assert set(seen) <= {item for one in orders for item in one}


def test_the_order_stays_where_nobody_meets():
    pairs = Pairs(anchors=np.arange(8, dtype=np.int32), positives=np.arange(8, dtype=np.int32))
    assert apart([[3, 1, 2, 0, 7, 5, 6, 4]], pairs, 3) == [[[3, 1, 2], [0, 7, 5]]]
    assert apart([[3, 1, 2, 0]], pairs, 3, drop_last=False) == [[[3, 1, 2], [0]]]


def test_by_hand():
    pairs = Pairs(anchors=np.arange(4, dtype=np.int32), positives=np.array([1, 0, 3, 2], np.int32))
    assert apart([[0, 1, 2, 3]], pairs, 2) == [[[0, 2], [1, 3]]]


def test_the_last_batch_takes_from_an_earlier_one():
    pairs = Pairs(anchors=np.arange(6, dtype=np.int32), positives=np.array([0, 1, 2, 3, 5, 4], np.int32))
    batches = apart([[0, 1, 2, 3, 4, 5]], pairs, 3)[0]
    assert sorted(list(chain(*batches))) == list(range(6))
    assert not any(partners_meet(batch, pairs) for batch in batches)


def test_appended_pairs_keep_to_their_images():
    """SePP's items beside the images' own: the pair (0, 1) stays away from image 1's item, not from image 0's."""
    pairs = Pairs(anchors=np.array([0, 1, 2, 3, 0], np.int32), positives=np.array([0, 1, 2, 3, 1], np.int32))
    batches = apart([[4, 1, 0, 2, 3]], pairs, 3, drop_last=False)[0]
    assert not any(partners_meet(batch, pairs) for batch in batches)
    assert batches[0] == [4, 0, 2]


def test_a_hub_of_all_is_one_clear_error():
    pairs = Pairs(anchors=np.arange(12, dtype=np.int32), positives=np.zeros(12, np.int32))
    with pytest.raises(DataError, match=r"no batches of 4.*image 0 is the positive of 11 others.*Lower optimizer.batch"):
        apart([list(range(12))], pairs, 4)


def test_too_few_batches_are_an_error_at_once_whose_mend_works():
    recipe = OmegaConf.create({"accelerator": "cpu", "devices": 2})
    with pytest.raises(DataError, match=r"keep_apart: 50 images in batches of 13 .*batch_size to at most 12, or leave") as caught:
        check_batch(recipe, 100, 13, apart=True)
    check_batch(recipe, 100, 13)
    check_batch(recipe, 100, 12, apart=True)
    with pytest.raises(DataError, match="Leave it out"):
        check_batch(recipe, 6, 1, apart=True)
    assert "optimizer.batch_size" in str(caught.value)


def test_hubs_of_half_are_kept_apart():
    pairs = drawn(400, 3, hubs=0.5)
    batches = apart([np.random.default_rng(0).permutation(400).tolist()], pairs, 16)[0]
    assert not any(partners_meet(batch, pairs) for batch in batches)
    assert len(set(list(chain(*batches)))) == 400


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_torchs_samplers_deal_out(ranks):
    pairs = drawn(61, 1)
    samplers = [DistributedSampler(range(61), ranks, rank, shuffle=True, seed=4) for rank in range(ranks)]
    batches = apart([list(sampler) for sampler in samplers], pairs, 5)
    for together in zip(*batches, strict=True):
        assert not partners_meet({*chain(*together)}, pairs)


def test_another_order_for_each_epoch():
    batches = ApartBatches(BatchSampler(RandomSampler(range(61)), 5, drop_last=True), drawn(61, 1))
    first, second = list(batches), list(batches)
    assert len(first) == len(second) == len(batches) == 12
    assert first != second
