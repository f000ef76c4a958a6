"""The pieces for a machine with a GPU, at a tiny size on the CPU: each is cut, goes on, and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUITE = """
import time

import pytest


def test_well():
    time.sleep(0.2)


def test_unwell():
    assert 1 + 1 == 3, "by hand"


@pytest.mark.skip(reason="by hand")
def test_left_out():
    pass
"""


def run(script, *words, cwd):
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, words)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_the_suite_goes_on_where_it_was_cut_and_keeps_every_failure(tmp_path):
    (tmp_path / "test_some.py").write_text(SUITE)
    words = ("gpu_tests.py", "--out", tmp_path / "out", "--minutes", "0.001", "test_some.py")
    assert "2 tests are left: run it again." in run(*words, cwd=tmp_path)
    with (tmp_path / "out" / "gpu_tests.jsonl").open("a") as file:  # the machine went away in a test of another file
        file.write(json.dumps({"test": "test_other.py::test_long", "outcome": "cut off"}) + "\n")
    run(*words[:-2], "1", "test_some.py", cwd=tmp_path)
    assert "All has run." in run(*words[:-2], "1", "test_some.py", cwd=tmp_path)
    record = json.loads((tmp_path / "out" / "gpu_tests.json").read_text())
    assert {row["outcome"]: row["tests"] for row in record["rows"]} == {"cut off": 1, "failed": 1, "passed": 1, "skipped": 1}
    assert "by hand" in record["unwell"]["test_some.py::test_unwell"]
    assert "| failed | 1 |" in (tmp_path / "out" / "gpu_tests.md").read_text()


@pytest.mark.host
def test_the_training_goes_on_from_its_checkpoint(digits, tmp_path):
    words = ["gpu_training.py", "--train", digits / "train", "--test", digits / "val", "--out", tmp_path, "--epochs", 2]
    small = ["--batch-size", 16, "--workers", 0, "--accelerator", "cpu", "--precision", "32"]
    assert "To be gone on with: plain, gps." in run(*words, *small, "--minutes", "0.0001", cwd=tmp_path)
    first, *_ = json.loads((tmp_path / "gpu_training.json").read_text())["rows"]
    assert (first["cell"], first["epochs"]) == ("plain", 1)
    for _ in range(2):
        printed = run(*words, *small, cwd=tmp_path)
    assert "All is done." in printed
    rows = json.loads((tmp_path / "gpu_training.json").read_text())["rows"]
    assert [(row["cell"], row["epochs"]) for row in rows] == [("plain", 2), ("gps", 2)]
    assert all(20 < row["knn"] <= 100 for row in rows)
    assert rows[0]["seconds"] is None, "what is finished is not trained again"


def test_the_searches_are_written_row_by_row_and_none_is_run_again(tmp_path):
    words = ["gpu_suite.py", "--device", "cpu", "--columns", 16, "--memory-mib", 64, "--out", tmp_path, "--images"]
    record, page = tmp_path / "gpu_suite_600x16.json", tmp_path / "gpu_suite_600x16.md"
    assert "To be gone on with: torch float32 product + topk." in run(*words, 600, "--minutes", "0.0001", cwd=tmp_path)
    (first,) = json.loads(record.read_text())["rows"]
    assert first["check"]["rows"] == first["check"]["rows_with_the_same_images"] == 300
    assert first["check"]["largest_relative_difference"] < 1e-4
    assert "To be gone on with" in page.read_text()
    for _ in range(2):
        assert "All is done." in run(*words, 600, cwd=tmp_path)
        rows = json.loads(record.read_text())["rows"]
        assert [row["search"] for row in rows] == ["solo-gps torch, exact", "torch float32 product + topk"]
        assert rows[0] == first, "what is there is not run again"
    table = page.read_text()
    assert "ON THE CPU" in table
    assert table.count("| solo-gps torch, exact |") == 1
    assert rows[0].get("gpu_gib") is None
    run(*words, 500, cwd=tmp_path)
    assert json.loads(record.read_text())["rows"] == rows, "another size has files of its own"


def test_rows_of_another_set_up_are_not_gone_on_with(tmp_path):
    words = ["gpu_suite.py", "--device", "cpu", "--columns", 16, "--out", tmp_path, "--images", 600]
    run(*words, cwd=tmp_path)
    record = tmp_path / "gpu_suite_600x16.json"
    told = json.loads(record.read_text())
    record.write_text(json.dumps({**told, "machine": {**told["machine"], "gpu": "another"}}))
    command = [sys.executable, str(ROOT / "benchmarks" / words[0]), *map(str, words[1:])]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'another'" in done.stderr
    assert "give another --out" in done.stderr
