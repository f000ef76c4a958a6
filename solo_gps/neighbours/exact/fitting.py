"""A radius that fits: what distances there are, and a number to type that the same search accepts."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

import numpy as np

from solo_gps.neighbours.backend import SearchBackend
from solo_gps.neighbours.exact.nearest import expand_groups, nearest_points
from solo_gps.neighbours.exact.rerank import unpack_key
from solo_gps.neighbours.exact.workspace import Workspace
from solo_gps.runtime.ranks import training_ranks

NEIGHBOURS = 10  # in the ball of the median image: the default k
GOOD_SHARE = 0.5
_DIGITS = range(3, 18)  # the last of them tell all float64 apart


@dataclass(frozen=True, kw_only=True)
class RadiusAdvice:
    """What to do about a radius that is too small or too large.

    Attributes:
        lowest: Smallest distance of an image to its nearest other image.
        median: Median of those distances.
        highest: Largest of them.
        radius: Accepted by the same search, exactly as printed; ``None`` where no radius is.
        share: Share of the images that have a neighbour at that radius.
        max_ball: The bound on the balls.
    """

    lowest: float
    median: float
    highest: float
    radius: float | None
    share: float
    max_ball: int

    def text(self, where: str = "") -> str:
        """Returns it in words; ``where`` stands before the keys, for example ``"sampler.gps."``."""
        seen = f"The nearest other image is {self.lowest:.3g} to {self.highest:.3g} away, median {self.median:.3g}"
        if self.radius is None:
            return (
                f"{seen}, and no radius gives any image a neighbour but one of them more than search.max_ball={self.max_ball}: "
                f"too many are copies, or equally near. Use {where}k in place of a radius."
            )
        return (
            f"{seen}. {where}radius={self.radius} fits: {100 * self.share:.1f} % of the images then have a neighbour, no ball "
            f"holds more than search.max_ball={self.max_ball}. Larger balls: ++search.max_ball={2 * self.max_ball}, or {where}k."
        )


def advise_radius(work: Workspace, backend: SearchBackend, share: float = GOOD_SHARE) -> RadiusAdvice:
    """Looks for a radius that the search accepts; costs one search of the nearest and one of the balls.

    The ball of the median image holds its 10 nearest, and at least ``share`` of the images have a neighbour, unless that makes a
    ball exceed ``max_ball``: then the radius is the largest at which none does.

    Args:
        work: U prepared points, and what measures them.
        backend: Fitted exact backend.
        share: Share of the images that should have a neighbour.
    """
    points, config = work.points, work.config
    total, images, ranks = len(points.exact), len(points.groups.group_of), training_ranks(config.distributed)
    k = min(NEIGHBOURS, images - 1, config.max_ball)
    with ranks.failing_together():
        keys = nearest_points(work, backend, min(k + 1, total), ranks.share_of(total))
    keys = ranks.gather_numbers(keys)
    _, distances = expand_groups(keys, points.groups, points.factor, k)
    nearest, last = distances[:, 0].astype(np.float64), distances[:, -1].astype(np.float64)
    share = max(share, 1 / images)
    reach = max(_quantile(last, 0.5), _quantile(nearest, share)) or 1e-6  # where half of the images are copies: any, for them
    start = _rounded(np.nextafter(reach, np.inf), _DIGITS[0], ROUND_CEILING)  # balls are open: the radius lies above
    radius = largest_radius(work, start)
    if radius < start:
        # Any smaller one is accepted too, so the one with the fewest digits, as long as these cost no images.
        wanted = min(share, float((nearest < radius).mean()))
        shorter = (_rounded(radius, digits, ROUND_FLOOR) for digits in _DIGITS)
        radius = next((short for short in shorter if (nearest < short).mean() >= wanted), radius)
    reached = float((nearest < radius).mean())
    return RadiusAdvice(
        lowest=float(nearest.min()),
        median=float(np.median(nearest)),
        highest=float(nearest.max()),
        radius=radius if reached else None,
        share=reached,
        max_ball=config.max_ball,
    )


def largest_radius(work: Workspace, start: float) -> float:
    """Returns the largest radius up to ``start`` at which no ball exceeds ``max_ball``; 0 where an image has more copies.

    Exact, because balls are counted as the search itself counts them; and one pass will do, because a ball that fits goes on
    fitting while the radius shrinks for those after it.
    """
    points, config = work.points, work.config
    ranks = training_ranks(config.distributed)
    share = ranks.share_of(len(points.exact))
    radius, first, rows = start, share.start, 1
    with ranks.failing_together():
        while first < share.stop:
            stop = min(first + rows, share.stop)
            row, key = work.within(np.arange(first, stop), radius)
            images = points.groups.sizes[key & 0xFFFFFFFF]
            before = np.cumsum(images) - images
            # Images of the ball up to this point, the row's own included.
            held = before + images - before[np.searchsorted(row, row)]
            excess, _ = unpack_key(key[held > config.max_ball + 1])
            radius = min(radius, float(work.table_distance(excess).min(initial=np.inf)))
            # Blocks grow: a start that takes in all images costs one ball of all, not a block of them.
            first, rows = stop, min(2 * rows, work.near.rows_per_block)
    return float(min(ranks.gather(radius)))


def _quantile(values: np.ndarray, share: float) -> float:
    """The smallest of the values that at least ``share`` of them do not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def _rounded(value: float, digits: int, rounding: str) -> float:
    """A float64 whose shortest text has at most ``digits`` digits, not below (or not above) the value."""
    return float(Context(prec=digits, rounding=rounding).create_decimal(Decimal(float(value))))
