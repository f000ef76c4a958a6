"""The table: mean, deviation, gains and steps by hand; records that are damaged or foreign."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from solo_gps.comparison.cells import Cell
from solo_gps.comparison.records import Record, finished, read_records, write_record
from solo_gps.comparison.table import as_csv, as_markdown, cells, lines, made_with, points, unequal_steps
from solo_gps.errors import DataError


def record(positives, seed, knn, **keys):
    values = {"method": "simclr", "positives": positives}
    usual = {
        "row": f"simclr, {positives}",
        "place": ["plain", "GPS"].index(positives),
        "values": values,
        "seed": seed,
        "key": f"{positives}{seed}",
        "overrides": [],
        "steps": 10,
        "figures": {"knn_one_vote": knn, "rank_me": 3.0},
        "baseline": None if positives == "plain" else "simclr, plain",
        "receipt": None if positives == "plain" else {"share_guided": 1.0, "purity_of_positives_used": 0.25 + 0.5 * seed},
    }
    return Record(**{**usual, **keys})


ALONE = record("plain", None, 0.5, row="prior", place=-1, values={}, steps=None, key="p", receipt=None)
RECORDS = [ALONE, record("plain", 0, 0.30), record("plain", 1, 0.40), record("GPS", 0, 0.35), record("GPS", 1, 0.43)]


def test_mean_deviation_and_gain_by_hand():
    head, alone, plain, gps = cells(lines(RECORDS))
    assert head == ["", "n", "steps", "purity", "knn_one_vote, %", "rank_me", "knn_one_vote, %: gain"]
    assert alone == ["prior", "1", "-", "-", "50.0", "3.000", "-"]
    assert plain == ["simclr, plain", "2", "10", "-", "35.0 ± 7.1", "3.000 ± 0.000", "-"]
    # Gains 5 and 3: their deviation is far below that of the rows, as the seeds are paired.
    assert gps == ["simclr, GPS", "2", "10", "50.0 ± 35.4", "39.0 ± 5.7", "3.000 ± 0.000", "+4.0 ± 1.4"]


def test_a_gain_is_taken_with_the_same_seed_alone():
    plain, gps = lines([record("plain", 1, 0.40), record("GPS", 0, 0.10), record("GPS", 1, 0.43)])
    assert gps.gains("knn_one_vote") == pytest.approx([0.03])
    assert cells([plain, gps])[2][-1] == "+3.0 (n=1)"


def test_without_a_baseline_there_is_no_gain():
    assert "gain" not in as_markdown(lines([replace(one, baseline=None) for one in RECORDS]))


def test_a_bar_in_a_name_is_no_column():
    (_, _, row) = as_markdown(lines([replace(RECORDS[1], row="a|b")])).splitlines()
    assert row.startswith("| a\\|b | 1 |")


def test_a_figure_that_does_not_apply_is_no_zero():
    (row,) = lines([record("plain", 0, None), record("plain", 1, 0.4)])
    assert row.of("knn_one_vote") == [0.4]


def test_the_csv_has_every_cell_in_full():
    rows = list(csv.DictReader(io.StringIO(as_csv(RECORDS))))
    assert len(rows) == 5
    assert rows[4]["knn_one_vote"] == "0.43"
    assert rows[4]["positives"] == "GPS"
    assert rows[4]["share_guided"] == "1.0"
    assert rows[0]["seed"] == ""
    assert rows[0]["method"] == ""
    assert rows[0]["steps"] == ""


def test_unequal_steps_are_named():
    assert unequal_steps(lines(RECORDS)) is None
    wrong = unequal_steps(lines([*RECORDS[:-1], replace(RECORDS[-1], steps=20)]))
    assert "10 steps: simclr, plain, simclr, GPS; 20 steps: simclr, GPS" in wrong


def test_versions_are_told_once_each():
    facts = {"solo_learn": "1.0.6", "torch": "2.1", "gpu": None}
    both = [replace(RECORDS[1], facts=facts), replace(RECORDS[2], facts=facts), replace(RECORDS[3], facts={"torch": "2.2"})]
    assert made_with([*both, RECORDS[4]]) == ["solo-learn 1.0.6, torch 2.1, GPU None", "torch 2.2"]


def test_a_curve_is_the_values_of_all_seeds():
    curves = [
        [{"epochs": 1, "figures": {"knn_one_vote": 0.1}}, {"epochs": 3, "figures": {"knn_one_vote": value}}]
        for value in (0.2, 0.4)
    ]
    (row,) = lines([record("plain", seed, 0.3, curve=curves[seed]) for seed in (0, 1)])
    assert list(points(row, "knn_one_vote")) == [(1, [0.1, 0.1]), (3, [0.2, 0.4])]


def cell(name="simclr, plain", key="plain0"):
    values = {"method": "simclr", "positives": "plain"}
    return Cell(row=name, place=0, values=values, seed=0, overrides=(), key=key)


def test_a_record_comes_back_as_it_was(tmp_path):
    assert finished(tmp_path, cell()) is None
    write_record(tmp_path, cell().name, RECORDS[1])
    assert finished(tmp_path, cell()) == RECORDS[1]


def test_a_record_takes_the_names_of_the_sweep_file(tmp_path):
    renamed = replace(cell(), row="SimCLR", values={"method": "SimCLR"}, place=7, baseline="x")
    write_record(tmp_path, renamed.name, RECORDS[1])
    record = finished(tmp_path, renamed)
    assert (record.row, record.values, record.place, record.baseline) == ("SimCLR", {"method": "SimCLR"}, 7, "x")
    assert record.figures == RECORDS[1].figures


def test_two_records_of_one_row_and_seed_are_refused(tmp_path):
    for name in ("a", "b"):
        write_record(tmp_path, name, replace(RECORDS[1], key=name))
    with pytest.raises(DataError, match=r"a.json and .*b.json: both of simclr, plain, seed 0"):
        read_records(tmp_path)


def test_records_come_in_the_order_of_the_table(tmp_path):
    for number, one in enumerate(reversed(RECORDS)):
        write_record(tmp_path / "records", str(number), one)
    assert read_records(tmp_path) == read_records(tmp_path / "records") == RECORDS


ODD = (
    {"place": "x"},
    {"values": ["a"]},
    {"receipt": ["a"]},
    {"facts": None},
    {"steps": "10"},
    {"curve": None},
    {"curve": [{"x": 1}]},
    {"overrides": None},
    {"figures": {"knn": float("nan")}},
    {"figures": {"knn": True}},
    {"of a later version": 1},
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"row": 1}',
        json.dumps({**vars(RECORDS[1]), "figures": {"a": "b"}}),
        *(json.dumps({**vars(RECORDS[1]), **odd}) for odd in ODD),
    ],
)
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / f"{cell().name}.json").write_text(text)
    with pytest.raises(DataError, match=rf"{cell().name}.json: is no record of a comparison"):
        finished(tmp_path, cell())


def test_the_record_of_another_cell_is_refused(tmp_path):
    write_record(tmp_path, cell().name, replace(RECORDS[1], key="another"))
    with pytest.raises(DataError, match="record of another cell"):
        finished(tmp_path, cell())


def test_a_folder_without_records(tmp_path):
    with pytest.raises(DataError, match="no records of a comparison here"):
        read_records(tmp_path)
