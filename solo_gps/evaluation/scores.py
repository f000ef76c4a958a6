"""What is measured of features, and the table of it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_gps.config import LARGEST_SEED, Keys, check_choice, number
from solo_gps.evaluation.geometry import alignment, mean_average_precision, nearest, recall, uniformity, vote_accuracy
from solo_gps.evaluation.metrics import HOSTS_TEMPERATURE, linear_accuracy, rank_me

METRICS = ("knn", "linear", "retrieval", "geometry")
SHARES = ("knn", "linear", "recall", "map")
"""First words of those figures that are shares, and printed in per cent."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Keys):
    """What is measured, and how."""

    k: int = number(20, least=1)
    """Votes of the k-NN classifiers."""
    temperature: float = number(HOSTS_TEMPERATURE, above=0)
    """A vote of solo-learn's k-NN weighs exp(cosine / temperature)."""
    recall: list[int] = field(default_factory=lambda: [1, 5, 10], metadata={"least": 1})
    """The k of each Recall@k."""
    metrics: list[str] = field(default_factory=lambda: list(METRICS))
    """Any of ``knn``, ``linear``, ``retrieval`` (Recall@k, mAP) and ``geometry`` (RankMe, alignment, uniformity)."""
    seed: int = number(0, least=0, most=LARGEST_SEED)
    """Seed of the untrained network's weights, and of the views of alignment."""
    device: str = "auto"
    """Where networks run and cosines are taken: ``auto`` (CUDA when there is one), ``cpu``, ``cuda`` or ``cuda:<n>``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.metrics:
            raise ValueError(f"metrics is empty: wanted some of {', '.join(METRICS)}.")
        for name in self.metrics:
            check_choice("metrics", name, METRICS)

    @property
    def neighbours(self) -> int:
        """Neighbours of a query that the figures need."""
        wanted = [self.k] * ("knn" in self.metrics) + self.recall * ("retrieval" in self.metrics)
        return max(wanted, default=0)


@dataclass(frozen=True, kw_only=True)
class Features:
    """The images of one row of the table in its space.

    Attributes:
        test: (M, D) features.
        test_labels: (M,) classes.
        train: (N, D) features; ``None``: each test image is judged by the others.
        train_labels: (N,) classes, or ``None``.
        views: Features of two views of some test images, each (V, D); ``None`` where there can be none.
    """

    test: NDArray[np.floating]
    test_labels: NDArray[np.int64]
    train: NDArray[np.floating] | None = None
    train_labels: NDArray[np.int64] | None = None
    views: NDArray[np.floating] | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table.

    Attributes:
        name: Of the checkpoint or prior.
        kind: ``"checkpoint"``, ``"prior"`` or ``"untrained"``.
        prior: The ``prior`` node of its features: network, preprocessing, precision.
        dimensions: D of its features.
        figures: Figure to value: accuracies, recall and mAP as shares from 0 to 1; ``None`` where it does not apply.
    """

    name: str
    kind: str
    prior: Mapping[str, Any]
    dimensions: int
    figures: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Checkpoints and priors, judged by the same images. Made by :func:`solo_gps.evaluate`.

    Attributes:
        rows: One for each checkpoint and prior, then for each kind of network among the checkpoints without training.
        settings: What was asked: k, temperature and the like; of ``test`` and ``train`` the number of images and classes, and the
            place.
    """

    rows: Sequence[Row]
    settings: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for machines."""
        return {
            "settings": dict(self.settings),
            "rows": [{**vars(row), "prior": dict(row.prior), "figures": dict(row.figures)} for row in self.rows],
        }

    def as_csv(self) -> str:
        """One line a row, numbers in full; an empty cell where a figure does not apply."""
        text = io.StringIO()
        figures = list(self.rows[0].figures)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "kind", "dimensions", *figures])
        writer.writerows([row.name, row.kind, row.dimensions, *(row.figures[name] for name in figures)] for row in self.rows)
        return text.getvalue()

    def as_text(self) -> str:
        """The table for the eye: shares in per cent, a dash where a figure does not apply."""
        figures = list(self.rows[0].figures)
        cells = [["", "D", *figures]]
        cells += [[row.name, str(row.dimensions), *(_shown(name, row.figures[name]) for name in figures)] for row in self.rows]
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
            for line in cells
        )


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if name.startswith(SHARES) else f"{value:.3f}"


def score(features: Features, config: ScoreConfig) -> dict[str, float | None]:
    """Measures the features of one row.

    Returns:
        ``knn_weighted`` (solo-learn's form), ``knn_one_vote``, ``linear``, ``recall@k`` for each k, ``map``, ``rank_me``,
        ``alignment`` and ``uniformity``, as far as they were asked for; ``None`` where a figure does not apply.

    Raises:
        DataError: There are fewer images than neighbours asked for, or a feature is not finite.
        ConfigError: scikit-learn is missing, which the linear probe needs.
    """
    return {name: None if value is None or math.isnan(value) else value for name, value in _figures(features, config)}


def _figures(features: Features, config: ScoreConfig) -> Iterator[tuple[str, float | None]]:
    wanted = features.test_labels
    gallery, labels, queries, asked = (
        (features.test, wanted, None, None)
        if features.train is None or features.train_labels is None
        else (features.train, features.train_labels, features.test, wanted)
    )
    if config.neighbours:
        rows, cosines = nearest(gallery, queries, k=config.neighbours, device=config.device)
    if "knn" in config.metrics:
        voting = labels[rows[:, : config.k]], cosines[:, : config.k], wanted
        yield "knn_weighted", vote_accuracy(*voting, config.temperature)
        yield "knn_one_vote", vote_accuracy(*voting)
    if "linear" in config.metrics:
        yield "linear", None if queries is None else linear_accuracy(gallery, labels, queries, wanted)
    if "retrieval" in config.metrics:
        for k in config.recall:
            yield f"recall@{k}", recall(labels[rows], wanted, k)
        yield "map", mean_average_precision(gallery, labels, queries, asked, device=config.device)
    if "geometry" in config.metrics:
        yield "rank_me", rank_me(features.test) if features.test.any() else None  # of a network that has collapsed
        yield "alignment", None if features.views is None else alignment(*features.views)
        yield "uniformity", uniformity(features.test, device=config.device)
