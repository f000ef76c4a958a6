"""A comparison in pictures, and as one HTML page in the style of an inspection's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from solo_gps.comparison.table import Line, cells, figures_of, is_share, points, unequal_steps
from solo_gps.report.drawing import MARKS, SIZE, Picture, drawn, label, line
from solo_gps.report.page import rendered, save
from solo_gps.runtime.files import check_can_write

TEMPLATE = "comparison.html.jinja"
MOST_CURVES = 8
"""Rows in one picture of curves: more cannot be told apart."""
INCHES_A_ROW = 0.28


def write_comparison(table: Sequence[Line], folder: Path, *, title: str, command: str) -> Path:
    """Writes the page of a comparison, and its pictures as files of their own.

    Args:
        table: Its rows.
        folder: Folder to write to; it is made.
        title: Of the page.
        command: What to type to make it again.

    Returns:
        The page.
    """
    check_can_write(folder, "folder")
    figure = _first_figure(table)
    records = [record for row in table for record in row.records]
    steps = sorted({steps for row in table for steps in row.steps})
    shown = list(pictures(table))
    page = rendered(
        TEMPLATE,
        title=title,
        command=command,
        table=table,
        records=records,
        trained=sum(record.steps is not None for record in records),
        steps=" or ".join(f"{number:,}" for number in steps),
        wrong=unequal_steps(table),
        said=[] if figure is None else list(sentences(table, figure)),
        cells=cells(table),
        figure=figure or "-",
        pictures=shown,
    )
    return save(page, shown, folder)


def sentences(table: Sequence[Line], figure: str) -> Iterator[str]:
    """What the table says, in words: the best row, and each row against its own baseline.

    Args:
        table: Its rows.
        figure: The figure that is spoken of.
    """
    means = {row.row: float(np.mean(row.of(figure))) for row in table if row.of(figure)}
    trained = [row for row in table if row.steps and row.row in means]
    if trained:
        best = max(trained, key=lambda row: means[row.row])
        yield f"Best of the trained rows by {figure}: {best.row}, {_shown(means[best.row], figure)}."
    for row in table:
        gains = row.gains(figure)
        if not gains:
            continue
        mean, agree = float(np.mean(gains)), len({np.sign(gain) for gain in gains}) == 1
        better = "better than" if mean > 0 else "worse than" if mean < 0 else "level with"
        sure = "in every seed" if agree and len(gains) > 1 else "of one seed" if len(gains) == 1 else "but not in every seed"
        yield f"{row.row}: {_shown(abs(mean), figure)} {better} {row.baseline[0].row}, {sure} ({len(gains)})."


def pictures(table: Sequence[Line]) -> Iterator[Picture]:
    """A picture of the first figure of every row; and one of the curves, where there are any."""
    figure = _first_figure(table)
    if figure is None:
        return
    yield _rows(table, figure)
    with_curves = [row for row in table if any(True for _ in points(row, figure))]
    if with_curves:
        yield _curves(with_curves[:MOST_CURVES], len(with_curves), figure)


def _first_figure(table: Sequence[Line]) -> str | None:
    """The first figure that a row has; ``None`` where none applies to any."""
    return next((figure for figure in figures_of(table) if any(row.of(figure) for row in table)), None)


def _rows(table: Sequence[Line], figure: str) -> Picture:
    scale = 100 if is_share(figure) else 1
    shown = [row for row in table if row.of(figure)]

    def draw(axes: Any, lines: tuple[str, ...]) -> None:
        for place, row in enumerate(shown):
            values = scale * np.array(row.of(figure))
            kind = 0 if not row.steps else 1 if not row.baseline else 2
            axes.plot(values, [place] * len(values), linestyle="", marker=MARKS[kind], markersize=5, alpha=0.7, color=lines[kind])
            axes.plot([values.mean()] * 2, [place - 0.35, place + 0.35], linewidth=2, color=lines[kind])
        axes.set_yticks(range(len(shown)), [label(row.row) for row in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set(xlabel=_axis(figure))

    best = max(shown, key=lambda row: float(np.mean(row.of(figure))))
    words = (
        f"{figure} of every row: a mark each seed, a bar their mean; circles: nothing trained, squares: baselines, triangles: "
        f"compared with one. Highest: {best.row}, {_shown(float(np.mean(best.of(figure))), figure)}."
    )
    return drawn("rows", "Every row", words, draw, height=max(SIZE[1], INCHES_A_ROW * len(shown) + 1))


def _curves(table: Sequence[Line], all_rows: int, figure: str) -> Picture:
    scale = 100 if is_share(figure) else 1

    def draw(axes: Any, lines: tuple[str, ...]) -> None:
        for place, row in enumerate(table):
            epochs, values = zip(*((after, scale * np.mean(some)) for after, some in points(row, figure)), strict=True)
            axes.plot(epochs, values, label=label(row.row), marker=MARKS[place % 6], **line(place, lines))
        axes.set(xlabel="epochs", ylabel=_axis(figure))
        axes.legend()

    cut = f"; the first {len(table)} of {all_rows} rows" if all_rows > len(table) else ""
    ends = "; ".join(f"{row.row}: {_shown(float(np.mean(row.of(figure))), figure)} at the end" for row in table)
    return drawn(
        "curves", "Over epochs", f"{figure} over epochs, the mean of the seeds{cut}. {ends}.", draw, height=1.3 * SIZE[1]
    )


def _axis(figure: str) -> str:
    return f"{figure}, %" if is_share(figure) else figure


def _shown(value: float, figure: str) -> str:
    return f"{100 * value:.1f} %" if is_share(figure) else f"{value:.3f}"
