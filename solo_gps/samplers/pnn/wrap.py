"""Puts pNN around a class of solo-learn, without patching a module: one class in front of it, one between it and its base.

``super().training_step(...)`` inside SimCLR, say, goes on in the method resolution order of the instance. A class placed behind
SimCLR there receives, and may edit, the dict that the loss is about to read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from solo_gps.errors import HostError
from solo_gps.interfaces import Embeddings, ShownCrops
from solo_gps.methods import Place
from solo_gps.samplers.pnn.config import PnnConfig
from solo_gps.samplers.pnn.engine import Engine, Step
from solo_gps.samplers.pnn.kinds import KINDS, SPECIAL, Kind
from solo_gps.samplers.pnn.slow_copy import SlowCopy

log = logging.getLogger(__name__)


def wrapped_method(
    cls: type, name: str, place: Place, config: PnnConfig, *, seed: int, embeddings: Callable[[], Embeddings] | None
) -> type:
    """Returns a subclass of a solo-learn method whose positives are pseudo neighbours.

    Args:
        cls: A class of solo-learn's METHODS, or a subclass.
        name: Its name in METHODS.
        place: Where its loss takes its targets from.
        config: The keys.
        seed: Seed of the draws and of the noise.
        embeddings: Returns the training images in the prior space, where neighbours are chosen there.
    """
    kind = SPECIAL.get(name, KINDS[place.kind])
    engine = partial(Engine, config, sphere=place.sphere, seed=seed, embeddings=embeddings)
    members: dict[str, Any] = {"_pnn_config": config, "_pnn_place": place, "_pnn_engine": staticmethod(engine)}
    members |= {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    if not hands_out_embeddings(cls):
        return type(cls.__name__, (PnnFront, kind, cls), members)
    base = _class_named(cls, "BaseMomentumMethod") if place.has_momentum else _class_named(cls, "BaseMethod")
    tap = type("Tap", (Tap, base), {"__module__": __name__})
    return type(cls.__name__, (PnnFront, kind, cls, tap), members)


def hands_out_embeddings(cls: type) -> bool:
    """Whether the base class hands z, and where there is one momentum_z, to the method's step: solo-learn 1.0.6, not 1.0.2."""
    return "multicrop_forward" in vars(_class_named(cls, "BaseMethod"))


def _class_named(cls: type, name: str) -> type:
    found = next((base for base in cls.__mro__ if base.__name__ == name and base.__module__ == "solo.methods.base"), None)
    if found is None:
        raise HostError(f"sampler.pnn: {cls.__name__} does not derive from solo-learn's {name}; wanted a class of its METHODS.")
    return found


class Tap:
    """Stands between the method and its base: runs the one real forward, keeps it, and hands an edited copy to the loss."""

    _pnn_step: Step | None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Returns what the method's step goes on with."""
        step = self._pnn_step
        assert step is not None, "the front of the class starts every step"
        if not step.outs:
            step.outs = super().training_step(batch, batch_idx)  # type: ignore[misc]
            self.pnn_forward_done(step)  # type: ignore[attr-defined]
        return self.pnn_edit(step)  # type: ignore[attr-defined]


class PnnFront(Kind):
    """Stands in front of the method: owns the support set, runs the method's step, then enqueues once."""

    _pnn_engine: ClassVar[Callable[..., Engine]]
    shown_crops: ShownCrops | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pnn_step: Step | None = None
        host: Any = self
        self.pnn = self._pnn_engine(self.pnn_rows(), max_epochs=int(host.max_epochs))
        self.pnn_slow = None if self._pnn_config.ema is None else SlowCopy(host, self._pnn_config.ema)
        self.pnn_set_up()
        # Every rank gathers the same rows: broadcasting them at each forward would move the whole queue.
        ours = [name for name, _ in host.named_buffers() if name.startswith(("pnn.", "pnn_record."))]
        ignored = getattr(host, "_ddp_params_and_buffers_to_ignore", [])
        host._ddp_params_and_buffers_to_ignore = [*ignored, *ours]
        host.register_load_state_dict_post_hook(_fill_in_missing)

    def on_train_start(self) -> None:
        """Notes the optimizer step from which the slow copy follows."""
        super().on_train_start()  # type: ignore[misc]
        if self.pnn_slow is not None:
            self.pnn_slow.start(self.trainer.global_step)

    def on_train_epoch_start(self) -> None:
        """Sets alpha and beta of the epoch."""
        super().on_train_epoch_start()  # type: ignore[misc]
        self.pnn.follow_schedule(self.current_epoch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Runs the method's step on pseudo neighbours, then adds the batch to the support set."""
        step = self._pnn_step = self._pnn_start(batch)
        try:
            loss = self.pnn_training_step(batch, batch_idx)
            if not step.pseudo:
                raise HostError(
                    f"sampler.pnn never reached the loss of {type(self).__name__}: its training_step does not go through "
                    "solo-learn's base class. Leave +sampler=pnn out for this method."
                )
            self.pnn_enqueue(step)
            self.pnn.end_step(step)
        finally:
            self._pnn_step = None
        return loss

    def _pnn_start(self, batch: Any) -> Step:
        images, crops, targets = batch
        large = self.num_large_crops
        shown = self.shown_crops or ShownCrops(images=(images,) * large, targets=(targets,) * large)
        step = Step(images=shown.images, labels=shown.targets)
        if self.pnn_slow is not None:
            step.slow_keys = self.pnn_slow.keys(self, crops[:large])
        return step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int, *rest: Any) -> None:
        """Moves the slow copy after each optimizer step."""
        super().on_train_batch_end(outputs, batch, batch_idx, *rest)  # type: ignore[misc]
        if self.pnn_slow is not None:
            self.pnn_slow.follow(self, self.trainer.global_step)  # type: ignore[arg-type]

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's measures."""
        super().on_train_epoch_end()  # type: ignore[misc]
        values = {**self.pnn.measures.read(), "alpha": self.pnn.alpha, "beta": self.pnn.beta}
        self.log_dict({f"pnn_{name}": value for name, value in values.items()}, sync_dist=True)


def _fill_in_missing(method: Any, incompatible: Any) -> None:
    """Lets a checkpoint without pNN load: its parts keep what they are, and the slow copy becomes the network."""
    missing = [key for key in incompatible.missing_keys if key.startswith(("pnn.", "pnn_slow.", "pnn_record."))]
    if not missing:
        return
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if key not in missing]
    lacks = [part for part in ("pnn", "pnn_slow") if any(key.startswith(f"{part}.") for key in missing)]
    starts = {"pnn": "the support set starts empty", "pnn_slow": "the slow copy starts from the loaded weights"}
    if "pnn_slow" in lacks:
        method.pnn_slow.catch_up(method)
    log.warning(
        "pnn: the checkpoint was trained without sampler.pnn%s: %s. Resume from one that was trained with it to go on as before.",
        "" if "pnn" in lacks else ".ema",
        ", ".join(starts[part] for part in lacks),
    )
