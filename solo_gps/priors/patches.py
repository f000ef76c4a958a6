"""Dictionary of image patches, learned from the target set in seconds: the default prior, with no outside data.

Single-layer features of Coates, Lee and Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning" (AISTATS
2011, section 3): whitened patches, k-means centroids, triangle activation, pooling over regions. Two steps follow that made
neighbours purer when measured (docs/priors.md): the square root of the pooled features, and principal components with a
partial whitening.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from PIL.Image import Image

from solo_gps.interfaces import ImageSet
from solo_gps.priors.base import Encoder
from solo_gps.priors.config import IMAGES_AT_A_TIME, SAMPLED_PATCHES, PatchesConfig
from solo_gps.priors.parts.loading import PreprocessedImages, batches, consecutive, worker_count
from solo_gps.priors.parts.preprocess import SquareResize
from solo_gps.priors.parts.principal import evenly_spaced, principal_components

WHITENING_FLOOR = 0.01
"""Added to the variances of patches of pixels in [0, 1] before whitening, so that noise is not blown up."""
KMEANS_STEPS = 10
_STATE = ("filters", "bias", "square", "mean", "projection")


class PatchesEncoder(Encoder):
    """Soft assignments of patches to a learned dictionary, pooled and projected."""

    config_class = PatchesConfig
    cost = "CPU seconds for small images; at most `dimensions`"
    version = 2
    trained = True

    def transform(self) -> Callable[[Image], np.ndarray]:
        """Squeezes the image to (3, S, S) uint8."""
        return SquareResize(self.config.image_size)

    def fit(self, images: ImageSet) -> None:
        """Learns the whitening and the dictionary from random patches, then the components from pooled features."""
        pixels = self._pixels(images)
        self._learn_dictionary(pixels)
        found = principal_components(self._features_of(pixels), self.config.dimensions)
        self._mean = found.mean.to(self.device)
        scale = found.variances.clamp_min(1e-12).pow(-self.config.whiten / 2)
        self._projection = (found.components * scale[:, None]).to(self.device)

    def state(self) -> Mapping[str, torch.Tensor]:
        """Filters of the dictionary and the projection, float32."""
        return {key: getattr(self, f"_{key}").cpu().contiguous() for key in _STATE}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes what ``state`` returned."""
        for key in _STATE:
            setattr(self, f"_{key}", state[key].to(self.device))

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, D) float32."""
        features = torch.cat([self._features(part.float().div_(255)) for part in batch.split(IMAGES_AT_A_TIME)])
        return (features - self._mean) @ self._projection.T

    def _pixels(self, images: ImageSet) -> torch.Tensor:
        chosen = evenly_spaced(len(images), self.config.fit_images)
        loaded = batches(
            PreprocessedImages(images, self.transform()),
            [chosen[part.start : part.stop] for part in consecutive(len(chosen), 256)],
            num_workers=worker_count(self.config.num_workers, len(chosen)),
            device=torch.device("cpu"),
        )
        return torch.cat(list(loaded))

    def _features_of(self, pixels: torch.Tensor) -> Iterator[torch.Tensor]:
        for part in pixels.split(IMAGES_AT_A_TIME):
            yield self._features(part.to(self.device).float().div_(255))

    def _learn_dictionary(self, pixels: torch.Tensor) -> None:
        generator = torch.Generator().manual_seed(self.config.seed)
        patches = self._sample(pixels, generator)
        mean = patches.mean(0)
        variances, axes = torch.linalg.eigh(torch.cov(patches.T, correction=0))
        whitening = axes @ torch.diag((variances.clamp_min(0) + WHITENING_FLOOR).rsqrt()) @ axes.T
        dictionary = _kmeans((patches - mean) @ whitening, self.config.centroids, generator)
        matrix = torch.cat([whitening, dictionary @ whitening])
        size = self.config.patch_size
        self._filters = matrix.view(len(matrix), 3, size, size).to(self.device)
        self._bias = (-(matrix @ mean)).to(self.device)
        self._square = (dictionary * dictionary).sum(1).to(self.device)

    def _sample(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        size, positions = self.config.patch_size, self.config.image_size - self.config.patch_size + 1
        image = torch.randint(len(pixels), (SAMPLED_PATCHES,), generator=generator)
        top = torch.randint(positions, (SAMPLED_PATCHES,), generator=generator)[:, None] + torch.arange(size)
        left = torch.randint(positions, (SAMPLED_PATCHES,), generator=generator)[:, None] + torch.arange(size)
        channel = torch.arange(3)[None, :, None, None]
        patches = pixels[image[:, None, None, None], channel, top[:, None, :, None], left[:, None, None, :]]
        return patches.flatten(1).float().div_(255)

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        answers = torch.nn.functional.conv2d(pixels, self._filters, self._bias, stride=self.config.stride)
        whitened, products = answers.split([len(self._filters) - len(self._square), len(self._square)], dim=1)
        squares = whitened.square().sum(1, keepdim=True) - 2 * products + self._square[:, None, None]
        distances = squares.clamp_min_(0).sqrt_()
        triangle = (distances.mean(1, keepdim=True) - distances).clamp_min_(0)
        return torch.nn.functional.adaptive_avg_pool2d(triangle, self.config.regions).flatten(1).sqrt_()


def _kmeans(rows: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Lloyd's algorithm from random rows; a centroid that loses all its rows stays where it is."""
    count = min(count, len(rows))
    centroids = rows[torch.randperm(len(rows), generator=generator)[:count]]
    for _ in range(KMEANS_STEPS):
        nearest = (rows @ centroids.T).sub_((centroids * centroids).sum(1) / 2).argmax(1)
        sizes = torch.bincount(nearest, minlength=count).to(rows.dtype)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, rows)
        centroids = torch.where(sizes[:, None] > 0, sums / sizes.clamp_min(1)[:, None], centroids)
    return centroids
