"""Other images in the space of a prior: a test set beside the training set, and augmented views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load

from solo_gps.embeddings.forward import embed_batch, loaded_batches
from solo_gps.embeddings.resolve import of_parts, resolve_prior
from solo_gps.embeddings.service import embed
from solo_gps.embeddings.store import NAME, STATE, read_manifest
from solo_gps.interfaces import Embeddings, ImageSet
from solo_gps.priors.base import Encoder
from solo_gps.priors.join import JoinEncoder
from solo_gps.priors.parts.loading import consecutive, worker_count
from solo_gps.runtime.determinism import preserved_generators
from solo_gps.runtime.devices import current, device_of, give_back
from solo_gps.runtime.progress import Progress
from solo_gps.runtime.store import check_blocks, mend_of

VIEWS = "simclr"
"""The augmentation of views (``prior.augmentation``)."""


def has_views(prior: Mapping[str, Any]) -> bool:
    """Whether a prior looks at images, so that it can embed views of them; else its embeddings are already made."""
    encoder = resolve_prior(prior)
    parts = of_parts(encoder.config, has_views)
    return all(parts) if parts else encoder.reads_images


def embed_others(
    images: ImageSet, prior: Mapping[str, Any], fitted_on: ImageSet, *, views: int = 0, seed: int = 0
) -> NDArray[np.floating]:
    """Returns images in the space that a prior makes of a training set; a prior that learns has learned from the latter alone.

    What the prior alone decides is cached (:func:`solo_gps.embeddings.embed`); the rest is held in memory.

    Args:
        images: M raw images.
        prior: The recipe's ``prior`` node.
        fitted_on: The training set, whose embeddings are found or built where the prior learns.
        views: Random views of each image to embed in place of the image: crop, flip, colour, grey (see :func:`has_views`).
        seed: Seed of the views, the same for every prior.

    Returns:
        (M, D) embeddings, or (views, M, D).

    Raises:
        SoloGpsError: As :func:`solo_gps.embeddings.embed`; also where what the prior learned is damaged.
    """
    encoder = resolve_prior(prior, images)
    joined = isinstance(encoder, JoinEncoder)
    if not (views or encoder.trained or joined):
        return embed(images, prior).array
    rows = len(images)
    if isinstance(encoder, JoinEncoder):
        parts = of_parts(encoder.config, lambda node: embed_others(images, node, fitted_on, views=views, seed=seed))
        rows = len(images) * (views or 1)
        encoder.take([Embeddings(array=part.reshape(rows, -1)) for part in parts])
    device = device_of(encoder.config.device)
    try:
        with preserved_generators(device), current(device):
            encoder.load(device)
            encoder.to_device()
            if encoder.trained:
                folder = embed(fitted_on, prior).folder
                assert folder is not None
                check_blocks(folder / NAME, read_manifest(folder), STATE, mend_of(folder), at_most=None)
                encoder.load_state({name: tensor.clone() for name, tensor in load((folder / STATE).read_bytes()).items()})
            found = _forward(images, encoder, rows, 0 if joined else views, seed)
    finally:
        del encoder
        give_back(device)
    return found.reshape(views, len(images), -1) if views else found


def _forward(images: ImageSet, encoder: Encoder, rows: int, views: int, seed: int) -> NDArray[np.float32]:
    if views:
        encoder.config = replace(encoder.config, augmentation=VIEWS, draws=views, seed=seed)
    blocks = consecutive(rows, encoder.config.batch_size)
    loaded = loaded_batches(images, encoder, blocks, worker_count(encoder.config.num_workers, rows))
    parts: list[list[np.ndarray]] = [[] for _ in range(views or 1)]
    what = f"embedding {'views ' if views else ''}with {encoder.config.name}"
    with Progress(what, rows) as progress:
        for block, batch in zip(blocks, loaded, strict=True):
            for draw, part in enumerate(parts):
                part.append(embed_batch(encoder, batch[:, draw] if views else batch).cpu().numpy())
            progress.update(len(block))
    return np.concatenate([np.concatenate(part) for part in parts])
