"""Writes the tables and pictures of docs/results/effect.md again, from the stored records alone.

python benchmarks/effect/page.py
"""

from __future__ import annotations

from pathlib import Path

from solo_gps.comparison.records import finished
from solo_gps.comparison.sweep import read_sweep
from solo_gps.comparison.table import Line, as_markdown, figures_of, lines, points
from solo_gps.report.comparison import pictures
from solo_gps.report.drawing import Picture

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "effect.md"
IMAGES = ROOT / "docs" / "images"
SWEEPS = {"effect": "short", "effect-long": "long"}
"""Folder of records, to the sweep file that made them."""
SHOWN = ("knn_weighted", "knn_one_vote", "linear", "map")
"""Figures of the page; the records have more."""


def main() -> None:
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for folder, sweep in SWEEPS.items():
        for picture in drawn(folder, table_of(folder, sweep)):
            on_white = picture.light.replace("<svg ", '<svg style="background: #fff" ', 1)  # the site may be dark
            (IMAGES / f"{folder}-{picture.name}.svg").write_text(on_white, encoding="utf-8")


def drawn(folder: str, table: list[Line]) -> list[Picture]:
    """The pictures of a table: of the long runs their curves alone."""
    return [picture for picture in pictures(table) if (picture.name == "curves") == (folder == "effect-long")]


def renewed(text: str) -> str:
    """The page with every table made anew; what stands between the marks is replaced."""
    for folder, sweep in SWEEPS.items():
        before, mark, rest = text.partition(f"<!-- {folder} -->\n")
        _, end, after = rest.partition(f"<!-- end of {folder} -->")
        if not end:
            raise SystemExit(f"{PAGE}: wanted the marks <!-- {folder} --> and <!-- end of {folder} -->")
        table = table_of(folder, sweep)
        shown = [figure for figure in SHOWN if figure in figures_of(table)]
        links = "".join(f"\n![{one.words}](../images/{folder}-{one.name}.svg)\n" for one in drawn(folder, table))
        text = f"{before}{mark}\n{as_markdown(table, shown)}{curves(table)}{links}\n{end}{after}"
    return text


def table_of(folder: str, sweep: str) -> list[Line]:
    asked = read_sweep(Path(__file__).with_name(f"{sweep}.yaml"))
    cells = sorted(asked.cells, key=lambda cell: cell.place)
    records = ROOT / "docs" / "results" / folder
    return lines([record for cell in cells if (record := finished(records, cell)) is not None])


def curves(table: list[Line]) -> str:
    """The first figure over epochs, a column each; empty without curves."""
    figure = figures_of(table)[0]
    rows = {line.row: dict(points(line, figure)) for line in table}
    epochs = sorted({after for row in rows.values() for after in row})
    if not epochs:
        return ""
    head = f"\n| {figure}, %, after epochs | {' | '.join(map(str, epochs))} |\n|---|{'---:|' * len(epochs)}\n"
    shown = ((name, [row.get(after, []) for after in epochs]) for name, row in rows.items() if row)
    return head + "".join(f"| {name} | {' | '.join(map(mean, values))} |\n" for name, values in shown)


def mean(values: list[float]) -> str:
    return f"{100 * sum(values) / len(values):.1f}" if values else ""


if __name__ == "__main__":
    main()
