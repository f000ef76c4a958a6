"""Which semantic pairs are trained on: pure functions of pairs, cosines, labels and a seed (SePP, arXiv 2306.16122)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_gps.interfaces import Pairs

DRAW_IMAGES, DRAW_RANDOM_PAIRS, DRAW_EPOCH, DRAW_PARTNERS = range(4)  # streams of one seed
ALIKE = 1 - 1e-6  # a larger cosine is that of the same image twice
NEAR_DUPLICATE_SHARE = 0.02


def draw_images(images: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Draws K images without replacement.

    Args:
        images: Number N of images.
        wanted: Number K to draw, at most N.
        seed: Seed of the draw.

    Returns:
        (K,) int64 image indices, ascending; all of them where K = N.
    """
    if wanted >= images:
        return np.arange(images)
    return np.sort(np.random.default_rng([seed, DRAW_IMAGES]).choice(images, wanted, replace=False))


def suggest_window(cosines: NDArray[np.floating], images: int) -> tuple[float, float]:
    """Suggests thresholds for a prior whose cosines live elsewhere than those of the paper's encoder.

    The lower one leaves about one pair an image, K pairs in all; the upper one leaves out the 2 % of them that are most alike,
    which are where near-duplicates hide. Copies of one image (cosine 1) do not count.

    Args:
        cosines: (P,) ascending cosines of all pairs, or of those of a random sample of the images.
        images: Number K of images among which pairs will be looked for.

    Returns:
        ``low`` and ``high``, with four decimals.
    """
    low, high = fitted_window(cosines, images)
    return float(np.floor(low * 1e4) / 1e4), float(np.ceil(high * 1e4) / 1e4)


def fitted_window(cosines: NDArray[np.floating], images: int, margin: float = 0.0) -> tuple[float, float]:
    """The thresholds of :func:`suggest_window`, unrounded and within -1 and 1.

    Args:
        cosines: As there.
        images: As there.
        margin: How far they may be from the cosines that pairs are judged by: a pair at a threshold belongs to the window.
    """
    different = cosines[: np.searchsorted(cosines, ALIKE)]
    if not len(different):
        return max(-1.0, float(cosines[0]) - margin), 1.0
    share = min(0.5, 2 / max(1, images - 1))
    low = float(np.quantile(different, 1 - share, method="lower"))
    high = float(np.quantile(different, 1 - share * NEAR_DUPLICATE_SHARE, method="nearest"))
    return max(-1.0, low - margin), min(1.0, high + margin)


def cap_pairs(
    first: NDArray[np.integer], second: NDArray[np.integer], cosines: NDArray[np.floating], most: int
) -> NDArray[np.int64]:
    """Keeps at most ``most`` pairs for an image, the most alike first.

    Goes through the pairs by falling cosine (ties by first, then second image) and takes each whose two images are both in fewer
    than ``most`` pairs taken before.

    Args:
        first: (P,) image of each pair.
        second: (P,) the other image.
        cosines: (P,) cosines.
        most: Cap, at least 1.

    Returns:
        (Q,) positions of the pairs taken, ascending.
    """
    waiting = np.lexsort((second, first, -cosines))
    free = np.full(int(max(first.max(initial=-1), second.max(initial=-1))) + 1, most, np.int64)
    taken = [np.empty(0, np.int64)]
    while len(waiting):
        i, j = first[waiting], second[waiting]
        open_ = (free[i] > 0) & (free[j] > 0)
        waiting, i, j = waiting[open_], i[open_], j[open_]
        rank_i, rank_j = _ranks(i, j)
        # Among the first waiting pairs of both images: nothing that comes before can fill either.
        sure = (rank_i < free[i]) & (rank_j < free[j])
        taken.append(waiting[sure])
        free -= np.bincount(i[sure], minlength=len(free)) + np.bincount(j[sure], minlength=len(free))
        waiting = waiting[~sure]
    return np.sort(np.concatenate(taken))


