"""The kinds of places where pNN acts (see :mod:`solo_gps.methods`): how each edits what the loss reads.

Each class stands behind :class:`solo_gps.samplers.pnn.wrap.PnnFront` and before the host's class in the method resolution order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from solo_gps.errors import DataError
from solo_gps.methods import Place
from solo_gps.samplers.pnn.config import DEFAULT_QUEUE, PnnConfig
from solo_gps.samplers.pnn.engine import Engine, Step
from solo_gps.samplers.pnn.formula import mean_value_sum_gradient, scale_gradient
from solo_gps.samplers.pnn.support import NOBODY, Choice, Pool, RowRecord, SupportSet, gather_rows

Outs = dict[str, Any]


class Kind:
    """What the kinds share. The defaults: one pass, keys and targets in one entry, a support set of our own."""

    pnn: Engine
    _pnn_config: ClassVar[PnnConfig]
    _pnn_place: ClassVar[Place]
    _pnn_step: Step | None

    # The host's.
    cfg: Any
    trainer: Any
    current_epoch: int
    log_dict: Callable[..., None]
    num_large_crops: int
    prototypes: Any
    momentum_head: Any
    queue: Tensor
    queue_y: Tensor
    queue_ptr: Tensor
    queue_size: int
    _buffers: dict[str, Tensor]

    def pnn_rows(self) -> RowRecord:
        """Returns an empty support set, or the record of the method's own queue."""
        return SupportSet(self._pnn_config.queue_size or DEFAULT_QUEUE, self.pnn_key_length(), sphere=self._pnn_place.sphere)

    def pnn_key_length(self) -> int:
        """Returns D."""
        return int(self.cfg.method_kwargs.proj_output_dim)

    def pnn_set_up(self) -> None:
        """Registers what a kind needs besides, at the end of construction."""

    def pnn_training_step(self, batch: Any, batch_idx: int) -> Any:
        """Runs the method's own step."""
        return super().training_step(batch, batch_idx)  # type: ignore[misc]

    def pnn_forward_done(self, step: Step) -> None:
        """Takes the true keys out of what the base class handed over, and makes the pseudo neighbours."""
        large = self.num_large_crops
        step.keys = list(step.outs[self._pnn_place.entry][:large])
        pool = self.pnn_pool()
        for view in range(large) if self._pnn_place.views is None else self._pnn_place.views:
            key = step.slow_keys[view].to(step.keys[view]) if step.slow_keys else step.keys[view]
            choice = self.pnn.choose(view, key, pool, step)
            step.pseudo[view] = self.pnn.pseudo_neighbours(view, key, choice, pool, step).to(key.dtype)

    def pnn_pool(self) -> Pool:
        """Returns the rows to search."""
        assert isinstance(self.pnn.rows, SupportSet)
        return self.pnn.rows.pool()

    def pnn_edit(self, step: Step) -> Outs:
        """Returns what the method's step reads."""
        return dict(step.outs)

    def pnn_enqueue(self, step: Step) -> None:
        """Adds the anchor's keys (view 0), whose image and label are certain, after all passes."""
        assert isinstance(self.pnn.rows, SupportSet)
        key = (step.slow_keys or step.keys)[0]
        self.pnn.rows.push(key, step.labels[0], step.images[0])


class Target(Kind):
    """The entry is only a target in the loss: all its replaced views in one pass."""

    def pnn_edit(self, step: Step) -> Outs:
        """Replaces the targets."""
        entry = list(step.outs[self._pnn_place.entry])
        for view, made in step.pseudo.items():
            entry[view] = made
        return {**step.outs, self._pnn_place.entry: entry}


class Mirror(Kind):
    """The same list is anchor and target: one pass of the loss for each large view, in which only that view is replaced.

    The pseudo neighbours are constants. Value: the mean of the passes; gradient: their sum, the entries that are not replaced
    scaled, so that alpha = 1 is the stock method in both, and the scale of the gradient does not shrink with alpha.
    """

    def pnn_training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Runs the method's step once a view, over one forward."""
        losses = []
        step = self._pnn_step
        assert step is not None
        for step.view in range(self.num_large_crops):
            losses.append(super().pnn_training_step(batch, batch_idx))
        if not step.outs:
            return losses[0]
        return mean_value_sum_gradient(losses) + step.outs["loss"]

    def pnn_edit(self, step: Step) -> Outs:
        """Replaces the view of this pass; the online classifier's loss counts once, outside the passes."""
        large = self.num_large_crops
        entry = list(step.outs[self._pnn_place.entry])
        for crop, z in enumerate(entry):
            passes = large - 1 if crop < large else large
            entry[crop] = step.pseudo[crop] if crop == step.view else scale_gradient(z, 1 / passes)
        return {**step.outs, self._pnn_place.entry: entry, "loss": torch.zeros_like(step.outs["loss"])}


