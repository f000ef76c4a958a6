"""What a run shows of its pairs: numbers and pictures for the loggers while it trains, and a page when it ends."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL.Image import Image

from solo_gps.evaluation.gallery import draw_gallery
from solo_gps.evaluation.metrics import pair_distances, pair_purity, pair_spread
from solo_gps.guide.dataset import GuidedDataset
from solo_gps.guide.pairing import Pairing
from solo_gps.guide.watch_config import WatchConfig
from solo_gps.interfaces import NeighbourTable
from solo_gps.runtime.files import write_text
from solo_gps.samplers.gps.choose import ball_sizes

FILE = "solo_gps_report.html"
MOST_ROWS = 60
"""Epochs in the page's table; of more, some are left out evenly."""


class Watch:
    """Looks at the pairs of each epoch.

    Args:
        config: What to show.
        pairing: Has the tables and the labels.
        seed: The anchors of the pictures are the same in every epoch, by this seed.
    """

    def __init__(self, config: WatchConfig, pairing: Pairing, seed: int) -> None:
        self._config, self._pairing, self._seed = config, pairing, seed
        self._epochs: dict[int, dict[str, float]] = {}

    def numbers(self, dataset: GuidedDataset, epoch: int) -> dict[str, float]:
        """Returns what is logged of an epoch's pairs, and keeps it for the page (:func:`numbers_of`)."""
        self._epochs[epoch] = numbers_of(dataset, self._pairing.tables, self._pairing.labels)
        return self._epochs[epoch]

    def show(self, trainer: Any, dataset: GuidedDataset) -> None:
        """Gives pictures and histograms to those of the trainer's loggers that take them, where the epoch has its turn."""
        epoch = trainer.current_epoch
        if self._config.every == 0 or epoch % self._config.every or not trainer.is_global_zero:
            return
        takers = [logger for logger in trainer.loggers if _takes_pictures(logger)]
        if not takers:
            return
        pictures = self._pictures(dataset, f"epoch {epoch}")
        histograms = distances_of(dataset, self._pairing.tables, self._pairing.labels)
        for logger in takers:
            for name, picture in pictures.items():
                _log_picture(logger, name, picture, trainer.global_step)
            for name, values in histograms.items():
                _log_histogram(logger, name, values, trainer.global_step)

    def write_page(self, folder: Path, receipt: Mapping[str, Any], dataset: GuidedDataset) -> Path | None:
        """Writes the page about a run that has ended beside its receipt, and returns its path; ``None`` where none is wanted.

        Args:
            folder: Where the receipt is.
            receipt: What it says.
            dataset: The guided set, with the pairs of the last epoch.
        """
        if not self._config.report:
            return None
        from jinja2 import Environment, PackageLoader

        numbers = sorted(self._epochs.items())
        kept = np.unique(np.linspace(0, len(numbers) - 1, min(MOST_ROWS, len(numbers))).round().astype(int)).tolist()
        page = Environment(loader=PackageLoader("solo_gps.guide", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
        pictures = self._pictures(dataset, "the last epoch")
        asked = {name: receipt[name] for name in ("samplers", "prior", "refresh", "images") if receipt.get(name) is not None}
        text = page.get_template("watch.html").render(
            receipt=receipt,
            keys=OmegaConf.to_yaml(OmegaConf.create(asked)),
            columns=list(dict.fromkeys(name for _, values in numbers for name in values)),
            numbers=[numbers[row] for row in kept],
            left_out=len(numbers) - len(kept),
            pictures={name: _as_uri(picture) for name, picture in pictures.items()},
        )
        write_text(folder / FILE, text)
        return folder / FILE

    def _pictures(self, dataset: GuidedDataset, when: str) -> dict[str, Image]:
        anchors, *positives = dataset.rows(np.arange(len(dataset)))
        shown, images = np.stack(positives, axis=1), dataset.images
        readable = np.full(len(images), True) if dataset.unreadable is None else dataset.unreadable.numpy() == 0
        order = np.random.default_rng(self._seed).permutation(len(anchors))
        some = order[((shown != anchors[:, None]).any(axis=1) & readable[anchors] & readable[shown].all(axis=1))[order]]
        rows = np.sort(some[: self._config.rows])
        pictures = {}
        if len(rows):
            title = f"{when}: anchor | positive{'s' * (shown.shape[1] > 1)}"
            pictures["guided_pairs"] = draw_gallery(images, anchors[rows].tolist(), shown[rows], title=title)
        pairs = np.stack([np.repeat(anchors, shown.shape[1]), shown.reshape(-1)], axis=1)
        pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & readable[pairs].all(axis=1)]
        distances = _distances(self._pairing.tables, pairs[:, 0], pairs[:, 1])
        name, wrong = worst_pairs(pairs, distances, self._pairing.labels, self._config.rows)
        if len(wrong):
            title = f"{when}: {'wrong' if name == 'guided_wrong' else 'the furthest'}"
            pictures[name] = draw_gallery(images, wrong[:, 0].tolist(), wrong[:, 1:], title=title)
        return pictures


def numbers_of(
    dataset: GuidedDataset, tables: Mapping[str, NeighbourTable], labels: NDArray[np.int64] | None
) -> dict[str, float]:
    """Returns the numbers of an epoch's pairs; those that are not known are left out.

    Args:
        dataset: The guided set, with the pairs of the epoch.
        tables: Name of a sampler to its table.
        labels: (N,) classes, -1 where unknown; ``None`` without any.

    Returns:
        ``guided_share``: of the positives that are another image; ``guided_purity``: of these, that have the anchor's label;
        ``guided_coverage`` and ``guided_hubs`` (:func:`pair_spread`); ``guided_distance``: the mean to the anchor; and of each
        table ``NAME_ball_mean``, ``_min`` and ``_max``, sizes in images.
    """
    anchors, shown = _pairs_of(dataset)
    unknown = np.full(len(dataset.images), -1) if labels is None else labels
    share, purity = pair_purity(anchors, shown, unknown)
    coverage, hubs = pair_spread(anchors, shown, len(dataset.images))
    distances = _distances(tables, anchors, shown)
    known = distances[~np.isnan(distances)]
    values = {
        "guided_share": share,
        "guided_purity": purity,
        "guided_coverage": coverage,
        "guided_hubs": hubs,
        "guided_distance": float(known.mean(dtype=np.float64)) if len(known) else float("nan"),
    }
    for name, table in tables.items():
        sizes = ball_sizes(table)
        values |= {f"{name}_ball_{of}": float(getattr(sizes, of)()) for of in ("mean", "min", "max")}
    return {name: value for name, value in values.items() if not np.isnan(value)}


def distances_of(
    dataset: GuidedDataset, tables: Mapping[str, NeighbourTable], labels: NDArray[np.int64] | None
) -> dict[str, NDArray[np.float32]]:
    """Returns the distances of an epoch's positives to their anchors: of all and, where labels are known, of the two kinds."""
    anchors, shown = _pairs_of(dataset)
    distances = _distances(tables, anchors, shown)
    known = ~np.isnan(distances)
    kinds = {"guided_distances": known}
    if labels is not None:
        judged = known & (labels[anchors] >= 0) & (labels[shown] >= 0)
        same = labels[anchors] == labels[shown]
        kinds |= {"guided_distances_same_class": judged & same, "guided_distances_other_class": judged & ~same}
    return {name: distances[kind] for name, kind in kinds.items() if kind.any()}


def worst_pairs(
    pairs: NDArray[np.integer], distances: NDArray[np.float32], labels: NDArray[np.int64] | None, rows: int
) -> tuple[str, NDArray[np.integer]]:
    """Returns the pairs worth a look: where classes are known the surest mistakes, else those that are least alike.

    Args:
        pairs: (M, 2) anchors and positives.
        distances: (M,) distances, ``nan`` where unknown.
        labels: (N,) classes, -1 where unknown; ``None`` without any.
        rows: How many at most.

    Returns:
        ``"guided_wrong"`` and the pairs of two classes, the nearest first and those of unknown distance last; or
        ``"guided_furthest"`` and the furthest of all.
    """
    if labels is None or not (labels >= 0).any():
        known = np.flatnonzero(~np.isnan(distances))
        return "guided_furthest", pairs[known[np.argsort(-distances[known], kind="stable")][:rows]]
    ours, theirs = labels[pairs[:, 0]], labels[pairs[:, 1]]
    wrong = np.flatnonzero((ours >= 0) & (theirs >= 0) & (ours != theirs))
    return "guided_wrong", pairs[wrong[np.argsort(distances[wrong], kind="stable")][:rows]]


def _pairs_of(dataset: GuidedDataset) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(M P,) anchors and positives of all items."""
    anchors, *positives = dataset.rows(np.arange(len(dataset)))
    return np.tile(anchors, len(positives)), np.concatenate(positives)


def _distances(
    tables: Mapping[str, NeighbourTable], anchors: NDArray[np.integer], positives: NDArray[np.integer]
) -> NDArray[np.float32]:
    """(M,) distances by the first table that holds a pair; ``nan`` where none does."""
    distances = np.full(len(anchors), np.nan, np.float32)
    for table in tables.values():
        distances = np.where(np.isnan(distances), pair_distances(table, anchors, positives), distances)
    return distances


def _takes_pictures(logger: Any) -> bool:
    return hasattr(logger, "log_image") or hasattr(logger.experiment, "add_image")


def _log_picture(logger: Any, name: str, picture: Image, step: int) -> None:
    if hasattr(logger, "log_image"):
        logger.log_image(key=name, images=[picture], step=step)
    else:
        logger.experiment.add_image(name, np.asarray(picture), global_step=step, dataformats="HWC")


def _log_histogram(logger: Any, name: str, values: NDArray[np.float32], step: int) -> None:
    if hasattr(logger.experiment, "add_histogram"):
        logger.experiment.add_histogram(name, values, global_step=step)
    elif type(logger).__name__ == "WandbLogger":
        from wandb import Histogram

        logger.log_metrics({name: Histogram(values.tolist())}, step)


def _as_uri(picture: Image) -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
