"""The page: whole by itself, valid, with the numbers and images that it speaks of."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from pathlib import Path

import html5lib
import numpy as np
import pytest
from image_sets import digits_pixels
from PIL import Image
from sklearn.datasets import load_digits

import solo_gps
from solo_gps.errors import ConfigError
from solo_gps.evaluation.advice import known_of, percent
from solo_gps.report import page as made
from solo_gps.report.page import chosen
from solo_gps.report.summary import table

WORDS = {"place": "data/<train>", "command": "solo-gps inspect 'data/<train>'"}
SPACE = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture(scope="module")
def pages(labelled, unlabelled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return labelled.save(folder / "labelled", **WORDS), unlabelled.save(folder / "unlabelled")


def parsed(page):
    """The page's elements; raises at the first error against the HTML standard."""
    return html5lib.HTMLParser(strict=True).parse(page.read_text())


def text_of(element):
    return " ".join("".join(element.itertext()).split())


@pytest.mark.parametrize("which", [0, 1])
def test_the_page_is_valid_and_needs_nothing_else(pages, which):
    root, text = parsed(pages[which]), pages[which].read_text()
    sources = [element.get(key) for element in root.iter() for key in ("src", "srcset", "href") if element.get(key)]
    assert len(sources) > 50
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"https?:|url\(|@import|<script", text)
    anchors = {element.get("id") for element in root.iter()}
    assert {source[1:] for source in sources if source.startswith("#")} <= anchors
    ids = Counter(element.get("id") for element in root.iter() if element.get("id"))
    assert set(ids.values()) == {1}


@pytest.mark.parametrize("which", [0, 1])
def test_every_picture_has_words_and_is_whole(pages, which):
    images = list(parsed(pages[which]).iter(f"{SPACE}img"))
    assert all(len(image.get("alt")) > 10 for image in images)
    for image in images:
        kind, data = image.get("src").split(";base64,")
        content = base64.b64decode(data)
        if kind == "data:image/jpeg":
            assert max(Image.open(io.BytesIO(content)).size) <= made.THUMBNAIL
        else:
            assert kind == "data:image/svg+xml"
            assert content.startswith(b"<?xml")
            assert b"mathdefault" not in content
            assert b"<text" in content


def test_the_numbers_are_those_of_the_inspection(labelled, pages):
    root = parsed(pages[0])
    rows = [[text_of(cell) for cell in row] for row in root.iter(f"{SPACE}tr")]
    for row in table(labelled)[1:]:
        assert [" ".join(row[0].split()), *row[1:]] in rows
    for numbers in labelled.numbers.values():
        for ball in numbers.by_k:
            cells = [percent(share) for values in (ball.purity, ball.covered) for share in map(values.get, made.CHOICES)]
            assert [str(ball.k), f"{ball.distance:.4g}", *cells] in rows
        for one in numbers.classes:
            assert [" ".join(labelled.classes[one.label].split()), f"{one.images:,}", percent(one.accuracy)] in rows
    (share,) = labelled.agreement.values()
    assert ["pixels and <script>alert(1)</script>", percent(share)] in rows
    whole = text_of(root)
    for advice in labelled.advice.values():
        assert advice.reason in whole
        for one in advice.suggestions:
            assert one.keys in whole
            assert one.reason in whole
    assert "solo-gps inspect 'data/<train>'" in whole
    (best, most), (other, less) = labelled.ranking
    assert (best, other) == ("pixels", "<script>alert(1)</script>")
    assert most == known_of(labelled.numbers["pixels"]) > less
    assert f"pixels knows the most of these classes: {most:.2f} of the way from chance to perfect; {other} {less:.2f}." in whole


