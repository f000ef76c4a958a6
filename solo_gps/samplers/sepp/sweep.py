"""How many semantic pairs each threshold gives, how many images they cover, and how pure they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from solo_gps.errors import ConfigError
from solo_gps.runtime.files import whole_file
from solo_gps.samplers.sepp.cosines import Tile, UnitRows
from solo_gps.samplers.sepp.pairs import suggest_window

VALUES = (0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999)
QUANTILES = (0.9, 0.99, 0.999, 0.9999)
_PRODUCTS_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What the pairs with at least this cosine are.

    Attributes:
        cosine: The threshold.
        quantile: Share of all pairs below it that placed it here, or ``None`` where it was given as a cosine.
        pairs: Number of unordered pairs at or above it.
        covered: Share of the images that are in one of them.
        purity: Share of them of one class, among those with both classes known; ``None`` without any.
        band_purity: The same, of the pairs from this threshold to the next one alone.
    """

    cosine: float
    quantile: float | None
    pairs: int
    covered: float
    purity: float | None
    band_purity: float | None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep over thresholds.

    Attributes:
        images: Number K of images whose pairs were counted.
        thresholds: One for each threshold, ascending.
        low: Suggested lower threshold.
        high: Suggested upper threshold.
        lowest: Smallest cosine of all pairs.
        highest: Largest cosine of all pairs.
        median: Median cosine of all pairs (of those of a random sample of a large set).
    """

    images: int
    thresholds: tuple[Threshold, ...]
    low: float
    high: float
    lowest: float
    highest: float
    median: float


def sweep_thresholds(
    rows: UnitRows,
    sampled: NDArray[np.float32],
    labels: NDArray[np.integer] | None,
    *,
    values: Sequence[float] = VALUES,
    quantiles: Sequence[float] = QUANTILES,
    progress: Callable[[int], object] = lambda done: None,
) -> Sweep:
    """Counts the pairs at and above each threshold in one pass over all pairs, tile by tile.

    Args:
        rows: K points. A pair is counted by its float32 product: within about 1e-4 of a threshold, rounding may decide.
        sampled: Ascending cosines, for quantiles and the suggestion (:func:`solo_gps.samplers.sepp.cosines.sample_cosines`).
        labels: (K,) classes, -1 where unknown, or ``None``.
        values: Thresholds as cosines.
        quantiles: Thresholds as quantiles of all pairs' cosines.
        progress: Called after each tile.
    """
    low, high = suggest_window(sampled, len(rows))
    placed = [(float(np.quantile(sampled, q)), q) for q in quantiles]
    cosines = sorted({(float(value), None) for value in values} | set(placed) | {(low, None), (high, None)}, key=lambda t: t[0])
    counts = _Counts(len(rows), np.array([cosine for cosine, _ in cosines], np.float32), labels)
    for tile in rows.tiles(progress):
        counts.take(tile)
    return Sweep(
        images=len(rows),
        thresholds=tuple(counts.threshold(b, cosine, q) for b, (cosine, q) in enumerate(cosines)),
        low=low,
        high=high,
        lowest=counts.lowest,
        highest=float(counts.best.max()),
        median=float(np.median(sampled)),
    )


class _Counts:
    """Pairs in each band between neighbouring thresholds, and the largest cosine of each image."""

    def __init__(self, images: int, bounds: NDArray[np.float32], labels: NDArray[np.integer] | None) -> None:
        self.best = np.full(images, -np.inf, np.float32)
        self.lowest = np.inf
        self._bounds = torch.from_numpy(bounds)
        self._labels = None if labels is None else torch.from_numpy(np.asarray(labels, np.int64))
        self._pairs, self._known, self._same = (np.zeros(len(bounds), np.int64) for _ in range(3))

    def take(self, tile: Tile) -> None:
        """Adds one tile."""
        products = tile.products
        if products.numel() > 1 or tile.row != tile.column:
            of_rows, of_columns = (products.amax(dim=axis).cpu().numpy() for axis in (1, 0))
            for start, most in ((tile.row, of_rows), (tile.column, of_columns)):
                piece = slice(start, start + len(most))
                self.best[piece] = np.maximum(self.best[piece], most)
            finite = products if tile.row != tile.column else products[torch.isfinite(products)]
            self.lowest = min(self.lowest, float(finite.min()))
        step = max(1, _PRODUCTS_AT_ONCE // products.shape[1])
        for start in range(0, len(products), step):
            self._count(products[start : start + step], tile.row + start, tile.column)

    def _count(self, products: torch.Tensor, row: int, column: int) -> None:
        found = products >= float(self._bounds[0])
        band = torch.bucketize(products[found].cpu(), self._bounds, right=True) - 1
        size = len(self._bounds)
        self._pairs += torch.bincount(band, minlength=size).numpy()
        if self._labels is None:
            return
        i, j = (axis.cpu() for axis in torch.nonzero(found, as_tuple=True))
        first, second = self._labels[i + row], self._labels[j + column]
        known = (first >= 0) & (second >= 0)
        self._known += torch.bincount(band[known], minlength=size).numpy()
        self._same += torch.bincount(band[known & (first == second)], minlength=size).numpy()

    def threshold(self, band: int, cosine: float, quantile: float | None) -> Threshold:
        """The row of one threshold: everything from its band up."""
        known, same = self._known[band:].sum(), self._same[band:].sum()
        return Threshold(
            cosine=cosine,
            quantile=quantile,
            pairs=int(self._pairs[band:].sum()),
            covered=float((self.best >= float(self._bounds[band])).mean()),
            purity=float(same / known) if known else None,
            band_purity=float(self._same[band] / self._known[band]) if self._known[band] else None,
        )


def sweep_table(sweep: Sweep) -> str:
    """Returns the sweep as a Markdown table, the suggested thresholds marked; of those without pairs, the first alone."""
    lines = [
        "| cosine at least | quantile | pairs | images covered | pairs of one class | of one class up to the next threshold |",
        "|---|---|---|---|---|---|",
    ]
    for row in _down_to_none(sweep):
        mark = {sweep.low: " (suggested low)", sweep.high: " (suggested high)"}.get(row.cosine, "")
        quantile = "-" if row.quantile is None else f"{row.quantile:g}"
        lines.append(
            f"| {row.cosine:.4f}{mark} | {quantile} | {row.pairs:,} | {100 * row.covered:.1f} % | {_share(row.purity)} | "
            f"{_share(row.band_purity)} |"
        )
    return "\n".join(lines)


def _down_to_none(sweep: Sweep) -> tuple[Threshold, ...]:
    some = sum(1 for row in sweep.thresholds if row.pairs)
    return sweep.thresholds[: some + 1]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def plot_sweep(sweep: Sweep, path: Path) -> Path:
    """Writes a PNG: pairs, images covered and purity over the threshold, the suggested window shaded.

    Args:
        sweep: The sweep.
        path: File to write; its folder is made.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the plot needs matplotlib: pip install 'solo-gps[report]', or leave it out by --no-plot.") from error
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    rows = [row for row in sweep.thresholds if row.pairs]
    cosines = [row.cosine for row in rows]
    above.plot(cosines, [row.pairs for row in rows], marker="o")
    above.set_yscale("log")
    above.set_ylabel("pairs at or above")
    below.plot(cosines, [100 * row.covered for row in rows], marker="o", label="images covered")
    judged = [row for row in rows if row.purity is not None]
    if judged:
        values = [100 * row.purity for row in judged if row.purity is not None]
        below.plot([row.cosine for row in judged], values, marker="s", label="pairs of one class")
    below.set_ylabel("%")
    below.set_ylim(0, 105)
    below.set_xlabel("cosine at least")
    below.legend()
    for axes in (above, below):
        axes.axvspan(sweep.low, sweep.high, alpha=0.15)
        axes.grid(alpha=0.3)
    figure.suptitle(f"pairs of {sweep.images:,} images; suggested window {sweep.low:.4f} to {sweep.high:.4f} shaded")
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
    return path
