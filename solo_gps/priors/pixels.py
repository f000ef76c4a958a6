"""Raw pixels as prior: the control with no knowledge at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from solo_gps.config import check_at_least
from solo_gps.priors.base import Encoder, PriorConfig
from solo_gps.priors.parts.preprocess import SquareResize

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class PixelsConfig(PriorConfig):
    """Keys of ``prior=pixels``."""

    name: str = "pixels"
    """Registered name of the encoder."""
    precision: str = "fp32"
    """As in every prior, but full precision unless asked otherwise: this encoder is cheap."""
    image_size: int = 32
    """Images are squeezed to this side; the embedding has 3 x side x side dimensions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("image_size", self.image_size, 1)


class PixelsEncoder(Encoder):
    """Pixels in [0, 1], as one row."""

    config_class = PixelsConfig

    def transform(self) -> Callable[[Image], np.ndarray]:
        """Squeezes the image to (3, S, S) uint8."""
        return SquareResize(self.config.image_size)

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, 3 * S * S) float32 in [0, 1]."""
        return batch.flatten(1).float().div_(255)
