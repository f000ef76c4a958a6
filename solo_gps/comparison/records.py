"""What is kept of a finished cell: one small JSON file, from which the table is made again anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from solo_gps.comparison.sweep import Cell
from solo_gps.errors import DataError, first_line, printable
from solo_gps.runtime.files import write_text


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished cell.

    Attributes:
        row: Name of its row.
        place: Of its row in the table.
        values: Axis to value; empty for a prior alone.
        seed: Of the training, or ``None``.
        key: Digest of what the cell was.
        overrides: What was typed for it.
        steps: Optimizer steps; ``None`` for a prior alone.
        figures: Figure to value: shares from 0 to 1 for accuracies.
        curve: Epochs so far, and the figures after them.
        receipt: Of the guided run, its parts that a table needs; ``None`` for a plain one.
        facts: Seconds, machine and versions.
    """

    row: str
    place: int
    values: Mapping[str, str]
    seed: int | None
    key: str
    overrides: Sequence[str]
    steps: int | None
    figures: Mapping[str, float | None]
    curve: Sequence[Mapping[str, Any]] = field(default_factory=list)
    receipt: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_record(folder: Path, name: str, record: Record) -> None:
    """Writes a record as ``folder``/``name``.json; it is whole or not there."""
    write_text(folder / f"{name}.json", json.dumps(asdict(record), indent=1) + "\n")


def read_record(file: Path) -> Record:
    """Reads a record.

    Raises:
        DataError: It is damaged, or no record of a cell.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        record = Record(**values)
        shares = [value for value in record.figures.values() if value is not None]
        if not all(isinstance(value, (int, float)) for value in shares) or not isinstance(record.row, str):
            raise ValueError("its figures are no numbers")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{printable(file)}: is no record of a comparison ({first_line(error)}). Remove it, and the cell is trained again."
        ) from error
    return record


def finished(folder: Path, cell: Cell) -> Record | None:
    """The record of a cell, or ``None`` while there is none.

    Raises:
        DataError: The file of that name is no record, or of another cell.
    """
    file = folder / f"{cell.name}.json"
    if not file.exists():
        return None
    record = read_record(file)
    if record.key != cell.key:
        raise DataError(f"{printable(file)}: is the record of another cell. Remove it, and the cell is trained again.")
    return record


def read_records(folder: Path) -> list[Record]:
    """All records of a folder, or of its subfolder ``records``, in the order of the table.

    Raises:
        DataError: There are none, or one is damaged.
    """
    place = folder / "records" if (folder / "records").is_dir() else folder
    found = [read_record(file) for file in sorted(place.glob("*.json"))]
    if not found:
        raise DataError(f"{printable(folder)}: no records of a comparison here. `solo-gps compare SWEEP` makes them.")
    return sorted(found, key=lambda record: (record.place, record.row, -1 if record.seed is None else record.seed))
