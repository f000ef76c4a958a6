"""Raw pixels as prior: the control with no knowledge at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL.Image import Image

from solo_gps.priors.base import Encoder
from solo_gps.priors.config import PixelsConfig
from solo_gps.priors.parts.preprocess import SquareResize


class PixelsEncoder(Encoder):
    """Pixels in [0, 1], as one row."""

    config_class = PixelsConfig
    cost = "reading the images; 3 x image_size x image_size dimensions"

    def transform(self) -> Callable[[Image], np.ndarray]:
        """Squeezes the image to (3, S, S) uint8."""
        return SquareResize(self.config.image_size)

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, 3 * S * S) float32 in [0, 1]."""
        return batch.flatten(1).float().div_(255)
