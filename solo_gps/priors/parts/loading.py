"""Batches of preprocessed images, read and decoded by worker processes, without a draw from any global generator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch.utils.data import DataLoader, Dataset

from solo_gps.errors import SoloGpsError, UnreadableImageError, killed_worker
from solo_gps.interfaces import ImageSet, name_of
from solo_gps.runtime.machine import cpu_count

SMALL_SET = 1024
"""Below this many images, starting worker processes takes longer than decoding."""
MAX_WORKERS = 24
"""About 3,000 JPEG files a second, what one fast GPU embeds."""


class PreprocessedImages:
    """Map-style dataset of arrays, for a DataLoader.

    Args:
        images: Raw images.
        transform: From an RGB image (and its index, when ``indexed``) to an array.
        indexed: Whether ``transform`` also takes the index.
    """

    def __init__(self, images: ImageSet, transform: Callable[..., np.ndarray], indexed: bool = False) -> None:
        self.images, self.transform, self.indexed = images, transform, indexed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = self._image(index)
        array = self.transform(image, index) if self.indexed else self.transform(image)
        return torch.from_numpy(array.copy() if not array.flags.writeable else array)

    def _image(self, index: int) -> Image:
        try:
            return self.images.image(index)
        except SoloGpsError:
            raise
        except Exception as error:  # a damaged file brings out errors of any type in Pillow and its codecs
            raise UnreadableImageError(name_of(self.images, index), error) from error


def worker_count(wanted: int, images: int, processes: int = 1) -> int:
    """Number of worker processes for ``num_workers=wanted``.

    Args:
        wanted: As configured; -1 chooses.
        images: Images that this process reads.
        processes: Processes of this machine that share its CPUs.
    """
    if wanted >= 0:
        return wanted
    if images <= SMALL_SET:
        return 0
    return max(1, min(MAX_WORKERS, cpu_count() // processes))


def batches(
    images: PreprocessedImages | Dataset,
    indices: Sequence[Sequence[int]],
    *,
    num_workers: int,
    device: torch.device,
) -> Iterator[torch.Tensor]:
    """Starts the workers, and returns one stacked batch for each list of indices, in order.

    Args:
        images: Preprocessed images, or another map-style set of tensors.
        indices: Indices of each batch.
        num_workers: Worker processes, 0 to work in this one.
        device: Where batches go; the transfer overlaps the work on CUDA.

    Returns:
        Iterator over (B, ...) tensors on ``device``.

    Raises:
        DataError: While iterating: an image cannot be read.
        MachineError: While iterating: a worker was killed.
    """
    cuda = device.type == "cuda"
    options: dict[str, Any] = {}
    if num_workers:
        options = {"prefetch_factor": 3}
        if sys.platform == "linux":
            options["multiprocessing_context"] = "fork"  # datasets of the host need not be picklable
    loader: DataLoader = DataLoader(
        images,  # type: ignore[arg-type]
        batch_sampler=indices,  # type: ignore[arg-type]
        num_workers=num_workers,
        pin_memory=cuda,
        generator=torch.Generator(),
        **options,
    )
    return _on_device(iter(loader), device)


def _on_device(loaded: Iterator[Any], device: torch.device) -> Iterator[Any]:
    try:
        for batch in loaded:
            if isinstance(batch, torch.Tensor):
                yield batch.to(device, non_blocking=device.type == "cuda")
            else:
                pixels, *others = batch
                yield pixels.to(device, non_blocking=device.type == "cuda"), *others
    except RuntimeError as error:
        raise killed_worker(error) or error from error.__cause__


def consecutive(count: int, batch_size: int) -> list[range]:
    """Splits ``range(count)`` into ranges of at most ``batch_size``."""
    return [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
