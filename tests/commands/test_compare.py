"""`solo-gps compare` as it is typed: trained, killed, gone on with, one table."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from solo_gps.commands.cell import checked_receipt
from solo_gps.commands.cli import main
from solo_gps.commands.compare import _check
from solo_gps.comparison.records import read_records, record_of, write_record
from solo_gps.comparison.sweep import read_sweep
from solo_gps.errors import HostError
from solo_gps.hosts.detect import detect_host

HYDRA = {"output_subdir": None}
ROWS = ["prior", "plain", "GPS", "by plain"]


@pytest.fixture
def sweep(tmp_path, digits, recipe):
    """Writes a sweep file, and the recipe of its cells beside it; ``keys`` are merged over it."""

    def write(**keys):
        cfg = recipe(max_steps=2, batch_size=16, flip=0.5)
        off = ["_self_", {"override hydra/hydra_logging": "disabled"}, {"override hydra/job_logging": "disabled"}]
        OmegaConf.save(OmegaConf.merge({"defaults": off, "hydra": HYDRA}, cfg), tmp_path / "small.yaml")
        by_plain = [
            "+sampler=gps",
            "sampler.gps.k=2",
            "+prior=checkpoint",
            "prior.path={checkpoint of plain}",
            "++prior.image_size=32",
        ]
        whole = {
            "recipe": "small",
            "config_path": ".",
            "out": str(tmp_path / "a b"),
            "judge": {"train": str(digits / "train"), "test": str(digits / "val"), "metrics": ["knn"], "k": 3},
            "axes": {
                "positives": {"plain": [], "GPS": ["+sampler=gps", "sampler.gps.k=2", "+prior=pixels"], "by plain": by_plain}
            },
            "seeds": [3],
            "baseline": {"positives": "plain"},
            "alone": {"prior": ["pixels", "image_size=8"]},
        }
        OmegaConf.save(OmegaConf.create({**whole, **keys}), tmp_path / "sweep.yaml")
        return tmp_path / "sweep.yaml"

    return write


def typed(*words, **kwargs):
    command = [sys.executable, "-W", "ignore", "-m", "solo_gps", "compare", *map(str, words)]
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}, stdout=-1, stderr=-1, text=True, **kwargs
    )


def whole(*words, **kwargs):
    process = typed(*words, **kwargs)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.mark.host
@pytest.mark.slow
def test_killed_half_way_it_goes_on_to_the_same_table(sweep, tmp_path):
    file, records = sweep(), tmp_path / "a b" / "records"
    killed = typed(file, start_new_session=True)
    deadline = time.monotonic() + 300
    while len(list(records.glob("*.json"))) < 2 and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in records.glob("*.json")}
    assert 2 <= len(before) < 4
    code, out, err = whole(file, "--report", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert code == 0, err[-3000:]
    assert [line.split("  ")[0] for line in out.splitlines()[1:5]] == ROWS
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in records.glob("*.json")}.items()
    page = (tmp_path / "a b" / "report.html").read_text()
    assert "GPS" in page
    assert "by plain" in page
    assert not any(str(tmp_path) in path.read_text() for path in records.glob("*.json")), "records travel"
    for record in read_records(records):
        assert (record.steps, record.receipt is None) == {"prior": (None, True), "plain": (2, True)}.get(record.row, (2, False))
    turned = sweep(rows=[{"positives": name} for name in ("by plain", "GPS", "plain")])
    code, out_turned, _ = whole(turned)
    assert (code, [line.split("  ")[0] for line in out_turned.splitlines()[1:5]]) == (0, ["prior", "by plain", "GPS", "plain"])
    assert [record.row for record in read_records(records)] == ["prior", "by plain", "GPS", "plain"]
    again = sweep(out=str(tmp_path / "once"))
    code, once, err = whole(again)
    assert code == 0, err[-3000:]
    assert once.splitlines()[:5] == out.splitlines()[:5]
    assert main(["compare", "--table", str(tmp_path / "once"), "--out", str(tmp_path / "later")]) == 0
    assert (tmp_path / "later" / "cells.csv").read_text() == (tmp_path / "once" / "cells.csv").read_text()


@pytest.mark.host
@pytest.mark.slow
def test_killed_just_after_a_record_the_cell_is_not_trained_again_for_its_checkpoint(sweep, tmp_path):
    file, records = sweep(alone={}), tmp_path / "a b" / "records"
    program = f"""
        import os, signal
        from solo_gps.commands import cell, cli
        def killed(*given, write=cell.write_record):
            write(*given)
            os.kill(os.getpid(), signal.SIGKILL)
        cell.write_record = killed
        cli.main(["compare", {str(file)!r}])
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    (record,) = records.glob("*.json")
    before = record.stat().st_mtime_ns
    code, _, err = whole(file)
    assert code == 0, err[-3000:]
    assert (len(list(records.glob("*.json"))), record.stat().st_mtime_ns) == (3, before)


