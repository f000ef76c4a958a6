"""The page about the effect says what its records say."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean, stdev

import pytest

from solo_gps.comparison.records import read_records
from solo_gps.comparison.sweep import read_sweep
from solo_gps.comparison.table import lines, points
from solo_gps.evaluation.advice import LITTLE, knowledge

ROOT = Path(__file__).parents[1]
EFFECT = ROOT / "benchmarks" / "effect"
sys.path.insert(0, str(EFFECT))

import page  # noqa: E402 - a script beside the sweep files


def test_its_tables_are_those_of_the_records():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.renewed(text) == text, "python benchmarks/effect/page.py writes them anew"


@pytest.mark.parametrize(("folder", "sweep"), page.SWEEPS.items())
def test_every_record_is_of_a_cell_that_the_sweep_still_asks_for(folder, sweep):
    records = ROOT / "docs" / "results" / folder
    cells = {cell.name: cell for cell in read_sweep(EFFECT / f"{sweep}.yaml").cells}
    for file in records.glob("*.json"):
        cell = cells[file.stem]
        assert '"/' not in file.read_text(), f"{file}: a path of one machine"
        (record,) = [one for one in read_records(records) if (one.row, one.seed) == (cell.row, cell.seed)]
        assert record.key == cell.key, file


def test_positives_of_which_inspect_says_little_do_not_gain_and_the_others_do():
    """By k-NN, beyond the deviation over three seeds. Weak views alone: beside strong ones, twelve epochs tell nothing yet."""
    table = lines(read_records(ROOT / "docs" / "results" / "effect"))
    guided = [line for line in table if line.row.startswith("simclr, weak, GPS") and line.baseline and line.purity]
    known = {line.row: knowledge(sum(line.purity) / len(line.purity), chance=0.1) for line in guided}
    gains = {line.row: given for line in guided if len(given := line.gains("knn_weighted")) >= 3}
    assert len(gains) >= 8
    assert {row for row, given in gains.items() if mean(given) > stdev(given)} == {row for row in gains if known[row] >= LITTLE}


def test_noise_does_not_gain_labels_are_the_top_and_one_row_is_above_strong_views_and_its_own_prior():
    """Three seeds each. The last by retrieval: the prior alone is far above all that twelve epochs train, by k-NN."""
    table = {line.row: line for line in lines(read_records(ROOT / "docs" / "results" / "effect"))}

    def of_row(row, figure):
        values = table[row].of(figure)
        assert len(values) == (1 if row.startswith("prior") else 3), row
        return mean(values)

    trained = [row for row, line in table.items() if row.startswith("simclr") and len(line.of("map")) == 3]
    assert of_row("simclr, weak, GPS by noise", "knn_weighted") < of_row("simclr, weak, plain", "knn_weighted")
    taught = "simclr, weak, GPS by supervised"  # its prior has learned the same labels: as good by k-NN
    for figure, others in {"knn_weighted": {*trained} - {taught}, "map": trained}.items():
        assert max(others, key=lambda row: of_row(row, figure)) == "simclr, weak, GPS by labels"
    beside_strong = table["simclr, strong, GPS uniform of 3"]
    for figure, gains in {"map": True, "linear": True, "knn_weighted": False}.items():
        assert (sum(beside_strong.gains(figure)) > 0) == gains, "what inspect says of strong views"
    long = {
        line.row: dict(points(line, "knn_weighted")) for line in lines(read_records(ROOT / "docs" / "results" / "effect-long"))
    }
    for after in (21, 31, 41):
        guided, plain = (long[f"strong, {row}"][after] for row in ("GPS uniform of 3", "plain"))
        assert mean(guided) > mean(plain), "and of longer runs beside them"
    best = of_row("simclr, weak, GPS uniform of 3", "map")
    assert best > of_row("simclr, strong, plain", "map")
    assert best > of_row("prior patches", "map")
