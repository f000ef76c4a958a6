"""Embeddings of a network that goes on changing: held in a scratch file while neighbours are searched, never cached."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from solo_gps.encoders.loading import consecutive, worker_count
from solo_gps.encoders.progress import Progress
from solo_gps.errors import CacheError, DataError
from solo_gps.interfaces import Embeddings
from solo_gps.prior.forward import embed_batch, loaded_batches
from solo_gps.prior.rng import preserved_generators
from solo_gps.prior.store import cache_root, make_root

if TYPE_CHECKING:
    import numpy as np
    import torch

    from solo_gps.encoders.base import Encoder
    from solo_gps.interfaces import ImageSet


@contextmanager
def snapshot(images: ImageSet, encoder: Encoder) -> Iterator[Embeddings]:
    """Embeds the images as the encoder is now; the embeddings are gone when the context ends.

    When torch.distributed is initialised, every rank must enter: each embeds its share, and the ranks of one machine read one
    file. Memory stays bounded whatever N. Global random generators are left as they were.

    Args:
        images: N raw images.
        encoder: A loaded encoder, the same in every rank.

    Yields:
        (N, D) float32 embeddings, read-only, the same in every rank.

    Raises:
        DataError: An image cannot be read, or an embedding is not finite.
        CacheError: The scratch file cannot be written.
    """
    assert encoder.device is not None, "load comes first"
    with preserved_generators(encoder.device):
        array = _embedded(images, encoder, _Group())
    yield Embeddings(array=array, fingerprint="", folder=None, space=encoder.config.space)


class _Group:
    """The ranks of torch.distributed's default group; this process alone without it."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else None
        self.rank = self._dist.get_rank() if self._dist else 0
        self.world = self._dist.get_world_size() if self._dist else 1

    def objects(self, value: Any) -> list[Any]:
        """Returns the values of all ranks."""
        if self._dist is None:
            return [value]
        values: list[Any] = [None] * self.world
        self._dist.all_gather_object(values, value)
        return values

    def rows(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Returns the equally shaped rows of all ranks."""
        if self._dist is None:
            return [rows]
        import torch

        parts = [torch.empty_like(rows) for _ in range(self.world)]
        self._dist.all_gather(parts, rows)
        return parts


def _embedded(images: ImageSet, encoder: Encoder, group: _Group) -> np.ndarray:
    import numpy as np

    with _scratch_file(group, encoder.config.cache_dir) as (file, writes):
        width = 0
        for start, rows in _all_rows(images, encoder, group):
            width = rows.shape[1]
            if writes:
                _write(file, start, rows)
        group.objects(None)  # every row is written
        return np.memmap(file, np.float32, "r", shape=(len(images), width))


@contextmanager
def _scratch_file(group: _Group, cache_dir: str | None) -> Iterator[tuple[BinaryIO, bool]]:
    """A file in the folder of caches that the ranks of one machine share: page cache, not memory, whatever N.

    It loses its name before anything is written: however the process ends, nothing is left behind.

    Yields:
        The file, and whether this rank writes it.
    """
    machines = group.objects(socket.gethostname())
    writer = machines.index(machines[group.rank])
    writes = writer == group.rank
    root = cache_root(cache_dir)
    make_root(root)
    with ExitStack() as stack:
        own = None
        if writes:
            own = stack.enter_context(tempfile.NamedTemporaryFile(prefix=".scratch-", dir=root, delete=False))
            stack.callback(Path(own.name).unlink, missing_ok=True)
        path = group.objects(own.name if own else None)[writer]
        file: Any = own or stack.enter_context(open(path, "rb"))
        group.objects(None)  # every rank has it open
        if writes:
            Path(path).unlink()
        yield file, writes


def _write(file: BinaryIO, start: int, rows: np.ndarray) -> None:
    """Writes (B, D) rows, the first of which is row ``start``."""
    view, offset = memoryview(rows.data).cast("B"), start * rows.shape[1] * rows.itemsize
    try:
        while view:
            written = os.pwrite(file.fileno(), view, offset)
            view, offset = view[written:], offset + written
    except OSError as error:
        raise CacheError(
            f"refresh: the folder of caches cannot hold the embeddings: {error.strerror}. Set SOLO_GPS_CACHE or prior.cache_dir "
            "to a folder with room."
        ) from error


def _all_rows(images: ImageSet, encoder: Encoder, group: _Group) -> Iterator[tuple[int, np.ndarray]]:
    """Embeds a block a rank at a time, and yields every rank's (first index, (B, D) float32 rows), checked."""
    import torch

    blocks = consecutive(len(images), encoder.config.batch_size)
    rounds = [blocks[first : first + group.world] for first in range(0, len(blocks), group.world)]
    own = [parts[group.rank] if group.rank < len(parts) else range(1) for parts in rounds]
    workers = worker_count(encoder.config.num_workers, sum(map(len, own)))
    loaded = loaded_batches(images, encoder, own, workers)
    with Progress("embedding with the network being trained", len(images), enabled=group.rank == 0) as progress:
        for parts, batch in zip(rounds, loaded, strict=True):
            rows = embed_batch(encoder, batch)
            padded = torch.nn.functional.pad(rows, (0, 0, 0, len(parts[0]) - len(rows)))
            for block, gathered in zip(parts, group.rows(padded.contiguous()), strict=False):
                array = gathered[: len(block)].cpu().numpy()
                _check_finite(array, block)
                yield block.start, array
            progress.update(sum(map(len, parts)))


def _check_finite(rows: np.ndarray, block: range) -> None:
    import numpy as np

    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise DataError(
            f"refresh: the network being trained gives image {block[int(bad.argmax())]} an embedding that is not finite; "
            "the training has diverged. Lower optimizer.lr, or set refresh.precision=fp32."
        )
