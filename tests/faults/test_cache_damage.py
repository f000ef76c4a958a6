"""Whatever lies in the folder of caches: used correctly, or one error that names it and a mend that works."""

from __future__ import annotations

import os
import re
import shutil
from itertools import permutations

import numpy as np
import pytest
from damages import damage, damages
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from image_sets import ArrayImages

from solo_gps.commands.cli import main
from solo_gps.embeddings import embed, list_caches, remove, verify
from solo_gps.errors import SoloGpsError
from solo_gps.neighbours import find
from solo_gps.runtime.files import seal, unseal

pytestmark = pytest.mark.faults
PRIOR = {"name": "pca", "image_size": 4, "dimensions": 3, "num_workers": 0}
KEYS = {"k": 3}
REMOVE = re.compile(r"solo-gps cache remove ([0-9a-f]{32}(?:\.partial)?)")
DELETE = re.compile(r"Delete (\S+) to have it built again")


class World:
    """A whole cache with a table, what it should say, and its files as they were."""

    def __init__(self, images):
        images.pixels = images.pixels[:30]
        self.images = images
        self.array, self.indices = self.ask()
        (self.folder,) = (info.folder for info in list_caches())
        self.root = self.folder.parent
        self.kept = self.root.with_name("kept")
        shutil.copytree(self.root, self.kept, symlinks=True)

    def ask(self):
        embeddings = embed(self.images, PRIOR)
        return np.array(embeddings.array), np.array(find(embeddings, None, **KEYS).indices)

    def restore(self):
        shutil.rmtree(self.root)
        shutil.copytree(self.kept, self.root, symlinks=True)

    def check(self):
        """Right numbers, or errors each of which its own mend mends."""
        for _ in range(4):
            try:
                array, indices = self.ask()
            except SoloGpsError as error:
                message = str(error)
            else:
                np.testing.assert_array_equal(array, self.array)
                np.testing.assert_array_equal(indices, self.indices)
                return
            assert "\n" not in message
            assert str(self.root) in message
            if removing := REMOVE.search(message):
                assert main(["cache", "remove", removing[1]]) == 0
            else:
                deleting = DELETE.search(message)
                assert deleting, message
                (self.folder / deleting[1]).unlink()
        raise AssertionError(f"after four mends still: {message}")


@pytest.fixture
def world(digit_images):
    return World(digit_images)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 5), how=damages)
@example(which=0, how=("cut", 0.0, 0))
@example(which=2, how=("cut", 0.0, 0))
def test_bytes_flipped_cut_or_grown_are_never_wrong_numbers(world, which, how):
    """embeddings, the encoder's state, two arrays of a table, two manifests; found at use or without any effect on it."""
    files = sorted(path for path in world.folder.iterdir() if path.is_file())
    assert len(files) == 6
    path = files[which]
    path.write_bytes(damage(path.read_bytes(), *how))
    assert verify(world.folder.name) or path.read_bytes() == (world.kept / path.relative_to(world.root)).read_bytes()
    world.check()
    world.restore()


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-2, 2**70), st.text(max_size=3), st.lists(st.integers(), max_size=2))


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_f4_a_sealed_manifest_that_says_something_else(world, data):
    """A right checksum and a wrong fact: edited by a program that knows how, or written by another version."""
    path = data.draw(st.sampled_from(sorted(world.folder.glob("*.json"))))
    values = unseal(path.read_bytes())
    node = values
    while True:
        key = data.draw(st.sampled_from(sorted(node)))
        if not isinstance(node[key], dict) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    if data.draw(st.booleans()):
        node[key] = data.draw(VALUES)
    else:
        del node[key]
    path.write_bytes(seal(values))
    for command in ("list", "show", "verify"):
        assert main(["cache", command, *[world.folder.name] * (command != "list")]) in (0, 1)
    world.check()
    world.restore()


