"""Preprocessing of images: small picklable callables that run in worker processes, and normalisation on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

SMALL_IMAGE = 96
"""Up to this side images are not cropped: small images have no margin to lose."""


def shorter_side(crop: int) -> int:
    """What the shorter side is scaled to before a centre crop of side ``crop``, as is usual in evaluation, in pixels."""
    return crop if crop <= SMALL_IMAGE else round(crop / 0.875)


@dataclass(frozen=True)
class SquareResize:
    """Squeezes an image of any size into ``size`` x ``size``: one fixed shape whatever the folder holds.

    Args:
        size: Side in pixels.
    """

    size: int

    def __call__(self, image: Image) -> np.ndarray:
        """Returns (3, size, size) uint8."""
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Resampling.BILINEAR)
        return np.asarray(image.convert("RGB") if image.mode != "RGB" else image).transpose(2, 0, 1)


@dataclass(frozen=True)
class ResizeCrop:
    """Scales the shorter side to ``resize``, then cuts the central ``crop`` x ``crop``: what ImageNet models expect.

    Args:
        resize: Shorter side in pixels.
        crop: Side of the centre crop in pixels.
        interpolation: Name of a Pillow resampling filter, for example ``"bilinear"``.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"

    def __call__(self, image: Image) -> np.ndarray:
        """Returns (3, crop, crop) uint8."""
        small = functional.resize(image, [self.resize], InterpolationMode(self.interpolation))
        return np.asarray(functional.center_crop(small, [self.crop, self.crop])).transpose(2, 0, 1)


def normalise(batch: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Scales (B, C, H, W) uint8 to [0, 1] and normalises it with the channel ``mean`` and ``std``; floats pass unchanged."""
    if batch.dtype != torch.uint8:
        return batch
    scaled = batch.to(torch.float32).div_(255)
    return scaled.sub_(_channels(tuple(mean), batch.device)).div_(_channels(tuple(std), batch.device))


@lru_cache(maxsize=32)
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """(1, C, 1, 1) float32, kept on its device: each copy from the CPU would have to wait for the batch before."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


@dataclass(frozen=True)
class Augmented:
    """Draws of an augmentation, each then preprocessed: the same seed and index give the same draws in any process.

    Args:
        preprocess: Preprocessing of one image.
        augmentation: ``"flip"``, ``"crop"`` or ``"simclr"``.
        draws: Number of draws R.
        seed: Seed of the draws.
    """

    preprocess: Callable[[Image], np.ndarray]
    augmentation: str
    draws: int
    seed: int

    def __call__(self, image: Image, index: int) -> np.ndarray:
        """Returns (R, C, H, W), the draws of image ``index``."""
        transform = _augmentation(self.augmentation, min(image.size))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed * 1_000_003 + index)
            return np.stack([self.preprocess(transform(image)) for _ in range(self.draws)])


def _augmentation(name: str, size: int) -> Callable[[Image], Image]:
    flip: list[Any] = [transforms.RandomHorizontalFlip()]
    if name == "flip":
        return transforms.Compose(flip)
    crop = [transforms.RandomResizedCrop(size, scale=(0.2, 1.0))]
    if name == "crop":
        return transforms.Compose(crop + flip)
    colour = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    return transforms.Compose([*crop, *flip, colour, transforms.RandomGrayscale(p=0.2)])
