"""The one forward pass over images: what a cache is built with, and a snapshot of the network being trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from solo_gps.embeddings.decoded import pixels_of
from solo_gps.embeddings.digests import image_digest
from solo_gps.interfaces import ImageSet, StoredImages
from solo_gps.priors.base import Encoder
from solo_gps.priors.parts.loading import PreprocessedImages, batches
from solo_gps.priors.parts.preprocess import Augmented


def loaded_batches(images: ImageSet, encoder: Encoder, blocks: Sequence[range], workers: int) -> Iterator[torch.Tensor]:
    """Starts the workers, and returns what :func:`embed_batch` takes for each block, in order.

    Args:
        images: Raw images.
        encoder: A loaded encoder.
        blocks: Image indices of each batch.
        workers: Worker processes, 0 to work in this one.
    """
    return _loaded(images, encoder, blocks, workers)


def digested_batches(
    images: ImageSet, encoder: Encoder, blocks: Sequence[range], workers: int
) -> Iterator[tuple[torch.Tensor, bytes]]:
    """As :func:`loaded_batches`, each with the digests of its images' stored bytes, taken in the workers.

    There are none where no image is read, or where images cannot be read one by one.
    """
    if not (encoder.reads_images and isinstance(images, StoredImages)):
        return ((batch, b"") for batch in _loaded(images, encoder, blocks, workers))
    loaded = _loaded(images, encoder, blocks, workers, _Digested)
    return ((batch, digests.numpy().tobytes()) for batch, digests in loaded)


class _Digested(PreprocessedImages):
    """Preprocessed images, each with the (16,) uint8 digest of its stored bytes."""

    def __getitem__(self, index: int) -> Any:
        assert isinstance(self.images, StoredImages)
        kept = pixels_of(self.images)
        digest = (kept and kept.digest(index)) or image_digest(self.images.stored(index))
        return super().__getitem__(index), torch.frombuffer(bytearray(digest), dtype=torch.uint8)


def _loaded(
    images: ImageSet, encoder: Encoder, blocks: Sequence[range], workers: int, cls: type[PreprocessedImages] = PreprocessedImages
) -> Iterator[Any]:
    assert encoder.device is not None, "load comes first"
    if not encoder.reads_images:
        return (torch.arange(block.start, block.stop) for block in blocks)
    transform: Any = encoder.transform()
    augmented = encoder.config.augmentation != "none"
    if augmented:
        transform = Augmented(transform, encoder.config.augmentation, encoder.config.draws, encoder.config.seed)
    return batches(cls(images, transform, augmented), blocks, num_workers=workers, device=encoder.device)


def embed_batch(encoder: Encoder, batch: torch.Tensor) -> torch.Tensor:
    """Embeds a batch; draws (B, R, C, H, W) of an augmentation become the mean of their embeddings.

    Returns:
        (B, D) float32 on the encoder's device.
    """
    with torch.inference_mode(), encoder.autocast():
        if batch.ndim != 5:
            return encoder.embed(batch).float()
        rows = encoder.embed(batch.flatten(0, 1)).float()
        return rows.unflatten(0, batch.shape[:2]).mean(1)
