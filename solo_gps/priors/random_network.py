"""A network that nobody trained, as prior: the control for what an architecture alone brings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL.Image import Image

from solo_gps.interfaces import ImageSet
from solo_gps.priors.config import RandomConfig
from solo_gps.priors.parts.architectures import build_network, library_of
from solo_gps.priors.parts.network import NetworkEncoder
from solo_gps.priors.parts.preprocess import SquareResize


class RandomEncoder(NetworkEncoder):
    """A network that nobody trained, with the random weights of `seed`."""

    config_class = RandomConfig
    cost = "a forward pass of the network, for which a GPU helps; as many dimensions as it gives"

    def check(self, images: ImageSet | None = None) -> None:
        """Checks the architecture's name."""
        library_of(self.config.architecture, self.config.library)

    def load(self, device: torch.device) -> None:
        """Builds the network."""
        super().load(device)
        config = self.config
        library = library_of(config.architecture, config.library)
        self.place(build_network(config.architecture, library, config.kwargs, config.seed))

    def transform(self) -> Callable[[Image], np.ndarray]:
        """Squeezes the image to (3, S, S) uint8."""
        return SquareResize(self.config.image_size)