@pytest.mark.host
@pytest.mark.slow
def test_each_cell_is_a_run_of_its_own_for_wandb(sweep, tmp_path):
    pytest.importorskip("wandb")
    logged = ["++wandb.enabled=true", "++wandb.project=p", "++wandb.entity=e", "++wandb.offline=true"]
    axes = {"positives": {"plain": [], "GPS": ["+sampler=gps", "sampler.gps.k=2", "+prior=pixels"]}}
    code, _, err = whole(sweep(axes=axes, overrides=logged, alone={}), cwd=tmp_path)
    assert code == 0, err[-3000:]
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2


@pytest.mark.host
@pytest.mark.slow
def test_a_cell_that_fails_leaves_the_others_and_an_error_at_the_end(sweep, tmp_path):
    axes = {"positives": {"plain": [], "bad": ["++optimizer.lr=1e30", "++max_steps=6"]}}  # its weights are no numbers at the end
    code, out, err = whole(sweep(axes=axes, alone={}, baseline={}, equal_steps=False))
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()[1:2]] == ["plain"]
    assert "bad, seed 3: failed" in err
    assert err.splitlines()[-1].startswith("solo-gps: 1 of 2 cells have no record (bad)")


@pytest.mark.host
@pytest.mark.slow
def test_cells_of_two_processes_are_trained_one_after_the_other(sweep, tmp_path):
    axes = {"positives": {"plain": [], "GPS": ["+sampler=gps", "sampler.gps.k=2", "+prior=pixels"]}}
    code, _, err = whole(sweep(axes=axes, alone={}), "devices=2", "strategy=ddp")
    assert code == 0, err[-3000:]
    assert [(record.row, record.steps) for record in read_records(tmp_path / "a b")] == [("plain", 2), ("GPS", 2)]


@pytest.mark.host
@pytest.mark.slow
def test_curves_are_judged_and_checkpoints_dropped_where_nobody_needs_them(sweep, tmp_path, digits):
    judge = {"train": str(digits / "train"), "test": str(digits / "val"), "metrics": ["knn"], "k": 3, "every": 1}
    axes = {"positives": {"plain": ["++max_steps=-1", "++max_epochs=3"]}}
    code, _, err = whole(sweep(judge=judge, axes=axes, alone={}, keep_checkpoints=False))
    assert code == 0, err[-3000:]
    (record,) = read_records(tmp_path / "a b")
    assert [point["epochs"] for point in record.curve] == [1, 2, 3]
    assert record.curve[-1]["figures"] == record.figures
    assert not list((tmp_path / "a b").glob("**/*.ckpt"))


