"""Whatever lies in the folder of caches: used correctly, or one error that names it and a mend that works."""

from __future__ import annotations

import json
import os
import re
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from solo_gps.commands.cli import main
from solo_gps.embeddings import embed, list_caches, remove, show, verify
from solo_gps.errors import CacheError, SoloGpsError
from solo_gps.neighbours import find
from solo_gps.runtime.files import seal, unseal

pytestmark = pytest.mark.faults
PRIOR = {"name": "pca", "image_size": 4, "dimensions": 3, "num_workers": 0}
KEYS = {"k": 3}
REMOVE = re.compile(r"solo-gps cache remove ([0-9a-f]{32})")
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
                (self.folder / DELETE.search(message)[1]).unlink()
        raise AssertionError(f"after four mends still: {message}")


@pytest.fixture
def world(digit_images):
    return World(digit_images)


def damage(data: bytes, kind: str, place: float, value: int) -> bytes:
    at = int(place * len(data))
    if kind == "flip":
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ max(1, value)]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "grow":
        return data + bytes([value]) * (1 + at)
    if kind == "insert":
        return data[:at] + bytes([value]) + data[at:]
    return bytes([value]) * len(data)  # overwritten


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 5),
    kind=st.sampled_from(["flip", "cut", "grow", "insert", "overwrite"]),
    place=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
)
@example(which=0, kind="cut", place=0.0, value=0)
@example(which=2, kind="cut", place=0.0, value=0)
def test_bytes_flipped_cut_or_grown_are_never_wrong_numbers(world, which, kind, place, value):
    """embeddings, the encoder's state, two arrays of a table, two manifests; found at use or without any effect on it."""
    files = sorted(path for path in world.folder.iterdir() if path.is_file())
    assert len(files) == 6
    path = files[which]
    path.write_bytes(damage(path.read_bytes(), kind, place, value))
    assert verify(world.folder.name) or path.read_bytes() == (world.kept / path.relative_to(world.root)).read_bytes()
    world.check()
    world.restore()


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-2, 2**70), st.text(max_size=3), st.lists(st.integers(), max_size=2))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    world.check()
    list_caches()
    world.restore()


def test_files_swapped_between_two_caches_or_two_tables_are_found(world, digit_images):
    digit_images.pixels = digit_images.pixels[::-1].copy()
    other = World(digit_images)
    names = [path.name for path in world.folder.iterdir() if path.is_file()]
    for name in names:
        theirs = next(path for path in other.folder.iterdir() if path.name.split("-")[0] == name.split("-")[0])
        theirs = other.folder / name if (other.folder / name).exists() else theirs
        shutil.copyfile(theirs, world.folder / name)
        assert verify(world.folder.name) != []
        world.images.pixels = world.images.pixels[::-1].copy()
        world.check()
        world.images.pixels = world.images.pixels[::-1].copy()
        world.restore()
