"""Disks that are small, or may not be written to."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


@pytest.fixture
def mounted(tmp_path):
    """Mounts: ``mounted("-t", "tmpfs", ..., name=...)`` returns the folder. Skips where that is not allowed."""
    places = []

    def mount(*words, name):
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        done = shutil.which("mount") and subprocess.run(["mount", *words, str(place)], capture_output=True)
        if not done or done.returncode:
            pytest.skip("mounting is not allowed here")
        places.append(place)
        return place

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def read_only(mounted):
    """Returns a second, read-only view of a folder."""

    def view(folder):
        place = mounted("--bind", str(folder), name=f"read-only-{folder.name}")
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        return place

    return view


class Disk:
    """A small disk."""

    def __init__(self, place):
        self.place = place

    def fill(self, free):
        """Leaves so many bytes."""
        self.clear()
        room = shutil.disk_usage(self.place).free - free
        with open(self.place / "filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, room))

    def clear(self):
        (self.place / "filler").unlink(missing_ok=True)


@pytest.fixture
def disk(mounted):
    return Disk(mounted("-t", "tmpfs", "-o", "size=8m", "tmpfs", name="disk"))
