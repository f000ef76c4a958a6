"""Principal components of the pixels of the target set."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL.Image import Image

from solo_gps.interfaces import ImageSet
from solo_gps.priors.base import Encoder
from solo_gps.priors.config import PcaConfig
from solo_gps.priors.parts.loading import PreprocessedImages, batches, consecutive, worker_count
from solo_gps.priors.parts.preprocess import SquareResize
from solo_gps.priors.parts.principal import evenly_spaced, principal_components


class PcaEncoder(Encoder):
    """Pixels projected onto their axes of largest variance."""

    config_class = PcaConfig
    cost = "CPU seconds for small images; at most `dimensions`"
    version = 2
    trained = True

    def transform(self) -> Callable[[Image], np.ndarray]:
        """Squeezes the image to (3, S, S) uint8."""
        return SquareResize(self.config.image_size)

    def fit(self, images: ImageSet) -> None:
        """Finds the components from the pixels of at most ``fit_images`` images."""
        chosen = evenly_spaced(len(images), self.config.fit_images)
        assert self.device is not None
        rows = batches(
            PreprocessedImages(images, self.transform()),
            [chosen[part.start : part.stop] for part in consecutive(len(chosen), 1024)],
            num_workers=worker_count(self.config.num_workers, len(chosen)),
            device=self.device,
        )
        found = principal_components((self._pixels(batch) for batch in rows), self.config.dimensions)
        scale = found.variances.clamp_min(1e-12).pow(-self.config.whiten / 2)
        self.load_state({"mean": found.mean, "projection": found.components * scale[:, None]})

    def state(self) -> Mapping[str, torch.Tensor]:
        """``mean`` (F,) and ``projection`` (D, F), float32."""
        return {"mean": self._mean.cpu(), "projection": self._projection.cpu()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes ``mean`` and ``projection``."""
        self._mean, self._projection = (state[key].to(self.device) for key in ("mean", "projection"))

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, D) float32."""
        return (self._pixels(batch) - self._mean) @ self._projection.T

    @staticmethod
    def _pixels(batch: torch.Tensor) -> torch.Tensor:
        return batch.flatten(1).float().div_(255)
