"""The network being trained as the prior: every R epochs the images are embedded anew by the network itself."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torchvision.transforms import Normalize

from solo_gps.config import check_at_least, check_choice, parse
from solo_gps.encoders.base import PRECISIONS, SPACES, PriorConfig
from solo_gps.encoders.live import LiveNetwork
from solo_gps.errors import ConfigError, HostError
from solo_gps.host.detect import Host
from solo_gps.interfaces import Embeddings, ImageSet
from solo_gps.prior.ranks import training_ranks
from solo_gps.prior.snapshot import check_room, snapshot
from solo_gps.samplers.base import Sampler

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

OF = ("features", "projections")


@dataclass(frozen=True, kw_only=True)
class RefreshConfig:
    """Keys under ``refresh`` (as GPS-SSL's authors do with ``reload_freq``)."""

    of: str = "features"
    """``features`` (the backbone) or ``projections`` (the projector)."""
    every: int = 10
    """Epochs from one refresh to the next."""
    start: int | None = None
    """Epoch of the first refresh; until then the recipe's prior guides. null takes every; 0 needs no other prior at all."""
    space: str = "cosine"
    """How neighbours are measured: ``euclidean`` (squared L2) or ``cosine``."""
    batch_size: int = 256
    """Images of one forward pass."""
    num_workers: int = -1
    """Processes that read and decode images; -1 takes the CPUs at hand, at most 8, and none for a small set."""
    precision: str = "auto"
    """Autocast of the forward pass: ``fp32``, ``bf16``, ``fp16``; ``auto`` is ``bf16`` on CUDA and ``fp32`` elsewhere."""

    def __post_init__(self) -> None:
        check_choice("of", self.of, OF)
        check_choice("space", self.space, SPACES)
        check_choice("precision", self.precision, PRECISIONS)
        check_at_least("every", self.every, 1)
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("num_workers", self.num_workers, -1)
        if self.start is not None:
            check_at_least("start", self.start, 0)

    @property
    def first(self) -> int:
        """Epoch of the first refresh."""
        return self.every if self.start is None else self.start


def make_refresh(recipe: DictConfig, host: Host, samplers: Mapping[str, Sampler]) -> Refresh | None:
    """Returns what the recipe's ``refresh`` node asks for; ``None`` without one.

    Raises:
        ConfigError: A key, type or value is wrong, or nothing in this recipe can be refreshed.
    """
    node = recipe.get("refresh")
    if node is None:
        return None
    if isinstance(node, str):
        raise ConfigError(
            f"refresh={node!r} arrived as a plain string: Hydra did not find the config group 'refresh' on its search path; "
            "`solo-gps doctor` checks it."
        )
    if not samplers:
        return None  # +sampler=none: a plain run, in a sweep over samplers for example
    config = parse(node, RefreshConfig, "refresh")
    if not any(sampler.refreshable for sampler in samplers.values()):
        raise ConfigError(
            f"refresh: none of the samplers ({', '.join(samplers)}) looks for neighbours anew. Add +sampler=gps, or "
            "leave refresh out: sepp appends its pairs once, and pnn's support set is the network's own already."
        )
    epochs = recipe.get("max_epochs")
    if epochs is not None and 0 <= epochs <= config.first:
        raise ConfigError(
            f"refresh: the first refresh would come at epoch {config.first}, but max_epochs={epochs}. Set refresh.start or "
            "refresh.every lower."
        )
    if config.first > 0:
        _check_radius(samplers)
    elif recipe.get("prior") is not None and all(sampler.refreshable for sampler in samplers.values()):
        log.warning(
            "refresh.start=0: the network being trained guides from the first epoch on, and the prior is never used. Set "
            "refresh.start higher, or leave the prior out."
        )
    return Refresh(config, recipe, host.backbone_name)


def _check_radius(samplers: Mapping[str, Sampler]) -> None:
    for name, sampler in samplers.items():
        if sampler.refreshable and getattr(sampler.config, "radius", None) is not None:
            raise ConfigError(
                f"sampler.{name}.radius is a distance of one space, and refresh changes the space during training. Use "
                f"sampler.{name}.k, or set refresh.start=0 so that the network's own space is the only one."
            )


class Refresh:
    """When to look at the network being trained, and how it sees the images.

    Args:
        config: Checked keys.
        recipe: The whole recipe.
        backbone_name: Name of the backbone's attribute in the method.

    """

    def __init__(self, config: RefreshConfig, recipe: DictConfig, backbone_name: str) -> None:
        self.config = config
        self._recipe = recipe
        self._backbone_name = backbone_name
        self._method: weakref.ref[Any] | None = None

    def watch(self, method: torch.nn.Module) -> None:
        """Takes the method that is about to be trained.

        Raises:
            ConfigError: Projections are wanted of a method without a projector.
        """
        if self.config.of == "projections" and not isinstance(getattr(method, "projector", None), torch.nn.Module):
            raise ConfigError(f"refresh.of='projections': {type(method).__name__} has no projector. Use refresh.of=features.")
        self._method = weakref.ref(method)

    def due(self, epoch: int, last: int | None) -> bool:
        """Whether the refresh that ``epoch`` should be trained with has not been made yet.

        Args:
            epoch: The epoch about to start.
            last: Epoch of the last refresh, ``None`` before the first.
        """
        since_first = epoch - self.config.first
        if since_first < 0:
            return False
        return last is None or last < epoch - since_first % self.config.every

    def rehearse(self, images: ImageSet, pipeline: Any) -> None:
        """Takes one image through all that a refresh does, so that what cannot work fails before anything long has begun.

        Args:
            images: N raw images.
            pipeline: The host's transform of the first crop.

        Raises:
            CacheError: The folder of caches cannot be written, or has no room for N embeddings.
        """
        if self._method is None or self._method() is None:
            return  # the loader was made before the method
        with self.embeddings(_FirstImage(images), pipeline, rehearsal=True) as embeddings:
            dimensions = embeddings.array.shape[1]
        check_room(self._cache_dir, len(images), dimensions)

    @contextmanager
    def embeddings(self, images: ImageSet, pipeline: Any, *, rehearsal: bool = False) -> Iterator[Embeddings]:
        """The images as the network sees them now; every rank must enter. The network is left exactly as it was.

        Args:
            images: N raw images.
            pipeline: The host's transform of the first crop: its normalisation is used.
            rehearsal: Without a progress bar, and in fp32, since the network has not been moved to its device yet.
        """
        method = self._method() if self._method is not None else None
        if method is None:
            raise HostError("refresh: no method was built while the plugin was switched on, so there is no network to look at.")
        modules = [getattr(method, self._backbone_name)]
        if self.config.of == "projections":
            modules.append(method.projector)
        encoder = self._encoder(modules, pipeline, precision="fp32" if rehearsal else self.config.precision)
        with _as_in_evaluation(modules), snapshot(images, encoder, progress=not rehearsal) as embeddings:
            yield embeddings

    def _encoder(self, modules: Sequence[torch.nn.Module], pipeline: Any, *, precision: str) -> LiveNetwork:
        mean, std = normalisation(pipeline)
        first = next(parameter for parameter in modules[0].parameters() if parameter.is_floating_point())
        config = PriorConfig(
            name="network",
            space=self.config.space,
            batch_size=self.config.batch_size,
            num_workers=self.config.num_workers,
            precision=precision,
            cache_dir=self._cache_dir,
        )
        return LiveNetwork(
            config,
            _chained(modules, first.dtype),
            device=first.device,
            image_size=int(self._recipe.augmentations[0].crop_size),
            mean=mean,
            std=std,
        )

    @property
    def _cache_dir(self) -> str | None:
        folder: str | None = OmegaConf.select(self._recipe, "prior.cache_dir")
        return folder


class _FirstImage:
    """The first image of a set, as a set."""

    labels = None

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __len__(self) -> int:
        return 1

    def image(self, index: int) -> Image:
        return self._images.image(index)

    def content(self) -> Iterator[bytes]:
        return iter(())


def _chained(modules: Sequence[torch.nn.Module], dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """The modules one after the other, in the type of their weights: Lightning's ``64-true`` and ``bf16-true`` change it."""

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        rows = pixels.to(dtype)
        for module in modules:
            rows = module(rows)
        return rows

    return forward


def normalisation(pipeline: Any) -> tuple[Sequence[float], Sequence[float]]:
    """Returns mean and standard deviation of each channel that a pipeline normalises with; 0 and 1 when it does not."""
    for step in getattr(pipeline, "transforms", ()):
        if isinstance(step, Normalize):
            return tuple(step.mean), tuple(step.std)
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@contextmanager
def _as_in_evaluation(modules: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Evaluation mode, with rank 0's buffers in every rank: running statistics differ between ranks, the table must not."""
    parts = [part for module in modules for part in module.modules()]
    modes = [part.training for part in parts]
    buffers = [buffer for module in modules for buffer in module.buffers()] if training_ranks().world > 1 else []
    own = [buffer.clone() for buffer in buffers]
    try:
        for part in parts:
            part.training = False
        for buffer in buffers:
            torch.distributed.broadcast(buffer, src=0)
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
        for buffer, before in zip(buffers, own, strict=True):
            buffer.copy_(before)
