"""What is kept of a finished cell: one small JSON file, from which the table is made again anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from solo_gps.comparison.cells import Cell
from solo_gps.errors import DataError, first_line, printable
from solo_gps.runtime.files import write_text

PLAN = "plan.json"
"""What is left to train, beside the table; no record."""


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
        baseline: Row that it is compared with, seed by seed; ``None`` without one.
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
    baseline: str | None = None
    receipt: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def record_of(cell: Cell, **measured: Any) -> Record:
    """The record of a cell.

    Args:
        cell: The cell.
        **measured: What :class:`Record` has besides.
    """
    said = {name: getattr(cell, name) for name in ("row", "place", "values", "seed", "key", "overrides", "baseline")}
    return Record(**said, **measured)


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
        _check(record)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{printable(file)}: is no record of a comparison, or one of another version of solo-gps ({first_line(error)}). "
            "Move it away, and the cell is trained again."
        ) from error
    return record


def _check(record: Record) -> None:
    kinds: dict[str, Any] = {
        "row": str,
        "place": int,
        "values": dict,
        "seed": int | None,
        "key": str,
        "overrides": list,
        "steps": int | None,
        "figures": dict,
        "curve": list,
        "baseline": str | None,
        "receipt": dict | None,
        "facts": dict,
    }
    for name, kind in kinds.items():
        if not isinstance(getattr(record, name), kind) or isinstance(getattr(record, name), bool):
            raise ValueError(f"its {name} is {getattr(record, name)!r}")
    points = [record.figures, *(point["figures"] for point in record.curve if isinstance(point, dict) and "epochs" in point)]
    if len(points) <= len(record.curve):
        raise ValueError("its curve is none")
    for figures in points:
        for name, value in figures.items():
            known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not known:
                raise ValueError(f"its {name} is {value!r}")


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
        raise DataError(f"{printable(file)}: is the record of another cell. Move it away, and the cell is trained again.")
    # Its names and its place are those of the sweep file, which may have changed what changes no result.
    return replace(record, row=cell.row, place=cell.place, values=dict(cell.values), baseline=cell.baseline)


def read_records(folder: Path) -> list[Record]:
    """All records of a folder, or of its subfolder ``records``, in the order of the table.

    Raises:
        DataError: There are none, one is damaged, or two are of one row and seed.
    """
    place = folder / "records" if (folder / "records").is_dir() else folder
    files = [file for file in sorted(place.glob("*.json")) if file.name != PLAN]
    if not files:
        raise DataError(
            f"{printable(folder)}: no records of a comparison here; they are in its subfolder records, or where `records` in the "
            "sweep file says. `solo-gps compare SWEEP` makes them."
        )
    found: dict[tuple[str, int | None], tuple[Path, Record]] = {}
    for file in files:
        record = read_record(file)
        other, _ = found.setdefault((record.row, record.seed), (file, record))
        if other != file:
            raise DataError(
                f"{printable(other)} and {printable(file)}: both of {record.row}, seed {record.seed}, from a sweep file that "
                "changed between them. Move one away, or make the table by the sweep file."
            )
    records = [record for _, record in found.values()]
    return sorted(records, key=lambda record: (record.place, record.row, -1 if record.seed is None else record.seed))
