"""H5 files as solo-learn 1.0.6 reads them: groups of encoded images, one a class, and a list of them in the home folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from solo_gps.errors import DataError, printable


def wrong_with_h5(path: str) -> Iterator[str]:
    """Yields why solo-learn could not read an H5 file, or would take its images for others."""
    if not os.path.isfile(path):
        yield f"no such H5 file. Relative paths start at {Path.cwd()}."
        return
    try:
        import h5py
    except ImportError:
        yield "reading H5 files needs h5py. Run pip install h5py."
        return
    if not h5py.is_hdf5(path):
        yield "it is not an H5 file, or a damaged one. Set data.format=image_folder for a folder."
        return
    with h5py.File(path, "r") as file:
        if not len(file):
            yield "it is empty. Wanted groups of images, one a class."
        groups = {name: _names(file, name) for name in file}
        yield from _wrong_with_groups(groups)
        if os.path.isfile(kept := h5_list(path)):
            yield from _wrong_with_list(groups, kept)


def _names(file: Any, group: str) -> list[str] | None:
    members = file.get(group)  # None: a link to nothing
    return list(members) if hasattr(members, "keys") else None


def _wrong_with_groups(groups: dict[str, list[str] | None]) -> Iterator[str]:
    for group, names in groups.items():
        if names is None:
            yield f"{group!r} is no group of images. Wanted groups, one a class, of the files' bytes by their names."
            continue
        odd = next((name for name in (group, *names) if not _can_be_listed(name)), None)
        if odd is not None:
            yield (
                f"group {group!r}: solo-learn's list of the images cannot hold the name {odd!r}: no space, line break or leading "
                "tab, and UTF-8. Rename it in the H5 file."
            )


def _can_be_listed(name: Any) -> bool:
    return isinstance(name, str) and name == name.strip() and not any(char in name for char in " \n\r")


def _wrong_with_list(groups: dict[str, list[str] | None], kept: str) -> Iterator[str]:
    """Lines are ``class/image label``; the label is the class's place among the sorted classes."""
    listed: dict[str, list[str]] = {}
    labels: dict[str, set[str]] = {}
    with open(kept, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            place, _, label = line.strip().rpartition(" ")
            group, _, name = place.partition("/")
            listed.setdefault(group, []).append(name)
            labels.setdefault(group, set()).add(label)
    for group in sorted({*groups, *listed}):
        if sorted(groups.get(group) or []) != sorted(listed.get(group, [])):
            what = f"{group!r} differs"
        elif labels.get(group, set()) - {str(sorted(groups).index(group))}:
            what = f"{group!r} has another label"
        else:
            continue
        yield (
            f"{kept}, in which solo-learn keeps the list of its images, is of another H5 file of that name, or of an earlier "
            f"one ({what}). Remove {kept}: solo-learn writes it anew."
        )
        return


def h5_list(path: str) -> str:
    """Where solo-learn keeps the list of an H5 file's images, whichever folder the file is in."""
    return os.path.join(os.path.expanduser("~"), os.path.basename(os.path.splitext(path)[0]) + ".txt")


def has_links(path: str) -> bool:
    """Whether a group or an image of an H5 file is a link, perhaps into another file, whose stamp this one's would not show."""
    import h5py

    found: list[bytes] = []

    def look(name: bytes, info: Any) -> None:
        if info.type != h5py.h5l.TYPE_HARD:
            found.append(name)

    with h5py.File(path, "r") as file:
        for group in (file, *(file[name] for name in file)):
            group.id.links.iterate(look, info=True)
    return bool(found)


class H5File:
    """The encoded images of an H5 file, which each process opens once, when it first reads one.

    Args:
        path: The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._opened: dict[int, tuple[Any, tuple[int, ...]]] = {}  # by process: a handle does not survive a fork

    def stored(self, name: str) -> bytes:
        """The encoded image of that name; errors as of :func:`stored_bytes`."""
        import h5py

        if os.getpid() not in self._opened:
            stamp = self._stamp()  # before: what is written meanwhile must be noticed
            self._opened[os.getpid()] = h5py.File(self._path, "r"), stamp
        return stored_bytes(self._opened[os.getpid()][0], name)

    def check_current(self) -> None:
        """Raises :class:`DataError` when the path leads to another file, or another state of it, than this process has open."""
        _, stamp = self._opened.get(os.getpid(), (None, None))
        if stamp is not None and stamp != self._stamp():
            raise DataError(
                f"{printable(self._path)}: was written or replaced since this run opened it. Run again once it stays."
            )

    def _stamp(self) -> tuple[int, ...]:
        stat = os.stat(self._path)
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def stored_bytes(file: Any, name: str) -> bytes:
    """The encoded image under a name of an open H5 file.

    Raises:
        KeyError: There is none.
        ValueError: What has that name is no image, or its bytes lie in another file.
    """
    image = file[name]
    if not hasattr(image, "shape"):
        raise ValueError("it is a group, not an image")
    kept = image.id.get_create_plist()
    if image.is_virtual or kept.get_external_count():
        raise ValueError("its bytes lie in another file, whose changes nobody would notice: copy them into this one")
    return np.asarray(image[()]).tobytes()