@pytest.mark.host
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"axes": {"positives": {"GPS": ["+sampler=gps", "sampler.gps.k=0"]}}}, "GPS: sampler.gps: k=0 must be at least 1"),
        ({"axes": {"positives": {"GPS": ["+sampler=gsp"]}}}, "GPS: "),
        ({"judge": {"train": "nowhere", "test": "b"}}, "judge.train='nowhere': no such folder"),
        ({"recipe": "mall"}, "mall.yaml: no such recipe"),
        ({"alone": {"odd": ["pixels", "imagesize=8"]}}, "odd: prior.imagesize: no such key"),
        ({"axes": {"positives": {"plain": ["++data.train_path=/nowhere"]}}}, "plain: "),
        ({"axes": {"positives": {"plain": ["++backbone.name=resnet19"]}}}, "plain: unknown backbone (backbone.name) 'resnet19'"),
        ({"axes": {"positives": {"plain": ["++optimizer.kwargs={speed: 3}"]}}}, "plain: "),
        ({"axes": {"positives": {"plain": ["++optimizer.lr=fast"]}}}, "plain: "),
        ({"axes": {"positives": {"plain": ["++data.val_path=/nowhere"]}}}, "plain: "),
        ({"axes": {"positives": {"plain": ["++gradient_clip_val=much"]}}}, "plain: solo-learn ended while reading the recipe"),
        ({"axes": {"positives": {"plain": ["++optimizer.batch_size=49"]}}}, "plain: the training set has 48 images"),
        ({"axes": {"positives": {"GPS": ["+sampler=gps", "sampler.gps.k=48"]}}}, "GPS: k=48 neighbours of N=48 images"),
        ({"axes": {"positives": {"GPS": ["+sampler=gps", "++optimizer.batch_size=49"]}}}, "GPS: the training set has 48"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_training(sweep, capsys, tmp_path, keys, words):
    file = sweep(**{"baseline": {}, **keys})
    assert main(["compare", str(file)]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "a b").exists()


@pytest.mark.host
@pytest.mark.parametrize(
    "keys",
    [
        {
            "checkpoint.dir": "${hydra:runtime.cwd}/ck",
            "name": "run-${hydra:job.num}",
            "wandb.project": "${hydra:runtime.output_dir}",
        },
        {"checkpoint.dir": "/dev/null/nowhere"},  # a cell's are in the folder of the sweep
        {"accelerator": "gpu", "devices": [0, 1], "strategy": "ddp", "precision": "16-mixed", "sync_batchnorm": True},
        {"max_epochs": -1},
    ],
)
def test_what_trains_is_not_refused_before_the_first_training(sweep, tmp_path, keys):
    if "max_epochs" in keys and detect_host().generation == "1.0.2":
        pytest.skip("its own programs want a number of epochs")
    axes = {"positives": {"plain": [], "longer": ["++resume_from_checkpoint={checkpoint of plain}", "++max_steps=4"]}}
    file = sweep(axes=axes, baseline={})
    cfg = OmegaConf.load(tmp_path / "small.yaml")
    for key, value in keys.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    OmegaConf.save(cfg, tmp_path / "small.yaml")
    asked = read_sweep(file)
    _check(asked, asked.cells, [])


@pytest.mark.host
def test_trying_a_row_out_changes_nothing_for_the_others(sweep):
    cudnn, plain = torch.backends.cudnn, ["++deterministic=true", "++benchmark=true"]
    asked = read_sweep(sweep(axes={"positives": {"plain": plain, "GPS": [*plain, "+sampler=gps", "sampler.gps.k=2"]}}))

    def state():
        flags = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.deterministic
        return flags, dict(os.environ), torch.get_rng_state().tolist(), HydraConfig.instance().cfg, logging.root.manager.disable

    before = state()
    _check(asked, asked.cells, [])
    assert state() == before


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The feature LinearWarmupCosineAnnealingLR")  # of 1.0.2's own scheduler
def test_a_cells_settings_of_torch_end_with_it(sweep, tmp_path):
    """In one process: what Lightning sets for a deterministic row would else be the next row's, too."""
    file = sweep(axes={"positives": {"exact": ["++deterministic=true"]}}, alone={}, baseline={})
    assert not torch.are_deterministic_algorithms_enabled()
    variable = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    assert main(["compare", str(file)]) == 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == variable


@pytest.mark.host
def test_the_rows_of_a_table_list_its_images_once(sweep, monkeypatch):
    host, listed = type(detect_host()), []
    build = host.build_train_set
    monkeypatch.setattr(host, "build_train_set", lambda self, *args: listed.append(args) or build(self, *args))
    asked = read_sweep(sweep())
    _check(asked, asked.cells, [])
    assert len(listed) == 1


@pytest.mark.host
def test_judging_every_so_many_epochs_that_miss_the_last_is_refused(sweep, capsys, digits):
    judge = {"train": str(digits / "train"), "test": str(digits / "val"), "every": 5}
    assert main(["compare", str(sweep(judge=judge, overrides=["++max_epochs=10"]))]) == 1
    assert "judge.every=5 with max_epochs=10, max_steps=2: solo-learn saves after 1, 6, 11" in capsys.readouterr().err


@pytest.mark.host
@pytest.mark.parametrize(
    "word", ["max_epochs=3", "+sampler=gps", "~sampler=gps", "precision=16", "data.train_path=x", "hydra.searchpath=[x]"]
)
def test_words_that_would_change_a_cell_are_refused(sweep, capsys, word):
    assert main(["compare", str(sweep()), word]) == 1
    assert "would change what the cells are" in capsys.readouterr().err


@pytest.mark.host
def test_two_at_once_in_one_folder_are_refused(sweep, capsys, tmp_path):
    (tmp_path / "a b").mkdir()
    with FileLock(tmp_path / "a b" / ".lock"):
        assert main(["compare", str(sweep())]) == 1
    assert "another solo-gps compare is at work there" in capsys.readouterr().err


@pytest.mark.host
@pytest.mark.parametrize(
    ("judge", "words"), [({"k": 60}, "k=60 neighbours among 48 images"), ({"test": "train"}, "the same folder as train")]
)
def test_images_that_cannot_judge_are_said_before_the_first_training(sweep, capsys, digits, judge, words):
    usual = {"train": str(digits / "train"), "test": str(digits / "val"), "metrics": ["knn"], "k": 3}
    other = {key: str(digits / value) if key == "test" else value for key, value in judge.items()}
    assert main(["compare", str(sweep(judge={**usual, **other}))]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.host
@pytest.mark.slow
def test_an_interrupt_ends_all_and_leaves_no_record_of_the_half_trained(sweep, tmp_path):
    axes = {"positives": {"plain": ["++max_steps=-1", "++max_epochs=500"], "other": ["++max_steps=3", "++max_epochs=500"]}}
    file = sweep(axes=axes, alone={}, baseline={}, equal_steps=False, out=str(tmp_path / "é =1 (x)"))
    # Whoever runs the tests in the background may have them, and all that they start, ignore it.
    process = typed(file, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("é =1 (x)/cells/plain*/**/*.ckpt")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode != 0
    assert not list(tmp_path.glob("é =1 (x)/records/*.json")), err[-2000:]
    assert not list(tmp_path.glob("é =1 (x)/cells/other*"))


def test_list_shows_what_is_left_and_trains_nothing(sweep, capsys, tmp_path):
    assert main(["compare", str(sweep()), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"to do     {row}" for row in ("prior", "plain, seed 3", "GPS, seed 3", "by plain, seed 3")]
    assert not (tmp_path / "a b").exists()


@pytest.mark.host
@pytest.mark.slow
def test_only_what_is_asked_for_is_trained_with_what_it_reads(sweep, capsys, tmp_path):
    file = sweep(seeds=[3, 4], keep_checkpoints=False)
    code, out, err = whole(file, "--only", "plain, seed 4")
    assert code == 0, err[-3000:]
    (plain,) = (tmp_path / "a b" / "records").iterdir()
    trained = plain.stat().st_mtime_ns
    code, out, err = whole(file, "--only", "by plain, seed 4", "--only", "prior", "hydra/launcher=submitit_local")
    assert code == 0, err[-3000:]
    assert plain.stat().st_mtime_ns == trained, "its checkpoint was kept for the row that reads it"
    assert [(record.row, record.seed) for record in read_records(tmp_path / "a b")] == [
        ("prior", None),
        ("plain", 4),
        ("by plain", 4),
    ]
    assert "drawn: rows.svg" in out
    assert (tmp_path / "a b" / "rows.svg").read_text().startswith("<?xml")
    assert main(["compare", str(file), "--list", "--only", "*plain"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "to do     plain, seed 3",
        "to do     by plain, seed 3",
        "finished  plain, seed 4",
        "finished  by plain, seed 4",
    ]


def test_the_list_says_why_a_finished_cell_is_trained_again(sweep, capsys, tmp_path):
    file = sweep()
    plain = next(cell for cell in read_sweep(file).cells if cell.row == "plain")
    write_record(tmp_path / "a b" / "records", plain.name, record_of(plain, steps=2, figures={"knn_weighted": 0.5}, facts={}))
    assert main(["compare", str(file), "--list", "--only", "by plain"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "to do     plain, seed 3 (again: its checkpoint, which another reads, is gone)",
        "to do     by plain, seed 3",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "wanted a sweep file, or --table with a folder of records; got neither"),
        (["x.yaml", "--table", "y"], "got both, x.yaml and --table y"),
        (["x.yaml"], "x.yaml: no such file"),
        (["--table", "y", "--list"], "--list and --only choose among the cells of a sweep file"),
    ],
)
def test_a_sweep_or_a_table(words, said, capsys):
    assert main(["compare", *words]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["GPS [a]", "GPS [a], seed 3", "GPS [a]*", "*[a]*"])
def test_a_name_with_brackets_is_a_name(sweep, pattern, capsys):
    axes = {"positives": {"plain": [], "GPS [a]": ["+sampler=gps", "sampler.gps.k=2"]}}
    assert main(["compare", str(sweep(axes=axes)), "--list", "--only", pattern]) == 0
    assert capsys.readouterr().out.splitlines() == ["to do     GPS [a], seed 3"]


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--only", "gps"], "--only 'gps': no cell is called so; the first is 'prior'"), (["a.yaml"], "KEY=VALUE")],
)
def test_a_list_that_nothing_would_come_of_is_an_error(sweep, words, said, capsys):
    assert main(["compare", str(sweep()), *words, "--list"]) == 1
    assert said in capsys.readouterr().err


RECEIPT = {"ended": "finished", "samplers": {"gps": {}}, "share_guided": 1.0}


@pytest.mark.parametrize(
    ("receipt", "asked", "words"),
    [
        (None, ["gps"], "no solo_gps_receipt.json beside the checkpoint"),
        ({**RECEIPT, "ended": "ended by KeyboardInterrupt"}, ["gps"], "says ended by KeyboardInterrupt"),
        (RECEIPT, ["gps", "pnn"], "wanted a finished run by gps and pnn"),
        ({**RECEIPT, "share_guided": 0.0}, ["gps"], "not one item of the run was guided"),
        (RECEIPT, [], "the receipt of a guided run beside a plain one"),
    ],
)
def test_a_receipt_that_does_not_fit_is_no_record(tmp_path, receipt, asked, words):
    if receipt is not None:
        (tmp_path / "solo_gps_receipt.json").write_text(json.dumps(receipt))
    with pytest.raises(HostError, match=words):
        checked_receipt(tmp_path, asked)