class Assign(Kind):
    """SwAV: the cluster codes are those of the pseudo neighbours' scores."""

    def get_assignments(self, preds: list[Tensor]) -> list[Tensor]:
        """Computes the codes that the other views predict."""
        step = self._pnn_step
        if step is not None and step.pseudo:
            with torch.no_grad():
                preds = [self.prototypes(step.pseudo[view]) for view in range(len(preds))]
        return super().get_assignments(preds)  # type: ignore[misc]


class Head(Kind):
    """DINO: the teacher's bottleneck, before its last layer, is replaced."""

    def pnn_key_length(self) -> int:
        """Returns the length of the bottleneck."""
        return int(self.momentum_head.last_layer.in_features)

    def pnn_set_up(self) -> None:
        """Listens to what enters the teacher's last layer."""
        self._pnn_bottleneck: list[Tensor] = []
        self.momentum_head.last_layer.register_forward_pre_hook(self._pnn_listen)

    def _pnn_listen(self, layer: Any, inputs: tuple[Tensor]) -> None:
        if self._pnn_step is not None and not self._pnn_step.outs:
            self._pnn_bottleneck.append(inputs[0])

    def pnn_training_step(self, batch: Any, batch_idx: int) -> Any:
        """Runs the method's own step."""
        self._pnn_bottleneck = []
        return super().pnn_training_step(batch, batch_idx)

    def pnn_forward_done(self, step: Step) -> None:
        """Makes the pseudo neighbours in the bottleneck."""
        step.outs["pnn_bottleneck"], self._pnn_bottleneck = self._pnn_bottleneck, []
        super().pnn_forward_done(step)

    def pnn_edit(self, step: Step) -> Outs:
        """Replaces the teacher's logits by those of the pseudo neighbours."""
        with torch.no_grad():
            logits = [self.momentum_head.last_layer(step.pseudo[view]) for view in sorted(step.pseudo)]
        return {**step.outs, "momentum_z": logits}


class FindNN(Kind):
    """NNCLR and its kin: the neighbours that the method finds in its own queue are replaced."""

    NEIGHBOURS: int | None = None

    def pnn_rows(self) -> RowRecord:
        """Returns the record of the method's own queue."""
        return RowRecord(self.queue_size)

    def pnn_forward_done(self, step: Step) -> None:
        """Nothing: the keys come by :meth:`find_nn`."""

    def pnn_enqueue(self, step: Step) -> None:
        """Nothing: the method enqueues by itself."""

    def pnn_pool(self) -> Pool:
        """Returns all rows of the method's queue."""
        record = self.pnn.rows
        return Pool(keys=self.queue, label=self.queue_y, index=record.index, born=record.born)

    def find_nn(self, z: Tensor) -> Any:
        """Finds the neighbours as the method does, or as the configuration asks, and returns pseudo neighbours."""
        step = self._pnn_step
        if step is None:
            return super().find_nn(z)  # type: ignore[misc]
        view, step.view = step.view, step.view + 1
        if step.slow_keys:
            z = step.slow_keys[view].to(z)
        step.keys.append(z.detach())
        pool = self.pnn_pool()
        if self.pnn.searches_as_the_host:
            nearest, neighbour, *_ = super().find_nn(z)  # type: ignore[misc]
            rows = (z @ pool.keys.T).topk(self.NEIGHBOURS, dim=1)[1] if self.NEIGHBOURS else nearest[:, None]
            choice = Choice(neighbour=neighbour, rows=rows, valid=torch.ones_like(rows, dtype=torch.bool))
        else:
            choice = self.pnn.choose(view, z, pool, step, each=self.NEIGHBOURS)
            nearest = choice.rows[:, 0]
        made = self.pnn.pseudo_neighbours(view, z, choice, pool, step).to(pool.keys.dtype)
        return (nearest, made, pool.index[choice.rows], pool.label[choice.rows]) if self.NEIGHBOURS else (nearest, made)

    def dequeue_and_enqueue(self, z: Tensor, *rest: Tensor) -> None:
        """Enqueues as the method does, and notes whose rows they are."""
        if (step := self._pnn_step) is not None:
            z = step.slow_keys[0].to(z) if step.slow_keys else z
            self.pnn.rows.write(int(self.queue_ptr), gather_rows(step.images[0]))
        super().dequeue_and_enqueue(z, *rest)  # type: ignore[misc]


