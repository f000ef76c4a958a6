"""The one way to embeddings: find the cache, or build it under a lock."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from solo_gps.embeddings.build import build_cache
from solo_gps.embeddings.decoded import CHANGED, pixels_of
from solo_gps.embeddings.digests import Digests, digest_of_names
from solo_gps.embeddings.fingerprint import describe, fingerprint
from solo_gps.embeddings.resolve import check_not_empty, of_parts, resolve_prior
from solo_gps.embeddings.store import (
    ENVIRONMENT,
    PARTIAL,
    build_lock,
    cache_folders,
    cache_root,
    make_root,
    open_cache,
    read_manifest,
    remember_place,
)
from solo_gps.errors import CacheError, DataError, SoloGpsError, first_line
from solo_gps.interfaces import Embeddings, ImageSet
from solo_gps.priors.base import Encoder
from solo_gps.priors.join import JoinEncoder
from solo_gps.runtime.determinism import preserved_generators
from solo_gps.runtime.devices import current, device_of, give_back
from solo_gps.runtime.progress import duration
from solo_gps.runtime.ranks import Ranks, torchrun_ranks

logger = logging.getLogger("solo_gps.embeddings")


def embed(images: ImageSet, prior: Mapping[str, Any] | None = None, *, together: bool = False) -> Embeddings:
    """Returns the images in the prior space: from the cache, or built now and cached.

    Any number of processes may ask at once: one builds, the others wait and share its memory map. Python's, numpy's and torch's
    global generators are left as they were.

    Args:
        images: N raw images.
        prior: The recipe's ``prior`` node; ``None`` is the default prior, which needs no download.
        together: Under torchrun, let all ranks build one cache together; every rank must then call this. Otherwise, and by
            default, one process builds.

    Returns:
        (N, D) embeddings, a read-only memory map.

    Raises:
        ConfigError: The node is wrong (see :func:`solo_gps.embeddings.resolve.resolve_prior`).
        DataError: An image, a weights file or a brought array is not what was wanted.
        CacheError: The cache is damaged or foreign, or cannot be written.
    """
    check_not_empty(len(images))
    encoder = resolve_prior(prior, images)
    if isinstance(encoder, JoinEncoder):
        before = Digests(images, cache_root(encoder.config.cache_dir))
        encoder.take(of_parts(encoder.config, lambda node: embed(images, node, together=together)))
        before.check_unchanged()
    device = device_of(encoder.config.device)
    try:
        with preserved_generators(device):
            encoder.load(device)
            with _said_of_the_disk(cache_root(encoder.config.cache_dir)):
                if not together:
                    return _find_or_build(images, encoder)
                with torchrun_ranks() as ranks:
                    return _find_or_build(images, encoder, ranks)
    finally:
        del encoder
        give_back(device)


@contextmanager
def _said_of_the_disk(root: Path) -> Iterator[None]:
    """Images and what the user brings are read elsewhere: what the disk refuses here is the cache."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{error.filename or root}: {error.strerror or first_line(error)}. What was written before is kept: mend the disk or "
            f"its permissions and run again, or set prior.cache_dir or {ENVIRONMENT} to another place."
        ) from error


def _find_or_build(images: ImageSet, encoder: Encoder, ranks: Ranks | None = None) -> Embeddings:
    ranks = ranks or Ranks()
    description = describe(encoder, images)
    root = cache_root(encoder.config.cache_dir)
    started, built = time.monotonic(), False
    if (folder := _found(images, encoder, description, root, ranks)) is None:
        make_root(root)
        folder, built = _build_locked(images, encoder, description, root, ranks)
    embeddings = open_cache(folder, space=encoder.config.space, images=len(images))
    if ranks.first:
        remember_place(folder, getattr(images, "place", None))
    if isinstance(encoder, JoinEncoder) and encoder.config.agree:
        embeddings = dataclasses.replace(embeddings, parts=tuple(encoder.parts))
    logger.info(
        "prior %s: %s the embeddings of %s images%s (%d dimensions) in %s",
        encoder.config.name,
        "built" if built else "found",
        f"{len(images):,}",
        f" in {duration(time.monotonic() - started)}" if built else ", built earlier",
        embeddings.array.shape[1],
        folder,
    )
    return embeddings


def _found(images: ImageSet, encoder: Encoder, description: Mapping[str, Any], root: Path, ranks: Ranks) -> Path | None:
    """What rank 0 finds."""
    folder, error = None, None
    if ranks.first:
        try:
            folder = _find(images, encoder, description, root)
        except (SoloGpsError, OSError) as problem:
            error = problem
    found = ranks.share(folder and str(folder), error)
    return found and Path(found)


def _find(images: ImageSet, encoder: Encoder, description: Mapping[str, Any], root: Path) -> Path | None:
    """The cache of these images, if there is one.

    Images that have changed, or come from elsewhere, are read only where some cache may be theirs; else they are known by what
    the build reads.
    """
    data = None
    if encoder.reads_images:
        digests = _digests(images, root)
        if not digests.whole:
            if not any(_may_be_of(folder, description, len(images)) for folder in cache_folders(root)):
                return None
            digests.read()
        data = digests.of_all()
    folder = root / fingerprint(description, data)
    return folder if os.path.lexists(folder) else None


def _digests(images: ImageSet, root: Path) -> Digests:
    """What is known of the images.

    Raises:
        DataError: They were decoded once (``images.store``), and are others now: rows by the old pixels would bear the new name.
    """
    digests, kept = Digests(images, root), pixels_of(images)
    if kept is not None and kept.listing != digests.of_listing():
        raise DataError(CHANGED)
    return digests


def _may_be_of(folder: Path, description: Mapping[str, Any], images: int) -> bool:
    try:
        manifest = read_manifest(folder)
    except CacheError:
        return not folder.name.endswith(PARTIAL)  # if it is theirs, that is to be said before anything is built
    return manifest.get("images") == images and dict(manifest.get("description") or {}, data=None) == {
        **description,
        "data": None,
    }


def _build_locked(
    images: ImageSet, encoder: Encoder, description: Mapping[str, Any], root: Path, ranks: Ranks
) -> tuple[Path, bool]:
    """Builds unless another process just did; returns the folder, and whether this one built."""
    build = root / fingerprint({**description, "images": len(images)}, digest_of_names(images))
    with build_lock(build) if ranks.first else nullcontext():
        if (found := _found(images, encoder, description, root, ranks)) is not None:
            return found, False
        digests = _digests(images, root) if encoder.reads_images else None
        assert encoder.device is not None, "load comes first"
        with current(encoder.device):  # which takes memory of the GPU, and so not before there is something to embed
            return build_cache(images, encoder, description, digests, build.with_name(build.name + PARTIAL), ranks), True
