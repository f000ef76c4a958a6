"""What to do with a prior, by rules of thumb on its numbers (docs/inspect.md has them, with the thresholds)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from solo_gps.evaluation.inspection import NEAR_COPY, PriorNumbers
from solo_gps.evaluation.neighbourhood import Ball

LITTLE, SOME, EXCELLENT = 0.2, 0.5, 0.9
"""Bounds of :func:`knowledge`: below the first a prior says little, from the last on all that there is to say."""
FAR = 0.2
"""Without labels: the nearest image is nearer than a random one by less than this share, so that any may be the nearest."""
BALL_KEEPS = 0.75
"""Of what the nearest image knows: what a larger ball must keep. Variety is worth something, too."""
FURTHEST_KEEPS = 0.9
"""Of what a uniform draw knows: what the furthest of the ball must keep."""
BETTER = 0.02
"""Of purity: what a change must gain to be worth a key."""
HUBS = 3.0
"""Skewness of the in-degree above which hubs are worth a key."""
COPIES = 0.01
"""Share of images with a copy, exact or near, above which they are worth a look."""
STILL = 0.5
"""Share of mirrored images still nearest to themselves, below which averaging over flips is worth a try."""
LINE = 2.0
"""Effective rank below which a space is hardly more than a line."""
UNUSED = 0.5
"""Share of images that are ever a positive, below which a fixed choice leaves too many out."""
LITTLE_SAID = "This prior says little about these images: expect little of it."


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Something to do.

    Attributes:
        keys: Words for the command line; empty where there is something else to do.
        reason: Why, with the numbers.
    """

    keys: str
    reason: str


ANOTHER = Suggestion(
    keys="",
    reason="Look for another prior first: a network that was pretrained on images like yours (+prior=timm) knows the most, and "
    "docs/priors.md compares those that need no download.",
)

VIEWS = Suggestion(
    keys="",
    reason="Begin with mild views, a flip or a crop: with them SimCLR gained in every figure within 12 epochs of 5,000 photos "
    "(flips: three seeds; crops: one). Beside strong augmentation plan for more: by k-NN such positives gained nothing in 12 "
    "epochs, and were ahead after 21 of 41 and from there on, in each of three seeds (docs/results/effect.md).",
)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What a prior is worth for these images.

    Attributes:
        verdict: ``"little"``, ``"some"``, ``"much"``, ``"excellent"``, or ``"unknown"``, which labels alone could tell.
        reason: Why.
        k: Suggested number of neighbours.
        choose: Suggested choice among them.
        suggestions: What to type, and what else to do or to look at.
    """

    verdict: str
    reason: str
    k: int
    choose: str
    suggestions: list[Suggestion]


def knowledge(purity: float, chance: float) -> float:
    """How far a purity is from chance to perfect: 0 at chance, 1 where every positive has its anchor's label."""
    return (purity - chance) / (1 - chance)


def known_of(numbers: PriorNumbers) -> float:
    """The :func:`knowledge` of the k nearest; ``nan`` without labels."""
    return knowledge(numbers.usual.purity["uniform"], numbers.chance)


def advise(numbers: PriorNumbers, prior: str = "") -> Advice:
    """Judges a prior.

    Args:
        numbers: What was seen.
        prior: What to type for the prior.
    """
    verdict, reason = _verdict(numbers)
    ball, why_k = _ball(numbers)
    choose, why_choose = _choose(numbers, ball)
    keys = f"{prior} +sampler=gps sampler.gps.k={ball.k} sampler.gps.choose={choose}".strip()
    typed = Suggestion(keys=keys, reason=f"{why_k} {why_choose}")
    first = [ANOTHER if verdict == "little" else None, _copies(numbers)]
    views = VIEWS if verdict in ("some", "much", "excellent") else None
    others = [views, _radius(numbers), _space(numbers), _hubs(numbers), _flips(numbers), _collapse(numbers)]
    return Advice(
        verdict=verdict,
        reason=reason,
        k=ball.k,
        choose=choose,
        suggestions=[one for one in (*first, typed, *others) if one is not None],
    )


def _verdict(numbers: PriorNumbers) -> tuple[str, str]:
    if not numbers.labelled:
        return _verdict_without_labels(numbers)
    purity = numbers.usual.purity["uniform"]
    known = known_of(numbers)
    seen = (
        f"{percent(purity)} of the positives among the {numbers.k} nearest have their anchor's label, "
        f"{percent(numbers.chance)} would by chance: {known:.2f} of the way from chance to perfect"
    )
    if not known >= LITTLE:
        return "little", f"{LITTLE_SAID} {seen}, below {LITTLE}."
    if known < SOME:
        return "some", f"This prior knows something of these classes. {seen}, from {LITTLE} to {SOME}."
    if known < EXCELLENT:
        return "much", f"This prior knows much of these classes. {seen}, from {SOME} to {EXCELLENT}."
    return "excellent", f"An excellent prior for these classes. {seen}, {EXCELLENT} or more."


def _verdict_without_labels(numbers: PriorNumbers) -> tuple[str, str]:
    near = numbers.nearness
    if math.isnan(near):
        return "little", f"{LITTLE_SAID} Most of them lie at one point."
    seen = f"The nearest other image is {percent(near)} nearer than one drawn at random (medians, in lengths)"
    if near < FAR:
        return "little", f"{LITTLE_SAID} {seen}, below {percent(FAR)}."
    return "unknown", (
        f"{seen}, so there are neighbours to choose from; whether they show the same thing, labels alone can tell, or your eyes: "
        "look at the gallery."
    )


