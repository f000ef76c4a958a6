"""The table of a comparison: mean, deviation and number of every row, and whether its rows can be compared at all."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from solo_gps.comparison.records import Record
from solo_gps.evaluation.scores import SHARES

VERSIONS = {"solo_gps": "solo-gps", "solo_learn": "solo-learn", "torch": "torch", "gpu": "GPU", "processes": "processes"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table.

    Attributes:
        row: Its name.
        records: One a seed.
        baseline: The records of the row that it is compared with; empty without one, and for the baseline itself.
    """

    row: str
    records: Sequence[Record]
    baseline: Sequence[Record] = ()

    def of(self, figure: str) -> list[float]:
        """The values of a figure, by seed; those that do not apply are left out."""
        return [value for record in self.records if (value := record.figures.get(figure)) is not None]

    def gains(self, figure: str) -> list[float]:
        """Differences to the baseline of the same seed."""
        base = {record.seed: record.figures.get(figure) for record in self.baseline}
        pairs = [(record.figures.get(figure), base.get(record.seed)) for record in self.records]
        return [one - other for one, other in pairs if one is not None and other is not None]

    @property
    def steps(self) -> set[int]:
        """Optimizer steps of its trainings; one number, if all is well."""
        return {record.steps for record in self.records if record.steps is not None}

    @property
    def purity(self) -> list[float]:
        """Shares of the positives used that had their anchor's class, by seed."""
        receipts = [record.receipt for record in self.records if record.receipt is not None]
        return [value for receipt in receipts if (value := receipt.get("purity_of_positives_used")) is not None]


def lines(records: Sequence[Record]) -> list[Line]:
    """Rows from records, which come in the order of the table."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(record.row, []).append(record)
    return [Line(row=row, records=some, baseline=rows.get(some[0].baseline or "", ())) for row, some in rows.items()]


def is_share(figure: str) -> bool:
    """Whether a figure is a share, and shown in per cent."""
    return figure.startswith(SHARES)


def figures_of(table: Sequence[Line]) -> list[str]:
    """Names of the figures, in the order in which they come."""
    return list(dict.fromkeys(name for line in table for record in line.records for name in record.figures))


def unequal_steps(table: Sequence[Line]) -> str | None:
    """What is wrong when rows took different numbers of optimizer steps; else ``None``."""
    by_steps: dict[int, list[str]] = {}
    for line in table:
        for steps in line.steps:
            by_steps.setdefault(steps, []).append(line.row)
    if len(by_steps) < 2:
        return None
    told = "; ".join(
        f"{steps:,} steps: {', '.join(rows[:3])}{' ...' if len(rows) > 3 else ''}" for steps, rows in by_steps.items()
    )
    return (
        f"the rows took different numbers of optimizer steps, so this table compares their lengths too ({told}). Give all the "
        "same max_steps (sampler.sepp.equal_budget=true for SePP), or set equal_steps: false in the sweep file."
    )


def made_with(records: Sequence[Record]) -> list[str]:
    """The versions that records come from, each once; more than one deserve a look before rows are compared."""
    kinds = [
        ", ".join(f"{name} {record.facts[key]}" for key, name in VERSIONS.items() if key in record.facts) for record in records
    ]
    return sorted(set(filter(None, kinds)))


def cells(table: Sequence[Line], figures: Sequence[str] = ()) -> list[list[str]]:
    """Head and rows of the table as text; with the figures named, or with all."""
    figures = figures or figures_of(table)
    gains = [figures[0]] if figures and any(line.gains(figures[0]) for line in table) else []
    head = ["", "n", "steps", "purity", *(_head(figure) for figure in figures), *(f"{_head(figure)}: gain" for figure in gains)]
    rows = []
    for line in table:
        shown = [_spread(line.of(figure), figure) for figure in figures]
        gained = [_gain(line, figure) for figure in gains]
        steps = "-" if not line.steps else ", ".join(f"{steps:,}" for steps in sorted(line.steps))
        rows.append([line.row, str(len(line.records)), steps, _spread(line.purity, "knn"), *shown, *gained])
    return [head, *rows]


def as_markdown(table: Sequence[Line], figures: Sequence[str] = ()) -> str:
    """The table for a document; with the figures named, or with all."""
    head, *rows = cells(table, figures)
    rule = ["---", *["---:"] * (len(head) - 1)]
    escaped = ([cell.replace("|", r"\|") for cell in row] for row in [head, *rows])
    first, *others = (f"| {' | '.join(row)} |" for row in escaped)
    return "\n".join([first, f"| {' | '.join(rule)} |", *others]) + "\n"


def as_csv(records: Sequence[Record]) -> str:
    """One line a cell, numbers in full; an empty cell where a figure does not apply."""
    text = io.StringIO()
    axes = list(dict.fromkeys(axis for record in records for axis in record.values))
    figures = list(dict.fromkeys(name for record in records for name in record.figures))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", *axes, "seed", "steps", "share_guided", "purity", *figures])
    for record in records:
        receipt: Mapping[str, Any] = record.receipt or {}
        writer.writerow(
            [
                record.row,
                *(record.values.get(axis) for axis in axes),
                record.seed,
                record.steps,
                receipt.get("share_guided"),
                receipt.get("purity_of_positives_used"),
                *(record.figures.get(name) for name in figures),
            ]
        )
    return text.getvalue()


def points(line: Line, figure: str) -> Iterator[tuple[int, list[float]]]:
    """The curve of a row: epochs, and the values of its seeds after them."""
    by_epoch: dict[int, list[float]] = {}
    for record in line.records:
        for point in record.curve:
            if (value := point["figures"].get(figure)) is not None:
                by_epoch.setdefault(int(point["epochs"]), []).append(value)
    yield from sorted(by_epoch.items())


def _gain(line: Line, figure: str) -> str:
    """The gain, with the number of seeds where the baseline has not all of them."""
    gains = line.gains(figure)
    fewer = f" (n={len(gains)})" if 0 < len(gains) < len(line.records) else ""
    return _spread(gains, figure, sign="+") + fewer


def _head(figure: str) -> str:
    return f"{figure}, %" if is_share(figure) else figure


def _spread(values: Sequence[float], figure: str, sign: str = "") -> str:
    """Mean, and the deviation of the sample where there is more than one."""
    if not values:
        return "-"
    scale, spec = (100, ".1f") if is_share(figure) else (1, ".3f")
    deviation = f" ± {scale * statistics.stdev(values):{spec}}" if len(values) > 1 else ""
    return f"{scale * statistics.fmean(values):{sign}{spec}}{deviation}"
