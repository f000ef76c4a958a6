"""What a training set of files holds, and what solo-learn would make of it: every image decoded once, by many processes."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from solo_gps.embeddings.digests import image_digest
from solo_gps.errors import brief
from solo_gps.hosts.data_folder import is_image_name
from solo_gps.hosts.decode import ImagesConfig, LostValuesError, decoded
from solo_gps.hosts.h5 import stored_bytes, wrong_with_h5
from solo_gps.runtime.progress import Progress

STOPS = "stops the run"
NOTHING = "is cut off at 0 and 255"
SKIPPED = "is skipped"
TOGETHER = 64
"""Images of one errand of a worker."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a user should know of a training set.

    Attributes:
        what: In words.
        solo_learn: What solo-learn does with it.
        bad: It would stop a run, or teach it from nothing.
        names: Where, each with a word on why where there is one.
    """

    what: str
    solo_learn: str
    bad: bool
    names: list[str]


@dataclass(kw_only=True)
class Survey:
    """What a training set holds.

    Attributes:
        place: Folder or H5 file.
        classes: Images of each class; one without a name in a flat folder.
        modes: Images of each of Pillow's modes.
        sizes: Width and height of every image that can be read.
        findings: What is worth knowing; the bad first.
    """

    place: str
    classes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether something would stop a run, or teach it from nothing."""
        return any(finding.bad for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for machines."""
        return {
            "place": self.place,
            "images": sum(self.classes.values()),
            "classes": self.classes,
            "modes": self.modes,
            "sizes": self.size_quantiles(),
            "bad": self.bad,
            "findings": [vars(finding) for finding in self.findings],
        }

    def size_quantiles(self) -> dict[str, list[int]]:
        """The smallest, the median and the largest image by its pixels, each as width and height."""
        if not self.sizes:
            return {}
        by_area = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        return {name: list(by_area[row]) for name, row in (("smallest", 0), ("median", len(by_area) // 2), ("largest", -1))}


@dataclass(kw_only=True)
class _Listing:
    """Names of all images, with the class of each; and what else lies there."""

    images: list[tuple[str, str]] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    found: defaultdict[tuple[str, str, bool], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, of_class: str) -> None:
        self.images.append((name, of_class))
        self.classes[of_class] += 1


def survey(place: str, kind: str, *, workers: int = -1) -> Survey:
    """Reads and decodes every image of a training set once.

    Args:
        place: Folder or H5 file.
        kind: How solo-learn reads it (:func:`solo_gps.hosts.data_folder.kind_of`).
        workers: Processes; 0 for this one, -1 for as many as there are CPUs.
    """
    listing = _Listing()
    {"classes": _list_classes, "flat": _list_flat, "h5": _list_h5}[kind](place, listing)
    result, digests = Survey(place=place, classes=dict(sorted(listing.classes.items()))), defaultdict(list)
    modes: Counter[str] = Counter()
    names = [name for name, _ in listing.images]
    for (name, of_class), looked in zip(listing.images, _look_at_all(place, kind, names, workers), strict=True):
        if looked.digest:
            digests[looked.digest].append((name, of_class))
        if looked.finding is not None:
            listing.found[looked.finding].append(f"{name}: {looked.why}" if looked.why else name)
        if looked.size is not None:
            modes[looked.mode] += 1
            result.sizes.append(looked.size)
    for copies in digests.values():
        if len(copies) > 1:
            what = "the same file in several classes" if len({of_class for _, of_class in copies}) > 1 else "the same file again"
            listing.found[what, "is read each time", False].append(" = ".join(name for name, _ in copies))
    result.modes = dict(modes.most_common())
    result.findings = sorted(
        (Finding(what=what, solo_learn=does, bad=bad, names=names) for (what, does, bad), names in listing.found.items()),
        key=lambda finding: (not finding.bad, finding.what),
    )
    return result


def _list_classes(place: str, listing: _Listing) -> None:
    place = os.path.expanduser(place)
    for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
        if not os.path.isdir(entry.path):
            listing.found[_beside_classes(entry.path)].append(entry.name)
            continue
        if entry.name.startswith("."):
            listing.found["hidden folder", "is a class like any other", False].append(entry.name)
        listing.classes[entry.name] = 0
        _list_class(place, entry.name, entry.name, (), listing)
        if not listing.classes[entry.name]:
            del listing.classes[entry.name]
            listing.found["class folder without an image", STOPS, True].append(entry.name)
    if not listing.classes:
        listing.found["no class folder with images (--flat for a flat folder)", STOPS, True].append(place)


def _beside_classes(path: str) -> tuple[str, str, bool]:
    try:
        os.stat(path)
    except FileNotFoundError:
        return "link to nothing", SKIPPED, False
    except OSError as error:
        return f"link that cannot be followed ({error.strerror})", STOPS, True
    return "file beside the class folders", SKIPPED, False


def _list_class(place: str, folder: str, of_class: str, above: Sequence[str], listing: _Listing) -> None:
    real = os.path.realpath(os.path.join(place, folder))
    if real in above:
        listing.found["link to a folder above it", "reads its images again, up to 40 times", True].append(folder)
        return
    try:
        entries = sorted(os.scandir(real), key=lambda entry: entry.name)
    except OSError as error:
        listing.found["folder that may not be read", SKIPPED, False].append(f"{folder}: {error.strerror}")
        return
    for entry in entries:
        name = f"{folder}/{entry.name}"
        if os.path.isdir(entry.path):
            _list_class(place, name, of_class, (*above, real), listing)
        elif not is_image_name(entry.name):
            listing.found["file whose name is no image's", SKIPPED, False].append(name)
        else:
            _add(listing, entry, name, of_class)


def _add(listing: _Listing, entry: os.DirEntry[str], name: str, of_class: str) -> None:
    if os.path.isfile(entry.path) or not os.path.exists(entry.path):
        listing.add(name, of_class)
    else:  # reading a pipe waits for ever
        listing.found["neither file nor folder", STOPS, True].append(name)


def _list_flat(place: str, listing: _Listing) -> None:
    for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
        if os.path.isdir(entry.path):
            listing.found["folder among the images", STOPS, True].append(entry.name)
        else:
            _add(listing, entry, entry.name, "")
    if not listing.images:
        listing.found["no image at all", STOPS, True].append(place)


def _list_h5(place: str, listing: _Listing) -> None:
    for wrong in wrong_with_h5(place):
        listing.found["the H5 file or its list", STOPS, True].append(wrong)
        return
    import h5py

    with h5py.File(place, "r") as file:
        for group in sorted(file):
            for name in file[group]:
                listing.add(f"{group}/{name}", group)


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """What a worker found out about an image."""

    digest: bytes = b""
    mode: str = ""
    size: tuple[int, int] | None = None
    finding: tuple[str, str, bool] | None = None
    why: str = ""


def _look_at_all(place: str, kind: str, names: Sequence[str], workers: int) -> Iterator[_Looked]:
    look = partial(_look_at_some, place, kind)
    parts = [names[start : start + TOGETHER] for start in range(0, len(names), TOGETHER)]
    workers = min(_cpus() if workers < 0 else workers, len(parts))
    with Progress("looking at the images", len(names)) as progress:
        if workers < 2:
            for some in map(look, parts):
                yield from some
                progress.update(len(some))
            return
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for some in pool.map(look, parts):
                yield from some
                progress.update(len(some))


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _look_at_some(place: str, kind: str, names: Sequence[str]) -> list[_Looked]:
    if kind != "h5":
        return [_look_at(partial(_read_file, os.path.join(os.path.expanduser(place), name))) for name in names]
    import h5py

    with h5py.File(place, "r") as file:
        return [_look_at(partial(stored_bytes, file, name)) for name in names]


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _look_at(read: Any) -> _Looked:
    from PIL import Image

    digest = b""
    try:
        stored = read()
        digest = image_digest(stored)
        with Image.open(io.BytesIO(stored)) as image:
            mode, size = image.mode, image.size
            if any("16" in str(tile.args) for tile in image.tile) and mode in ("RGB", "RGBA", "LA"):
                mode = f"{mode} of 16 bits"  # Pillow keeps the upper 8
            decoded(image, ImagesConfig())
            extremes = image.getextrema()
    except LostValuesError as error:
        why = str(error).partition(", which")[0].removeprefix("has ")
        return _Looked(digest=digest, mode=mode, size=size, finding=("more than 8 bits (docs/data.md)", NOTHING, True), why=why)
    except Exception as error:  # noqa: BLE001 - a damaged file brings out errors of any type
        return _Looked(digest=digest, finding=("cannot be read", STOPS, True), why=brief(error))
    bands = extremes if isinstance(extremes[0], tuple) else (extremes,)
    plain = ("one colour throughout", "is read, and shows nothing", False) if all(low == high for low, high in bands) else None
    if plain is None and ("A" in mode or mode in ("P", "CMYK")) and _is_transparent(image, mode):
        plain = ("transparent", "is read as if it were opaque", False)
    return _Looked(digest=digest, mode=mode, size=size, finding=plain)


def _is_transparent(image: Any, mode: str) -> bool:
    return "transparency" in image.info or (mode[-1:] == "A" and image.getextrema()[-1][0] < 255)
