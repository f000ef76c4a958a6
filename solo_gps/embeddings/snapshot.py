"""Embeddings of a network that goes on changing: held in a scratch file while neighbours are searched, never cached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from solo_gps.embeddings.digests import Digests
from solo_gps.embeddings.forward import embed_batch, loaded_batches
from solo_gps.embeddings.store import cache_root, make_root
from solo_gps.errors import CacheError, DataError
from solo_gps.interfaces import Embeddings, ImageSet
from solo_gps.priors.base import Encoder
from solo_gps.priors.parts.loading import consecutive, worker_count
from solo_gps.runtime.determinism import preserved_generators
from solo_gps.runtime.progress import Progress
from solo_gps.runtime.ranks import Ranks, training_ranks
from solo_gps.runtime.scratch import check_room, scratch_file

WHAT = "refresh: the embeddings of the network being trained"


@contextmanager
def snapshot(images: ImageSet, encoder: Encoder, *, progress: bool = True, together: bool = True) -> Iterator[Embeddings]:
    """Embeds the images as the encoder is now; the embeddings are gone when the context ends.

    When torch.distributed is initialised, every rank must enter: each embeds its share, and the ranks of one machine read one
    file. When one rank fails, all raise. Memory stays bounded whatever N; the scratch file takes N x D x 4 bytes. Global random
    generators are left as they were.

    Args:
        images: N raw images, the same and in the same order in every rank.
        encoder: A loaded encoder, the same in every rank.
        progress: Whether to show a progress bar.
        together: Whether the ranks share the work; else each embeds all images by itself.

    Yields:
        (N, D) float32 embeddings, read-only, the same in every rank.

    Raises:
        DataError: An image cannot be read, or an embedding is not finite.
        CacheError: The scratch file cannot be written.
        ConfigError: Another rank failed.
    """
    assert encoder.device is not None, "load comes first"
    with preserved_generators(encoder.device):
        array = _embedded(images, encoder, training_ranks(together), progress)
    root = cache_root(encoder.config.cache_dir)
    yield Embeddings(array=array, fingerprint="", folder=None, space=encoder.config.space, scratch=root)


def check_same_images(images: ImageSet, cache_dir: str | None) -> str:
    """Returns the digest of the images, once every rank has found the same one.

    Args:
        images: N raw images.
        cache_dir: Folder of caches, where the digests are remembered.

    Raises:
        DataError: Two ranks list different images, or the same ones in another order.
    """
    known = Digests(images, cache_root(cache_dir))
    error: Exception | None = None
    try:
        known.read()
    except DataError as problem:
        error = problem
    training_ranks().all_agree(error)
    digest = known.of_all()
    digests = training_ranks().gather(digest)
    other = next((rank for rank, found in enumerate(digests) if found != digests[0]), None)
    if other is not None:
        raise DataError(
            f"ranks 0 and {other} list different training images, or the same in another order, so that a neighbour's number "
            "means another image there. Give every machine the same files; folders of classes are listed in order of name."
        )
    return digest


def check_rooms(cache_dir: str | None, images: int, dimensions: int, *, space: str, shared: bool) -> None:
    """Checks that the folder of caches has room for all that a refresh writes there.

    Args:
        cache_dir: Folder of caches.
        images: N.
        dimensions: D.
        space: Of the embeddings.
        shared: Whether several processes of this machine train: then they share the points of the search too, in float32 as the
            embeddings are: centred, and where the space is cosine also of unit length.

    Raises:
        CacheError: It has not.
    """
    arrays = 1 if not shared else 3 if space == "cosine" else 2
    check_room(cache_root(cache_dir), arrays * images * dimensions * 4, WHAT)


def _embedded(images: ImageSet, encoder: Encoder, ranks: Ranks, progress: bool) -> np.ndarray:
    root, width = cache_root(encoder.config.cache_dir), 0
    with ranks.failing_together():
        make_root(root)
    with scratch_file(ranks, root, WHAT) as scratch:
        error: Exception | None = None
        for start, rows in _all_rows(images, encoder, ranks, len(scratch.here), progress):
            if scratch.writes and error is None:
                try:
                    if not width:
                        check_room(root, len(images) * rows.shape[1] * rows.itemsize, WHAT)
                    scratch.write(rows, start * rows.shape[1] * rows.itemsize)
                except CacheError as problem:
                    if ranks.world == 1:
                        raise
                    error = problem  # the others go on to the end: one that left now would keep them waiting for ever
            width = rows.shape[1]
        ranks.all_agree(error)  # every row is written
        return scratch.map((0, (len(images), width), "<f4"))


def _all_rows(
    images: ImageSet, encoder: Encoder, ranks: Ranks, processes: int, progress: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Embeds a block a rank at a time, and yields every rank's (first index, (B, D) float32 rows), checked."""
    blocks = consecutive(len(images), encoder.config.batch_size)
    rounds = [blocks[first : first + ranks.world] for first in range(0, len(blocks), ranks.world)]
    own = [parts[ranks.rank] if ranks.rank < len(parts) else range(1) for parts in rounds]
    loaded = loaded_batches(images, encoder, own, worker_count(encoder.config.num_workers, sum(map(len, own)), processes))
    enabled = progress and ranks.first
    with Progress("embedding with the network being trained", len(images), enabled=enabled) as bar:
        for parts in rounds:
            rows, error = torch.empty(0), None
            try:
                rows = embed_batch(encoder, next(loaded))
            except Exception as problem:
                if ranks.world == 1:
                    raise
                error = problem
            ranks.all_agree(error)
            padded = torch.nn.functional.pad(rows, (0, 0, 0, len(parts[0]) - len(rows)))
            for block, gathered in zip(parts, ranks.gather_rows(padded).split(len(padded)), strict=False):
                array = gathered[: len(block)].cpu().numpy()
                _check_finite(array, block)
                yield block.start, array
            bar.update(sum(map(len, parts)))


def _check_finite(rows: np.ndarray, block: range) -> None:
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise DataError(
            f"refresh: the network being trained gives image {block[int(bad.argmax())]} an embedding that is not finite; "
            "the training has diverged. Lower optimizer.lr, or set refresh.precision=fp32."
        )
