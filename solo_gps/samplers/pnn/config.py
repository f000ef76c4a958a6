"""The keys of pNN; no torch, so that a misspelt one costs a second."""

from __future__ import annotations

from dataclasses import dataclass

from solo_gps.config import LARGEST_SEED, Keys, check_choice, number

DEFAULT_QUEUE = 65536
SCHEDULES = ("linear", "cosine")
NOISES = ("coordinate", "total")
COMBINATIONS = ("draw", "average")
SPACES = ("features", "prior")
OWN_QUEUES = ("mask", "keep")


@dataclass(frozen=True, kw_only=True)
class PnnConfig(Keys):
    """Keys under ``sampler.pnn``."""

    alpha: float = number(0.05, least=0, most=1)
    """How much of the way to the neighbour is left out, 0 to 1: 0 takes the neighbour itself, 1 the anchor's own embedding."""
    alpha_end: float | None = number(None, least=0, most=1)
    """Value of alpha at the end of its schedule; null keeps it constant."""
    beta: float = number(0.1, least=0, most=100)
    """Standard deviation of the noise, in distances to the neighbour."""
    beta_end: float | None = number(None, least=0, most=100)
    """Value of beta at the end of its schedule; null keeps it constant."""
    noise: str = "coordinate"
    """What beta is of: each coordinate, as the paper's formula reads, so that the noise is sqrt(D) times as long in all, or the total length."""  # noqa: E501
    schedule: str = "linear"
    """How alpha and beta go to their end values, epoch by epoch: linear or cosine."""
    schedule_epochs: int | None = number(None, least=1)
    """Epoch from which alpha and beta have their end values; null takes the recipe's max_epochs."""
    queue_size: int | None = number(None, least=1)
    """Rows of the support set; null takes 65,536. The NN methods search their own queue (method_kwargs.queue_size) instead."""
    k: int = number(1, least=1)
    """Number of nearest neighbours considered."""
    combine: str = "draw"
    """With k > 1: draw one of the k, or average them."""
    exclude_same_image: bool = False
    """Whether earlier embeddings of the anchor's own image are passed over."""
    space: str = "features"
    """Where neighbours are looked for: features (the network being trained) or prior (the frozen prior's embeddings)."""
    ema: float | None = number(None, least=0, most=1)
    """Weight of the past in a slow copy of the network that gives the keys (lambda, 0.99 in the paper); null has no copy."""
    own_queue: str = "mask"
    """MoCo v2+ and ReSSL hold the neighbour as a negative in their own queue: mask it there, or keep it."""
    seed: int | None = number(None, least=0, most=LARGEST_SEED)
    """Seed of the draws and of the noise; null takes the recipe's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("noise", self.noise, NOISES)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("combine", self.combine, COMBINATIONS)
        check_choice("space", self.space, SPACES)
        check_choice("own_queue", self.own_queue, OWN_QUEUES)
