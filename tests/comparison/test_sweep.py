"""The sweep file: which cells there are, in which order, under which names; and what is wrong with a bad one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from solo_gps.comparison.plan import launch, mark_finished, quoted, with_checkpoints, write_plan
from solo_gps.comparison.sweep import read_sweep
from solo_gps.errors import ConfigError, DataError

SMALL = {
    "recipe": "simclr_digits",
    "out": "runs/x",
    "judge": {"train": "a", "test": "b"},
    "axes": {"method": {"simclr": [], "byol": ["method=byol"]}, "positives": {"plain": [], "GPS": ["+sampler=gps"]}},
    "seeds": [0, 1],
}


def written(folder, **keys):
    file = folder / "sweep.yaml"
    OmegaConf.save(OmegaConf.create({**SMALL, **keys}), file)
    return file


def told(sweep):
    return [(cell.row, cell.seed) for cell in sweep.cells]


def test_every_combination_is_trained_with_every_seed(tmp_path):
    sweep = read_sweep(written(tmp_path, overrides=["max_epochs=3"]))
    rows = ["simclr, plain", "simclr, GPS", "byol, plain", "byol, GPS"]
    assert told(sweep) == [(row, seed) for seed in (0, 1) for row in rows]
    last = sweep.cells[-1]
    assert last.overrides == ("max_epochs=3", "method=byol", "+sampler=gps", "++seed=1")
    assert last.values == {"method": "byol", "positives": "GPS"}
    assert [cell.place for cell in sweep.cells] == [0, 1, 2, 3] * 2


def test_blocks_are_trained_in_their_order_and_a_row_once(tmp_path):
    rows = [{"method": "byol", "positives": "GPS"}, {"positives": ["GPS", "plain"]}]
    sweep = read_sweep(written(tmp_path, rows=rows, seeds=[7]))
    assert told(sweep) == [("byol, GPS", 7), ("simclr, GPS", 7), ("simclr, plain", 7), ("byol, plain", 7)]
    assert [cell.place for cell in sweep.cells] == [0, 1, 2, 3]


def test_a_block_has_seeds_of_its_own_and_another_adds_what_is_missing(tmp_path):
    rows = [{"method": "simclr", "seeds": [1]}, {"positives": "GPS"}, {"method": "byol", "positives": "plain", "seeds": [0]}]
    sweep = read_sweep(written(tmp_path, rows=rows, seeds=[0, 1], baseline={"positives": "plain"}))
    first = [("simclr, plain", 1), ("simclr, GPS", 1)]
    assert told(sweep) == [*first, ("simclr, GPS", 0), ("byol, GPS", 0), ("byol, GPS", 1), ("byol, plain", 0)]
    assert [cell.place for cell in sweep.cells] == [0, 1, 1, 2, 2, 3]
    assert {cell.baseline for cell in sweep.cells if cell.row == "byol, GPS"} == {"byol, plain"}


def test_priors_alone_come_first_and_have_a_seed_only_where_they_say_so(tmp_path):
    sweep = read_sweep(written(tmp_path, alone={"patches": "patches", "random": ["random", "seed={seed}"]}))
    assert told(sweep)[:4] == [("patches", None), ("random", 0), ("random", 1), ("simclr, plain", 0)]
    assert sweep.cells[2].overrides == ("random", "seed=1")
    assert all(cell.alone for cell in sweep.cells[:3])


def test_a_row_that_reads_a_checkpoint_comes_after_the_row_that_leaves_it(tmp_path):
    axes = {"positives": {"later": ["+p={checkpoint of plain}"], "plain": [], "last": ["+x={checkpoint of later}"]}}
    sweep = read_sweep(written(tmp_path, axes=axes))
    assert told(sweep) == [(row, seed) for seed in (0, 1) for row in ("plain", "later", "last")]
    assert sweep.cells[1].needs == ("plain",)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"recipes": "x"}, "sweep.yaml.recipes: no such key; known: .* Did you mean 'recipe'"),
        ({"judge": {"train": "a"}}, "judge"),
        ({"overrides": [{"lr": 1}]}, "overrides: wanted a list of words"),
        ({"overrides": [3]}, "overrides: wanted a list of words"),
        ({"overrides": ["seed=5"]}, "overrides: 'seed=5': every cell gets the seeds"),
        ({"overrides": ["++checkpoint.frequency=5"]}, "keeps its own checkpoints"),
        ({"overrides": ["hydra/launcher=joblib"]}, "typed behind the sweep file"),
        ({"overrides": ["max_epochs=x=1"]}, "simclr, plain: "),
        ({"overrides": ["nothing=1"]}, "simclr, plain: Could not override 'nothing'"),
        ({"axes": {"steps": {"a": []}}}, "axes.steps: the table has a column of that name"),
        (
            {"axes": {"a": {"x, y": ["+o=1"], "x": []}, "b": {"z": [], "y, z": ["+p=1"]}}},
            "two different rows are called 'x, y, z'",
        ),
        ({"axes": {"a": {"plain": [], "y": ["+o=1"]}}, "alone": {"plain": "patches"}}, "two different rows are called 'plain'"),
        ({"axes": {"a": {"GPS": ["+o=1"], "gps": ["+o=1"]}}}, "'GPS' and 'gps' say the same"),
        ({"axes": {"a": {"b\nc": []}}}, "a line break"),
        ({"axes": {"a": {"b": ["+p=file:{checkpoint of b}"]}}}, "with nothing else in the value"),
        ({"alone": {"x": ["checkpoint", "path={checkpoint of simclr, plain}"]}}, "no checkpoint of a row"),
        ({"judge": {"train": "a", "test": "b", "every": 0}}, "every=0 must be at least 1"),
        ({"axes": {}}, "axes is empty"),
        ({"axes": {"a": []}}, r"axes.a: wanted names with their overrides, got \[\]"),
        ({"axes": {"a": {"b": 3}}}, "axes.a.b: wanted a list of words"),
        ({"rows": [{"methods": "byol"}]}, r"rows\[0\].methods: no such axis; there are method, positives. Did you mean 'method'"),
        ({"rows": [{"method": "byo"}]}, r"rows\[0\].method: 'byo' is none of simclr, byol. Did you mean 'byol'"),
        *(
            (
                {"rows": [{"method": "byol", "seeds": seeds}]},
                r"rows\[0\].seeds=.*: wanted a list of some of the file's seeds, \[0,",
            )
            for seeds in (3, [], [2], "0", ["0"], None, [True], [1.0])
        ),
        (
            {
                "axes": {"a": {"y": ["+p={checkpoint of x}"], "x": []}},
                "rows": [{"a": "y"}, {"a": "x", "seeds": [1]}],
            },
            "y, seed 0: reads the checkpoint of 'x', which has no such seed. Give both the same",
        ),
        ({"axes": {"seeds": {"x": []}}}, "axes.seeds: the table has a column"),
        ({"rows": ["simclr"]}, r"rows\[0\]: wanted a value, or a list, of axes"),
        ({"rows": [{"method": []}]}, r"rows\[0\].method: wanted one of"),
        ({"baseline": {"positives": "none"}}, "baseline.positives: 'none' is none of plain, GPS"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "each once"),
        ({"alone": {"x": []}}, "alone.x: wanted the name of a prior"),
        ({"axes": {"a": {"b": ["+p={checkpoint of c}"]}}}, "there is no row 'c' whose checkpoint"),
        ({"axes": {"a": {"b": ["+p={checkpoint of c}"], "c": ["+p={checkpoint of b}"]}}}, "reads one of it"),
        ({"config_path": "nowhere"}, "simclr_digits.yaml: no such recipe"),
    ],
)
def test_what_is_wrong_is_one_error_that_says_where(tmp_path, keys, words):
    with pytest.raises(ConfigError, match=words):
        read_sweep(written(tmp_path, **keys))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "sweep.yaml: cannot be read as YAML .*line 1"),
        ("a: 1\na: 2", "duplicate key a"),
        ("- a", "wanted a group of keys"),
    ],
)
def test_what_is_no_group_of_keys(tmp_path, text, words):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_sweep(tmp_path / "sweep.yaml")


@pytest.mark.parametrize("key", ["recipe", "out", "axes", "judge"])
def test_what_is_missing_is_named(tmp_path, key):
    OmegaConf.save(OmegaConf.create({name: value for name, value in SMALL.items() if name != key}), tmp_path / "sweep.yaml")
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        read_sweep(tmp_path / "sweep.yaml")


def names(folder, **keys):
    return {(cell.row, cell.seed): cell.name for cell in read_sweep(written(folder, **keys)).cells}


def test_a_cell_keeps_its_name_while_it_is_the_same(tmp_path):
    before = names(tmp_path)
    more = {**SMALL["axes"], "positives": {**SMALL["axes"]["positives"], "pNN": ["+sampler=pnn"]}}
    after = names(tmp_path, axes=more, out="elsewhere", seeds=[0, 1, 2], judge={"train": "c", "test": "d"})
    assert before == {cell: name for cell, name in after.items() if cell in before}
    assert len(set(after.values())) == len(after)


@pytest.mark.parametrize("keys", [{"overrides": ["+a=1"]}, {"judge": {"train": "a", "test": "b", "k": 5}}])
def test_a_cell_that_is_another_has_another_name(tmp_path, keys):
    assert not set(names(tmp_path).values()) & set(names(tmp_path, **keys).values())


def test_a_row_whose_prior_comes_from_another_changes_with_it(tmp_path):
    def two(words):
        return names(tmp_path, axes={"a": {"one": words, "two": ["+p={checkpoint of one}"]}})

    assert two([])["two", 0] != two(["optimizer.lr=1"])["two", 0]


@pytest.mark.parametrize("changed", ["mine.yaml", "crops/weak.yaml"])
def test_a_recipe_of_ones_own_is_part_of_its_cells_with_all_that_it_is_made_of(tmp_path, changed):
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "weak.yaml").write_text("size: 1\n")
    (tmp_path / "mine.yaml").write_text("defaults: [_self_, {crops: weak}]\nlr: 1\n")
    keys = {"recipe": "mine", "config_path": ".", "axes": {"a": {"plain": []}}}
    before = names(tmp_path, **keys)
    file = tmp_path / changed
    file.write_text(file.read_text().replace("1", "2"))
    assert not set(before.values()) & set(names(tmp_path, **keys).values())


def test_where_and_how_it_is_trained_is_no_part_of_a_cell(tmp_path):
    (tmp_path / "mine.yaml").write_text("lr: 1\ndevices: 1\nname: a\nwandb: {enabled: false}\n")
    keys = {"recipe": "mine", "config_path": ".", "axes": {"a": {"plain": []}}}
    before = names(tmp_path, **keys)
    (tmp_path / "mine.yaml").write_text("lr: 1\ndevices: 2\nname: b\nwandb: {enabled: true}\n")
    assert names(tmp_path, **keys) == before


def test_interpolations_are_the_recipes(tmp_path):
    sweep = read_sweep(written(tmp_path, overrides=["name=${method}"], axes={"a": {"plain": []}}))
    assert sweep.cells[0].overrides[0] == "name=${method}"


def test_numbers_and_truths_are_names(tmp_path):
    (tmp_path / "sweep.yaml").write_text(
        "recipe: simclr_digits\nout: x\njudge: {train: a, test: b}\noverrides:\nrows: [{a: [1, no]}, {a: 2}]\n"
        "axes: {a: {1: [], 2: [+o=1], no: [+o=2]}}\nseeds: [0]\nbaseline: {a: 1}\nalone:\n"
    )
    assert [(cell.row, cell.baseline) for cell in read_sweep(tmp_path / "sweep.yaml").cells] == [
        ("1", None),
        ("False", "1"),
        ("2", "1"),
    ]


def test_a_row_that_a_block_names_twice_is_one(tmp_path):
    sweep = read_sweep(written(tmp_path, rows=[{"method": "simclr", "positives": ["plain", "plain", "GPS"]}], seeds=[0]))
    assert told(sweep) == [("simclr, plain", 0), ("simclr, GPS", 0)]


def test_a_row_without_its_baseline_is_said(tmp_path, caplog):
    sweep = read_sweep(
        written(tmp_path, rows=[{"method": "simclr"}, {"method": "byol", "positives": "GPS"}], baseline={"positives": "plain"})
    )
    assert {cell.row: cell.baseline for cell in sweep.cells} == {
        "simclr, plain": None,
        "simclr, GPS": "simclr, plain",
        "byol, GPS": None,
    }
    assert "byol, GPS has no baseline in this sweep" in caplog.text


class Launcher:
    """Leaves a checkpoint for each job, but for those that it is told to fail."""

    def __init__(self, folder, fails=(), error=None):
        self.folder, self.fails, self.error, self.batches = folder, fails, error, []

    def launch(self, jobs, initial_job_idx):
        from hydra.core.utils import JobReturn, JobStatus

        self.batches.append(jobs)
        done = []
        for job in jobs:
            name = next(word for word in job if word.startswith("hydra.sweep.subdir=")).partition("=")[2]
            failed = any(part in name for part in self.fails)
            (self.folder / "cells" / name).mkdir(parents=True)
            (self.folder / "cells" / name / "x-ep=0.ckpt").touch()  # one that failed leaves its last, too
            if not failed:
                mark_finished(self.folder / "cells" / name, self.folder / "cells" / name / "x-ep=0.ckpt")
            done.append(JobReturn(status=JobStatus.FAILED if failed else JobStatus.COMPLETED))
            done[-1].return_value = self.error if failed else None
        return done


def two_stages(tmp_path):
    axes = {"a": {"one": [], "other": ["+o=1"], "two": ["+p={checkpoint of one}"]}}
    sweep = read_sweep(written(tmp_path, axes=axes, out=str(tmp_path / "a 'b'")))
    write_plan(sweep, sweep.cells, tmp_path / "plan.json")
    return sweep


def test_a_batch_reads_no_checkpoint_of_its_own(tmp_path):
    sweep = two_stages(tmp_path)
    launcher = Launcher(sweep.out)
    done = launch(str(tmp_path / "plan.json"), launcher, ["accelerator=cpu"])
    assert [len(batch) for batch in launcher.batches] == [4, 2]
    assert len(done) == 6
    path = sweep.folder(sweep.cell("one", 0)) / "x-ep=0.ckpt"
    assert launcher.batches[1][0][:2] == ["accelerator=cpu", f"+p={quoted(path)}"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "failed;"),
        (SystemExit(1), "failed;"),
        (RuntimeError("out of memory\nat 0x1"), "failed (RuntimeError: out of memory);"),
    ],
)
def test_a_cell_whose_checkpoint_failed_is_left_out_and_the_others_go_on(tmp_path, caplog, error, said):
    """With the reason; our own errors, which end a job by SystemExit, have said theirs."""
    sweep = two_stages(tmp_path)
    launcher = Launcher(sweep.out, fails=("one-0",), error=error)
    launch(str(tmp_path / "plan.json"), launcher, [])
    assert [len(batch) for batch in launcher.batches] == [4, 1]
    assert f"one, seed 0: {said}" in caplog.text
    assert "two, seed 0: not trained" in caplog.text


def test_a_launcher_that_ends_takes_its_batch_alone(tmp_path, caplog):
    sweep = two_stages(tmp_path)

    class Broken(Launcher):
        def launch(self, jobs, initial_job_idx):
            if not self.batches:
                self.batches.append(jobs)
                raise OSError("no such queue")
            return super().launch(jobs, initial_job_idx)

    launch(str(tmp_path / "plan.json"), Broken(sweep.out), [])
    assert "not trained: one, seed 0; other, seed 0; one, seed 1; other, seed 1: " in caplog.text
    assert "no such queue" in caplog.text


def test_a_checkpoint_of_a_training_that_did_not_end_is_none(tmp_path):
    (tmp_path / "x-ep=0.ckpt").touch()
    for _ in range(2):
        with pytest.raises(DataError, match=r"no checkpoint of a training that came to its end|the checkpoint is gone"):
            with_checkpoints(["p={checkpoint of one}"], {"one": str(tmp_path)})
        mark_finished(tmp_path, tmp_path / "gone.ckpt")
    assert with_checkpoints(["a=1"], {}) == ["a=1"]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), min_size=1, max_size=20))
def test_hydra_reads_a_quoted_path_as_it_is(path):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"a={quoted(path)}"])
    assert override.value() == path


def test_the_plan_is_plain_json(tmp_path):
    two_stages(tmp_path)
    (first, *_), *_ = json.loads((tmp_path / "plan.json").read_text())["batches"]
    assert first["needs"] == {}
    assert "++checkpoint.frequency=1" in first["words"]
