"""From axes and blocks to cells: names that are unique, words that a cell may say, rows after those that they need."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from solo_gps.comparison.cells import AND, CHECKPOINT, SEED, SEEDS, Cell, SweepKeys
from solo_gps.errors import ConfigError, did_you_mean, printable

log = logging.getLogger(__name__)

Axes = Mapping[str, Mapping[str, tuple[str, ...]]]

COLUMNS = ("row", "seed", "steps", "share_guided", "purity")
"""Columns of every table, which no axis can be called."""
NOT_IN_A_CELL = {
    "seed": "every cell gets the seeds of `seeds`",
    "checkpoint.": "the comparison keeps its own checkpoints",
    "hydra": "it is typed behind the sweep file, for it is no part of what a cell is",
}
"""What the words of a cell cannot begin with, and why."""


def cells_of(keys: SweepKeys, where: str) -> list[Cell]:
    """Every cell, those that read a checkpoint after those that leave it, else in the order of the file.

    Args:
        keys: The sweep file.
        where: Its name.

    Raises:
        ConfigError: A name, word or row is wrong, or two rows have one name.
    """
    axes = _axes(keys, where)
    for axis, value in keys.baseline.items():
        _check_value(axis, value, axes, f"{where}: baseline")
    blocks = list(_blocks(keys, axes, where))
    rows: list[dict[str, str]] = []
    for block, _ in blocks:
        for row in block:
            if row not in rows:
                rows.append(row)
    _check_names([*keys.alone, *map(_name, rows)], where)
    trained = list(_trained(keys, axes, blocks, [_name(row) for row in rows]))
    for axis, value in keys.baseline.items():
        for cell in trained:
            if cell.baseline is None and cell.values[axis] != value:
                log.warning("%s: %s has no baseline in this sweep, and no gain in the table", where, cell.row)
    return [*_alone(keys, where), *_in_order(trained, where)]


def words_of(value: Any, where: str) -> tuple[str, ...]:
    """Words as typed on the command line; one alone may stand without a list."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{where}: wanted a list of words as typed on the command line, got {value!r}. Quote each of them.")
    return tuple(words)


def _axes(keys: SweepKeys, where: str) -> Axes:
    if not keys.axes:
        raise ConfigError(
            f"{where}: axes is empty: wanted one or more, for example positives: {{plain: [], GPS: [+sampler=gps]}}."
        )
    axes = {}
    for axis, values in keys.axes.items():
        if axis in (*COLUMNS, SEEDS):
            raise ConfigError(f"{where}: axes.{axis}: the table has a column of that name, or a block a key. Rename the axis.")
        if not isinstance(values, Mapping) or not values:
            raise ConfigError(f"{where}: axes.{axis}: wanted names with their overrides, got {values!r}.")
        axes[axis] = {str(name): words_of(words, f"{where}: axes.{axis}.{name}") for name, words in values.items()}
        if len(axes[axis]) < len(values):
            raise ConfigError(f"{where}: axes.{axis}: two values have one name. Rename one.")
        for name, words in axes[axis].items():
            _check_words(words, f"{where}: axes.{axis}.{name}")
    _check_words(keys.overrides, f"{where}: overrides")
    return axes


def _check_words(words: Sequence[str], where: str) -> None:
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        for start, why in NOT_IN_A_CELL.items():
            if key == start or (start != "seed" and key.startswith(start)):
                raise ConfigError(f"{where}: {word!r}: {why}. Leave it out.")
        if CHECKPOINT.search(word) and not CHECKPOINT.fullmatch(value):
            raise ConfigError(f"{where}: {word!r}: wanted KEY={{checkpoint of ROW}}, with nothing else in the value.")


def _check_names(names: Sequence[str], where: str) -> None:
    for name in names:
        if any(ord(sign) < 32 for sign in name):
            raise ConfigError(f"{where}: {name!r}: a name with a line break or a control character. Rename it.")
        if names.count(name) > 1:
            raise ConfigError(f"{where}: two different rows are called {printable(name)!r}. Rename a value, or the prior alone.")


def _name(row: Mapping[str, str]) -> str:
    return AND.join(row.values())


def _blocks(keys: SweepKeys, axes: Axes, where: str) -> Iterator[tuple[list[dict[str, str]], list[int]]]:
    """The rows of each block, and its seeds."""
    for place, block in enumerate(keys.rows or [{}]):
        named = f"{where}: rows[{place}]"
        if not isinstance(block, Mapping):
            raise ConfigError(f"{named}: wanted a value, or a list, of axes, for example {{method: simclr}}; got {block!r}.")
        chosen = dict(block)
        seeds = chosen.pop(SEEDS, keys.seeds)
        if not isinstance(seeds, Sequence) or not seeds or any(type(seed) is not int or seed not in keys.seeds for seed in seeds):
            raise ConfigError(f"{named}.{SEEDS}={seeds!r}: wanted a list of some of the file's seeds, {keys.seeds}.")
        yield list(_combinations(chosen, axes, named)), list(seeds)


