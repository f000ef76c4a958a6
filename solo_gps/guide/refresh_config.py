"""When the network being trained becomes the prior: the keys under ``refresh``, checked before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omegaconf import DictConfig

from solo_gps.config import Keys, check_choice, node_of, number, parse
from solo_gps.errors import ConfigError
from solo_gps.priors.config import LARGEST_BATCH, PRECISIONS, SPACES
from solo_gps.runtime.machine import MOST_WORKERS
from solo_gps.samplers.base import Sampler

OF = ("features", "projections")


@dataclass(frozen=True, kw_only=True)
class RefreshConfig(Keys):
    """Keys under ``refresh`` (as GPS-SSL's authors do with ``reload_freq``)."""

    of: str = "features"
    """``features`` (the backbone) or ``projections`` (the projector)."""
    every: int = number(10, least=1)
    """Epochs from one refresh to the next."""
    start: int | None = number(None, least=0)
    """Epoch of the first refresh; until then the recipe's prior guides. null takes every; 0 needs no other prior at all."""
    space: str = "cosine"
    """How neighbours are measured: ``euclidean`` (squared L2) or ``cosine``."""
    batch_size: int = number(256, least=1, most=LARGEST_BATCH)
    """Images of one forward pass."""
    num_workers: int = number(-1, least=-1, most=MOST_WORKERS)
    """Processes that read and decode images; -1 takes the CPUs at hand, at most 24, and none for a small set."""
    precision: str = "auto"
    """Autocast of the forward pass: ``fp32``, ``bf16``, ``fp16``; ``auto`` is ``bf16`` on CUDA and ``fp32`` elsewhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("of", self.of, OF)
        check_choice("space", self.space, SPACES)
        check_choice("precision", self.precision, PRECISIONS)

    @property
    def first(self) -> int:
        """Epoch of the first refresh."""
        return self.every if self.start is None else self.start


def parse_refresh(recipe: DictConfig, samplers: Mapping[str, Sampler]) -> RefreshConfig | None:
    """Checks the recipe's ``refresh`` node; ``None`` without one.

    Raises:
        ConfigError: A key, type or value is wrong, or nothing in this recipe can be refreshed.
    """
    node = node_of(recipe, "refresh")
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
    epochs = node_of(recipe, "max_epochs")
    if epochs is not None and 0 <= epochs <= config.first:
        raise ConfigError(
            f"refresh: the first refresh would come at epoch {config.first}, but max_epochs={epochs}. Set refresh.start or "
            "refresh.every lower."
        )
    if config.first > 0:
        _check_radius(samplers)
    return config


def _check_radius(samplers: Mapping[str, Sampler]) -> None:
    for name, sampler in samplers.items():
        if sampler.refreshable and getattr(sampler.config, "radius", None) is not None:
            raise ConfigError(
                f"sampler.{name}.radius is a distance of one space, and refresh changes the space during training. Use "
                f"sampler.{name}.k, or set refresh.start=0 so that the network's own space is the only one."
            )
