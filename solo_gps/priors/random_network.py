"""A network that nobody trained, as prior: the control for what an architecture alone brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from solo_gps.config import check_at_least, check_choice
from solo_gps.priors.base import PriorConfig
from solo_gps.priors.parts.architectures import LIBRARIES
from solo_gps.priors.parts.network import NetworkEncoder
from solo_gps.priors.parts.preprocess import SquareResize

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class RandomConfig(PriorConfig):
    """Keys of ``prior=random``."""

    name: str = "random"
    """Registered name of the encoder."""
    architecture: str = "resnet18"
    """Name of the network in its library."""
    library: str = "auto"
    """``torchvision``, ``timm``, or ``auto``: torchvision for ResNets, else timm."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the network's constructor."""
    image_size: int = 64
    """Images are squeezed to this side."""
    layers: list[str] = field(default_factory=list)
    """Layers to concatenate, as in ``named_modules``; ``output`` is the network's own, which an empty list means."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("library", self.library, LIBRARIES)
        check_at_least("image_size", self.image_size, 1)


class RandomEncoder(NetworkEncoder):
    """A network with the random weights of ``seed``."""

    config_class = RandomConfig

    def check(self, images: int | None = None) -> None:
        """Checks the architecture's name."""
        from solo_gps.priors.parts.architectures import library_of

        library_of(self.config.architecture, self.config.library)

    def load(self, device: torch.device) -> None:
        """Builds the network."""
        from solo_gps.priors.parts.architectures import build_network, library_of

        super().load(device)
        config = self.config
        library = library_of(config.architecture, config.library)
        self.place(build_network(config.architecture, library, config.kwargs, config.seed), config.layers)

    def transform(self) -> Callable[[Image], np.ndarray]:
        """Squeezes the image to (3, S, S) uint8."""
        return SquareResize(self.config.image_size)
