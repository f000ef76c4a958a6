"""Batches in which no anchor meets its positive's own item: a contrastive loss would push the two apart."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from solo_gps.errors import DataError
from solo_gps.interfaces import Pairs
from solo_gps.runtime.ranks import training_ranks

ATTEMPTS = 20
"""Random arrangements that are tried where the order does not give one; only where few batches hold all images."""


class ApartBatches:
    """The batches of another batch sampler, put together anew so that partners are apart, in those of all ranks together.

    Every item that the other sampler has comes once; what it drops in the end is dropped here too. All ranks must draw the same
    pairs, as they do.

    Args:
        batches: A ``torch.utils.data.BatchSampler``.
        pairs: The pairs of the epoch under way.

    Raises:
        DataError: While iterating: an image is the positive of so many that it cannot be kept apart from all of them.
    """

    def __init__(self, batches: Any, pairs: Pairs) -> None:
        self._batches, self._pairs = batches, pairs

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        ranks = training_ranks()
        # Gathered, not computed: Lightning 1.9 shuffles what torch's own sampler shuffles, anew each time it is asked.
        orders = ranks.gather(list(self._batches.sampler))
        yield from apart(orders, self._pairs, self._batches.batch_size, drop_last=self._batches.drop_last)[ranks.rank]


def apart(orders: Sequence[Sequence[int]], pairs: Pairs, size: int, *, drop_last: bool = True) -> list[list[list[int]]]:
    """Puts items into batches in which no item's positive is another item's anchor.

    Args:
        orders: For each rank, the items that it would read, in order; as many on every rank.
        pairs: Of all items.
        size: Items of a batch of one rank.
        drop_last: Whether the items of a last, smaller batch are left out.

    Returns:
        For each rank, its batches; the batches of one number lie apart on all ranks together. The items stay near their places
        in the order.

    Raises:
        DataError: It cannot be done.
    """
    anchors = pairs.anchors.tolist()
    shown = zip(anchors, *(one.tolist() for one in pairs.in_turn), strict=True)
    partners = [{other for other in others if other != anchor} for anchor, *others in shown]
    ranks, share = len(orders), len(orders[0])
    sizes = [size] * (share // size) + [share % size] * (not drop_last and share % size > 0)
    order = [item for start in range(0, share, size) for one in orders for item in one[start : start + size]]
    together = _Arrangement(anchors, partners, [ranks * one for one in sizes])
    batches = list(zip(together.of(order), sizes, strict=True))
    return [[batch[rank * one : (rank + 1) * one] for batch, one in batches] for rank in range(ranks)]


class _Arrangement:
    """Batches of given sizes, of items with an anchor and its partners each."""

    def __init__(self, anchors: list[int], partners: list[set[int]], sizes: list[int]) -> None:
        self._anchors, self._partners, self._sizes = anchors, partners, sizes
        self.batches: list[list[int]] = []

    def of(self, order: list[int]) -> list[list[int]]:
        """In order; where that leaves some without a place, those first whose image is the partner of most."""
        if self._settled(self._in_order(order)):
            return self.batches
        often = Counter(chain.from_iterable(self._partners[item] for item in order))
        for attempt in range(ATTEMPTS):
            draw = random.Random(attempt)  # no secret, and the same on all ranks # nosec B311
            shuffled = draw.sample(order, len(order))
            first = sorted(shuffled, key=lambda item: -often[self._anchors[item]])
            if self._settled(self._at_random(first, draw)):
                return self.batches
        image, count = max(often.items(), key=lambda of: of[1])
        raise DataError(
            f"sampler.gps.keep_apart: no batches of {self._sizes[0]} were found that keep partners apart; image {image} is the "
            f"positive of {count} others. Lower optimizer.batch_size, or leave keep_apart out; where one image is the positive "
            "of many, choose=uniform and mutual=true of sampler.gps make them fewer."
        )

    def _settled(self, waiting: list[int]) -> bool:
        """Whether all places are filled, after exchanges with those who wait."""
        return all(
            self._exchange(number, waiting)
            for number, size in enumerate(self._sizes)
            for _ in range(size - len(self.batches[number]))
        )

    def _at_random(self, order: list[int], draw: random.Random) -> list[int]:
        waiting: list[int] = []
        self.batches = [[] for _ in self._sizes]
        seen: list[tuple[set[int], set[int]]] = [(set(), set()) for _ in self._sizes]
        for item in order:
            anchor, own = self._anchors[item], self._partners[item]
            free = [
                number
                for number, (anchors, partners) in enumerate(seen)
                if len(self.batches[number]) < self._sizes[number] and anchor not in partners and own.isdisjoint(anchors)
            ]
            if not free:
                waiting.append(item)
                continue
            number = draw.choice(free)
            self.batches[number].append(item)
            seen[number][0].add(anchor)
            seen[number][1].update(own)
        return waiting

    def _in_order(self, order: list[int]) -> list[int]:
        waiting: list[int] = []
        self.batches = []
        stream = iter(order)
        for size in self._sizes:
            batch: list[int] = []
            anchors: set[int] = set()
            partners: set[int] = set()
            still: list[int] = []
            for item in self._first_waiting(waiting, stream):
                if self._anchors[item] in partners or not self._partners[item].isdisjoint(anchors):
                    still.append(item)
                else:
                    batch.append(item)
                    anchors.add(self._anchors[item])
                    partners.update(self._partners[item])
                    if len(batch) == size:
                        break
            waiting = still + waiting
            self.batches.append(batch)
        return waiting + list(stream)

    @staticmethod
    def _first_waiting(waiting: list[int], stream: Iterator[int]) -> Iterator[int]:
        """Those that found no place yet, taken out of the list, and then the others."""
        while waiting:
            yield waiting.pop(0)
        yield from stream

    def _exchange(self, number: int, waiting: list[int]) -> bool:
        """Fills a place of a batch with one who waits, or with an item of another batch, whose place one who waits then takes."""
        for place, item in enumerate(waiting):
            if not any(self._meet(item, member) for member in self.batches[number]):
                self.batches[number].append(waiting.pop(place))
                return True
            for other, batch in enumerate(self.batches):
                if other == number:
                    continue
                against = [position for position, member in enumerate(batch) if self._meet(item, member)]
                for position in range(len(batch)) if not against else against[: len(against) == 1]:
                    if not any(self._meet(batch[position], member) for member in self.batches[number]):
                        self.batches[number].append(batch[position])
                        batch[position] = waiting.pop(place)
                        return True
        return False

    def _meet(self, one: int, other: int) -> bool:
        return self._anchors[other] in self._partners[one] or self._anchors[one] in self._partners[other]
