"""The one way to embeddings: find the cache, or build it under a lock."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from solo_gps.embeddings.build import build_cache
from solo_gps.embeddings.fingerprint import data_digest, describe, fingerprint
from solo_gps.embeddings.resolve import check_not_empty, resolve_prior
from solo_gps.embeddings.store import build_lock, cache_root, make_root, open_cache
from solo_gps.interfaces import Embeddings, ImageSet
from solo_gps.priors.base import Encoder
from solo_gps.runtime.determinism import preserved_generators
from solo_gps.runtime.devices import device_of
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
    encoder = resolve_prior(prior, len(images))
    device = device_of(encoder.config.device)
    try:
        with preserved_generators(device):
            encoder.load(device)
            if not together:
                return _find_or_build(images, encoder)
            with torchrun_ranks() as ranks:
                return _find_or_build(images, encoder, ranks)
    finally:
        del encoder
        _release(device)


def _release(device: torch.device) -> None:
    """Gives the encoder's memory back: training needs it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _find_or_build(images: ImageSet, encoder: Encoder, ranks: Ranks | None = None) -> Embeddings:
    description = describe(encoder, data_digest(images.content()))
    root = cache_root(encoder.config.cache_dir)
    folder = root / fingerprint(description)
    started, built = time.monotonic(), False
    if not folder.exists():
        make_root(root)
        built = _build_locked(images, encoder, description, folder, ranks)
    embeddings = open_cache(folder, space=encoder.config.space, images=len(images))
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


def _build_locked(images: ImageSet, encoder: Encoder, description: Mapping[str, Any], folder: Path, ranks: Ranks | None) -> bool:
    """Builds unless another process just did; returns whether this one built."""
    ranks = ranks or Ranks()
    with build_lock(folder) if ranks.first else nullcontext():
        if ranks.share(folder.exists()):
            return False
        build_cache(images, encoder, description, folder, ranks)
        return True
