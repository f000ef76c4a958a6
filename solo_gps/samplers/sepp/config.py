"""The keys of SePP; no torch, so that a misspelt one costs a second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_gps.config import LARGEST_SEED, Keys, check_choice, number
from solo_gps.errors import DataError

MODES = ("append", "replace")
SELECTIONS = ("window", "random")
WINDOWS = ("fit", "paper")
PAPER = 0.96, 0.99
"""Cosines between which the paper takes pairs (SePP-CID, arXiv 2306.16122), with its encoder."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Thresholds of the cosine, each by value or, where its quantile is given, by quantile of all pairs' cosines."""

    low: float
    high: float
    low_quantile: float | None = None
    high_quantile: float | None = None

    def check(self) -> None:
        """Raises ``ValueError`` for a threshold out of range or in the wrong order."""
        for key in ("low", "high"):
            if not -1 <= getattr(self, key) <= 1:
                raise ValueError(f"{key}={getattr(self, key)} must be a cosine, from -1 to 1.")
        for key in ("low_quantile", "high_quantile"):
            value = getattr(self, key)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{key}={value} must be a quantile, from 0 to 1.")
        if self.low_quantile is None and self.high_quantile is None and self.low > self.high:
            raise ValueError(f"low={self.low} must not be above high={self.high}.")
        if self.low_quantile is not None and self.high_quantile is not None and self.low_quantile > self.high_quantile:
            raise ValueError(f"low_quantile={self.low_quantile} must not be above high_quantile={self.high_quantile}.")

    @property
    def by_quantile(self) -> bool:
        """Whether a threshold is placed by quantile."""
        return self.low_quantile is not None or self.high_quantile is not None

    def at(self, cosines: NDArray[np.float32], margin: float = 0.0) -> tuple[float, float]:
        """Returns the thresholds as cosines.

        Args:
            cosines: (P,) cosines of pairs, of which quantiles are taken; perhaps of a sample, so that quantile 1 is any cosine.
            margin: How far they may be from the cosines that pairs are judged by: a pair at a quantile belongs to the window.

        Raises:
            DataError: The lower one lies above the upper one.
        """
        low, high = self.low, self.high
        if self.low_quantile is not None:
            low = max(-1.0, float(np.quantile(cosines, self.low_quantile)) - margin) if self.low_quantile > 0 else -1.0
        if self.high_quantile is not None:
            high = min(1.0, float(np.quantile(cosines, self.high_quantile)) + margin) if self.high_quantile < 1 else 1.0
        if low > high:
            raise DataError(
                f"sampler.sepp: the lower threshold {low:.4f} lies above the upper one, {high:.4f}. Give both by value, "
                "or both by quantile."
            )
        return low, high


@dataclass(frozen=True, kw_only=True)
class SeppConfig(Keys):
    """Keys under ``sampler.sepp``."""

    fraction: float = number(0.1, above=0, most=1)
    """Share of the images among which pairs are looked for, above 0 to 1; the paper draws 1, 5 and 10 %."""
    images: int | None = number(None, least=2)
    """Number K of images to draw, in place of ``fraction``."""
    window: str = "fit"
    """Where no threshold is given: fit places them by the prior's own cosines, for about one pair an image without the 2 % most alike; paper takes 0.96 and 0.99, where the cosines of the paper's encoder lie."""  # noqa: E501
    low: float | None = number(None, least=-1, most=1)
    """Smallest cosine of a pair, inclusive; null takes ``window``'s, or beside another threshold the paper's 0.96 (`solo-gps sepp sweep` shows the choice)."""  # noqa: E501
    high: float | None = number(None, least=-1, most=1)
    """Largest cosine of a pair, inclusive: those above it are near-duplicates, counted and shown, not trained on; null as for ``low``, the paper's 0.99."""  # noqa: E501
    low_quantile: float | None = number(None, least=0, most=1)
    """Place ``low`` at this quantile of all pairs' cosines, for example 0.999; in place of its value."""
    high_quantile: float | None = number(None, least=0, most=1)
    """Place ``high`` at this quantile of all pairs' cosines; in place of its value."""
    per_image: int | None = number(None, least=1)
    """Most pairs that one image may be in, the most alike first; null sets no cap."""
    both: bool = False
    """Whether a pair gives two items, each image once the anchor; else one, the image of the smaller index the anchor."""
    mode: str = "append"
    """append: pairs are items beside the N images (the paper); replace: a paired image's own item shows a partner."""
    select: str = "window"
    """window: the pairs between the thresholds; random: as many pairs drawn at random, the control."""
    equal_budget: bool = False
    """append: go through the longer set in epochs of N items, so that an epoch takes the steps that it takes without pairs."""
    max_pairs: int = number(10_000_000, least=1)
    """Most pairs that may be found; more is an error, before memory runs out."""
    pictures: str | None = None
    """Folder for pictures of near-duplicates; null is the folder ``sepp`` in the folder of caches."""
    seed: int | None = number(None, least=0, most=LARGEST_SEED)
    """Seed of every draw; null takes the recipe's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("window", self.window, WINDOWS)
        if self.thresholds is not None:
            if self.high is not None and self.low is None and self.low_quantile is None and self.high < PAPER[0]:
                raise ValueError(f"high={self.high} alone goes with low={PAPER[0]}, which lies above it. Give low too.")
            if self.low is not None and self.high is None and self.high_quantile is None and self.low > PAPER[1]:
                raise ValueError(f"low={self.low} alone goes with high={PAPER[1]}, which lies below it. Give high too.")
            self.thresholds.check()
        given = [key for key in ("low", "high", "low_quantile", "high_quantile") if getattr(self, key) is not None]
        if self.window == "paper" and given:
            raise ValueError(f"window=paper says nothing beside {' and '.join(given)}. Leave one of them out.")
        check_choice("mode", self.mode, MODES)
        check_choice("select", self.select, SELECTIONS)

    @property
    def thresholds(self) -> Window | None:
        """The thresholds that were given; ``None`` where the prior's cosines place them."""
        ends = self.low, self.high, self.low_quantile, self.high_quantile
        if self.window == "fit" and ends == (None,) * 4:
            return None
        return Window(
            low=PAPER[0] if self.low is None else self.low,
            high=PAPER[1] if self.high is None else self.high,
            low_quantile=self.low_quantile,
            high_quantile=self.high_quantile,
        )
