"""torchvision's classification networks, with the preprocessing that belongs to their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL.Image import Image
from torchvision.models import get_model, get_model_weights

from solo_gps.errors import DataError, UnknownNameError
from solo_gps.interfaces import ImageSet
from solo_gps.priors.config import TorchvisionConfig
from solo_gps.priors.parts.architectures import library_of, without_classifier
from solo_gps.priors.parts.network import NetworkEncoder
from solo_gps.priors.parts.preprocess import ResizeCrop
from solo_gps.priors.parts.weights import load_weights


class TorchvisionEncoder(NetworkEncoder):
    """A torchvision network without its classifier."""

    config_class = TorchvisionConfig
    cost = "one download, then a forward pass of the network, for which a GPU helps; as many dimensions as it gives"

    def check(self, images: ImageSet | None = None) -> None:
        """Checks the names of network and weights, and that the checkpoint exists."""
        library_of(self.config.model, "torchvision")
        self._weights_entry()
        if self.config.checkpoint is not None and not Path(self.config.checkpoint).expanduser().is_file():
            raise DataError(f"prior.checkpoint: no file {self.config.checkpoint}.")

    def load(self, device: torch.device) -> None:
        """Builds the network, downloads its weights or reads the checkpoint."""
        super().load(device)
        entry = self._weights_entry()
        torch.default_generator.manual_seed(self.config.seed)
        try:
            network = get_model(self.config.model, weights=None if self.config.checkpoint else entry)
        except OSError as error:
            raise DataError(
                f"prior.weights: {entry} could not be downloaded: {str(error).rstrip('.')}. Without a network, name a "
                "local file by prior.checkpoint, or use a prior that needs no download (prior=patches)."
            ) from error
        network = without_classifier(network)
        if self.config.checkpoint is not None:
            load_weights(network, self.config.checkpoint, where="prior.checkpoint")
        self._set_preprocessing(entry)
        self.place(network)

    def identity(self) -> dict[str, Any]:
        """The configuration, the digest of the weights, the preprocessing and torchvision's version."""
        identity = super().identity()
        del identity["checkpoint"]
        preprocess = [self._resize_crop.resize, self._resize_crop.crop, self._resize_crop.interpolation]
        return {**identity, "preprocess": preprocess, "torchvision": torchvision.__version__}

    def transform(self) -> Callable[[Image], np.ndarray]:
        """The weights' own resize and crop, to (3, S, S) uint8."""
        return self._resize_crop

    def _set_preprocessing(self, entry: Any) -> None:
        preset: Any = entry.transforms() if entry is not None else None
        resize, crop, interpolation = 256, 224, "bilinear"
        if preset is not None:
            resize, crop, interpolation = preset.resize_size[0], preset.crop_size[0], preset.interpolation.value
            self.mean, self.std = preset.mean, preset.std
        if self.config.image_size is not None:
            resize, crop = round(resize * self.config.image_size / crop), self.config.image_size
        self._resize_crop = ResizeCrop(resize, crop, interpolation)

    def _weights_entry(self) -> Any:
        if self.config.weights is None:
            return None
        entries = get_model_weights(self.config.model)
        if self.config.weights not in entries.__members__:
            raise UnknownNameError(f"weights of torchvision's {self.config.model}", self.config.weights, entries.__members__)
        return entries[self.config.weights]