def _combinations(block: Mapping[str, Any], axes: Axes, where: str) -> Iterator[dict[str, str]]:
    wanted = []
    for axis in block:
        if axis not in axes:
            raise ConfigError(f"{where}.{axis}: no such axis; there are {', '.join(axes)}.{did_you_mean(str(axis), list(axes))}")
    for axis, values in axes.items():
        chosen = block.get(axis, list(values))
        chosen = chosen if isinstance(chosen, Sequence) and not isinstance(chosen, str) else [chosen]
        if not chosen:
            raise ConfigError(f"{where}.{axis}: wanted one of {', '.join(values)}, or a list of them; got {chosen!r}.")
        for value in chosen:
            _check_value(axis, str(value), axes, where)
        wanted.append([str(value) for value in chosen])
    yield from (dict(zip(axes, values, strict=True)) for values in itertools.product(*wanted))


def _check_value(axis: str, value: str, axes: Axes, where: str) -> None:
    if axis not in axes:
        raise ConfigError(f"{where}.{axis}: no such axis; there are {', '.join(axes)}.{did_you_mean(axis, list(axes))}")
    if value not in axes[axis]:
        known = list(axes[axis])
        raise ConfigError(f"{where}.{axis}: {value!r} is none of {', '.join(known)}.{did_you_mean(value, known)}")


def _alone(keys: SweepKeys, where: str) -> Iterator[Cell]:
    for place, (name, value) in enumerate(keys.alone.items()):
        words = words_of(value, f"{where}: alone.{name}")
        if not words or any(CHECKPOINT.search(word) for word in words):
            raise ConfigError(f"{where}: alone.{name}: wanted the name of a prior and its keys, no checkpoint of a row.")
        for seed in keys.seeds if any(SEED in word for word in words) else [None]:
            yield Cell(row=name, place=place, values={}, seed=seed, overrides=tuple(_seeded(words, seed)))


def _trained(
    keys: SweepKeys, axes: Axes, blocks: Sequence[tuple[Sequence[Mapping[str, str]], Sequence[int]]], names: Sequence[str]
) -> Iterator[Cell]:
    """Block by block, and within a block seed by seed, so that its rows can be compared early."""
    seen: set[tuple[str, int]] = set()
    for rows, seeds in blocks:
        for seed in seeds:
            for row in rows:
                name, other = _name(row), _name({**row, **keys.baseline})
                if (name, seed) in seen:
                    continue
                seen.add((name, seed))
                words = [*keys.overrides, *(word for axis, value in row.items() for word in axes[axis][value])]
                yield Cell(
                    row=name,
                    place=len(keys.alone) + names.index(name),
                    values=row,
                    seed=seed,
                    overrides=tuple(_seeded([*words, f"++seed={SEED}"], seed)),
                    needs=tuple(dict.fromkeys(match for word in words for match in CHECKPOINT.findall(word))),
                    baseline=other if other in names and other != name else None,
                )


def _seeded(words: Sequence[str], seed: int | None) -> Iterator[str]:
    return (word.replace(SEED, str(seed)) for word in words)


def _in_order(trained: list[Cell], where: str) -> list[Cell]:
    rows, cells = {cell.row for cell in trained}, {(cell.row, cell.seed) for cell in trained}
    for cell in trained:
        for row in cell.needs:
            if row not in rows:
                raise ConfigError(
                    f"{where}: {cell.row}: there is no row {row!r} whose checkpoint it could read."
                    f"{did_you_mean(row, sorted(rows))}"
                )
            if (row, cell.seed) not in cells:
                raise ConfigError(
                    f"{where}: {cell.row}, seed {cell.seed}: reads the checkpoint of {row!r}, which has no such seed. Give both "
                    "the same."
                )
    done: set[tuple[str, int | None]] = set()
    ordered, left = [], trained
    while left:
        # The first that can go, so that the order of the file is kept as far as it can be.
        first = next((cell for cell in left if all((row, cell.seed) in done for row in cell.needs)), None)
        if first is None:
            raise ConfigError(f"{where}: {left[0].row} reads a checkpoint of {left[0].needs[0]}, which reads one of it.")
        ordered.append(first)
        done.add((first.row, first.seed))
        left = [cell for cell in left if cell is not first]
    return ordered
