"""A network that goes on changing: not a frozen prior, but the network being trained, looked at as it is now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL.Image import Image

from solo_gps.priors.base import Encoder, PriorConfig
from solo_gps.priors.parts.preprocess import ResizeCrop, normalise, shorter_side


class LiveNetwork(Encoder):
    """Embeds by a function that somebody else owns. It has no identity, so it is never cached.

    Args:
        config: Batch size, precision, workers and space.
        forward: From (B, 3, S, S) float32, normalised, to (B, D).
        device: Where ``forward`` works.
        image_size: Side S of the square that the network sees.
        mean: Mean of each channel, as in training.
        std: Standard deviation of each channel, as in training.
    """

    def __init__(
        self,
        config: PriorConfig,
        forward: Callable[[torch.Tensor], torch.Tensor],
        *,
        device: torch.device,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(config)
        self.device = device
        self._forward, self._image_size, self._mean, self._std = forward, image_size, mean, std

    def transform(self) -> Callable[[Image], np.ndarray]:
        """Scales and crops the image to (3, S, S) uint8."""
        return ResizeCrop(shorter_side(self._image_size), self._image_size)

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, D) float32."""
        pixels = normalise(batch, self._mean, self._std).contiguous(memory_format=torch.channels_last)
        return self._forward(pixels).float().flatten(1)
