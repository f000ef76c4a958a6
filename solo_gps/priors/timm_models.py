"""Any timm model, with its own preprocessing: CLIP, DINO, MAE, supervised and others, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL.Image import Image
from timm.data import create_transform, resolve_data_config

from solo_gps.errors import DataError, UnknownNameError
from solo_gps.interfaces import ImageSet
from solo_gps.priors.config import TimmConfig
from solo_gps.priors.parts.architectures import near
from solo_gps.priors.parts.network import NetworkEncoder
from solo_gps.priors.parts.weights import load_weights


class TimmEncoder(NetworkEncoder):
    """A timm model without its classifier."""

    config_class = TimmConfig
    cost = "one download, then a forward pass of the network, for which a GPU helps; as many dimensions as it gives"

    def check(self, images: ImageSet | None = None) -> None:
        """Checks the model's name and that the checkpoint exists.

        Raises:
            UnknownNameError: timm has no such model.
            DataError: The checkpoint is not there, or ``pretrained`` weights do not exist.
        """
        name, _, tag = self.config.model.partition(".")
        if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
            return
        if not timm.is_model(name):
            raise UnknownNameError("timm model", name, near(name, timm.list_models()), "timm.list_models() has them all.")
        if self.config.checkpoint is not None:
            if not Path(self.config.checkpoint).expanduser().is_file():
                raise DataError(f"prior.checkpoint: no file {self.config.checkpoint}.")
        elif self.config.pretrained:
            _check_pretrained(name, tag)

    def load(self, device: torch.device) -> None:
        """Builds the model, downloads its weights or reads the checkpoint."""
        super().load(device)
        local = self.config.checkpoint is not None
        torch.default_generator.manual_seed(self.config.seed)
        try:
            model = timm.create_model(
                self.config.model,
                pretrained=self.config.pretrained and not local,
                num_classes=0,
                **self._size_options(),
            )
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"prior.model: {self.config.model!r} could not be made: {str(error).rstrip('.')}. Without a "
                "network, name a local file by prior.checkpoint, or use a prior that needs no download (prior=patches)."
            ) from error
        if local:
            load_weights(model, self.config.checkpoint, where="prior.checkpoint")
        size = self.config.image_size
        data = resolve_data_config({"input_size": (3, size, size)} if size else {}, model=model)
        self.mean, self.std = data["mean"], data["std"]
        self._preprocess = {key: data[key] for key in ("input_size", "interpolation", "crop_pct", "crop_mode")}
        self._transform = AsUint8(create_transform(**data, is_training=False, use_prefetcher=True))
        self.place(model)

    def identity(self) -> dict[str, Any]:
        """The configuration, the digest of the weights, the model's preprocessing and timm's version."""
        identity = super().identity()
        for key in ("checkpoint", "pretrained"):
            del identity[key]  # the digest of the weights says more
        preprocess = {key: list(value) if isinstance(value, tuple) else value for key, value in self._preprocess.items()}
        return {**identity, "preprocess": preprocess, "timm": timm.__version__}

    def transform(self) -> Callable[[Image], np.ndarray]:
        """The model's own resize and crop, to (3, S, S) uint8."""
        return self._transform

    def _size_options(self) -> dict[str, Any]:
        if self.config.image_size is None:
            return {}
        known = timm.models.get_pretrained_cfg(self.config.model, allow_unregistered=True)
        return {"img_size": self.config.image_size} if getattr(known, "fixed_input_size", False) else {}


@dataclass(frozen=True)
class AsUint8:
    """A transform of timm that ends in uint8, as an array."""

    transform: Any

    def __call__(self, image: Image) -> np.ndarray:
        """Returns (3, S, S) uint8."""
        return np.asarray(self.transform(image))


def _check_pretrained(name: str, tag: str) -> None:
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise UnknownNameError(f"pretrained tag of timm's {name}", tag, tags)
    if not tags:
        raise DataError(f"prior.model: timm has no pretrained weights of {name!r}. Set prior.checkpoint, or pretrained=false.")