def _ball(numbers: PriorNumbers) -> tuple[Ball, str]:
    """The largest ball that knows nearly what the nearest image knows; without labels the usual one."""
    if not numbers.labelled:
        return numbers.usual, f"k={numbers.k}, the default: without labels nothing says that another is better."
    if numbers.by_k[0].purity["uniform"] <= numbers.chance:
        return numbers.usual, f"k={numbers.k}, the default: the nearest image knows no more than chance."
    # A ball that holds copies of its anchor alone, as most of that size do, shows nothing new, however pure it is.
    balls = [ball for ball in numbers.by_k if ball.distance > 0] or numbers.by_k[-1:]
    nearest = numbers.by_k[0].purity["uniform"]
    least = BALL_KEEPS * knowledge(nearest, numbers.chance)
    keep = [ball for ball in balls if knowledge(ball.purity["uniform"], numbers.chance) >= least]
    ball = keep[-1] if keep else balls[0]
    return ball, (
        f"k={ball.k} is the most that keeps {percent(BALL_KEEPS)} of what the nearest image knows beyond chance: "
        f"{percent(ball.purity['uniform'])} of its positives have their anchor's label, {percent(nearest)} of the nearest."
    )


def _choose(numbers: PriorNumbers, ball: Ball) -> tuple[str, str]:
    used, drawn = ball.covered["furthest"], ball.covered["uniform"]
    covered = f"{percent(used)} of the images are ever a positive, with uniform {percent(drawn)}"
    if ball.k == 1:
        return "nearest", "With one neighbour there is nothing to choose."
    if numbers.labelled and used >= UNUSED and ball.purity["uniform"] > numbers.chance:
        purity = ball.purity["furthest"]
        if knowledge(purity, numbers.chance) >= FURTHEST_KEEPS * knowledge(ball.purity["uniform"], numbers.chance):
            return "furthest", (
                f"furthest, as in the paper: {percent(purity)} of its positives have their anchor's label, and {covered}."
            )
    return "uniform", f"uniform, drawn anew each epoch: with furthest {covered}."


def _radius(numbers: PriorNumbers) -> Suggestion | None:
    radius = numbers.accepted
    if radius is None or radius.empty > UNUSED:
        return None
    seen = f"its balls hold {radius.size:g} images (median), and {percent(radius.empty)} of the images have no positive"
    like = next((ball for ball in reversed(numbers.by_k) if ball.k <= radius.size), numbers.by_k[0])
    if numbers.labelled and radius.purity > like.purity["uniform"] + BETTER:
        reason = (
            f"A radius in place of k: {seen}; {percent(radius.purity)} of the others' positives have their anchor's label, "
            f"{percent(like.purity['uniform'])} with k={like.k}."
        )
    else:
        reason = f"If you want a radius in place of k, this one fits: {seen}."
    return Suggestion(keys=f"sampler.gps.radius={radius.radius}", reason=reason)


def _space(numbers: PriorNumbers) -> Suggestion | None:
    purity = numbers.other_space
    other = next((name for name in purity if name != numbers.space), None)
    if other is None or not purity[other] > purity[numbers.space] + BETTER:
        return None
    return Suggestion(
        keys=f"prior.space={other}",
        reason=f"In a sample {percent(purity[other])} of the {numbers.k} nearest by {other} distance have their anchor's label, "
        f"{percent(purity[numbers.space])} by {numbers.space}.",
    )


def _hubs(numbers: PriorNumbers) -> Suggestion | None:
    if numbers.hubness <= HUBS:
        return None
    return Suggestion(
        keys="sampler.gps.mutual=true",
        reason=f"A few images are everyone's neighbour (skewness of the in-degree {numbers.hubness:.1f}, above {HUBS:g}; the "
        f"largest is {numbers.most_in:,}). Mutual neighbours, {percent(numbers.mutual)} of all, leave them out.",
    )


def _copies(numbers: PriorNumbers) -> Suggestion | None:
    if max(numbers.copies / numbers.images, numbers.near_copies) <= COPIES:
        return None
    return Suggestion(
        keys="",
        reason=f"{numbers.copies:,} images have an exact copy in this space, and {percent(numbers.near_copies)} another image "
        f"closer than {NEAR_COPY:g} of the distance to others: a positive may show its anchor again. Remove the copies unless "
        "they are meant.",
    )


def _flips(numbers: PriorNumbers) -> Suggestion | None:
    if not numbers.flip < STILL:
        return None
    return Suggestion(
        keys="prior.augmentation=flip prior.draws=4",
        reason=f"Mirrored, {percent(numbers.flip)} of the images are still nearest to themselves, fewer than {percent(STILL)}. "
        "Where left and right mean nothing in your images, embeddings averaged over flips do not see them.",
    )


def _collapse(numbers: PriorNumbers) -> Suggestion | None:
    if not numbers.rank < LINE:
        return None
    return Suggestion(
        keys="",
        reason=f"The {numbers.dimensions} dimensions act as {numbers.rank:.1f} (effective rank, below {LINE:g}): nearly all "
        "images lie along one line. Look at what the prior was made of.",
    )


def percent(share: float) -> str:
    """A share, for the user; one that is not known is a dash."""
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"
