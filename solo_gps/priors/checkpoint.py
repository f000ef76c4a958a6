"""A network from a checkpoint: solo-learn's of either generation, a plain state dict, or safetensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solo_gps.config import check_at_least, check_choice
from solo_gps.errors import DataError
from solo_gps.priors.base import PriorConfig
from solo_gps.priors.parts.architectures import LIBRARIES
from solo_gps.priors.parts.network import IMAGENET_MEAN, IMAGENET_STD, NetworkEncoder
from solo_gps.priors.parts.preprocess import ResizeCrop, shorter_side

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

STEMS = ("auto", "imagenet", "small")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(PriorConfig):
    """Keys of ``prior=checkpoint``."""

    name: str = "checkpoint"
    """Registered name of the encoder."""
    path: str | None = None
    """A .ckpt, .pth, .pt or .safetensors file. Required. Pickled code in it is never run."""
    architecture: str = "resnet18"
    """Name of the network: torchvision's, timm's, or solo-learn's (vit_tiny, swin_tiny, ...)."""
    library: str = "auto"
    """``torchvision``, ``timm``, or ``auto``: torchvision for ResNets, as in solo-learn, else timm."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the network's constructor, such as solo-learn's ``backbone.kwargs`` (patch_size, img_size, ...)."""
    stem: str = "auto"
    """First layers of a ResNet: ``imagenet``, ``small`` (solo-learn's for CIFAR), or ``auto``, by the weights in the file."""
    prefix: str | None = None
    """Part of the weights' names to strip, for example ``momentum_backbone.``; ``null`` finds the one that fits."""
    image_size: int = 224
    """Side of the square that the network sees."""
    resize: int | None = None
    """The shorter side is scaled to this before the crop; ``null``: image_size / 0.875, or image_size up to 96."""
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))
    """Mean of each channel that the network was trained with."""
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))
    """Standard deviation of each channel that the network was trained with."""
    layers: list[str] = field(default_factory=list)
    """Layers to concatenate, as in ``named_modules``; ``output`` is the network's own, which an empty list means."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ValueError("path is missing: name the checkpoint, for example prior.path=model.ckpt.")
        check_choice("library", self.library, LIBRARIES)
        check_choice("stem", self.stem, STEMS)
        check_at_least("image_size", self.image_size, 1)
        if self.resize is not None:
            check_at_least("resize", self.resize, self.image_size)
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean={self.mean} and std={self.std} must have three numbers each, those of std above 0.")


class CheckpointEncoder(NetworkEncoder):
    """The backbone of a checkpoint."""

    config_class = CheckpointConfig

    def check(self, images: int | None = None) -> None:
        """Checks that the file exists and that the architecture has that name."""
        from solo_gps.priors.parts.architectures import library_of

        if not Path(self.config.path).expanduser().is_file():
            raise DataError(f"prior.path: no file {self.config.path}.")
        library_of(self.config.architecture, self.config.library)

    def load(self, device: torch.device) -> None:
        """Builds the network and reads the weights.

        Raises:
            DataError: The file is damaged, unsafe, or does not fit the architecture.
        """
        from solo_gps.priors.parts.architectures import build_network, library_of, with_small_stem
        from solo_gps.priors.parts.weights import best_prefix, fill_weights, read_state

        super().load(device)
        config = self.config
        self.mean, self.std = config.mean, config.std
        network = build_network(config.architecture, library_of(config.architecture, config.library), config.kwargs, config.seed)
        state = read_state(config.path, where="prior.path")
        prefix = best_prefix(state, network.state_dict()) if config.prefix is None else config.prefix
        if config.stem == "small" or (config.stem == "auto" and _has_small_stem(state, prefix, network)):
            network = with_small_stem(network)
        fill_weights(network, state, path=config.path, where="prior.path", prefix=prefix)
        self.place(network, config.layers)

    def identity(self) -> dict[str, Any]:
        """The configuration without path and prefix, and the digest of the weights that were taken."""
        identity = super().identity()
        for key in ("path", "prefix"):
            del identity[key]
        return {**identity, "resize": self._resize(), "classes": type(self.network).__qualname__}

    def transform(self) -> Callable[[Image], np.ndarray]:
        """Scales and crops the image to (3, S, S) uint8."""
        return ResizeCrop(self._resize(), self.config.image_size)

    def _resize(self) -> int:
        return shorter_side(self.config.image_size) if self.config.resize is None else int(self.config.resize)


def _has_small_stem(state: dict[str, torch.Tensor], prefix: str, network: torch.nn.Module) -> bool:
    weight = state.get(f"{prefix}conv1.weight")
    own = getattr(getattr(network, "conv1", None), "weight", None)
    return weight is not None and own is not None and weight.shape[2:] == (3, 3) and own.shape[2:] == (7, 7)
