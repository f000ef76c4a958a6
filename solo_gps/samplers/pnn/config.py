"""The keys of pNN; no torch, so that a misspelt one costs a second."""

from __future__ import annotations

from dataclasses import dataclass

from solo_gps.config import check_at_least, check_choice, check_seed

DEFAULT_QUEUE = 65536
SCHEDULES = ("linear", "cosine")
COMBINATIONS = ("draw", "average")
SPACES = ("features", "prior")
OWN_QUEUES = ("mask", "keep")


@dataclass(frozen=True, kw_only=True)
class PnnConfig:
    """Keys under ``sampler.pnn``."""

    alpha: float = 0.05
    """How much of the way to the neighbour is left out, 0 to 1: 0 takes the neighbour itself, 1 the anchor's own embedding."""
    alpha_end: float | None = None
    """Value of alpha at the end of its schedule; null keeps it constant."""
    beta: float = 0.1
    """Standard deviation of the noise around the pseudo neighbour, in units of the distance to the neighbour."""
    beta_end: float | None = None
    """Value of beta at the end of its schedule; null keeps it constant."""
    schedule: str = "linear"
    """How alpha and beta go to their end values, epoch by epoch: linear or cosine."""
    schedule_epochs: int | None = None
    """Epoch from which alpha and beta have their end values; null takes the recipe's max_epochs."""
    queue_size: int | None = None
    """Rows of the support set; null takes 65,536. The NN methods search their own queue (method_kwargs.queue_size) instead."""
    k: int = 1
    """Number of nearest neighbours considered."""
    combine: str = "draw"
    """With k > 1: draw one of the k, or average them."""
    exclude_same_image: bool = False
    """Whether earlier embeddings of the anchor's own image are passed over."""
    space: str = "features"
    """Where neighbours are looked for: features (the network being trained) or prior (the frozen prior's embeddings)."""
    ema: float | None = None
    """Weight of the past in a slow copy of the network that gives the keys (lambda, 0.99 in the paper); null has no copy."""
    own_queue: str = "mask"
    """MoCo v2+ and ReSSL hold the neighbour as a negative in their own queue: mask it there, or keep it."""
    seed: int | None = None
    """Seed of the draws and of the noise; null takes the recipe's."""

    def __post_init__(self) -> None:
        for key in ("alpha", "alpha_end", "ema"):
            value = getattr(self, key)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{key}={value} must be from 0 to 1.")
        for key, least in (("beta", 0), ("beta_end", 0), ("schedule_epochs", 1), ("queue_size", 1), ("k", 1)):
            if getattr(self, key) is not None:
                check_at_least(key, getattr(self, key), least)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("combine", self.combine, COMBINATIONS)
        check_choice("space", self.space, SPACES)
        check_choice("own_queue", self.own_queue, OWN_QUEUES)
        check_seed(self.seed)
