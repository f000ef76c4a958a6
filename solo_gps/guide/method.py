"""The guided method: the host's own class, with the right label for the crop that shows the positive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from solo_gps.errors import SoloGpsError, of_host, our_part
from solo_gps.guide.record import KEY
from solo_gps.interfaces import ShownCrops

if TYPE_CHECKING:
    from solo_gps.guide.run import GuidedRun


def guided_method(cls: type, run: GuidedRun) -> type:
    """Returns a subclass of a solo-learn method for training on guided pairs.

    Loss and network are the host's. The subclass turns the items of a batch into image indices, gives the online classifier
    and the online k-NN the positive's own label for the crops that show it, reports the pairs, and fails when training starts
    on a loader that was never guided.

    Args:
        cls: A class of solo-learn's METHODS, or a subclass.
        run: What is switched on.
    """
    step = run.host.classifier_step

    def labelled_step(self: Any, X: torch.Tensor, targets: torch.Tensor) -> Any:
        return getattr(super(guided, self), step)(X, self._targets_of_next_crop("online", targets))

    members: dict[str, Any] = {"_run": run, step: labelled_step}
    if hasattr(cls, "_shared_step_momentum"):
        members["_shared_step_momentum"] = lambda self, X, targets: super(guided, self)._shared_step_momentum(
            X, self._targets_of_next_crop("momentum", targets)
        )
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    guided: Any = type(cls.__name__, (_Guided, cls), {**members, **names})
    return guided


def is_guided(method: object) -> bool:
    """Whether a method was made by :func:`guided_method`."""
    return isinstance(method, _Guided)


class _Guided:
    """What is the same for every method and generation; stands before the host's class in the method resolution order."""

    _run: GuidedRun
    shown_crops: ShownCrops | None
    """What the crops of the current training batch show; ``None`` in a step by hand."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        loaded = kwargs.pop(KEY, None) is not None  # a checkpoint's hyper-parameters hold the record, and its own recipe
        try:
            super().__init__(*args, **kwargs)
        except SoloGpsError:
            raise
        except Exception as error:
            raise of_host(error, f"building {type(self).__name__}") from error
        with our_part("building the guided method"):
            self._run.record_in(args[0] if args else kwargs.get("cfg"), loaded=loaded)
            self._run.pairing.attach(self)  # type: ignore[arg-type]
        self.shown_crops = None
        self._described = False
        self._items_here: torch.Tensor | None = None
        self._crops_seen = {"online": 0, "momentum": 0}
        if getattr(self, "knn_eval", False):
            self.knn.register_forward_pre_hook(self._label_knn_bank, with_kwargs=True)  # type: ignore[attr-defined]

    def configure_callbacks(self) -> list[Any]:
        return [*super().configure_callbacks(), self._run.callback]  # type: ignore[misc]

    def on_load_checkpoint(self, checkpoint: Any) -> None:
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        with our_part("resuming"):
            self._run.fit.resume_from(checkpoint)

    def on_save_checkpoint(self, checkpoint: Any) -> None:
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        with our_part("saving what a resumed run needs"):
            checkpoint[KEY] = self._run.fit.state()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch = super().on_before_batch_transfer(batch, dataloader_idx)  # type: ignore[misc]
        # Asked for again on a GPU, they would have to wait for the step before.
        self._items_here = batch[0] if isinstance(batch, (list, tuple)) and len(batch) == 3 else None
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch = super().on_after_batch_transfer(batch, dataloader_idx)  # type: ignore[misc]
        if not self.training or len(batch) != 3:  # type: ignore[attr-defined]
            return batch
        items, crops, targets = batch
        with our_part("telling which image each crop shows"):
            here, self._items_here = items if self._items_here is None else self._items_here, None
            indices, self.shown_crops = self._run.describe(items, here.cpu(), targets, num_crops=len(crops))
        self._described = True
        return [indices, crops, targets]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if not self._described:  # a step by hand: what is known is of an earlier batch
            self.shown_crops = None
        with our_part("starting a step"):
            self._run.check_step(self, described=self._described)
        self._described = False
        self._crops_seen = {"online": 0, "momentum": 0}
        out = super().training_step(batch, batch_idx)  # type: ignore[misc]
        if getattr(self, "_trainer", None) is None:  # else our callback counts, whatever step a subclass has
            self._run.receipt.steps += 1
        return out

    def _targets_of_next_crop(self, branch: str, targets: torch.Tensor) -> torch.Tensor:
        """The host calls its classifiers once a large crop, in order, each time with the anchors' targets."""
        if not self.training or self.shown_crops is None:  # type: ignore[attr-defined]
            return targets
        crop = self._crops_seen[branch]
        self._crops_seen[branch] = crop + 1
        return self.shown_crops.targets[crop]

    def _label_knn_bank(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The host repeats the anchors' targets crop by crop and may drop the unknown; so do we, with the positives'."""
        if self.shown_crops is None or kwargs.get("train_targets") is None:
            return args, kwargs
        large = self.shown_crops.targets[: self.num_large_crops]  # type: ignore[attr-defined]
        anchors, targets = large[0].repeat(len(large)), torch.cat(large)
        targets = torch.where(targets == -1, anchors, targets)
        if len(kwargs["train_targets"]) != len(targets):
            targets = targets[anchors != -1]
        return args, {**kwargs, "train_targets": targets}
