"""A network from a checkpoint: solo-learn's of either generation, a plain state dict, or safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from solo_gps.errors import DataError
from solo_gps.interfaces import ImageSet
from solo_gps.priors.config import CheckpointConfig
from solo_gps.priors.parts.architectures import build_network, library_of, with_small_stem
from solo_gps.priors.parts.network import NetworkEncoder
from solo_gps.priors.parts.preprocess import ResizeCrop, shorter_side
from solo_gps.priors.parts.weights import best_prefix, fill_weights, read_state


class CheckpointEncoder(NetworkEncoder):
    """The backbone of a checkpoint."""

    config_class = CheckpointConfig
    cost = "a forward pass of the network, for which a GPU helps; as many dimensions as it gives"

    def check(self, images: ImageSet | None = None) -> None:
        """Checks that the file exists and that the architecture has that name."""
        if not Path(self.config.path).expanduser().is_file():
            raise DataError(f"prior.path: no file {self.config.path}.")
        library_of(self.config.architecture, self.config.library)

    def load(self, device: torch.device) -> None:
        """Builds the network and reads the weights.

        Raises:
            DataError: The file is damaged, unsafe, or does not fit the architecture.
        """
        super().load(device)
        config = self.config
        self.mean, self.std = config.mean, config.std
        network = build_network(config.architecture, library_of(config.architecture, config.library), config.kwargs, config.seed)
        state = read_state(config.path, where="prior.path")
        prefix = best_prefix(state, network.state_dict()) if config.prefix is None else config.prefix
        if config.stem == "small" or (config.stem == "auto" and _has_small_stem(state, prefix, network)):
            network = with_small_stem(network)
        fill_weights(network, state, path=config.path, where="prior.path", prefix=prefix)
        self.place(network)

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
