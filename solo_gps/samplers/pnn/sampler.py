"""pNN: pseudo nearest neighbours as positives (pNNCLR, arXiv 2308.06983), for every joint-embedding method of solo-learn."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from solo_gps.config import check_at_least, check_choice, check_seed
from solo_gps.errors import ConfigError, RefusedMethodError
from solo_gps.methods import Place, facts_of
from solo_gps.samplers.base import Sampler

if TYPE_CHECKING:
    from solo_gps.interfaces import Embeddings
    from solo_gps.samplers.space import PriorSpace

log = logging.getLogger(__name__)

DEFAULT_QUEUE = 65536
KEEP_LEAST_ALPHA = 0.5
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


class Pnn(Sampler):
    """Replaces the positive's embedding in the loss by a pseudo neighbour out of a support set."""

    config_class: ClassVar[type] = PnnConfig

    def __init__(self, config: PnnConfig, *, seed: int) -> None:
        super().__init__(config, seed=seed if config.seed is None else config.seed)
        self.embeddings: Embeddings | None = None

    @property
    def reads_prior(self) -> bool:
        """Neighbours chosen in the prior space need the images' embeddings."""
        return self.config.space == "prior"

    @classmethod
    def refusal(cls, method: str) -> str | None:
        """Refuses the methods whose target is not an embedding, or is known to be right."""
        place = facts_of(method).pnn
        return None if isinstance(place, Place) else place

    def prepare(self, space: PriorSpace, *, same_label: bool) -> None:
        """Embeds the training images when neighbours are chosen in the prior space."""
        if self.reads_prior:
            self.embeddings = space.embeddings

    def wrap_method(self, method: type, cfg: Mapping[str, Any]) -> type:
        """Puts pNN around the host's class and, where the loss reads the base class's outputs, between the two.

        Raises:
            RefusedMethodError: The installed generation of solo-learn does not hand its embeddings to this method's step.
            ConfigError: A key contradicts the method.
        """
        from solo_gps.samplers.pnn.wrap import hands_out_embeddings, wrapped_method

        name = str(cfg["method"])
        place = facts_of(name).pnn
        assert isinstance(place, Place), "refusal() comes first"
        self._check_generation(name, place, hands_out_embeddings(method))
        self._check_method(name, place, cfg)
        return wrapped_method(method, self, place, cfg)

    def measured(self, method: Any) -> Mapping[str, float]:
        """Returns the means of what was logged of the pseudo neighbours: the share found, the share of the anchor's class ..."""
        means: Mapping[str, float] = method.pnn.measures.of_training()
        return means

    def _check_generation(self, name: str, place: Place, hands_out: bool) -> None:
        if hands_out:
            return
        if place.kind != "find_nn":
            raise RefusedMethodError(
                f"sampler 'pnn' cannot act on method {name!r} of solo-learn 1.0.2, where the embeddings never reach the method's "
                "step: install solo-learn 1.0.6 (docs/hosts.md), or choose nnclr, nnbyol or nnsiam."
            )
        if self.config.ema is not None:
            raise ConfigError(
                "sampler.pnn.ema needs solo-learn 1.0.6 (docs/hosts.md); 1.0.2 is installed. Set sampler.pnn.ema=null."
            )

    def _check_method(self, name: str, place: Place, cfg: Mapping[str, Any]) -> None:
        config: PnnConfig = self.config
        crops = sum(pipeline["num_crops"] for pipeline in cfg["augmentations"])
        if place.two_crops and crops != 2:
            raise ConfigError(f"sampler.pnn: with {name} it takes two crops, got {crops}; use two, or leave +sampler=pnn out.")
        if place.has_momentum and config.ema is not None:
            raise ConfigError(
                f"sampler.pnn.ema={config.ema}: {name} has a momentum network of its own (momentum.base_tau); set it to null."
            )
        if place.own_queue and config.queue_size is not None:
            raise ConfigError(
                f"sampler.pnn.queue_size={config.queue_size}: {name} searches its own queue; set method_kwargs.queue_size."
            )
        if name == "all4one" and (config.k != 1 or config.space != "features"):
            raise ConfigError(
                f"sampler.pnn.k={config.k}, space={config.space}: all4one takes the 5 nearest of its own queue by itself; "
                "set k=1 and space=features."
            )
        if place.repels_queue:
            self._check_negatives(name)

    def _check_negatives(self, name: str) -> None:
        config: PnnConfig = self.config
        least = config.alpha if config.alpha_end is None else min(config.alpha, config.alpha_end)
        if config.own_queue == "keep" and least < KEEP_LEAST_ALPHA:
            log.warning(
                "sampler.pnn.own_queue=keep with alpha=%s: the positive of %s is nearer to the neighbour than to the anchor, and "
                "the method's own queue repels that neighbour as a negative. own_queue=mask avoids it.",
                least,
                name,
            )
