"""pNN: pseudo nearest neighbours as positives (pNNCLR, arXiv 2308.06983), for every joint-embedding method of solo-learn."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from solo_gps.errors import ConfigError, HostError, RefusedMethodError
from solo_gps.methods import Place, facts_of
from solo_gps.priors.config import JoinConfig, PriorConfig
from solo_gps.runtime.store import check_whole
from solo_gps.samplers.base import Sampler
from solo_gps.samplers.pnn.config import PnnConfig

if TYPE_CHECKING:
    from solo_gps.interfaces import Embeddings
    from solo_gps.samplers.space import PriorSpace

log = logging.getLogger(__name__)

KEEP_LEAST_ALPHA = 0.5


class Pnn(Sampler):
    """Replaces the positive's embedding in the loss by a pseudo neighbour out of a support set."""

    config_class: ClassVar[type] = PnnConfig

    def __init__(self, config: PnnConfig, *, seed: int) -> None:
        super().__init__(config, seed=seed if config.seed is None else config.seed)
        self._embeddings: Embeddings | None = None

    @property
    def reads_prior(self) -> bool:
        """Neighbours chosen in the prior space need the images' embeddings."""
        return self.config.space == "prior"

    @classmethod
    def refusal(cls, method: str) -> str | None:
        """Refuses the methods whose target is not an embedding, or is known to be right."""
        place = facts_of(method).pnn
        return None if isinstance(place, Place) else place

    def check_prior(self, prior: PriorConfig) -> None:
        """Refuses priors that agree on nearest neighbours: nothing here asks for those."""
        if isinstance(prior, JoinConfig) and prior.agree:
            raise ConfigError("prior.combine=agree says nothing to sampler.pnn, which asks for no k nearest. Use combine=join.")

    def prepare(self, space: PriorSpace, *, same_label: bool) -> None:
        """Embeds the training images when neighbours are chosen in the prior space."""
        if self.reads_prior:
            self._embeddings = space.embeddings
            check_whole(self._embeddings.folder)

    def prior_embeddings(self) -> Embeddings:
        """Returns the training images in the prior space.

        Raises:
            HostError: Nothing was prepared.
        """
        if self._embeddings is None:
            raise HostError(
                "sampler.pnn.space=prior: the training loader was not made while solo-gps was switched on, so the images were "
                "never embedded. Make it by solo-learn's prepare_dataloader while the plugin is switched on."
            )
        return self._embeddings

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
        embeddings = self.prior_embeddings if self.reads_prior else None
        return wrapped_method(method, name, place, self.config, seed=self.seed, embeddings=embeddings)

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
