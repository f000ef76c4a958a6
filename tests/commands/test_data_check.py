"""`solo-gps data check` against what solo-learn itself does with every odd file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from odd_images import write_odd_folder
from PIL import Image

from solo_gps.commands.cli import main
from solo_gps.hosts.detect import detect_host
from solo_gps.survey import survey

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write_odd_folder(tmp_path_factory.mktemp("odd") / "data" / "train")


def report(folder, *words, code=1):
    file = folder.parent / "report.json"
    assert main(["data", "check", str(folder), "--json", str(file), *words]) == code
    return json.loads(file.read_text())


def names(seen, what):
    (finding,) = [finding for finding in seen["findings"] if finding["what"] == what]
    return [name.split(":")[0] for name in finding["names"]]


def test_the_docs_show_what_is_printed(odd, monkeypatch, capsys):
    monkeypatch.chdir(odd.parents[1])
    assert main(["data", "check", "data/train"]) == 1
    text = (ROOT / "docs" / "data.md").read_text()
    (shown,) = re.findall(r"```text\n(data/train: .*?)```", text, re.DOTALL)
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("workers", ["0", "2"])
def test_every_kind_of_trouble_is_found_by_any_number_of_workers(odd, workers):
    seen = report(odd, "--workers", workers)
    assert names(seen, "cannot be read") == ["cat/truncated.jpg", "dog/gone.png", "dog/huge.png", "dog/page.jpg"]
    assert names(seen, "class folder without an image") == [".ipynb_checkpoints", "empty"]
    assert names(seen, "more than 8 bits (docs/data.md)") == ["cat/16-bit.png", "cat/float.tiff"]
    assert names(seen, "link to a folder above it") == ["cat/loop"]
    assert names(seen, "the same file in several classes") == ["cat/0.png = dog/cat.png"]
    assert seen["images"] == sum(seen["modes"].values()) + 4 == 16
    assert seen["bad"]


@pytest.mark.host
def test_what_is_called_readable_or_not_is_so_for_solo_learn(odd, tmp_path):
    """Each image by the host's own dataset, unguided: what stops it, and what it makes white."""
    seen = report(odd)
    stops, lost = names(seen, "cannot be read"), names(seen, "more than 8 bits (docs/data.md)")
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted(odd.glob("*/*.[pjt]*")):
        if path.suffix in (".png", ".jpg", ".tiff"):
            (flat / f"{path.parent.name}_{path.name}").symlink_to(path)
    data = {"dataset": "custom", "format": "image_folder", "no_labels": True, "fraction": -1.0, "train_path": str(flat)}
    dataset = detect_host().build_train_set(data, None)
    unread, grey = [], {}
    for row, name in enumerate(dataset.images):
        try:
            grey[name.replace("_", "/", 1)] = np.asarray(dataset[row][1])
        except Exception:  # noqa: BLE001 - what Pillow raises
            unread.append(name.replace("_", "/", 1))
    assert sorted(unread) == stops
    assert sorted(name for name, pixels in grey.items() if np.isin(pixels, (0, 1, 255)).mean() > 0.9) == [*lost, "dog/white.png"]


def test_a_sound_folder_is_exit_code_0(digits, capsys):
    assert main(["data", "check", str(digits / "train")]) == 0
    assert "Nothing would stop a run" in capsys.readouterr().out


def test_a_flat_folder(odd, tmp_path):
    flat = tmp_path / "flat"
    (flat / "folder").mkdir(parents=True)
    Image.new("RGB", (4, 5), (1, 2, 3)).save(flat / "a.gif")
    (flat / "list.csv").write_text("a,b")
    os.mkfifo(flat / "pipe.png")
    seen = report(flat, "--flat")
    assert names(seen, "folder among the images") == ["folder"]
    assert names(seen, "cannot be read") == ["list.csv"]
    assert names(seen, "neither file nor folder") == ["pipe.png"]
    assert seen["modes"] == {"P": 1}
    (tmp_path / "none").mkdir()
    assert names(report(tmp_path / "none", "--flat"), "no image at all") == [str(tmp_path / "none")]


def test_f5_names_that_are_no_utf_8(tmp_path, capsys):
    folder = os.fsencode(tmp_path / "set" / "a")
    os.makedirs(folder)
    with open(os.path.join(folder, b"\xff.png"), "wb") as file:
        file.write(b"no image")
    seen = report(tmp_path / "set")
    assert names(seen, "cannot be read") == ["a/\udcff.png"]
    assert r"a/\xff.png" in capsys.readouterr().out


def test_what_cannot_be_checked_is_one_error(tmp_path, capsys):
    for words, text in (([str(tmp_path / "nowhere")], "no such folder"), ([str(tmp_path), "--workers", "-2"], "--workers=-2")):
        assert main(["data", "check", *words]) == 1
        assert text in capsys.readouterr().err


@pytest.mark.skipif(detect_host().generation != "1.0.6", reason="H5 came with solo-learn 1.0.6")
def test_an_h5_file(odd, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "set.h5"
    with h5py.File(file, "w") as h5:
        for path in (odd / "cat" / "0.png", odd / "cat" / "16-bit.png", odd / "cat" / "truncated.jpg"):
            h5.require_group("cat")[path.name] = np.frombuffer(path.read_bytes(), np.uint8)
    seen = survey(str(file), "h5")
    assert [(finding.what, finding.names[0].split(":")[0]) for finding in seen.findings] == [
        ("cannot be read", "cat/truncated.jpg"),
        ("more than 8 bits (docs/data.md)", "cat/16-bit.png"),
    ]
    (tmp_path / "set.txt").write_text("cat/other.png 0\n")
    (finding,) = survey(str(file), "h5").findings
    assert "of another H5 file of that name" in finding.names[0]
