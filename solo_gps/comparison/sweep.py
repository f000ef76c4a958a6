"""The sweep file: which trainings are compared, cell by cell."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from solo_gps.config import LARGEST_SEED, Keys, number, parse
from solo_gps.errors import ConfigError, did_you_mean, first_line, printable

CHECKPOINT = re.compile(r"\{checkpoint of ([^{}]+)\}")
SEED = "{seed}"
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
    """Blocks of rows, trained in this order: of each axis a value, or a list; without any, every combination."""
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
        key: Digest of all that makes it what it is.
    """

    row: str
    place: int
    values: Mapping[str, str]
    seed: int | None
    overrides: tuple[str, ...]
    needs: tuple[str, ...] = ()
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


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file that was read.

    Attributes:
        keys: What it says.
        judge: How a trained network is judged.
        recipe_folder: Folder of the recipe; ``None`` for one that comes with solo-gps.
        cells: Every cell, in the order in which they are trained.
    """

    keys: SweepKeys
    judge: JudgeKeys
    recipe_folder: Path | None
    cells: tuple[Cell, ...]

    @property
    def out(self) -> Path:
        """Folder of checkpoints and of the table."""
        return Path(self.keys.out)

    @property
    def records(self) -> Path:
        """Folder of the records."""
        return Path(self.keys.records) if self.keys.records is not None else self.out / "records"

    def folder(self, cell: Cell) -> Path:
        """Folder of a cell's checkpoints."""
        return self.out / "cells" / cell.name

    def cell(self, row: str, seed: int | None) -> Cell:
        """The cell of a row with this seed."""
        return next(cell for cell in self.cells if (cell.row, cell.seed) == (row, seed))


