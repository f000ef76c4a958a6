"""Embeds every image into a partial cache, at the encoder's own speed, and turns the partial cache into a whole one."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from solo_gps.embeddings.digests import Digests
from solo_gps.embeddings.fingerprint import fingerprint
from solo_gps.embeddings.forward import digested_batches, embed_batch, loaded_batches
from solo_gps.embeddings.partial import JOURNAL, Partial, missing_blocks
from solo_gps.embeddings.store import ARRAY, FORMAT, NAME, STATE
from solo_gps.errors import CacheError, ConfigError, DataError, SoloGpsError, first_line
from solo_gps.interfaces import ImageSet
from solo_gps.priors.base import Encoder
from solo_gps.priors.parts.loading import worker_count
from solo_gps.runtime.determinism import plain_float32
from solo_gps.runtime.files import file_digest, whole_file, write_text
from solo_gps.runtime.progress import Progress, duration
from solo_gps.runtime.ranks import Ranks
from solo_gps.runtime.store import mend_of, write_manifest
from solo_gps.version import __version__

logger = logging.getLogger("solo_gps.embeddings")

QUEUED_BLOCKS = 4
"""Embedded blocks that may wait to be written: writing overlaps the forward pass, and memory stays bounded."""


def build_cache(
    images: ImageSet,
    encoder: Encoder,
    description: Mapping[str, Any],
    digests: Digests | None,
    work: Path,
    ranks: Ranks | None = None,
) -> Path:
    """Builds a cache, or finishes the build that a killed process left.

    Args:
        images: Raw images.
        encoder: A loaded encoder.
        description: What :func:`solo_gps.embeddings.fingerprint.describe` returned.
        digests: What is known of the images, and takes what is learned of them; ``None`` where the encoder reads no image.
        work: Folder of the build, which the same listing finds again. Rank 0 holds its lock.
        ranks: The processes that build together; each calls this function.

    Returns:
        The folder of the whole cache, named by the fingerprint of what was read.

    Raises:
        DataError: An image cannot be read, or its embedding is not finite.
        CacheError: The disk is full or cannot be written.
    """
    ranks = ranks or Ranks()
    started = time.monotonic()
    with ranks.failing_together():
        encoder.to_device()
    _prepare_encoder(images, encoder, digests, work, ranks)
    partial = Partial(work, (len(images), _dimensions(images, encoder)), encoder.config.storage, ranks.rank)
    todo, error = None, None
    if ranks.first:
        try:
            partial.create()
            todo = _todo(partial, digests, len(images), encoder.config.batch_size)
        except (SoloGpsError, OSError) as problem:
            error = problem
    blocks = [range(start, stop) for start, stop in ranks.share(todo, error)]
    fitted = time.monotonic()
    failure: Exception | None = None
    try:
        _embed_blocks(images, encoder, digests, partial, blocks[ranks.rank :: ranks.world], ranks)
        if encoder.trained and digests is not None:  # rows of other images than those of its state
            digests.check_unchanged()
    except Exception as problem:
        if ranks.world == 1:
            raise
        failure = problem
    ranks.all_agree(failure)
    folder = None
    if ranks.first:
        now = time.monotonic()
        folder = _finish(
            partial,
            encoder,
            description,
            digests,
            {
                "images_in_last_run": sum(map(len, blocks)),
                "embedding_seconds": round(now - fitted, 3),
                "seconds": round(now - started, 3),
            },
        )
    return Path(ranks.share(str(folder)))


def _prepare_encoder(images: ImageSet, encoder: Encoder, digests: Digests | None, work: Path, ranks: Ranks) -> None:
    """Fits a trained encoder in rank 0; every rank then works with the saved state, as a resumed build does."""
    error: Exception | None = None
    if ranks.first:
        try:
            _make_folder(work)
            if encoder.trained:
                _fit(images, encoder, digests, work)
        except Exception as problem:
            if ranks.world == 1:
                raise
            error = problem
    ranks.share(None, error)
    if encoder.trained:
        # Cloned to where torch aligns memory: a tensor in the file's own bytes may begin anywhere, and then the last bit of a
        # product with it may differ from one process to the next.
        encoder.load_state({name: tensor.clone() for name, tensor in load((work / STATE).read_bytes()).items()})


def _make_folder(work: Path) -> None:
    if not os.path.lexists(work):
        work.mkdir(parents=True)
    foreign = next((path for path in work.iterdir() if path.is_dir()), None) if work.is_dir() else work
    if foreign is not None:
        raise CacheError(f"{foreign} is in the way of a build. {mend_of(work)}, and run again")


def _fit(images: ImageSet, encoder: Encoder, digests: Digests | None, work: Path) -> None:
    """Fits, unless an interrupted build had fitted on the same listing of images."""
    listing = "" if digests is None else digests.of_listing()
    fitted_on = work / "fitted_on"
    with suppress(OSError):  # there is none
        if fitted_on.read_bytes() == f"{listing} {file_digest(work / STATE)}".encode():
            return
    for leftover in (*work.glob(fitted_on.name), *work.glob(f"{JOURNAL}*")):
        leftover.unlink()  # rows by another state
    assert encoder.device is not None, "load comes first"
    with plain_float32(encoder.device.type):
        encoder.fit(images)
    if digests is not None:
        digests.check_unchanged()
    with whole_file(work / STATE, locked=True) as unfinished:
        # By Python: safetensors' own writing knows no path that is not UTF-8, and calls a full disk an error of the format.
        unfinished.write_bytes(save({name: tensor.contiguous() for name, tensor in encoder.state().items()}))
    write_text(fitted_on, f"{listing} {file_digest(work / STATE)}")


def _dimensions(images: ImageSet, encoder: Encoder) -> int:
    batch = next(loaded_batches(images, encoder, [range(1)], workers=0))
    try:
        rows = embed_batch(encoder, batch)
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch's, of shapes
        raise ConfigError(
            f"prior {encoder.config.name!r} cannot embed an image of shape {tuple(batch.shape[1:])}: {first_line(error)}. Mend "
            "its keys (kwargs, image_size, layers): a network must take RGB images of that size."
        ) from error
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise DataError(f"prior {encoder.config.name!r} gave shape {tuple(rows.shape)} for one image; wanted (1, dimensions).")
    return int(rows.shape[1])


def _todo(partial: Partial, digests: Digests | None, images: int, batch_size: int) -> list[tuple[int, int]]:
    finished = partial.finished()
    if digests is not None:
        digests.read(row for block in finished for row in range(block.start, block.stop))
        finished = [block for block in finished if digests.values[block.start : block.stop].tobytes().hex() == block.images]
    partial.keep(finished)
    if finished:
        done = sum(block.stop - block.start for block in finished)
        logger.info("prior: an interrupted build goes on; %s of %s images are embedded already", f"{done:,}", f"{images:,}")
    return [(block.start, block.stop) for block in missing_blocks(images, batch_size, [block[:2] for block in finished])]


def _embed_blocks(
    images: ImageSet, encoder: Encoder, digests: Digests | None, partial: Partial, blocks: list[range], ranks: Ranks
) -> None:
    count = sum(map(len, blocks))
    workers = worker_count(encoder.config.num_workers, count)
    done = partial.shape[0] - count if ranks.world == 1 else 0
    # Before the thread of the writer: forking workers from a process with threads is not safe.
    loaded = digested_batches(images, encoder, blocks, workers)
    with (
        partial,
        _Writer(partial, encoder) as writer,
        Progress(f"embedding with {encoder.config.name}", done + count, done=done, enabled=ranks.first) as progress,
    ):
        for block, (batch, read) in zip(blocks, loaded, strict=True):
            if not read and digests is not None:
                read = digests.values[block.start : block.stop].tobytes()
            writer.put(block.start, embed_batch(encoder, batch), read)
            progress.update(len(block))


class _Writer:
    """Writes blocks in a thread of its own.

    Args:
        partial: Opened partial cache.
        encoder: The prior, for errors.
    """

    def __init__(self, partial: Partial, encoder: Encoder) -> None:
        self._partial, self._encoder = partial, encoder
        self._queue: queue.Queue[tuple[int, torch.Tensor, bytes, Any] | None] = queue.Queue(QUEUED_BLOCKS)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="solo-gps-writer", daemon=True)

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def put(self, start: int, rows: torch.Tensor, images: bytes) -> None:
        """Hands over (B, D) rows on any device and the digests of their images; waits while too many blocks are queued."""
        self._raise()
        ready = None
        if rows.device.type == "cuda":
            host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            host.copy_(rows, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(rows.device))  # the copy's: the current device may be another
            rows = host
        self._queue.put((start, rows, images, ready))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # keeps emptying the queue, so that put never waits for ever
            try:
                start, rows, images, ready = item
                if ready is not None:
                    ready.synchronize()
                self._partial.write(start, self._stored(start, rows.numpy()), images)
            except (OSError, DataError, RuntimeError, AssertionError) as error:
                self._error = error

    def _stored(self, start: int, rows: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            stored = rows.astype(self._partial.dtype)
        bad = ~np.isfinite(stored).all(axis=1)
        if bad.any():
            index = start + int(bad.argmax())
            if np.isfinite(rows).all():
                mend = "Try prior.storage=float32."
            elif self._encoder.precision != "fp32":
                mend = "Try prior.precision=fp32."
            else:
                mend = "It is so in full precision: look at that image, or take a prior with other weights."
            raise DataError(f"prior {self._encoder.config.name!r}: the embedding of image {index} is not finite. {mend}")
        return stored


def _finish(
    partial: Partial, encoder: Encoder, description: Mapping[str, Any], digests: Digests | None, built: Mapping[str, Any]
) -> Path:
    images, dimensions = partial.shape
    blocks = partial.finished()
    left = missing_blocks(images, images, [block[:2] for block in blocks])
    if left:
        raise CacheError(f"{partial.folder}: rows {left[0].start} to {left[0].stop} were changed while building. Run again.")
    data = None
    if digests is not None:
        digests.learn(range(images), b"".join(bytes.fromhex(block.images) for block in blocks))
        digests.save()
        data = digests.of_all()
    folder = partial.folder.with_name(fingerprint(description, data))
    if os.path.lexists(folder) and not folder.is_dir():
        raise CacheError(f"{folder} is in the way: it is no folder. What is embedded is kept. {mend_of(folder)}, and run again")
    if folder.exists():  # the same images, built under another listing meanwhile
        shutil.rmtree(partial.folder)
        return folder
    values = {
        "format": FORMAT,
        "fingerprint": folder.name,
        "images": images,
        "dimensions": dimensions,
        "dtype": str(partial.dtype),
        "prior": encoder.config.name,
        "description": {**description, "data": data},
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "built": {
            **built,
            "device": str(encoder.device),
            "batch_size": encoder.config.batch_size,
        },
        "versions": {
            "solo_gps": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    files = [ARRAY, STATE] if encoder.trained else [ARRAY]
    write_manifest(partial.folder / NAME, values, {file: {} for file in files})
    partial.keep_only([NAME, *files])
    os.replace(partial.folder, folder)
    logger.debug(
        "prior %s: %s in %s on %s, batches of %d; %.1f images/s, the encoder's own training left out",
        encoder.config.name,
        partial.dtype,
        duration(built["seconds"]),
        encoder.device,
        encoder.config.batch_size,
        built["images_in_last_run"] / max(built["embedding_seconds"], 1e-9),
    )
    return folder
