"""`solo-gps data order` prints the order in which the installed solo-learn indexes a training set."""

from __future__ import annotations

import os

import numpy as np
import pytest

from solo_gps.commands.cli import main
from solo_gps.embeddings import embed
from solo_gps.hosts.detect import detect_host
from solo_gps.hosts.images import host_images

pytestmark = pytest.mark.host
DATA = {"dataset": "custom", "format": "image_folder", "no_labels": False, "fraction": -1.0}


def host_set(folder, **keys):
    return detect_host().build_train_set({**DATA, "train_path": str(folder), **keys}, None)


def test_class_folders(digits, capfd):
    assert main(["data", "order", str(digits / "train")]) == 0
    expected = [os.path.relpath(path, digits / "train") for path, _ in host_set(digits / "train").samples]
    assert capfd.readouterr().out.splitlines() == expected == sorted(expected)


def test_b3_a_share_of_the_classes(digits, capfd):
    assert main(["data", "order", str(digits / "train"), "--fraction", "0.5"]) == 0
    expected = [os.path.relpath(path, digits / "train") for path, _ in host_set(digits / "train", fraction=0.5).samples]
    assert capfd.readouterr().out.splitlines() == expected
    assert len(expected) < len(host_set(digits / "train"))


@pytest.fixture
def flat(digits, tmp_path, monkeypatch):
    """A flat folder that the file system lists from z to a."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for path in sorted((digits / "train").glob("*/*.png"))[::20]:
        (folder / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda place=".": sorted(listdir(place), reverse=True))
    return folder


def test_b2_a_flat_folder_in_the_file_systems_order(flat, tmp_path):
    out = tmp_path / "order.txt"
    assert main(["data", "order", str(flat), "--flat", "--output", str(out)]) == 0
    names = out.read_text().splitlines()
    assert names == sorted(names, reverse=True) == host_set(flat, no_labels=True).images


@pytest.mark.usefixtures("cache_dir")
def test_b2_rows_by_sorted_names_guide_a_flat_folder(flat, tmp_path):
    names = sorted(path.name for path in flat.iterdir())
    rows = np.array([[int(name[0])] for name in names], np.float32)
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "names.txt").write_text("\n".join(names))
    prior = {"name": "array", "path": str(tmp_path / "rows.npy"), "names": str(tmp_path / "names.txt")}
    images = host_images(host_set(flat, no_labels=True))
    assert images.unsorted is not None
    assert embed(images, prior).array[:, 0].tolist() == [int(name[0]) for name in images.names]


def test_what_cannot_be_listed_is_one_error(digits, tmp_path, capsys):
    (tmp_path / "odd").mkdir()
    image = next((digits / "train").glob("*/*.png")).read_bytes()
    (tmp_path / "odd" / "a\nb.png").write_bytes(image)
    for words, text in (
        ([str(tmp_path / "nowhere")], "no such folder of images"),
        ([str(digits / "train"), "--fraction", "2"], "--fraction 2.0: wanted a share between 0 and 1"),
        ([str(tmp_path / "odd"), "--flat"], "a name with a line break"),
    ):
        assert main(["data", "order", *words]) == 1
        assert text in capsys.readouterr().err


@pytest.mark.skipif(detect_host().generation != "1.0.6", reason="H5 came with solo-learn 1.0.6")
def test_an_h5_file(digits, tmp_path, monkeypatch, capfd):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setenv("HOME", str(tmp_path))  # solo-learn writes a list of the file there
    with h5py.File(tmp_path / "set.h5", "w") as file:
        for path in sorted((digits / "train").glob("*/*.png"))[::-40]:
            file.require_group(path.parent.name)[path.name] = np.frombuffer(path.read_bytes(), np.uint8)
    assert main(["data", "order", str(tmp_path / "set.h5")]) == 0
    names = capfd.readouterr().out.splitlines()
    assert names == sorted(names)
    assert names == [f"{group}/{name}" for group, name, _ in host_set(tmp_path / "set.h5", dataset="imagenet", format="h5")._data]
