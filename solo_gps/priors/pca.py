"""Principal components of the pixels of the target set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from solo_gps.config import check_at_least
from solo_gps.priors.base import Encoder, PriorConfig
from solo_gps.priors.parts.preprocess import SquareResize

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

    from solo_gps.interfaces import ImageSet


@dataclass(frozen=True, kw_only=True)
class PcaConfig(PriorConfig):
    """Keys of ``prior=pca``."""

    name: str = "pca"
    """Registered name of the encoder."""
    precision: str = "fp32"
    """As in every prior, but full precision unless asked otherwise: this encoder is cheap."""
    image_size: int = 32
    """Images are squeezed to this side before the analysis."""
    dimensions: int = 64
    """Number of components; fewer when the images span fewer."""
    whiten: float = 0.0
    """Power of whitening: 0 keeps the variances, 1 makes them all equal."""
    fit_images: int = 10000
    """The components are found from at most this many images, evenly spaced over the set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("image_size", "dimensions", "fit_images"):
            check_at_least(key, getattr(self, key), 1)
        if not 0 <= self.whiten <= 1:
            raise ValueError(f"whiten={self.whiten} must lie between 0 and 1.")


class PcaEncoder(Encoder):
    """Pixels projected onto their axes of largest variance."""

    config_class = PcaConfig
    version = 2
    trained = True

    def transform(self) -> Callable[[Image], np.ndarray]:
        """Squeezes the image to (3, S, S) uint8."""
        return SquareResize(self.config.image_size)

    def fit(self, images: ImageSet) -> None:
        """Finds the components from the pixels of at most ``fit_images`` images."""
        from solo_gps.priors.parts.loading import PreprocessedImages, batches, consecutive, worker_count
        from solo_gps.priors.parts.principal import evenly_spaced, principal_components

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
