"""The command as typed: exit codes, one clear line, and a real guided training."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from solo_gps.commands import cli
from solo_gps.commands.recipes import recipe_names

ROOT = Path(__file__).parents[2]


def solo_gps(*arguments, cwd):
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "solo_gps", *arguments], capture_output=True, text=True, cwd=cwd, env=environ)


def small(digits):
    return [
        f"data.train_path={digits / 'train'}",
        "max_epochs=1",
        "optimizer.batch_size=16",
        "data.num_workers=0",
        "accelerator=cpu",
        "+enable_progress_bar=False",
    ]


@pytest.mark.parametrize("command", [[], ["pretrain"], ["demo"], ["doctor"], ["cache"], ["evaluate"], ["inspect"], ["prior"]])
def test_every_command_has_help_with_an_example(command, capsys):
    try:
        code = cli.main([*command, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    assert "example" in capsys.readouterr().out


def test_recipes_are_listed(capsys):
    assert cli.main(["pretrain", "--list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["recipe", "paper", "row", "data", "size"]
    assert [line.split()[0] for line in lines] == recipe_names()
    (row,) = (line for line in lines if line.startswith("gps/cifar10/byol_strong "))
    assert re.split(r" {2,}", row)[1:] == ["GPS-SSL", "BYOL, strong", "CIFAR-10", "50,000 images, 32 x 32"]


def test_recipes_are_listed_by_words(capsys):
    assert cli.main(["pretrain", "--list", "BYOL", "pathmnist"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["gps/pathmnist/byol_strong", "gps/pathmnist/byol_weak"]
    for words in (["cifra10"], ["byol", "sepp"], ["--config-path", "mine"]):
        assert cli.main(["pretrain", "--list", *words]) == 1
        assert re.fullmatch(r"solo-gps: unknown word of (the|these) recipes '[^']+'; known: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["GPS/CIFAR10/SimCLR_Weak", "cifar10/simclr_weak", "gps/cifar10/simclr"])
def test_an_unknown_recipe_names_the_closest_ones_not_all(name, capsys):
    assert cli.main(["pretrain", "--config-name", name]) == 1
    error = capsys.readouterr().err
    assert "Did you mean 'gps/cifar10/simclr_weak'? `solo-gps pretrain --list` shows all" in error
    assert f"and {len(recipe_names()) - 8} others." in error


def test_an_unknown_recipe_is_one_line(capsys):
    assert cli.main(["pretrain", "--config-name", "simclr_digit"]) == 1
    error = capsys.readouterr().err
    assert "unknown recipe 'simclr_digit'" in error
    assert "Did you mean 'simclr_digits'?" in error
    assert error.count("\n") == 1


@pytest.mark.host
def test_doctor_says_what_is_there(tmp_path):
    done = solo_gps("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("solo-learn: 1.0.", "samplers: gps", "ready: add +sampler=gps"):
        assert word in done.stdout


@pytest.mark.host
@pytest.mark.parametrize("own_folder", [False, True])
def test_pretrain_trains_guided_by_name_and_from_a_folder_of_ones_own(own_folder, digits, tmp_path):
    where = []
    if own_folder:
        (tmp_path / "mine").mkdir()
        recipe = (ROOT / "configs" / "recipe" / "simclr_digits.yaml").read_text()
        (tmp_path / "mine" / "simclr_digits.yaml").write_text(recipe)
        where = ["--config-path", "mine"]
    done = solo_gps(
        "pretrain", *where, "--config-name", "simclr_digits", *small(digits), "+sampler=gps", "sampler.gps.k=3", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ours = [line for line in done.stderr.splitlines() if line.startswith("solo-gps: ") and not line.endswith(" left")]
    seconds, share = r"(?:\d+\.\d s|\d+ min \d\d s)", r"\d+\.\d %"
    lines = [
        r"switched on: gps on simclr \(solo-learn 1\.0\.\d\)",
        rf"prior patches: built the embeddings of 48 images in {seconds} \(\d+ dimensions\) in {tmp_path}/\S+",
        rf"neighbours: the 3 nearest of 48 images found in {seconds} \(torch on \w+, exact\)",
        rf"gps: every one of 48 images has 3 neighbours; {share} of all neighbours have the anchor's label, and {share} of the "
        "positives chosen among them",
        rf"receipt: \d+ items seen in \d+ steps \(finished\); 100\.0 % of them guided; {share} of the positives used had the "
        rf"anchor's label; {share} of all neighbours in the table of gps have it",
        r"receipt: by gps with k=3; prior patches, "
        r"embeddings \w{12}; table of gps \w{12}; "
        r"solo-learn 1\.0\.\d; all of it in trained_models/simclr/\S+/solo_gps_receipt\.json",
        r"report: trained_models/simclr/\S+/solo_gps_report\.html",
    ]
    for line, wanted in zip(ours, lines, strict=True):
        assert re.fullmatch(f"solo-gps: {wanted}", line), line
    assert "solo_gps" not in done.stdout


@pytest.mark.host
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+sampler=gps", "sampler.gps.k=4800"], "k=4800"),
        (["+sampler=gps", "+sampler.gps.kk=3"], "Did you mean 'k'?"),
        (["+sampler=gps", "method=simlcr"], "Did you mean 'simclr'?"),
        (["+sampler=gps", "data.train_path=nowhere"], "no such folder"),
        (["+sampler={gsp: {}}"], "Did you mean 'gps'?"),
        (["+sampler=gsp"], "sampler/gsp"),
        (["+prior=pixels", "+search=torch", "+refresh=features"], "prior and search and refresh without a sampler"),
    ],
)
def test_bad_input_ends_with_one_clear_error_and_nothing_written(overrides, message, digits, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    done = solo_gps("pretrain", "--config-name", "simclr_digits", *small(digits), *overrides, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    left = {path.name for path in tmp_path.iterdir()} - set(before)
    assert left <= {"prior-cache"}


def test_config_path_is_relative_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rest, path, name = cli._absolute_config_path(["--config-path", "recipes", "--config-name=x", "+sampler=gps", "-m"])
    assert rest == ["--config-path", str(tmp_path / "recipes"), "--config-name", "x", "+sampler=gps", "-m"]
    assert (path, name) == ("recipes", "x")


@pytest.mark.host
def test_a_cache_is_built_with_a_priors_keys_listed_verified_and_removed(digits, capsys):
    folder = str(digits / "train")
    assert cli.main(["cache", "build", folder, "--prior", "pixels", "image_size=8", "space=cosine", "--k", "3"]) == 0
    built = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert (built / "embeddings.npy").is_file()
    assert cli.main(["cache", "verify", built.name[:6]]) == 0
    assert cli.main(["cache", "list"]) == 0
    head, line = capsys.readouterr().out.splitlines()[-2:]
    shown = dict(zip(re.split(r"\s{2,}", head), re.split(r"\s{2,}", line), strict=True))
    assert shown["fingerprint"] == built.name[:12]
    assert (shown["model"], shown["tables"], shown["images in"]) == ("-", "1", str(digits / "train"))
    assert cli.main(["cache", "show", built.name[:6]]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["last_seen_in"] == str(digits / "train")
    assert [(table["k"], table["space"]) for table in told["tables"].values()] == [(3, "cosine")]
    assert cli.main(["cache", "remove", built.name[:6]]) == 0
    assert not built.exists()
    assert cli.main(["cache", "build", folder, "--prior", "pixels", "image_sise=8"]) == 1
    assert "Did you mean 'image_size'?" in capsys.readouterr().err


@pytest.mark.host
def test_the_folder_of_caches_may_be_named_before_the_command_or_after_it(digits, tmp_path, capsys):
    folder, here, there = str(digits / "train"), str(tmp_path / "here"), str(tmp_path / "there")
    build = ["build", folder, "--prior", "pixels", "image_size=4"]
    assert cli.main(["cache", *build, "--cache-dir", here]) == 0
    built = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert built.parent == Path(here)
    for arguments in (["--cache-dir", here, "list"], ["list", "--cache-dir", here]):
        assert cli.main(["cache", *arguments]) == 0
        assert built.name[:12] in capsys.readouterr().out
    assert cli.main(["cache", "--cache-dir", there, *build]) == 0
    for command in ("show", "verify", "remove"):
        assert cli.main(["cache", command, built.name[:6], "--cache-dir", here]) == 0
    capsys.readouterr()
    assert cli.main(["cache", "list", "--cache-dir", here]) == 0
    assert capsys.readouterr().out == f"no caches in {here}\n"
    assert (Path(there) / built.name / "embeddings.npy").is_file()


@pytest.mark.host
@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (["cache", "build"], ["--prior", "pixels", "name=pca"], "--prior pixels name=pca: two priors named"),
        (["sepp", "sweep"], ["--prior", "pixels", "name=pca"], "--prior pixels name=pca: two priors named"),
        (["cache", "build"], ["--prior", "pixels", "--k", "0"], "k=0: wanted at least 1 neighbour"),
        (["cache", "build"], ["--prior", "pixels", "--k", "48"], "k=48 neighbours of N=48 images"),
    ],
)
def test_a_wrong_word_ends_a_command_before_anything_is_embedded(command, arguments, message, digits, own_cache, capsys):
    assert cli.main([*command, str(digits / "train"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not own_cache.exists()


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize(
    "typed", [["-m", "solo_gps"], [str(Path(sys.executable).with_name("solo-gps"))]], ids=["module", "script"]
)
def test_two_devices_are_two_ranks_of_the_same_command(typed, digits, tmp_path):
    """Lightning starts the second one by the command line as it was typed."""
    keys = small(digits)
    if typed[0] == "-m" and not torch.cuda.is_available():
        keys.remove("accelerator=cpu")  # the shipped recipe's auto is the CPU as well
    recipe = ["pretrain", "--config-name", "simclr_digits", "+sampler=gps", "+prior=pixels", "sampler.gps.k=3", *keys]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PL_TORCH_DISTRIBUTED_BACKEND": "gloo"}
    done = subprocess.run(
        [sys.executable, *typed, *recipe, "devices=2", "strategy=ddp"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environ,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "MEMBER: 2/2" in done.stderr
    assert "max_epochs=1` reached" in done.stderr
