"""The page about the effect says what its records say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from solo_gps.comparison.records import read_records
from solo_gps.comparison.sweep import read_sweep

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
        (record,) = [one for one in read_records(records) if (one.row, one.seed) == (cell.row, cell.seed)]
        assert record.key == cell.key, file