def test_marks_and_words_say_whether_a_positive_is_right(labelled, pages):
    tiles = [tile for tile in parsed(pages[0]).iter(f"{SPACE}figure") if "tile" in (tile.get("class") or "").split()]
    known, anchor, seen = np.asarray(labelled.images.labels), None, Counter()
    for tile in tiles:
        words = next(tile.iter(f"{SPACE}img")).get("alt")
        index = int(re.search(r"image (\d+)", words)[1])
        kind = tile.get("class").split()[1]
        seen[kind] += 1
        assert labelled.classes[known[index]] in words
        if kind == "anchor":
            anchor = index
            continue
        right = known[index] == known[anchor]
        assert kind == ("right" if right else "wrong")
        assert text_of(tile)[0] == ("✓" if right else "✗")
        assert ("the anchor's class" in words) == ("another class" not in words) == right
    assert seen["anchor"] == 2 * 4 * made.ROWS
    assert seen["right"] > 50 < seen["wrong"]


def test_the_anchors_are_the_worst_the_best_and_the_hubs(labelled, unlabelled):
    for seen in (labelled, unlabelled):
        name, *_ = seen.numbers
        sections = dict(chosen(seen, name, 5))
        assert len(sections) == 4
        indices, distances = seen.tables[name].indices[:, :10], seen.tables[name].distances
        random, low, high, hubs = sections.values()
        if seen is labelled:
            labels = np.asarray(seen.images.labels)
            score = (labels[indices] == labels[:, None]).mean(axis=1)
        else:
            score = -distances[:, 0]
        assert sorted(score[low]) == sorted(np.sort(score)[:5])
        assert sorted(score[high]) == sorted(np.sort(score)[-5:])
        degrees = np.bincount(indices.ravel(), minlength=len(indices))
        assert sorted(degrees[hubs]) == sorted(np.sort(degrees)[-5:])
        assert len(set(random)) == 5
    again = dict(chosen(labelled, list(labelled.numbers)[1], 5))
    assert np.array_equal(again["At random"], dict(chosen(labelled, "pixels", 5))["At random"])


def test_the_same_inspection_has_the_same_bytes(labelled, pages, tmp_path):
    again = labelled.save(tmp_path / "again", **WORDS)
    files = sorted(path.name for path in again.parent.iterdir())
    assert files == ["classes.svg", "distances-1.svg", "distances-2.svg", "in-degree.svg", "purity.svg", "report.html"]
    for name in files:
        assert (again.parent / name).read_bytes() == (pages[0].parent / name).read_bytes()


def test_pictures_of_a_page_before_go_and_others_stay(labelled, unlabelled, tmp_path):
    labelled.save(tmp_path)
    (tmp_path / "mine.svg").write_text("<svg>solo-gps</svg>")
    unlabelled.save(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == ["distances-1.svg", "in-degree.svg", "mine.svg"]


def test_without_labels_nothing_speaks_of_classes(pages):
    text = text_of(parsed(pages[1]))
    assert not re.search(r"purity|told right|✓|✗|of the image's class", text)
    assert "cannot be judged" in text
    assert "no. " in text
    assert sorted(path.name for path in pages[1].parent.iterdir()) == ["distances-1.svg", "in-degree.svg", "report.html"]


def test_images_that_no_codec_makes_small_fit_in_ten_megabytes(tmp_path):
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (60, 128, 128, 3), dtype=np.uint8)
    for priors in (4, 12):
        rows = {f"rows {number}": draw.normal(size=(60, 4)) for number in range(priors)}
        page = solo_gps.inspect(noise, rows, labels=np.arange(60) % 3).save(tmp_path)
        assert 1e6 < page.stat().st_size < 10e6


def test_a_class_that_is_no_utf_8(tmp_path):
    labels = load_digits().target[:60]
    for row, (pixels, label) in enumerate(zip(digits_pixels(60), labels, strict=True)):
        folder = Path(str(tmp_path / "set" / f"{label % 2}") + "\udcff")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    page = solo_gps.inspect(tmp_path / "set", "pixels").save(tmp_path / "page", place=f"{tmp_path}/\udcff")
    assert r"1\udcff" in page.read_text()
    parsed(page)


def test_a_missing_library_is_named_with_the_mend(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(made, "find_spec", lambda library: None if library == "matplotlib" else object())
    with pytest.raises(ConfigError, match=r"matplotlib: pip install 'solo-gps\[report\]'"):
        labelled.save(tmp_path / "none")
    assert not (tmp_path / "none").exists()
