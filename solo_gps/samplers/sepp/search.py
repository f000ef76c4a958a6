"""From embeddings to semantic pairs of images, with a report of what was found and an error that says what to try."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_gps.errors import DataError
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours.config import SearchConfig
from solo_gps.runtime.devices import borrowed, pick_device
from solo_gps.runtime.progress import Progress
from solo_gps.samplers.sepp.config import Window
from solo_gps.samplers.sepp.cosines import CosinePairs, UnitRows, find_cosine_pairs, sample_cosines
from solo_gps.samplers.sepp.pairs import draw_images, fitted_window, suggest_window


@dataclass(frozen=True, kw_only=True)
class SemanticPairs:
    """Pairs of images in the window, before any cap.

    Attributes:
        drawn: (K,) int64 images among which pairs were looked for, ascending.
        first: (P,) int32 image, the smaller index of the two.
        second: (P,) int32 image.
        cosines: (P,) float32.
        low: Lower threshold, as a cosine.
        high: Upper threshold, as a cosine.
        near_duplicates: Number of pairs above the window.
        examples: (E, 2) int32 images of the most alike of those.
    """

    drawn: NDArray[np.int64]
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    cosines: NDArray[np.float32]
    low: float
    high: float
    near_duplicates: int
    examples: NDArray[np.int32]


def search_pairs(
    embeddings: Embeddings,
    window: Window | None,
    search: SearchConfig,
    *,
    images: int,
    seed: int,
    labels: NDArray[np.int64] | None = None,
    max_pairs: int = 10_000_000,
) -> SemanticPairs:
    """Draws images and finds their pairs in the window (SePP, section 3).

    Args:
        embeddings: N images in the prior space; cosines are taken whatever its own distance is.
        window: Thresholds; ``None`` places them by the cosines (:func:`solo_gps.samplers.sepp.pairs.fitted_window`).
        search: Device and working memory.
        images: Number K of images to draw.
        seed: Seed of the draw.
        labels: (N,) classes, where pairs must be of one known class; else ``None``.
        max_pairs: Most pairs that may be found.

    Raises:
        DataError: No pair lies in the window, none there is of one class, or there are too many.
    """
    device = pick_device(search.device)
    with borrowed(device):
        return _search_pairs(embeddings, window, search, device, images=images, seed=seed, labels=labels, max_pairs=max_pairs)


def _search_pairs(
    embeddings: Embeddings,
    window: Window | None,
    search: SearchConfig,
    device: str,
    *,
    images: int,
    seed: int,
    labels: NDArray[np.int64] | None,
    max_pairs: int,
) -> SemanticPairs:
    array = embeddings.array
    drawn = draw_images(len(array), images, seed)
    array = array if len(drawn) == len(array) else array[drawn]
    rows = UnitRows(array, device=device, memory_mib=search.budget(device) >> 20)
    sampled = sample_cosines(array, seed=seed) if window is None or window.by_quantile else None
    if window is None:
        assert sampled is not None
        low, high = fitted_window(sampled, len(drawn), rows.margin)
        if high < np.median(sampled):
            raise DataError(
                f"sampler.sepp: all pairs of images that are alike are near-duplicates, and the others, with cosines up to "
                f"{high:.4f}, less alike than most. Take a prior that tells these images apart, or give low and high."
            )
    else:
        low, high = window.at(sampled, rows.margin) if sampled is not None else (window.low, window.high)
    with Progress("sepp: looking for pairs", rows.number_of_tiles, unit="parts") as progress:
        found = find_cosine_pairs(rows, low, high, max_pairs=max_pairs, progress=progress.update)
    if not len(found.first):
        sampled = sample_cosines(array, seed=seed) if sampled is None else sampled
        seen = (
            f"no pair of the {len(drawn):,} images drawn (of {len(embeddings.array):,}) has a cosine from {low:.4g} to {high:.4g}"
        )
        raise DataError(f"sampler.sepp: {seen}: {_what_to_try(sampled, found, len(drawn))}")
    first, second = drawn[found.first].astype(np.int32), drawn[found.second].astype(np.int32)
    kept = slice(None) if labels is None else (labels[first] == labels[second]) & (labels[first] >= 0)
    if labels is not None and not kept.any():  # type: ignore[union-attr]
        raise DataError(
            f"sampler.sepp: none of the {len(first):,} pairs with a cosine from {low:.4f} to {high:.4f} is of one class, and "
            "this method takes images of the same class as positives. Widen the window, or draw more images."
        )
    return SemanticPairs(
        drawn=drawn,
        first=first[kept],
        second=second[kept],
        cosines=found.cosines[kept],
        low=low,
        high=high,
        near_duplicates=found.above,
        examples=drawn[found.examples].astype(np.int32),
    )


def _what_to_try(sampled: NDArray[np.float32], found: CosinePairs, drawn: int) -> str:
    low, high = suggest_window(sampled, drawn)
    quantile = 1 - 2 / max(2, drawn - 1)
    return (
        f"they lie between {found.lowest:.4f} and {found.highest:.4f}, half of them below {np.median(sampled):.4f}. Where "
        f"cosines lie is a property of the prior; for this one try sampler.sepp.low={low} sampler.sepp.high={high} (about one "
        f"pair an image), or by quantile sampler.sepp.low_quantile={quantile:.6g} sampler.sepp.high_quantile=1. "
        "`solo-gps sepp sweep` shows the choice."
    )
