"""What a sweep file says, and the cells that come of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from solo_gps.config import LARGEST_SEED, Keys, number

CHECKPOINT = re.compile(r"\{checkpoint of ([^{}]+)\}")
SEED = "{seed}"
SEEDS = "seeds"
"""Key of a block of rows beside its axes."""
AND = ", "
"""Between the words of a row's name."""


@dataclass(frozen=True, kw_only=True)
class JudgeKeys(Keys):
    """How a trained network is judged."""

    train: str
    """Class folders of the images that vote and teach."""
    test: str
    """Class folders of the images that are judged."""
    metrics: list[str] = field(default_factory=lambda: ["knn", "linear"])
    """Any of ``knn``, ``linear``, ``retrieval`` and ``geometry`` (docs/evaluate.md)."""
    k: int = number(20, least=1)
    """Votes of the k-NN classifiers."""
    every: int | None = number(None, least=1)
    """Epochs between two points of the curve, the first being after one epoch, so that ``max_epochs`` is a multiple of it and one
    more; without it, a network is judged at its end alone."""


@dataclass(frozen=True, kw_only=True)
class SweepKeys(Keys):
    """A sweep file, as it is written."""

    judge: dict[str, Any]
    """How a trained network is judged (:class:`JudgeKeys`)."""
    recipe: str
    """A recipe that comes with solo-gps; with ``config_path`` one of your own."""
    config_path: str | None = None
    """Folder of the recipe; seen from the sweep file."""
    out: str
    """Folder of checkpoints and of the table; seen from where the command is typed, as are the paths of ``judge``."""
    records: str | None = None
    """Folder of the small records that make the table; without it ``out``/records."""
    overrides: list[str] = field(default_factory=list)
    """For every cell, as typed behind ``solo-gps pretrain``."""
    axes: dict[str, Any]
    """Axis (method, sampler, ...) to its values, each a name with its overrides."""
    rows: list[Any] = field(default_factory=list)
    """Blocks of rows, trained in this order: of each axis a value, or a list, and ``seeds``, some of the file's; without any,
    every combination."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"least": 0, "most": LARGEST_SEED})
    """Each row is trained once with each."""
    baseline: dict[str, str] = field(default_factory=dict)
    """Axes and values that make a row its own baseline: differences are taken seed by seed."""
    alone: dict[str, Any] = field(default_factory=dict)
    """Name to words of a prior (as of ``solo-gps evaluate --prior``) that is judged without any training."""
    keep_checkpoints: bool = True
    """Whether checkpoints stay after they were judged; those that other rows read always do."""
    equal_steps: bool = True
    """Whether a table in which rows took different numbers of optimizer steps is an error."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training, or one prior judged alone.

    Attributes:
        row: Name of its row.
        place: Of its row in the table.
        values: Axis to value; empty for a prior alone.
        seed: Of the training; ``None`` for a prior alone that has none.
        overrides: As typed behind `solo-gps pretrain`, or the words of the prior.
        needs: Rows whose checkpoint of the same seed it reads.
        baseline: Row that it is compared with, seed by seed; ``None`` without one.
        key: Digest of all that makes it what it is.
    """

    row: str
    place: int
    values: Mapping[str, str]
    seed: int | None
    overrides: tuple[str, ...]
    needs: tuple[str, ...] = ()
    baseline: str | None = None
    key: str = ""

    @property
    def alone(self) -> bool:
        """Whether nothing is trained."""
        return not self.values

    @property
    def name(self) -> str:
        """A name for files: the same for the same cell, on any machine."""
        words = re.sub(r"[^A-Za-z0-9.]+", "-", self.row).strip("-").lower()[:80]
        return f"{words}{'' if self.seed is None else f'-{self.seed}'}-{self.key[:8]}"
