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
from solo_gps.runtime import sharing as ranks
from solo_gps.runtime.files import file_digest, seal, unseal, whole_file

# Raised when the formula of the distances, the order of ties or the files change.
FORMAT = 2
_ARRAYS = {"indices": np.dtype(np.int32), "distances": np.dtype(np.float32)}


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


def load_or_build(
    folder: Path, request: Request, build: Callable[[], tuple[NeighbourTable, dict[str, object]]]
) -> NeighbourTable:
    """Returns the stored table, or builds and stores it; of several processes that ask at once, one builds.

    Raises:
        CacheError: A stored table is damaged or of another request, or the folder cannot be written.
    """
    from filelock import FileLock

    folder = Path(folder)
    manifest = folder / f"{request.name()}.json"
    if ranks.size() > 1:
        return _with_ranks(folder, request, build)
    if not manifest.exists():
        try:
            lock = FileLock(folder / f"{request.name()}.lock")
            with lock:
                if not manifest.exists():
                    save(folder, request, *build())
        except OSError as error:
            raise CacheError(f"{folder}: cannot write the neighbour table ({error}). Make the folder writable.") from error
    return load(folder, request)


def _with_ranks(folder: Path, request: Request, build: Callable[[], tuple[NeighbourTable, dict[str, object]]]) -> NeighbourTable:
    from filelock import FileLock

    manifest = folder / f"{request.name()}.json"
    if not ranks.first_says(manifest.exists()):
        table, facts = build()
        if ranks.rank() == 0:
            with FileLock(folder / f"{request.name()}.lock"):
                save(folder, request, table, facts)
        ranks.wait()
    return load(folder, request)


def save(folder: Path, request: Request, table: NeighbourTable, facts: dict[str, object]) -> None:
    """Writes arrays, then the manifest that makes them valid; each under a temporary name, then renamed. Under the lock only."""
    entry: dict[str, object] = {"format": FORMAT, "request": dataclasses.asdict(request), "facts": facts, "files": {}}
    files: dict[str, object] = {}
    for kind in _ARRAYS:
        array = getattr(table, kind)
        path = folder / f"{request.name()}.{kind}.npy"
        with whole_file(path, locked=True) as unfinished, unfinished.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        files[kind] = {"shape": list(array.shape), "sha256": file_digest(path)}
    entry["files"] = files
    manifest = folder / f"{request.name()}.json"
    with whole_file(manifest, locked=True) as unfinished:
        unfinished.write_bytes(seal(entry))


def load(folder: Path, request: Request) -> NeighbourTable:
    """Maps a stored table read-only.

    Raises:
        CacheError: A file is missing, damaged, or of another request.
    """
    manifest = folder / f"{request.name()}.json"
    mend = f"Delete {manifest.name} to have it built again."
    try:
        entry = unseal(manifest.read_bytes())
        files = {kind: entry["files"][kind] for kind in _ARRAYS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{manifest}: cannot be read ({error!r}). {mend}") from error
    if entry.get("format") != FORMAT or entry.get("request") != json.loads(json.dumps(dataclasses.asdict(request))):
        raise CacheError(f"{manifest}: belongs to another search than the one asked for. {mend}")
    return NeighbourTable(
        **{kind: _load_array(folder / f"{request.name()}.{kind}.npy", facts, mend) for kind, facts in files.items()}
    )


def _load_array(path: Path, facts: dict, mend: str) -> np.ndarray:
    try:
        digest = file_digest(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False) if digest == facts["sha256"] else None
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: cannot be read ({error}). {mend}") from error
    if array is None:
        raise CacheError(f"{path}: damaged, its checksum is {digest[:12]}, wanted {facts['sha256'][:12]}. {mend}")
    kind = path.name.rsplit(".", 2)[1]
    if array.dtype != _ARRAYS[kind] or list(array.shape) != facts["shape"]:
        raise CacheError(f"{path}: wanted {_ARRAYS[kind]} {facts['shape']}, got {array.dtype} {list(array.shape)}. {mend}")
    return array
