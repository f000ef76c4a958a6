"""The encoder protocol: the one class that third parties derive from, and the keys that all priors share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import torch
from PIL.Image import Image

from solo_gps.interfaces import ImageSet
from solo_gps.priors.config import RUNTIME_KEYS, PriorConfig
from solo_gps.runtime.determinism import plain_float32
from solo_gps.runtime.devices import computes_bfloat16

__all__ = ["RUNTIME_KEYS", "Encoder", "PriorConfig"]


class Encoder:
    """Turns images into points of a prior space. Derive from it, and register the class by the hook ``register_encoders``.

    The cache calls, in this order: ``check``, ``load``, ``identity``; then, unless the embeddings are already cached,
    ``to_device``, ``fit`` (or ``load_state`` where an interrupted build had fitted already) and ``embed`` for every batch.

    Args:
        config: Checked configuration, an instance of ``config_class``.
    """

    config_class: ClassVar[type[PriorConfig]] = PriorConfig
    """Frozen, keyword-only dataclass of the encoder's keys, derived from :class:`PriorConfig`."""
    version: ClassVar[int] = 1
    """Raise it whenever a change of the code changes the embeddings: caches of the older code are then not found."""
    trained: ClassVar[bool] = False
    """Whether ``fit`` learns from the images."""
    cost: ClassVar[str] = "not stated"
    """What it costs, in words, for `solo-gps prior list`: dimensions, time, whether a GPU helps."""
    reads_images: ClassVar[bool] = True
    """False for an encoder whose ``embed`` takes (B,) int64 image indices in place of images: nothing is then decoded."""

    def __init__(self, config: PriorConfig) -> None:
        self.config: Any = config
        self.device: torch.device | None = None

    def check(self, images: ImageSet | None = None) -> None:
        """Checks, before any long work, what the configuration alone cannot tell: files, names, shapes.

        Args:
            images: The images to embed, ``None`` when not known yet.

        Raises:
            SoloGpsError: Something is missing or does not fit.
        """

    def load(self, device: torch.device) -> None:
        """Builds what ``identity`` needs (a network, its weights), for an encoder that will embed on ``device``.

        Extend it; it may use any RNG. It runs in every process, also where the embeddings are cached: leave the device alone
        until ``to_device``.
        """
        self.device = device

    def to_device(self) -> None:
        """Brings to ``self.device`` what ``load`` built, before anything is embedded; nothing by default."""

    def identity(self) -> dict[str, Any]:
        """Everything that changes the embedding, as JSON values. Extend it with digests of weights and with preprocessing.

        Returns:
            By default every key of the configuration except :data:`RUNTIME_KEYS`, paths included: an encoder that reads a file
            replaces the path by a digest of what it holds.
        """
        keys = dataclasses.asdict(self.config)
        keys["precision"] = self.precision
        drop = set(RUNTIME_KEYS)
        if self.config.augmentation == "none":
            drop |= {"draws"} if self.trained else {"draws", "seed"}
        return {key: value for key, value in keys.items() if key not in drop}

    @property
    def precision(self) -> str:
        """``"fp32"``, ``"bf16"`` or ``"fp16"``: the configured precision, ``auto`` resolved for the device of ``load``."""
        if self.config.precision != "auto":
            return str(self.config.precision)
        return "bf16" if self.device is not None and computes_bfloat16(self.device) else "fp32"

    def autocast(self) -> AbstractContextManager[Any]:
        """The autocast context of ``precision`` on the device; for fp32, one without any autocast around it."""
        assert self.device is not None, "load comes first"
        types = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if self.precision not in types:
            return plain_float32(self.device.type)
        return torch.autocast(self.device.type, dtype=types[self.precision])

    def transform(self) -> Callable[[Image], np.ndarray]:
        """The preprocessing of one image.

        Returns:
            A picklable function from an RGB image to a (C, H, W) array of one fixed shape. It runs in worker processes. Give
            uint8 where possible, and normalise in ``embed``: a quarter of the bytes travels.
        """
        raise NotImplementedError

    def fit(self, images: ImageSet) -> None:
        """Learns from the images; only called when ``trained``. Equal seeds and images must give equal states."""

    def state(self) -> Mapping[str, torch.Tensor]:
        """What ``fit`` learned, saved in the cache as safetensors. Needed when ``trained``."""
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes back what ``state`` returned."""

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Embeds a batch, under ``torch.inference_mode`` and the configured autocast.

        Args:
            batch: (B, C, H, W) on ``self.device``, with the type that ``transform`` returned; or (B,) int64 indices when
                ``reads_images`` is false.

        Returns:
            (B, D) float, finite, with the same D for every batch. Row b may depend on item b only.
        """
        raise NotImplementedError