def test_files_swapped_with_those_of_another_cache_or_with_each_other_are_found(world):
    turned = ArrayImages(world.images.pixels[::-1] // 2)
    other = embed(turned, PRIOR)
    find(other, None, **KEYS)
    shutil.move(other.folder, world.root.with_name("other"))
    folders = world.folder, world.root.with_name("other")
    own, theirs = (sorted(path for path in folder.iterdir() if path.is_file()) for folder in folders)
    swaps = [*zip(own, theirs, strict=True), *((one, two) for one, two in permutations(own, 2) if two.suffix != ".json")]
    for place, source in swaps:
        shutil.copyfile(source, place)
        assert verify(world.folder.name) != [], (place, source)
        world.check()
        world.restore()
    assert len(swaps) == 6 + 20


ODD = {
    "a file for a folder": lambda place: place.write_text("mine"),
    "a dangling link": lambda place: place.symlink_to("nowhere"),
    "a link to itself": lambda place: place.symlink_to(place.name),
    "a link to a file": lambda place: place.symlink_to(place.with_name("kept.txt")),
    "an empty folder": lambda place: place.mkdir(),
    "a folder in a folder": lambda place: (place / place.name / "deep").mkdir(parents=True),
    "a manifest that is a folder": lambda place: (place / "manifest.json").mkdir(parents=True),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("name", ["{own}", "{own}.partial", "a" * 32, "b" * 32 + ".partial", ".removed-" + "c" * 32, ".records"])
@pytest.mark.parametrize("kind", sorted(ODD))
def test_f4_odd_things_in_the_folder_of_caches(kind, name, world, capsys):
    """In the place of the cache, of its build, of another one, of leftovers, of what is remembered."""
    (world.root / "kept.txt").write_text("mine")
    (work,) = {place.name for place in world.root.glob(".locks/*.lock")} - {f"{world.folder.name}.lock"}
    if name == "{own}":
        shutil.rmtree(world.folder)
    elif name == "{own}.partial":
        shutil.rmtree(world.folder)
        name = work.replace(".lock", ".partial")
    place = world.root / name.replace("{own}", world.folder.name)
    if place.name == ".records":
        shutil.rmtree(place, ignore_errors=True)
    ODD[kind](place)
    assert main(["cache", "list"]) == 0
    for command in ("show", "verify", "remove"):
        assert main(["cache", command, "zz"]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    world.check()
    left = [info.fingerprint for info in list_caches()]
    for fingerprint in left:
        assert main(["cache", "show", fingerprint]) in (0, 1)
        assert main(["cache", "verify", fingerprint]) in (0, 1)
        remove(fingerprint)
    assert list_caches() == []
    assert (world.root / "kept.txt").read_text() == "mine"
    world.check()


@pytest.mark.parametrize("name", ["x" * 255, "\udcff", "a b\nc", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + ".partial.partial"])
def test_f4_odd_names_in_the_folder_of_caches_are_nobodys_business(name, world):
    (world.root / name).mkdir()
    assert [info.fingerprint for info in list_caches()] == [world.folder.name]
    world.check()
    remove(world.folder.name)
    assert (world.root / name).is_dir()


def test_f4_questions_with_odd_digits_are_one_error(world, capsys):
    for digits in ("x" * 300, "../kept", "/", ".", "\0", "*", "\udcff", world.folder.name.upper()):
        for command in ("show", "verify", "remove"):
            assert main(["cache", command, digits]) == 1
            assert "no cache" in capsys.readouterr().err
    assert main(["cache", "--cache-dir", "x" * 300, "list"]) == 1
    for command in ("show", "verify", "remove"):
        assert main(["cache", "--cache-dir", "x" * 300, command, "0"]) == 1


@pytest.mark.parametrize("partial", [False, True])
def test_f3_a_cache_folder_that_is_a_link_is_removed_as_a_link(partial, world, tmp_path):
    place = tmp_path / "elsewhere"
    world.folder.rename(place)
    link = world.folder.with_name(world.folder.name + ".partial" * partial)
    link.symlink_to(place)
    if not partial:
        world.check()
        assert verify(world.folder.name) == []
    assert remove(link.name).folder == link
    assert not os.path.lexists(link)
    assert sum(path.is_file() for path in place.iterdir()) == 6, "what the link led to is the user's"
    assert list_caches() == []
    world.check()
    remove(world.folder.name)
    assert list_caches() == []


def test_f3_a_leftover_of_an_earlier_removal_does_not_keep_others_from_being_removed(world, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (world.root / (".removed-" + "a" * 32)).symlink_to(tmp_path / "elsewhere")
    (world.root / (".removed-" + "b" * 32)).write_text("a file")
    (world.root / (".removed-" + "c" * 32)).symlink_to("nowhere")
    remove(world.folder.name)
    assert list_caches() == []
    assert not list(world.root.glob(".removed-*"))
    assert (tmp_path / "elsewhere").is_dir()
