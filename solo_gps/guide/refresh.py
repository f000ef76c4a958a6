"""The network being trained as the prior: every R epochs the images are embedded anew by the network itself."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torchvision.transforms import Normalize

from solo_gps.embeddings.live import LiveNetwork
from solo_gps.embeddings.snapshot import check_rooms, snapshot
from solo_gps.errors import ConfigError, HostError
from solo_gps.guide.refresh_config import RefreshConfig
from solo_gps.hosts.devices import device_count
from solo_gps.interfaces import Embeddings, ImageSet
from solo_gps.priors.config import PriorConfig
from solo_gps.runtime.ranks import training_ranks

if TYPE_CHECKING:
    from PIL.Image import Image


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

    def attach(self, method: torch.nn.Module) -> None:
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
            CacheError: The folder of caches cannot be written, or has no room for N embeddings and what ranks share of them.
        """
        if self._method is None or self._method() is None:
            return  # the loader was made before the method
        with training_ranks().failing_together():
            with self.embeddings(_FirstImage(images), pipeline, rehearsal=True) as embeddings:
                dimensions = embeddings.array.shape[1]
            shared = device_count(self._recipe.get("devices") or 1, self._recipe.get("accelerator")) > 1
            check_rooms(self._cache_dir, len(images), dimensions, space=self.config.space, shared=shared)

    @contextmanager
    def embeddings(self, images: ImageSet, pipeline: Any, *, rehearsal: bool = False) -> Iterator[Embeddings]:
        """The images as the network sees them now; every rank must enter. The network is left exactly as it was.

        Args:
            images: N raw images.
            pipeline: The host's transform of the first crop: its normalisation is used.
            rehearsal: Without a progress bar, in fp32 and by each rank for itself, since the network has not been moved to its
                device yet: NCCL exchanges nothing that lies on the CPU.
        """
        method = self._method() if self._method is not None else None
        if method is None:
            raise HostError("refresh: no method was built while the plugin was switched on, so there is no network to look at.")
        modules = [getattr(method, self._backbone_name)]
        if self.config.of == "projections":
            modules.append(method.projector)
        encoder = self._encoder(modules, pipeline, precision="fp32" if rehearsal else self.config.precision)
        together = not rehearsal
        with (
            _as_in_evaluation(modules, together),
            snapshot(images, encoder, progress=together, together=together) as embeddings,
        ):
            yield embeddings

    def _encoder(self, modules: Sequence[torch.nn.Module], pipeline: Any, *, precision: str) -> LiveNetwork:
        image_size, mean, std = self.sight(pipeline)
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
            image_size=image_size,
            mean=mean,
            std=std,
        )

    def sight(self, pipeline: Any) -> tuple[int, Sequence[float], Sequence[float]]:
        """How the network is shown an image: its side in pixels, and mean and standard deviation of each channel.

        Args:
            pipeline: The host's transform of the first crop.
        """
        return (int(self._recipe.augmentations[0].crop_size), *normalisation(pipeline))

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
def _as_in_evaluation(modules: Sequence[torch.nn.Module], together: bool) -> Iterator[None]:
    """Evaluation mode, with rank 0's buffers in every rank: running statistics differ between ranks, the table must not."""
    parts = [part for module in modules for part in module.modules()]
    modes = [part.training for part in parts]
    buffers = [buffer for module in modules for buffer in module.buffers()] if training_ranks(together).world > 1 else []
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
