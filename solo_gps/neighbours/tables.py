"""Neighbour tables on disk, beside the embeddings that they belong to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from solo_gps.errors import CacheError
from solo_gps.interfaces import NeighbourTable
from solo_gps.runtime.files import whole_file
from solo_gps.runtime.ranks import training_ranks
from solo_gps.runtime.store import (
    check_whole,
    file_of,
    locked,
    open_array,
    read_manifest,
    verify_manifest,
    write_manifest,
)

# Raised when the formula of the distances, the order of ties or the files change.
FORMAT = 3
Build = Callable[[], tuple[NeighbourTable, dict[str, object]]]
_ARRAYS = {"indices": "int32", "distances": "float32"}
WAITING = "neighbours: another process is searching for these"


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that determines a table. Device, memory and block size do not.

    Attributes:
        images: N.
        fingerprint: Of the embeddings.
        space: euclidean or cosine.
        k: Neighbours, or ``None``.
        radius: Radius, or ``None``.
        backend: ``"exact"`` (all exact backends agree), or the name of the approximate one.
        settings: Of the approximate one.
    """

    images: int
    fingerprint: str
    space: str
    k: int | None
    radius: float | None
    backend: str
    settings: dict[str, object]

    def name(self) -> str:
        """File name without its ending: readable, and different for every request."""
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, sort_keys=True)
        size = f"k{self.k}" if self.radius is None else f"r{self.radius:g}"
        return f"neighbours-{size}-{self.backend}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def load_or_build(folder: Path, request: Request, build: Build) -> NeighbourTable:
    """Returns the stored table, or builds and stores it; of several processes that ask at once, one builds.

    Raises:
        CacheError: A stored table is damaged or of another request, or the folder cannot be written.
    """
    folder = Path(folder)
    manifest = folder / f"{request.name()}.json"
    build = _checked(folder, build)
    if training_ranks().world > 1:
        return _with_ranks(folder, request, build)
    if not manifest.exists():
        try:
            with locked(manifest, WAITING):
                if not manifest.exists():
                    save(folder, request, *build())
        except OSError as error:
            raise CacheError(f"{folder}: cannot write the neighbour table ({error}). Make the folder writable.") from error
    return load(folder, request)


def _checked(folder: Path, build: Build) -> Build:
    """The search, after every byte of the embeddings: a table that is stored from noise would outlive it."""

    def checked() -> tuple[NeighbourTable, dict[str, object]]:
        check_whole(folder)
        return build()

    return checked


def _with_ranks(folder: Path, request: Request, build: Build) -> NeighbourTable:
    manifest, ranks = folder / f"{request.name()}.json", training_ranks()
    if not all(ranks.gather(manifest.exists())):
        table, facts = build()
        with ranks.failing_together():
            # Nodes that share no disk have a folder each; of ranks with one folder, the first writes.
            try:
                with locked(manifest, WAITING):
                    if not manifest.exists():
                        save(folder, request, table, facts)
            except OSError as problem:
                raise CacheError(
                    f"{folder}: cannot write the neighbour table ({problem}). Make the folder writable."
                ) from problem
    with ranks.failing_together():
        return load(folder, request)


def save(folder: Path, request: Request, table: NeighbourTable, facts: dict[str, object]) -> None:
    """Writes arrays, then the manifest that makes them valid; each under a temporary name, then renamed. Under the lock only."""
    manifest = folder / f"{request.name()}.json"
    shapes = {}
    for kind in _ARRAYS:
        array = getattr(table, kind)
        with whole_file(file_of(manifest, kind), locked=True) as unfinished, unfinished.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        shapes[kind] = {"shape": list(array.shape)}
    write_manifest(manifest, {"format": FORMAT, "request": dataclasses.asdict(request), "facts": facts}, shapes)


def load(folder: Path, request: Request) -> NeighbourTable:
    """Maps a stored table read-only.

    Raises:
        CacheError: A file is missing, damaged, or of another request.
    """
    manifest = folder / f"{request.name()}.json"
    mend = f"Delete {manifest.name} to have it built again."
    entry = read_manifest(manifest, FORMAT, mend)
    if entry.get("request") != json.loads(json.dumps(dataclasses.asdict(request))):
        raise CacheError(f"{manifest}: belongs to another search than the one asked for. {mend}")
    problems, _ = verify_manifest(manifest, mend)
    if problems:
        raise CacheError(problems[0])
    if any(not isinstance(entry["files"].get(kind, {}).get("shape"), list) for kind in _ARRAYS):
        raise CacheError(f"{manifest} is damaged or was edited. {mend}")
    shapes = {kind: entry["files"][kind]["shape"] for kind in _ARRAYS}
    return NeighbourTable(
        **{kind: open_array(file_of(manifest, kind), shapes[kind], dtype, mend) for kind, dtype in _ARRAYS.items()}
    )
