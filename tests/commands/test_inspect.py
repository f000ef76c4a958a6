"""`solo-gps inspect` as it is typed."""

from __future__ import annotations

import json
import shutil

import pytest

from solo_gps.commands.cli import main

PIXELS = ["--prior", "pixels", "image_size=8"]


@pytest.fixture
def flat(digits, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for file in sorted((digits / "train").glob("*/*.png")):
        shutil.copy(file, folder / f"{file.parent.name}-{file.name}")
    return folder


@pytest.mark.host
def test_weights_that_cannot_be_read_are_said_before_another_prior_is_embedded(digits, tmp_path, capsys, own_cache):
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(b"nothing")
    words = ["--prior", "checkpoint", f"path={damaged}", "architecture=resnet18", "image_size=32"]
    assert main(["inspect", str(digits / "train"), *PIXELS, *words, "--no-page"]) == 1
    said = capsys.readouterr().err
    assert "checkpoint path=" in said
    assert "is damaged" in said
    assert not own_cache.exists()


@pytest.mark.host
def test_a_file_that_cannot_be_written_is_said_before_any_work(digits, tmp_path, capsys, own_cache):
    assert main(["inspect", str(digits / "train"), *PIXELS, "--no-page", "--json", str(tmp_path)]) == 1
    assert f"--json='{tmp_path}': is a folder. Name a file in it" in capsys.readouterr().err
    assert not own_cache.exists()


@pytest.mark.host
def test_two_priors_of_a_labelled_folder(digits, tmp_path, capsys):
    file = tmp_path / "numbers.json"
    words = [*PIXELS, "--prior", "pca", "dimensions=4", "image_size=8", "--json", str(file), "--out", str(tmp_path / "a b")]
    assert main(["inspect", str(digits / "train"), *words]) == 0
    out = capsys.readouterr().out
    page = tmp_path / "a b" / "report.html"
    assert out.endswith(f"\npage: {page}\n")
    assert f"solo-gps inspect {digits / 'train'} --prior pixels image_size=8 --prior pca" in page.read_text()
    assert (page.parent / "purity.svg").is_file()
    seen = json.loads(file.read_text())
    assert f"{digits / 'train'}: 48 images, 4 classes\n" in out
    assert "pixels image_size=8  pca dimensions=4 image_size=8" in out
    for prior in seen["priors"]:
        (ten,) = [ball for ball in prior["by_k"] if ball["k"] == 10]
        assert f"{100 * ten['purity']['uniform']:.1f} %" in out
        assert f"{prior['name']}: {prior['advice']['verdict']}. " in out
        assert prior["advice"]["suggestions"][0]["keys"] in out
        worst = prior["classes"][0]
        assert f"worst told of 4 classes: {seen['classes'][str(worst['label'])]} {100 * worst['accuracy']:.1f} %" in out
    (shared,) = seen["agreement"]["shared"]
    assert f"share {100 * shared['share']:.1f} % of their nearest neighbours (21.3 % by chance)" in out


@pytest.mark.host
def test_a_flat_folder_has_no_purity(flat, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", str(flat), "--flat", *PIXELS, "--no-page"]) == 0
    assert not (tmp_path / "runs").exists()
    out = capsys.readouterr().out
    assert "48 images, no labels to judge by" in out
    assert "purity" not in out
    assert "hubness (skewness)" in out
    assert "+prior=pixels prior.image_size=8 +sampler=gps sampler.gps.k=10 sampler.gps.choose=uniform" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--prior", "pixles"], "Did you mean 'pixels'"),
        ([*PIXELS, *PIXELS], "--prior pixels image_size=8: is there twice"),
        (["--prior", "pixels", "image_size"], "wanted KEY=VALUE"),
        (["--prior", "array", "path=\udcff.npy"], "cannot be read as YAML"),
        (["--prior", "pixels", "image_size=[1"], "image_size=[1: cannot be read as YAML"),
        (["--fraction", "2"], "wanted a share between 0 and 1"),
        (["--scale", "owm"], "owm"),
        (["--out", "/dev/null/page"], "--out='/dev/null/page': /dev/null is no folder"),
        (["--json", "/dev/null/file.json", "--no-page"], "--json='/dev/null': /dev/null is no folder"),
    ],
)
def test_a_mistake_is_one_line(words, says, digits, capsys, own_cache):
    assert main(["inspect", str(digits / "train"), *words]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not own_cache.exists()


def test_no_such_folder(capsys):
    assert main(["inspect", "nowhere"]) == 1
    assert "no such folder" in capsys.readouterr().err