def read_sweep(file: Path) -> Sweep:
    """Reads a sweep file, and checks all of it that can be checked without composing a recipe.

    Raises:
        ConfigError: It is no YAML, a key or value is wrong, or a row asks for the checkpoint of a row that is not there.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        values = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"{printable(file)}: cannot be read as YAML ({' '.join(str(error).split())}). Mend the file."
        ) from error
    where = printable(file.name)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: wanted a group of keys, got {type(values).__name__}.")
    for key in ("recipe", "out", "axes", "judge"):
        if key not in values:
            raise ConfigError(f"{where}: {key} is missing; wanted recipe, out, axes and judge (docs/compare.md).")
    keys = parse(values, SweepKeys, where)
    judge = parse(keys.judge, JudgeKeys, f"{where}: judge")
    if not keys.seeds or len(set(keys.seeds)) < len(keys.seeds):
        raise ConfigError(f"{where}: seeds={keys.seeds}: wanted one or more, each once.")
    folder = None if keys.config_path is None else (file.parent / keys.config_path).resolve()
    cells = _with_keys(_in_order(list(_alone(keys, where)), list(_trained(keys, where)), where), keys, judge, folder)
    return Sweep(keys=keys, judge=judge, recipe_folder=folder, cells=tuple(cells))


def _words(value: Any, where: str) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{where}: wanted a list of words as typed on the command line, got {value!r}.")
    return tuple(words)


def _alone(keys: SweepKeys, where: str) -> Iterator[Cell]:
    for place, (name, value) in enumerate(keys.alone.items()):
        words = _words(value, f"{where}: alone.{name}")
        if not words:
            raise ConfigError(f"{where}: alone.{name}: wanted the name of a prior, and its keys.")
        for seed in keys.seeds if any(SEED in word for word in words) else [None]:
            yield Cell(row=name, place=place, values={}, seed=seed, overrides=tuple(_seeded(words, seed)))


def _trained(keys: SweepKeys, where: str) -> Iterator[Cell]:
    axes = _axes(keys, where)
    place = len(keys.alone)
    seen = set(keys.alone)
    for number_of_block, block in enumerate(keys.rows or [{}]):
        combinations = list(_combinations(block, axes, f"{where}: rows[{number_of_block}]"))
        rows = [combination for combination in combinations if AND.join(combination.values()) not in seen]
        seen |= {AND.join(row.values()) for row in rows}
        for seed in keys.seeds:
            for offset, values in enumerate(rows):
                words = [
                    *keys.overrides,
                    *(word for axis, value in values.items() for word in axes[axis][value]),
                    f"++seed={SEED}",
                ]
                needs = tuple(dict.fromkeys(match for word in words for match in CHECKPOINT.findall(word)))
                yield Cell(
                    row=AND.join(values.values()),
                    place=place + offset,
                    values=values,
                    seed=seed,
                    overrides=tuple(_seeded(words, seed)),
                    needs=needs,
                )
        place += len(rows)


def _seeded(words: Sequence[str], seed: int | None) -> Iterator[str]:
    return (word.replace(SEED, str(seed)) for word in words)


def _axes(keys: SweepKeys, where: str) -> dict[str, dict[str, tuple[str, ...]]]:
    if not keys.axes:
        raise ConfigError(
            f"{where}: axes is empty: wanted one or more, for example positives: {{plain: [], GPS: [+sampler=gps]}}."
        )
    axes = {}
    for axis, values in keys.axes.items():
        if not isinstance(values, Mapping) or not values:
            raise ConfigError(f"{where}: axes.{axis}: wanted names with their overrides, got {values!r}.")
        axes[axis] = {str(name): _words(words, f"{where}: axes.{axis}.{name}") for name, words in values.items()}
    for axis, value in keys.baseline.items():
        _check_value(axis, value, axes, f"{where}: baseline")
    return axes


def _combinations(block: Any, axes: Mapping[str, Mapping[str, tuple[str, ...]]], where: str) -> Iterator[dict[str, str]]:
    if not isinstance(block, Mapping):
        raise ConfigError(f"{where}: wanted a value, or a list, of axes, for example {{method: simclr}}; got {block!r}.")
    wanted = []
    for axis in block:
        if axis not in axes:
            raise ConfigError(f"{where}.{axis}: no such axis; there are {', '.join(axes)}.{did_you_mean(str(axis), list(axes))}")
    for axis, values in axes.items():
        chosen = block.get(axis, list(values))
        chosen = [chosen] if isinstance(chosen, str) else chosen
        if not isinstance(chosen, Sequence) or not chosen:
            raise ConfigError(f"{where}.{axis}: wanted one of {', '.join(values)}, or a list of them; got {chosen!r}.")
        for value in chosen:
            _check_value(axis, value, axes, where)
        wanted.append(chosen)
    yield from (dict(zip(axes, values, strict=True)) for values in itertools.product(*wanted))


def _check_value(axis: str, value: Any, axes: Mapping[str, Mapping[str, Any]], where: str) -> None:
    if axis not in axes:
        raise ConfigError(f"{where}.{axis}: no such axis; there are {', '.join(axes)}.{did_you_mean(axis, list(axes))}")
    if value not in axes[axis]:
        known = list(axes[axis])
        raise ConfigError(f"{where}.{axis}: {value!r} is none of {', '.join(known)}.{did_you_mean(str(value), known)}")


def _in_order(alone: list[Cell], trained: list[Cell], where: str) -> list[Cell]:
    """Cells that read a checkpoint after those that leave it, else as they came."""
    rows = {cell.row for cell in trained}
    done: set[tuple[str, int | None]] = set()
    ordered, left = alone, trained
    for cell in trained:
        for row in cell.needs:
            if row not in rows:
                raise ConfigError(
                    f"{where}: {cell.row}: there is no row {row!r} whose checkpoint it could read."
                    f"{did_you_mean(row, sorted(rows))}"
                )
    while left:
        able = [cell for cell in left if all((row, cell.seed) in done for row in cell.needs)]
        if not able:
            raise ConfigError(f"{where}: {left[0].row} reads a checkpoint of {left[0].needs[0]}, which reads one of it.")
        # The first that can go, so that the order of the file is kept as far as it can be.
        first = able[0]
        ordered.append(first)
        done.add((first.row, first.seed))
        left = [cell for cell in left if cell is not first]
    return ordered


def _with_keys(cells: Sequence[Cell], keys: SweepKeys, judge: JudgeKeys, folder: Path | None) -> Iterator[Cell]:
    text = "" if folder is None else _recipe_text(folder / f"{keys.recipe.removesuffix('.yaml')}.yaml")
    made: dict[tuple[str, int | None], str] = {}
    for cell in cells:
        judged = {key: value for key, value in asdict(judge).items() if key not in ("train", "test")}
        below = [made[row, cell.seed] for row in cell.needs]
        said = [list(cell.overrides), keys.recipe, text, judged, below, cell.seed]
        made[cell.row, cell.seed] = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        yield replace(cell, key=made[cell.row, cell.seed])


def _recipe_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{printable(file)}: cannot be read ({first_line(error)}). config_path and recipe name it.") from error
