"""A disk that is full, may not be written to, or not be read: one error that names the place, and the next run goes on."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from solo_gps.commands.cli import main
from solo_gps.embeddings import embed, list_caches, remove, verify
from solo_gps.errors import CacheError
from solo_gps.neighbours import find

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="mounts")]

PRIORS = {
    "pca": {"name": "pca", "image_size": 8, "dimensions": 40, "num_workers": 0},
    "autoencoder": {"name": "autoencoder", "image_size": 8, "epochs": 1, "num_workers": 0},
    "pixels": {"name": "pixels", "image_size": 8, "num_workers": 0},
}
PAGE = 4096
SAID = r"^.*(No space left on device|has [\d.,]+ [kM]B free, the embeddings need)"


@contextmanager
def as_nobody():
    """Root may do all; nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", sorted(PRIORS))
def test_f1_a_disk_that_is_full_at_any_moment_is_one_error_and_the_next_run_goes_on(name, digit_images, disk, tmp_path):
    """From no room at all to enough: each step of a build and of a search fails once."""
    prior = PRIORS[name]
    wanted = embed(digit_images, {**prior, "cache_dir": str(tmp_path / "undisturbed")})
    table = find(wanted, None, k=3)
    size = sum(path.stat().st_size for path in (tmp_path / "undisturbed").rglob("*"))
    said = []
    for pages in range(0, 2 * size // PAGE, max(1, size // PAGE // 20)):
        root = disk.place / f"root-{pages}"
        disk.fill(pages * PAGE)
        try:
            find(embed(digit_images, {**prior, "cache_dir": str(root)}), None, k=3)
        except CacheError as error:
            said.append(str(error))
        else:
            break
        finally:
            disk.clear()
        again = embed(digit_images, {**prior, "cache_dir": str(root)})
        np.testing.assert_array_equal(again.array, wanted.array)
        np.testing.assert_array_equal(find(again, None, k=3).indices, table.indices)
        assert verify(again.fingerprint, str(root)) == []
        shutil.rmtree(root)
    assert len(said) >= 5
    assert all(re.match(SAID, line) and str(disk.place) in line for line in said), said
    assert verify(wanted.fingerprint, str(root)) == []


def test_f1_a_full_disk_is_one_line_of_a_command(digits, disk, capsys):
    disk.fill(0)
    assert main(["cache", "--cache-dir", str(disk.place / "root"), "build", str(digits / "train")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("solo-gps: ")]
    assert "No space left on device" in line
    assert str(disk.place) in line


@pytest.mark.host
def test_f1_a_disk_that_fills_up_during_training_ends_the_run_at_the_refresh(recipe, train, disk, monkeypatch):
    monkeypatch.setenv("SOLO_GPS_CACHE", str(disk.place / "root"))
    cfg = recipe(sampler={"gps": {"k": 1}}, prior=PRIORS["pca"], refresh={"every": 1}, max_epochs=3)
    train(cfg)
    disk.fill(2 * PAGE)
    with pytest.raises(CacheError, match=r"refresh: the embeddings of the network .* need 98.3 kB in .* has [48].. kB free"):
        train(cfg)
    disk.clear()
    train(cfg)


def test_f2_a_read_only_folder_of_caches_serves_what_it_has_and_says_what_it_cannot(digit_images, tmp_path, read_only, caplog):
    caplog.set_level(logging.INFO)
    root = tmp_path / "caches"
    prior = PRIORS["pca"]
    table = find(embed(digit_images, {**prior, "cache_dir": str(root)}), None, k=3)
    assert (root / ".locks").is_dir()
    place = read_only(root)
    seen = embed(digit_images, {**prior, "cache_dir": str(place)})
    np.testing.assert_array_equal(find(seen, None, k=3).indices, table.indices)
    assert [info.status for info in list_caches(str(place))] == ["whole"]
    assert verify(seen.fingerprint, str(place)) == []
    for ask in (
        lambda: find(seen, None, k=4),
        lambda: embed(digit_images, {**PRIORS["pixels"], "cache_dir": str(place)}),
        lambda: remove(seen.fingerprint, str(place)),
    ):
        with pytest.raises(CacheError, match="Read-only file system") as error:
            ask()
        assert str(place) in str(error.value)
    assert find(embed(digit_images, {**prior, "cache_dir": str(root)}), None, k=4).indices.shape == (120, 4)


@pytest.mark.parametrize("empty", [True, False])
def test_f2_a_read_only_place_for_a_folder_of_caches_is_one_error(empty, digit_images, tmp_path, read_only):
    (tmp_path / "place" / ("" if empty else "root")).mkdir(parents=True)
    root = read_only(tmp_path / "place") / "root"
    with pytest.raises(CacheError, match=r"the cache folder .*/root cannot be made: Read-only .*Set prior.cache_dir or SOLO_GPS"):
        embed(digit_images, {**PRIORS["pca"], "cache_dir": str(root)})


def test_f2_images_of_a_read_only_folder_are_remembered_as_well_as_may_be(folder_images, tmp_path, read_only, caplog):
    """The record of what the images are lies beside the caches: where it cannot be written, they are read each time."""
    prior = {"name": "pixels", "image_size": 8, "num_workers": 0}
    embed(folder_images, {**prior, "cache_dir": str(tmp_path / "caches")})
    shutil.rmtree(tmp_path / "caches" / ".records")
    place = read_only(tmp_path / "caches")
    assert embed(folder_images, {**prior, "cache_dir": str(place)}).array.shape[0] == 30
    assert "cannot be written (Read-only file system): the next run reads all images again" in caplog.text


def ask_for_all(images, root):
    find(embed(images, {**PRIORS["pca"], "cache_dir": root}), None, k=2)
    embed(images, {**PRIORS["pixels"], "cache_dir": root})


@pytest.mark.parametrize("mode", [0o000, stat.S_IRUSR | stat.S_IXUSR])
@pytest.mark.parametrize("what", ["root", "cache", "locks"])
def test_f2_folders_without_permissions_are_one_error(what, mode, digit_images, tmp_path):
    # Nobody may not read the libraries either, and what is imported late is imported now.
    ask_for_all(digit_images, str(tmp_path / "root"))
    with pytest.raises(CacheError):
        ask_for_all(digit_images, "/proc/nowhere")
    top = Path(tempfile.mkdtemp())
    place = {"root": top / "root", "cache": None, "locks": top / "root" / ".locks"}
    try:
        top.chmod(0o777)
        with as_nobody():
            if not os.access(top, os.W_OK, effective_ids=True):
                pytest.skip("the folder of temporary files is for its owner alone")
            made = embed(digit_images, {**PRIORS["pca"], "cache_dir": str(top / "root")})
            place["cache"] = made.folder
            place[what].chmod(mode)
            try:
                with pytest.raises(CacheError, match="Permission denied") as error:
                    ask_for_all(digit_images, str(top / "root"))
            finally:
                place[what].chmod(0o700)
            assert str(top / "root") in str(error.value)
            ask_for_all(digit_images, str(top / "root"))
    finally:
        shutil.rmtree(top)
