"""Damage: every flipped byte is found by verify; use finds truncation, other shapes, other types and foreign folders."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sets import FolderImages

from solo_gps.commands.cli import main
from solo_gps.embeddings import embed, list_caches, remove, show, verify
from solo_gps.embeddings.store import open_cache
from solo_gps.errors import CacheError
from solo_gps.neighbours import find
from solo_gps.runtime.files import seal, unseal
from solo_gps.runtime.store import check_blocks, read_manifest
from solo_gps.samplers.pnn.config import PnnConfig
from solo_gps.samplers.pnn.sampler import Pnn
from solo_gps.samplers.sepp.config import SeppConfig
from solo_gps.samplers.sepp.sampler import Sepp
from solo_gps.samplers.space import PriorSpace

PRIOR = {"name": "pca", "image_size": 2, "dimensions": 2}


@pytest.fixture
def folder(digit_images: Any) -> Path:
    digit_images.pixels = digit_images.pixels[:12]
    made = embed(digit_images, PRIOR).folder
    assert made is not None
    return made


def test_every_flipped_byte_of_every_file_is_found(folder: Path) -> None:
    assert verify(folder.name) == []
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["embeddings.npy", "encoder.safetensors", "manifest.json"]
    unseen = []
    for name in files:
        path = folder / name
        whole = path.read_bytes()
        for place in range(len(whole)):
            mask = (0x01, 0x20, 0xFF)[place % 3]
            path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            problems = verify(folder.name)
            if not (problems and name in problems[0] and "solo-gps cache remove" in problems[0]):
                unseen.append((name, place, mask, problems))
        path.write_bytes(whole)
    assert unseen == []
    assert verify(folder.name) == []


def test_use_never_breaks_on_a_damaged_header(folder: Path) -> None:
    whole = (folder / "embeddings.npy").read_bytes()
    before = np.array(open_cache(folder, space="cosine", images=12).array)
    refused = 0
    for place in range(128):
        for mask in (0x01, 0x10, 0xFF):
            (folder / "embeddings.npy").write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            try:
                np.testing.assert_array_equal(open_cache(folder, space="cosine", images=12).array, before)
            except CacheError as error:
                refused += str(folder / "embeddings.npy") in str(error)
    assert refused > 250


def same_size(array: np.ndarray, path: Path) -> None:
    np.save(path, array)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: _cut(folder / "embeddings.npy"), r"embeddings.npy has \d+ bytes; wanted \d+ bytes"),
        (lambda folder: (folder / "embeddings.npy").unlink(), "embeddings.npy is missing; wanted"),
        (lambda folder: (folder / "encoder.safetensors").unlink(), "encoder.safetensors is missing"),
        (lambda folder: _cut(folder / "manifest.json"), "manifest.json is damaged or was edited"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not a whole cache"),
        (lambda folder: (folder / "manifest.json").write_text("[]\n"), "manifest.json is damaged or was edited"),
        (lambda folder: _edit(folder / "manifest.json", "images"), "manifest.json is damaged or was edited"),
        (lambda folder: np.save(folder / "embeddings.npy", np.zeros((6, 4), np.float32)), r"holds \(6, 4, 'float32'\)"),
        (lambda folder: np.save(folder / "embeddings.npy", np.zeros((12, 2), np.int32)), r"holds \(12, 2, 'int32'\)"),
        (lambda folder: np.save(folder / "embeddings.npy", np.zeros(24, np.float32)), r"holds \(24, 'float32'\)"),
    ],
)
def test_use_refuses_by_name_with_the_mend(
    folder: Path, digit_images: Any, damage: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(folder)
    with pytest.raises(CacheError, match=text) as error:
        embed(digit_images, PRIOR)
    assert verify(folder.name) != []
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("SOLO_GPS_CACHE", "/nowhere")
        typed = shlex.split(str(error.value).partition("Remove it: solo-gps ")[2])
        assert main(typed) == 0, "the mend works as it is typed, wherever the caches are"
    assert embed(digit_images, PRIOR).array.shape == (12, 2)


def test_f6_damage_of_the_same_size_is_found_at_use(folder: Path, digit_images: Any) -> None:
    flip(folder / "embeddings.npy", -1)
    with pytest.raises(CacheError, match=r"embeddings.npy is damaged between byte 0 and 1,048,576. Remove it: solo-gps cache"):
        embed(digit_images, PRIOR)


def test_f6_no_table_is_stored_from_damaged_embeddings(digit_images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solo_gps.runtime.store.LEAST_BLOCK", 1024)
    embeddings = embed(digit_images, {"name": "pixels", "image_size": 8})
    assert embeddings.folder is not None
    manifest = embeddings.folder / "manifest.json"
    blocks = read_manifest(manifest, 2, "")["files"]["embeddings.npy"]["blocks"]
    assert 80 < len(blocks) < 100
    flip(embeddings.folder / "embeddings.npy", 50 * 1024)
    with pytest.raises(CacheError, match=r"embeddings\.npy is damaged"):
        find(embeddings, None, k=3)
    assert not list(embeddings.folder.glob("neighbours-*"))
    entries = read_manifest(manifest, 2, "")
    assert any(is_refused(manifest, entries) for _ in range(400)), "a use reads 14 of some 90 blocks by chance: 400 miss none"
    with pytest.raises(CacheError, match="between byte 51,200 and 52,224"):
        check_blocks(manifest, entries, "embeddings.npy", "", at_most=None)


@pytest.mark.parametrize("sampler", [Sepp(SeppConfig(), seed=0), Pnn(PnnConfig(space="prior"), seed=0)], ids=["sepp", "pnn"])
def test_f6_nothing_is_made_of_damaged_embeddings(sampler: Any, digit_images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solo_gps.runtime.store.LEAST_BLOCK", 64)
    space = PriorSpace(digit_images, {"name": "pixels", "image_size": 8}, None)
    flip(space.embeddings.folder / "embeddings.npy", 50 * 64)  # type: ignore[operator]
    with pytest.raises(CacheError, match=r"embeddings\.npy is damaged"):
        sampler.prepare(space, same_label=False)


def is_refused(manifest: Path, entries: Any) -> bool:
    try:
        check_blocks(manifest, entries, "embeddings.npy", "")
    except CacheError:
        return True
    return False


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _edit(path: Path, key: str) -> None:
    manifest = json.loads(path.read_text())
    manifest[key] = 13
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def test_a_cache_under_a_foreign_name_is_refused(folder: Path) -> None:
    other = folder.with_name("0" * 32)
    shutil.copytree(folder, other)
    with pytest.raises(CacheError, match=f"holds the cache {folder.name}, not its own"):
        open_cache(other, space="cosine", images=12)


def test_a_cache_of_another_format_is_refused(folder: Path, digit_images: Any) -> None:
    values = unseal((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(seal({**values, "format": 1}))
    with pytest.raises(CacheError, match=rf"has format 1, this solo-gps reads 2. Remove it: solo-gps cache remove {folder.name}"):
        embed(digit_images, PRIOR)


def test_a_foreign_file_is_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert verify(folder.name) == [f"{folder / 'notes.txt'} does not belong to this cache."]


def test_neighbour_tables_beside_the_embeddings_are_verified_too(folder: Path, digit_images: Any) -> None:
    find(embed(digit_images, PRIOR), None, k=3)
    assert verify(folder.name) == []
    files = sorted(folder.glob("neighbours-*"))
    assert {path.suffix for path in files} >= {".json", ".npy"}
    for path in files:
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert any(path.name in problem for problem in verify(folder.name)), (path.name, place)
        path.write_bytes(whole)
    (folder / "neighbours-old.indices.npy").write_bytes(b"")
    assert verify(folder.name) == [f"{folder / 'neighbours-old.indices.npy'} does not belong to this cache."]


def test_what_a_killed_search_left_beside_a_table_is_nobodys_business(
    folder: Path, digit_images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = find(embed(digit_images, PRIOR), None, k=3)
    (path,) = folder.glob("neighbours-*.json")
    path.with_suffix(".lock").touch()
    path.with_name(f".{path.stem}.indices.npy.part").write_bytes(b"1")
    monkeypatch.setattr("solo_gps.neighbours.search.points_of", lambda _: pytest.fail("searched again"))
    assert find(embed(digit_images, PRIOR), None, k=3).indices.tolist() == table.indices.tolist()
    assert verify(folder.name) == []


def test_listing_shows_what_there_is_and_removes_nothing(folder: Path, digit_images: Any) -> None:
    (folder.parent / ("a" * 32 + ".partial")).mkdir()
    (folder.parent / ("a" * 32 + ".partial") / "embeddings.npy").write_bytes(b"123")
    (folder.parent / ("b" * 32)).mkdir()
    (folder.parent / "something else").mkdir()
    infos = {info.fingerprint: info for info in list_caches()}
    assert set(infos) == {folder.name, "a" * 32, "b" * 32}
    whole = infos[folder.name]
    assert (whole.status, whole.prior, whole.images, whole.dimensions, whole.dtype) == (
        "whole",
        "pca",
        12,
        2,
        "float32",
    )
    assert whole.size == sum(path.stat().st_size for path in folder.iterdir())
    assert 0 <= whole.age < 60
    assert (infos["a" * 32].status, infos["a" * 32].size) == ("partial", 3)
    assert infos["b" * 32].status == "damaged"
    assert "manifest.json cannot be read" in (infos["b" * 32].problem or "")
    assert (folder.parent / "something else").is_dir()
    assert list_caches(str(folder.parent / "nowhere")) == []


def test_showing_a_manifest_by_the_first_digits(folder: Path) -> None:
    manifest = show(folder.name[:6])
    assert manifest["fingerprint"] == folder.name
    assert manifest["description"]["identity"]["dimensions"] == 2
    text = (folder / "manifest.json").read_text()
    assert '\n "prior": "pca"' in text, "a person can read it"


def test_the_place_of_the_images_is_where_they_were_last_seen(cache_dir: Path, folder_images: Any, tmp_path: Path) -> None:
    embed(folder_images, PRIOR)
    (info,) = list_caches()
    assert info.place == folder_images.place
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder_images.root, moved)
    embed(FolderImages(moved), PRIOR)
    (info,) = list_caches()
    assert info.place == show(info.fingerprint)["last_seen_in"] == str(moved)
    assert verify(info.fingerprint) == []
    remove(info.fingerprint)
    assert not list((cache_dir / ".seen").iterdir())


def test_a_note_that_is_damaged_or_cannot_be_written_is_no_error(cache_dir: Path, folder_images: Any) -> None:
    (cache_dir / ".seen").mkdir(parents=True)
    embed(folder_images, PRIOR)
    (note,) = (cache_dir / ".seen").iterdir()
    note.write_text("{")
    assert list_caches()[0].place is None
    note.unlink()
    note.mkdir()
    embed(folder_images, PRIOR)
    assert list_caches()[0].place is None


def test_the_model_of_a_network_is_listed(cache_dir: Path, digit_images: Any) -> None:
    embed(digit_images, {"name": "timm", "model": "test_vit", "pretrained": False})
    assert [info.model for info in list_caches()] == ["test_vit"]


def test_a_damaged_table_is_named(folder: Path, digit_images: Any) -> None:
    find(embed(digit_images, PRIOR), None, k=3)
    (table,) = (path for path in folder.glob("*.json") if path.name != "manifest.json")
    table.write_text("{")
    with pytest.raises(CacheError, match=f"Delete {table.name} to have it built again"):
        show(folder.name)


def test_finding_by_digits_fails_clearly(folder: Path) -> None:
    with pytest.raises(CacheError, match=f"no cache 'zz' in {folder.parent}; there: {folder.name}"):
        show("zz")
    twin = folder.name[:31] + ("0" if folder.name[31] != "0" else "1")
    (folder.parent / twin).mkdir()
    with pytest.raises(CacheError, match="fits 2 caches"):
        remove(folder.name[:8])
    with pytest.raises(CacheError, match="no cache ''"):
        remove("")


def test_removing_one(folder: Path) -> None:
    info = remove(folder.name[:8])
    assert info.folder == folder
    assert info.size > 0
    assert not folder.exists()
    assert list_caches() == []


def test_the_next_remove_clears_what_an_interrupted_one_left(folder: Path, digit_images: Any, monkeypatch: Any) -> None:
    class Interrupted(BaseException):
        pass

    def interrupted(path: Path) -> None:
        (path / "embeddings.npy").unlink()
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr("solo_gps.embeddings.manage.shutil.rmtree", interrupted)
        with pytest.raises(Interrupted):
            remove(folder.name)
    (left,) = folder.parent.glob(".removed-*")
    assert any(left.iterdir())
    assert list_caches() == []
    assert embed(digit_images, PRIOR).folder == folder
    assert [info.fingerprint for info in list_caches()] == [folder.name]
    assert remove(folder.name).folder == folder
    assert [path.name for path in folder.parent.iterdir()] == [".locks"]


def test_a_remove_typed_again_after_an_interruption_clears_the_rest(folder: Path) -> None:
    folder.rename(folder.with_name(f".removed-{folder.name}"))
    (folder.parent / ".removed-by-me").mkdir()
    with pytest.raises(CacheError, match=f"no cache '{folder.name[:6]}' in {folder.parent}; there: none"):
        remove(folder.name[:6])
    assert sorted(path.name for path in folder.parent.iterdir()) == [".locks", ".removed-by-me"], "what is not ours stays"


def test_two_processes_may_clear_the_same_rest(folder: Path, monkeypatch: Any) -> None:
    """The other one deletes a file just before this one does."""
    left = folder.with_name(".removed-" + "a" * 32)
    shutil.copytree(folder, left)
    rmtree, races = shutil.rmtree, []

    def raced(path: Path) -> None:
        if not races:
            races.append(path)
            (path / "manifest.json").unlink()
            raise FileNotFoundError(2, "No such file or directory", str(path / "manifest.json"))
        rmtree(path)

    monkeypatch.setattr("solo_gps.embeddings.manage.shutil.rmtree", raced)
    remove(folder.name)
    assert races == [left]
    assert [path.name for path in folder.parent.iterdir()] == [".locks"]


@pytest.mark.parametrize("step", ["lock", "rename", "delete"])
def test_a_folder_that_cannot_be_written_is_one_clear_error(folder: Path, monkeypatch: Any, step: str) -> None:
    def refuse(path: Path, *args: Any) -> None:
        raise OSError(30, "Read-only file system", str(path))

    if step == "lock":
        shutil.rmtree(folder.parent / ".locks")
        (folder.parent / ".locks").write_text("")
    else:
        monkeypatch.setattr(*{"rename": (Path, "rename"), "delete": (shutil, "rmtree")}[step], refuse)
    with pytest.raises(CacheError, match=r"cannot be removed: .*(Read-only|Not a dir|exists).*Make .* writable") as error:
        remove(folder.name)
    assert str(folder.parent) in str(error.value)
    if step != "delete":
        assert verify(folder.name) == [], "the cache is as it was"


def test_the_root_cannot_be_made(digit_images: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"the cache folder .* cannot be made.*prior.cache_dir"):
        embed(digit_images, {**PRIOR, "cache_dir": str(tmp_path / "file" / "cache")})
