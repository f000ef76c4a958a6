"""The page of a comparison: whole by itself, valid whatever rows are called, with the numbers that it speaks of."""

from __future__ import annotations

from dataclasses import replace

import html5lib
import pytest

from solo_gps.comparison.table import lines
from solo_gps.report.comparison import pictures, sentences, write_comparison


@pytest.fixture(scope="module")
def page(compared, tmp_path_factory):
    return write_comparison(compared, tmp_path_factory.mktemp("page"), title="Comparison <b>", command="solo-gps compare 'a b'")


def test_it_is_valid_whatever_rows_are_called(page):
    text = page.read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "solo-gps compare &#39;a b&#39;" in text


def test_its_pictures_are_files_too(page):
    assert sorted(path.name for path in page.parent.glob("*.svg")) == ["curves.svg", "rows.svg"]


def test_the_summary_by_hand(compared):
    best, gains, other = sentences(compared, "knn_weighted")
    assert best == "Best of the trained rows by knn_weighted: GPS 'k=3', 39.0 %."
    assert gains == "GPS 'k=3': 4.0 % better than plain & \"weak\", in every seed (2)."
    assert other == '$x$ <b>: 0.0 % level with plain & "weak", but not in every seed (2).'


def test_the_pictures_say_in_words_what_they_show(compared):
    rows, curves = pictures(compared)
    assert "Highest: <script>alert(1)</script>, 50.0 %." in rows.words
    assert "GPS 'k=3': 39.0 % at the end" in curves.words


def test_rows_without_a_figure_make_a_page_without_pictures(compared, tmp_path):
    none = [replace(record, figures={"rank_me": None}, curve=[]) for line in compared for record in line.records]
    page = write_comparison(lines(none), tmp_path, title="None", command="solo-gps compare x")
    html5lib.HTMLParser(strict=True).parse(page.read_text())
    assert not list(tmp_path.glob("*.svg"))


def test_unequal_steps_are_said_on_the_page(compared, tmp_path):
    records = [record for line in compared for record in line.records]
    odd = lines([*records[:-1], replace(records[-1], steps=469)])
    text = write_comparison(odd, tmp_path, title="Odd", command="x").read_text()
    assert "These rows cannot be compared" in text
    assert "468 or 469 optimizer steps" in text