class FindFive(FindNN):
    """All4One: five neighbours, (B, 5, D), with the images and labels of them, (B, 5)."""

    NEIGHBOURS = 5


class QueueOfNegatives(Target):
    """A method that enqueues its targets as negatives: it gets the true keys, and its loss a queue without the neighbours."""

    ROWS = -1
    VIEWS: tuple[int, ...] = ()
    pnn_record: Iterable[RowRecord]

    def pnn_set_up(self) -> None:
        """Registers whose rows the method's own queue holds, view by view: a guided view shows another image."""
        self.pnn_record = nn.ModuleList(RowRecord(self.queue_size) for _ in self.VIEWS)  # type: ignore[assignment]
        self._pnn_whole: Tensor | None = None

    def pnn_training_step(self, batch: Any, batch_idx: int) -> Any:
        """Runs the method's own step; its queue is whole again after it, come what may."""
        try:
            return super().pnn_training_step(batch, batch_idx)
        finally:
            self._pnn_restore()

    def pnn_forward_done(self, step: Step) -> None:
        """Makes the pseudo neighbours, and hides the neighbours' images from the method's own queue."""
        super().pnn_forward_done(step)
        if self._pnn_config.own_queue == "mask" and self.pnn.alpha < 1 and step.chosen:
            self._pnn_hide(torch.cat([images.flatten() for images in step.chosen.values()]))

    def _pnn_hide(self, images: Tensor) -> None:
        # Rows that were never written show nobody, and nobody is the image of neighbours that were not found.
        shown = torch.stack([record.index for record in self.pnn_record])
        keep = (~torch.isin(shown, images[images != NOBODY])).all(dim=0).nonzero()[:, 0]
        if not len(keep):
            raise DataError(
                f"sampler.pnn.own_queue=mask: all {shown.shape[1]} rows of the method's own queue show neighbours of this batch. "
                "Set method_kwargs.queue_size well above the batch size."
            )
        self._pnn_whole = self._buffers["queue"]
        self._buffers["queue"] = self._pnn_whole.index_select(self.ROWS, keep)

    def _pnn_restore(self) -> None:
        if self._pnn_whole is not None:
            self._buffers["queue"], self._pnn_whole = self._pnn_whole, None

    def _pnn_before_enqueue(self, step: Step) -> None:
        """Restores the queue, and notes whose rows are about to be written."""
        self._pnn_restore()
        for view, record in zip(self.VIEWS, self.pnn_record, strict=True):
            record.write(int(self.queue_ptr), gather_rows(step.images[view]))


class MoCoV2Plus(QueueOfNegatives):
    """MoCo v2+: a queue (2, D, Q), one for each view."""

    VIEWS = (0, 1)

    def _dequeue_and_enqueue(self, keys: Tensor) -> None:
        step = self._pnn_step
        if step is not None:
            self._pnn_before_enqueue(step)
            # The method gathers before it calls.
            keys = torch.stack([gather_rows(key) for key in step.keys])
        super()._dequeue_and_enqueue(keys)  # type: ignore[misc]


class ReSSL(QueueOfNegatives):
    """ReSSL: a queue (Q, D) of the teacher's view."""

    ROWS = 0
    VIEWS = (1,)

    def dequeue_and_enqueue(self, k: Tensor) -> None:
        """Enqueues the true keys of the teacher's view."""
        step = self._pnn_step
        if step is not None:
            self._pnn_before_enqueue(step)
            k = step.keys[1]
        super().dequeue_and_enqueue(k)  # type: ignore[misc]


KINDS: dict[str, type[Kind]] = {"target": Target, "mirror": Mirror, "assign": Assign, "head": Head, "find_nn": FindNN}
SPECIAL: dict[str, type[Kind]] = {"all4one": FindFive, "mocov2plus": MoCoV2Plus, "ressl": ReSSL}
