"""Images are known by their bytes, and known again by the stamps of their files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sets import FolderImages
from PIL import Image

from solo_gps.embeddings import build, embed
from solo_gps.embeddings.digests import RECORDS, SETTLED_NS, Digests, same_listing
from solo_gps.errors import DataError

PRIOR = {"name": "pixels", "image_size": 4, "num_workers": 0}
N = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """N uncompressed images, all of one size, written long ago: what is written in a test has another time on any clock."""
    for index in range(N):
        write(tmp_path / "train" / f"{index}.png", index)
        os.utime(tmp_path / "train" / f"{index}.png", ns=(10**18, 10**18))
    return tmp_path / "train"


def write(path: Path, value: int) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path, "BMP")


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once: nobody can write a file with an old ctime."""
    monkeypatch.setattr("solo_gps.embeddings.digests.SETTLED_NS", -SETTLED_NS)


def test_b1_equal_names_and_sizes_are_not_equal_images(folder: Path, tmp_path: Path, cache_dir: Path) -> None:
    first = embed(FolderImages(folder), PRIOR)
    other = tmp_path / "other"
    for index in range(N):
        write(other / f"{index}.png", 100 + index)
        stat = (folder / f"{index}.png").stat()
        os.utime(other / f"{index}.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert embed(FolderImages(other), PRIOR).fingerprint != first.fingerprint
    assert not np.array_equal(embed(FolderImages(other), PRIOR).array, first.array)


def test_b1_a_file_overwritten_by_one_of_its_size_is_another_image(folder: Path, cache_dir: Path) -> None:
    first = embed(FolderImages(folder), PRIOR)
    stat = (folder / "3.png").stat()
    write(folder / "3.png", 77)
    os.utime(folder / "3.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as rsync -t and cp -p do
    again = embed(FolderImages(folder), PRIOR)
    assert again.fingerprint != first.fingerprint
    assert (again.array != first.array).any(axis=1).tolist() == [index == 3 for index in range(N)]


def test_the_order_counts_and_the_names_do_not(folder: Path, tmp_path: Path, cache_dir: Path) -> None:
    first = embed(FolderImages(folder), PRIOR)
    renamed, turned = tmp_path / "renamed", tmp_path / "turned"
    for place, name in ((renamed, lambda index: f"a{index}.png"), (turned, lambda index: f"{N - index}.png")):
        place.mkdir()
        for index in range(N):
            shutil.copy(folder / f"{index}.png", place / name(index))
    assert embed(FolderImages(renamed), PRIOR).folder == first.folder
    assert embed(FolderImages(turned), PRIOR).fingerprint != first.fingerprint


@pytest.mark.usefixtures("settled")
def test_nothing_is_read_again_where_nothing_changed(folder: Path, cache_dir: Path) -> None:
    embed(FolderImages(folder), PRIOR)
    images = FolderImages(folder)
    embed(images, PRIOR)
    assert images.read == 0
    write(folder / "2.png", 5)
    images = FolderImages(folder)
    digests = Digests(images, cache_dir)
    assert digests.known.tolist() == [index != 2 for index in range(N)]
    digests.read()
    assert images.read == 1, "the changed one alone"
    assert Digests(FolderImages(folder), cache_dir).whole


def test_images_are_read_once_for_digest_and_embedding(folder: Path, cache_dir: Path) -> None:
    images = FolderImages(folder)
    embed(images, PRIOR)
    assert images.read == N


def test_a_file_that_was_just_written_is_not_trusted(folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solo_gps.embeddings.digests.SETTLED_NS", 3600 * 10**9)  # however slow the machine is
    Digests(FolderImages(folder), cache_dir).read()
    assert not Digests(FolderImages(folder), cache_dir).known.any()


@pytest.mark.usefixtures("settled")
def test_images_of_another_share_of_the_folder_stay_remembered(folder: Path, cache_dir: Path) -> None:
    Digests(FolderImages(folder), cache_dir).read()
    share = FolderImages(folder)
    share.files, share.names = share.files[:2], share.names[:2]
    write(folder / "1.png", 9)
    Digests(share, cache_dir).read()
    assert Digests(FolderImages(folder), cache_dir).whole


@pytest.mark.usefixtures("settled")
def test_b1_folders_that_changed_places_under_one_tick_of_the_clock(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    for name in "ab":
        write(folder / name / "0.png", ord(name))
        os.utime(folder / name / "0.png", ns=(10**18, 10**18))
    really = FolderImages.stamps
    monkeypatch.setattr(FolderImages, "stamps", lambda self: really(self) * [1, 1, 0, 1] + [0, 0, 10**18, 0])
    first = embed(FolderImages(folder), PRIOR)
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        (folder / old).rename(folder / new)
    swapped = embed(FolderImages(folder), PRIOR)
    np.testing.assert_array_equal(swapped.array, first.array[::-1])


@pytest.mark.usefixtures("settled")
def test_f4_a_record_of_any_damage_is_read_as_none(folder: Path, cache_dir: Path) -> None:
    Digests(FolderImages(folder), cache_dir).read()
    (record,) = (cache_dir / RECORDS).iterdir()
    whole, known = record.read_bytes(), []
    for place in range(len(whole)):  # of the header, of the central directory, and of the arrays
        record.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        known.append(Digests(FolderImages(folder), cache_dir).known.any())
    assert sum(known) < len(known) / 2, "the flips that count were among them"


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_record_costs_a_reading_and_no_more(folder: Path, cache_dir: Path, damage: bytes | None) -> None:
    first = embed(FolderImages(folder), PRIOR)
    (record,) = (cache_dir / RECORDS).iterdir()
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) // 2] + b"\0" + whole[len(whole) // 2 + 1 :] if damage is None else damage)
    images = FolderImages(folder)
    assert embed(images, PRIOR).folder == first.folder
    assert images.read == N
    images = FolderImages(folder)
    embed(images, PRIOR)
    assert images.read == 0, "the record is whole again"


@pytest.mark.usefixtures("settled")
def test_odd_names_are_remembered(folder: Path, cache_dir: Path) -> None:
    for index, name in enumerate(["a b\n.png", os.fsdecode(b"\xff\xfe.png"), "ü.png"]):
        write(folder / name, 50 + index)
    Digests(FolderImages(folder), cache_dir).read()
    assert Digests(FolderImages(folder), cache_dir).whole


def test_an_interrupted_build_does_not_keep_rows_of_images_that_changed(
    folder: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = {**PRIOR, "batch_size": 1}

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("solo_gps.embeddings.build._finish", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(FolderImages(folder), prior)
    monkeypatch.undo()
    write(folder / "4.png", 99)
    assert next(cache_dir.glob("*.partial")).exists()
    array = embed(FolderImages(folder), {**prior, "cache_dir": str(cache_dir)}).array
    np.testing.assert_array_equal(array, embed(FolderImages(folder), {**prior, "cache_dir": str(tmp_path / "fresh")}).array)


def test_a_state_fitted_on_other_images_is_fitted_again(
    folder: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = {"name": "pca", "image_size": 4, "dimensions": 3}

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("solo_gps.embeddings.build._finish", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(FolderImages(folder), prior)
    monkeypatch.undo()
    write(folder / "4.png", 99)
    array = embed(FolderImages(folder), {**prior, "cache_dir": str(cache_dir)}).array
    np.testing.assert_array_equal(array, embed(FolderImages(folder), {**prior, "cache_dir": str(tmp_path / "fresh")}).array)


def test_b5_images_replaced_while_a_prior_is_fitted_are_an_error(
    folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solo_gps.priors.pca import PcaEncoder

    prior = {"name": "pca", "image_size": 4, "dimensions": 3}
    really = PcaEncoder.fit

    def fit(self: PcaEncoder, images: Any) -> None:
        really(self, images)
        write(folder / "4.png", 99)

    monkeypatch.setattr(PcaEncoder, "fit", fit)
    with pytest.raises(DataError, match=r"changed while a prior was made of them\. Run again"):
        embed(FolderImages(folder), prior)
    monkeypatch.undo()
    array = embed(FolderImages(folder), {**prior, "cache_dir": str(cache_dir)}).array
    np.testing.assert_array_equal(array, embed(FolderImages(folder), {**prior, "cache_dir": str(cache_dir / "fresh")}).array)


def test_b5_images_replaced_after_a_prior_was_fitted_are_an_error(
    folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, really = {"name": "pca", "image_size": 4, "dimensions": 3}, build._dimensions

    def dimensions(*given: Any) -> int:
        write(folder / "4.png", 99)
        return really(*given)

    monkeypatch.setattr(build, "_dimensions", dimensions)
    with pytest.raises(DataError, match="changed while a prior was made of them"):
        embed(FolderImages(folder), prior)
    monkeypatch.undo()
    array = embed(FolderImages(folder), {**prior, "cache_dir": str(cache_dir)}).array
    np.testing.assert_array_equal(array, embed(FolderImages(folder), {**prior, "cache_dir": str(cache_dir / "fresh")}).array)


def test_the_listing_of_a_second_set(folder: Path, digit_images: Any) -> None:
    assert same_listing(FolderImages(folder), FolderImages(folder))
    before = FolderImages(folder)
    stamps = before.stamps()
    before.stamps = lambda: stamps  # type: ignore[method-assign]
    write(folder / "0.png", 8)
    assert not same_listing(before, FolderImages(folder))
    assert same_listing(digit_images, digit_images)
