"""Approximate backends: recall measured, effort raised, results stored with what they cost."""

from __future__ import annotations

import json
import logging
import re
from typing import ClassVar

import numpy as np
import pytest

from solo_gps.errors import ConfigError
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find
from solo_gps.neighbours.backends.faiss_here import installed_faiss
from solo_gps.neighbours.choose import choose_backend
from solo_gps.neighbours.config import SearchConfig
from solo_gps.neighbours.exact.recall import overlap, reach_recall
from solo_gps.neighbours.search import _open

pytestmark = pytest.mark.skipif(installed_faiss().version is None, reason="FAISS is not installed")


def points(folder=None, images=2000):
    rng = np.random.default_rng(0)
    array = rng.standard_normal((images, 8)) @ rng.standard_normal((8, 32)) + rng.standard_normal((images, 32)) / 10
    array[50:54] = array[0]
    return Embeddings(array=array.astype(np.float32), fingerprint="f", folder=folder, space="euclidean")


def recall(table, exact):
    hits = [len(np.intersect1d(a, b)) for a, b in zip(table.indices, exact.indices, strict=True)]
    return sum(hits) / exact.indices.size


class ApproximateContract:
    backend: str
    weak: ClassVar[dict] = {}

    def test_reaches_the_floor_and_says_so(self, caplog):
        with caplog.at_level(logging.INFO, "solo_gps"):
            table = find(points(), {"backend": self.backend}, k=10)
        exact = find(points(), {"backend": "torch"}, k=10)
        assert recall(table, exact) >= 0.94
        (line,) = [record.message for record in caplog.records if record.levelname == "INFO"]
        shape = rf"neighbours: the 10 nearest of 2,000 images found in \d+\.\d s \({self.backend} on cpu, approximate: "
        assert re.fullmatch(shape + r"(9[4-9]|100)\.\d % of the true neighbours, by 1,000 random images\)", line)
        found = table.indices == exact.indices
        assert (table.distances == exact.distances)[found].all()
        assert sorted(table.indices[0, :4].tolist()) == [50, 51, 52, 53]

    def test_effort_is_raised_until_the_floor_is_reached(self, tmp_path):
        find(points(tmp_path), {"backend": self.backend, "recall_floor": 0.99, **self.weak}, k=10)
        (manifest,) = tmp_path.glob("*.json")
        facts = json.loads(manifest.read_text())["facts"]["recall"]
        assert facts["recall"] >= 0.99
        assert facts["tried"][0]["recall"] < 0.99
        assert len(facts["tried"]) >= 2
        assert (facts["sample"], facts["k"]) == (1000, 10)

    def test_measured_recall_is_the_true_one(self, tmp_path):
        search = {"backend": self.backend, "recall_floor": 0.0, "recall_sample": 2000, **self.weak}
        table = find(points(tmp_path), search, k=10)
        (manifest,) = tmp_path.glob("*.json")
        measured = json.loads(manifest.read_text())["facts"]["recall"]["recall"]
        # The sample counts different vectors, and the table images: four duplicates make the difference.
        assert measured == pytest.approx(recall(table, find(points(), {"backend": "torch"}, k=10)), abs=0.01)
        assert measured < 0.99

    def test_other_effort_is_another_table(self, tmp_path):
        for effort in (3, 5):
            find(points(tmp_path), {"backend": self.backend, "effort": effort, "recall_floor": 0.0}, k=5)
        find(points(tmp_path), {"backend": "torch"}, k=5)
        assert len(list(tmp_path.glob("*.json"))) == 3

    def test_radius_is_refused(self):
        with pytest.raises(ConfigError, match="radius search is exact only"):
            find(points(), {"backend": self.backend}, radius=1.0)


class TestIvf(ApproximateContract):
    backend = "faiss_ivf"
    weak: ClassVar[dict] = {"lists": 300, "effort": 1}

    def test_twice_the_same(self):
        tables = [find(points(), {"backend": "faiss_ivf"}, k=10) for _ in range(2)]
        assert tables[0].indices.tobytes() == tables[1].indices.tobytes()

    def test_the_largest_seed(self):
        assert find(points(), {"backend": "faiss_ivf", "seed": 2**32 - 1}, k=10).indices.shape == (2000, 10)


class TestHnsw(ApproximateContract):
    backend = "faiss_hnsw"
    weak: ClassVar[dict] = {"links": 4, "effort": 4}


def test_a_floor_out_of_reach_is_a_warning(caplog, monkeypatch):
    monkeypatch.setattr("solo_gps.neighbours.backends.faiss_approximate.FaissIvf.raise_effort", lambda self: False)
    search = {"backend": "faiss_ivf", "lists": 300, "effort": 1, "recall_floor": 1.0}
    with caplog.at_level(logging.WARNING, "solo_gps"):
        find(points(), search, k=10)
    assert "below search.recall_floor=1. Use an exact backend: search.backend=torch." in caplog.text


def test_rows_with_too_few_are_padded_and_said(caplog):
    search = {"backend": "faiss_ivf", "lists": 1500, "effort": 1, "recall_floor": 0.0}
    with caplog.at_level(logging.WARNING, "solo_gps"):
        table = find(points(), search, k=10)
    short = (table.indices < 0).any(axis=1)
    assert short.any()
    assert np.isinf(table.distances[table.indices < 0]).all()
    assert f"for {int(short.sum())} images" in caplog.text


def test_overlap_by_hand():
    found, exact = np.array([[1, 2, 2**31 - 1], [6, 9, 9]]), np.array([[1, 2, 3], [6, 7, 8]])  # distances
    assert overlap(found << 32, exact << 32) == pytest.approx(3 / 6)


def test_d2_another_point_as_near_as_the_last_true_one_is_found():
    near, far = 1 << 32, 2 << 32
    exact = np.array([[near + 1, near + 2], [near + 1, far + 2]])
    assert overlap(np.array([[near + 1, near + 7], [near + 1, far + 9]]), exact) == 1
    assert overlap(np.array([[near + 1, far + 2], [near + 1, (3 << 32) + 2]]), exact) == pytest.approx(2 / 4)


def test_d2_on_a_grid_the_effort_is_not_raised_for_ties():
    pytest.importorskip("faiss")
    grid = np.stack(np.meshgrid(*[np.arange(12.0)] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
    embeddings = Embeddings(array=grid, fingerprint="grid", folder=None, space="euclidean")
    work = _open(
        embeddings, choose_backend(SearchConfig(backend="faiss_hnsw", effort=64), images=len(grid), columns=3, radius=None)
    )
    backend = choose_backend(SearchConfig(backend="faiss_hnsw", effort=64), images=len(grid), columns=3, radius=None)
    backend.fit(work.points.search)
    assert reach_recall(work, backend, 5)["settings"]["efSearch"] == 64


def test_every_number_is_checked():
    with pytest.raises(ValueError, match="recall_floor"):
        SearchConfig(recall_floor=1.5)
    with pytest.raises(ValueError, match="seed=-1 must be from 0 to 4294967295"):
        SearchConfig(seed=-1)