def random_pairs(groups: NDArray[np.integer], count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws different unordered pairs uniformly, without replacement: the control of the same number.

    Args:
        groups: (K,) group of each row, 0 or larger; the two rows of a pair are of one group.
        count: Number P of pairs, at most the number that exist.
        seed: Seed of the draw.

    Returns:
        Two (P,) arrays of rows, the smaller first; sorted by them.
    """
    members = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    pairs_before = np.concatenate([[0], np.cumsum(sizes * (sizes - 1) // 2)])
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng([seed, DRAW_RANDOM_PAIRS])
    number = np.sort(rng.choice(int(pairs_before[-1]), count, replace=False, shuffle=False))
    group = np.searchsorted(pairs_before, number, side="right") - 1
    small, large = _unrank(number - pairs_before[group])
    first, second = members[starts[group] + small], members[starts[group] + large]
    order = np.lexsort((second, first))
    return first[order], second[order]


def _ranks(i: NDArray[np.integer], j: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each pair, how many pairs before it hold its first, and its second, image."""
    both = np.stack([i, j], axis=1).reshape(-1)
    order = np.argsort(both, kind="stable")
    ordered = both[order]
    ranks = np.empty(len(both), np.int64)
    ranks[order] = np.arange(len(both)) - np.searchsorted(ordered, ordered, side="left")
    return ranks[::2], ranks[1::2]


def _unrank(number: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair (small, large) of each number: (0,1) is 0, (0,2) is 1, (1,2) is 2, (0,3) is 3, ..."""
    large = ((1 + np.sqrt(1 + 8 * number.astype(np.float64))) / 2).astype(np.int64)
    # Above about 10^8 images the square root of the last number before a step is rounded up to the step.
    large -= large * (large - 1) // 2 > number
    return number - large * (large - 1) // 2, large


@dataclass(frozen=True, kw_only=True)
class Partners:
    """For each of N images, the images that it is paired with.

    Attributes:
        starts: (N + 1,) int64; partners of image i are ``members[starts[i]:starts[i + 1]]``.
        members: (P,) int32 images.
    """

    starts: NDArray[np.int64]
    members: NDArray[np.int32]

    @classmethod
    def of(cls, pairs: Pairs, images: int) -> Partners:
        """Collects the positives of every anchor."""
        order = np.argsort(pairs.anchors, kind="stable")
        counts = np.bincount(pairs.anchors, minlength=images)
        return cls(starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), members=pairs.positives[order])


def append(items: Pairs, pairs: Pairs) -> Pairs:
    """Returns the items with the pairs behind them."""
    return Pairs(
        anchors=np.concatenate([items.anchors, pairs.anchors]),
        positives=np.concatenate([items.positives, pairs.positives]),
        more=None if items.more is None else np.concatenate([items.more, _alike(pairs.positives, items.more)]),
    )


def replace(items: Pairs, partners: Partners, *, epoch: int, seed: int) -> Pairs:
    """Gives each item whose anchor has partners one of them as positive, drawn uniformly for this epoch."""
    sizes = np.diff(partners.starts)[items.anchors]
    draws = np.random.default_rng([seed, DRAW_PARTNERS, epoch]).random(len(sizes))
    has = sizes > 0
    positives = items.positives.copy()
    positives[has] = partners.members[(partners.starts[items.anchors] + (draws * sizes).astype(np.int64))[has]]
    more = None if items.more is None else np.where(has[:, None], _alike(positives, items.more), items.more)
    return Pairs(anchors=items.anchors, positives=positives, more=more)


def _alike(positives: NDArray[np.integer], more: NDArray[np.integer]) -> NDArray[np.integer]:
    """(M,) positives as often as there are further ones."""
    return np.repeat(positives[:, None], more.shape[1], axis=1)


def cut_to_budget(items: Pairs, budget: int, *, epoch: int, seed: int) -> Pairs:
    """Returns ``budget`` of the M items of the longer set, so that an epoch takes as many steps as without pairs.

    The items are gone through in shuffled passes, each item once a pass, and an epoch is the next ``budget`` of them: the very
    stream of training on the longer set, cut elsewhere. An epoch may hold the end of one pass and the start of the next.

    Args:
        items: M items, at least ``budget``.
        budget: Items of an epoch.
        epoch: Number of the epoch.
        seed: Seed of the passes.
    """
    length = len(items.anchors)
    start, stop = epoch * budget, (epoch + 1) * budget
    passes = range(start // length, (stop - 1) // length + 1)
    stream = np.concatenate([np.random.default_rng([seed, DRAW_EPOCH, number]).permutation(length) for number in passes])
    chosen = stream[start - passes[0] * length : stop - passes[0] * length]
    return Pairs(
        anchors=items.anchors[chosen],
        positives=items.positives[chosen],
        more=None if items.more is None else items.more[chosen],
    )


def picture_rows(pairs: NDArray[np.integer], rows: int, columns: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lays pairs out for a picture: the first image of a pair leads a row, its partners follow.

    Args:
        pairs: (E, 2) images, the most important pairs first.
        rows: Most rows.
        columns: Most partners in a row; more start no row of their own.

    Returns:
        (R,) leading images in the order of their first pair, and (R, columns) partners, -1 where there are fewer.
    """
    leads: dict[int, list[int]] = {}
    for first, second in pairs.tolist():
        if first in leads or len(leads) < rows:
            leads.setdefault(first, []).append(second)
    partners = np.full((len(leads), columns), -1, np.int32)
    for row, members in enumerate(leads.values()):
        partners[row, : len(members)] = members[:columns]
    return np.array(list(leads), np.int32), partners


def coverage(first: NDArray[np.integer], second: NDArray[np.integer]) -> int:
    """Returns the number of different images in pairs."""
    return len(np.unique(np.concatenate([first, second])))


def pairs_purity(first: NDArray[np.integer], second: NDArray[np.integer], labels: NDArray[np.integer] | None) -> float | None:
    """Returns the share of pairs of one class among those with both classes known, or ``None`` without any."""
    if labels is None:
        return None
    known = (labels[first] >= 0) & (labels[second] >= 0)
    return float((labels[first] == labels[second])[known].mean()) if known.any() else None
