"""Brought embeddings: their rows find their images by name, or by position where that says whose they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sets import FolderImages
from PIL import Image
from torchvision.datasets import ImageFolder

from solo_gps.embeddings import embed
from solo_gps.errors import DataError
from solo_gps.hosts.images import host_images

N = 5
ROWS = np.arange(N * 2, dtype=np.float32).reshape(N, 2)


@pytest.fixture
def images(tmp_path: Path) -> Any:
    for index in range(N):
        folder = tmp_path / "train" / str(index % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (index, 0, 0)).save(folder / f"{index}.png")
    found = FolderImages(tmp_path / "train")
    assert found.names == ["0/0.png", "0/2.png", "0/4.png", "1/1.png", "1/3.png"]
    return found


@pytest.fixture
def prior(tmp_path: Path, cache_dir: Path) -> dict[str, Any]:
    np.save(tmp_path / "rows.npy", ROWS)
    return {"name": "array", "path": str(tmp_path / "rows.npy")}


def write_names(tmp_path: Path, names: list[str], end: str = "\n") -> str:
    (tmp_path / "names.txt").write_bytes("".join(name + end for name in names).encode("utf-8", "surrogateescape"))
    return str(tmp_path / "names.txt")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_b2_rows_find_their_images_by_name_in_any_order(images: Any, prior: dict[str, Any], tmp_path: Path, end: str) -> None:
    turned = write_names(tmp_path, images.names[::-1], end)
    by_name = embed(images, {**prior, "names": turned})
    np.testing.assert_array_equal(by_name.array, ROWS[::-1])
    assert by_name.fingerprint != embed(images, prior).fingerprint
    images.unsorted = "the folder is listed in the file system's order"
    np.testing.assert_array_equal(embed(images, {**prior, "names": turned}).array, ROWS[::-1])


def test_b3_a_subset_takes_its_rows_out_of_all(images: Any, prior: dict[str, Any], tmp_path: Path) -> None:
    names = write_names(tmp_path, images.names)
    images.files, images.names = images.files[3:1:-1], images.names[3:1:-1]
    np.testing.assert_array_equal(embed(images, {**prior, "names": names}).array, ROWS[3:1:-1])
    with pytest.raises(DataError, match=r"5 rows, but the training set has 2 images.*prior.names=FILE"):
        embed(images, prior)


@pytest.mark.usefixtures("cache_dir")
def test_names_come_with_the_rows_in_an_archive(images: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", features=ROWS, names=np.array(images.names[::-1]))
    array = embed(images, {"name": "array", "path": str(tmp_path / "both.npz")}).array
    np.testing.assert_array_equal(array, ROWS[::-1])


def test_names_that_are_not_utf8(images: Any, prior: dict[str, Any], tmp_path: Path) -> None:
    images.names = [os.fsdecode(b"\xff%d.png" % index) for index in range(N)]
    names = write_names(tmp_path, images.names[::-1])
    np.testing.assert_array_equal(embed(images, {**prior, "names": names}).array, ROWS[::-1])
    np.savez(tmp_path / "both.npz", rows=ROWS, names=np.array([os.fsencode(name) for name in images.names[::-1]]))
    np.testing.assert_array_equal(embed(images, {"name": "array", "path": str(tmp_path / "both.npz")}).array, ROWS[::-1])


def test_b2_an_order_that_nobody_can_know_needs_names(images: Any, prior: dict[str, Any]) -> None:
    images.unsorted = "solo-learn lists it as the file system does"
    text = r"nothing says which row is whose: solo-learn lists it as.*prior.names=FILE.*data order"
    with pytest.raises(DataError, match=text):
        embed(images, prior)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a", "a", "b", "c", "d"], "the name 'a' stands for more than one row"),
        (["0/0.png"], "5 rows, but there are 1 names"),
        (["train/0/0.png", "0/2.png", "0/4.png", "1/1.png", "1/3.png"], "1 of 5 images have no row.*'0/0.png'.*'train/0/0.png'"),
    ],
)
def test_names_that_do_not_fit(images: Any, prior: dict[str, Any], tmp_path: Path, names: list[str], text: str) -> None:
    with pytest.raises(DataError, match=text):
        embed(images, {**prior, "names": write_names(tmp_path, names)})


def test_a_file_of_names_that_is_not_there(images: Any, prior: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"prior.names: none.txt cannot be read: No such file"):
        embed(images, {**prior, "names": "none.txt"})


@pytest.mark.parametrize(
    "arrays",
    [
        {"rows": ROWS},
        {"names": np.array(["a"] * N)},
        {"rows": ROWS, "names": np.arange(N)},
        {"rows": ROWS, "more": ROWS, "names": np.array(list("abcde"))},
    ],
)
@pytest.mark.usefixtures("cache_dir")
def test_other_archives_are_refused(images: Any, arrays: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", **arrays)
    with pytest.raises(DataError, match=r"both.npz is an archive of .*; wanted one array of rows and one array `names`"):
        embed(images, {"name": "array", "path": str(tmp_path / "both.npz")})


@pytest.mark.usefixtures("cache_dir")
def test_b2_folders_in_another_order_than_sorted_paths_need_names(tmp_path: Path) -> None:
    for index, name in enumerate(["a/0.png", "a-b/0.png", "a/sub/0.png", "a/z.png"]):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (index, 0, 0)).save(tmp_path / "train" / name)
    images = host_images(ImageFolder(str(tmp_path / "train")))
    assert images.names == ["a/0.png", "a/z.png", "a/sub/0.png", "a-b/0.png"]
    np.save(tmp_path / "rows.npy", ROWS[:4])
    prior = {"name": "array", "path": str(tmp_path / "rows.npy")}
    with pytest.raises(DataError, match=r"folder by folder \('a/z.png' comes before 'a/sub/0.png'\).*prior.names=FILE"):
        embed(images, prior)
    in_order = write_names(tmp_path, sorted(images.names))
    assert embed(images, {**prior, "names": in_order}).array[:, 0].tolist() == [2, 6, 4, 0]
