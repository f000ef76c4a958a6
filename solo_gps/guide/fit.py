"""One training of a trainer, from the first iterator to the last step: which epoch it is, and when an error may be raised.

Lightning tells of a training in this order (2.x; 1.9 makes the iterator later, after `on_train_start`)::

    setup               begin           errors wait from here on
      load checkpoint   resume_from     taken back once the loader is there: a data module makes it later
      first iterator    draw_pairs      of the epoch that the checkpoint names: Lightning restores its own count after this
    on_train_start      start_steps     raises what went wrong; errors go free again
    on_train_epoch_start  start_epoch   the trainer's own count is right now
      iterator          draw_pairs      once an epoch
      steps
    on_train_end, teardown  end
"""

from __future__ import annotations

import hashlib
import logging
import weakref
from collections.abc import Mapping
from typing import Any

import torch

from solo_gps.errors import DataError, HostError, our_part
from solo_gps.guide.dataset import GuidedDataset, GuidedLoader, guided_dataset, loaders_of
from solo_gps.guide.pairing import Pairing
from solo_gps.guide.receipt import Receipt
from solo_gps.guide.record import KEY
from solo_gps.interfaces import Pairs, read_only
from solo_gps.plugins import plugin_manager

log = logging.getLogger(__name__)

SAME_RUN = ("keys", "seed", "embeddings")
"""Keys of the record in which a checkpoint's run must agree with this one to be its earlier part."""


class Fit:
    """Which training is under way, and where it stands.

    Args:
        pairing: Draws the pairs.
        receipt: Counts what the training is shown.
        record: What the run says of itself.
        prepare: How the host makes a loader, named in errors.

    Attributes:
        dataset: The guided training set, once the host has made its loader and where a sampler guides it.
        trainer: The trainer at work, or ``None``.
        was_finished: The training resumed this very run at its end, and had nothing left to do.
        steps_before: Steps of the trainer that were not this run's.
    """

    def __init__(self, pairing: Pairing, receipt: Receipt, record: Mapping[str, Any], prepare: str) -> None:
        self.dataset: GuidedDataset | None = None
        self.trainer: Any = None
        self.was_finished = False
        self.steps_before = 0
        self._pairing, self._receipt, self._record, self._prepare = pairing, receipt, record, prepare
        self._may_raise = True
        self._late_error: BaseException | None = None
        self._epochs_by_hand = 0
        self._resumed_epoch: int | None = None
        self._resumed_record: Mapping[str, Any] | None = None
        self._announced_epoch: int | None = None
        self._checkpoint: Mapping[str, Any] | None = None
        self._shown: list[weakref.ref] = []  # weak: a trainer may have its loader made anew for each epoch

    def guide(self, dataset: GuidedDataset) -> None:
        """Takes the set whose pairs are drawn from now on."""
        self.dataset = dataset
        self.read(dataset)
        dataset.draw_with(self.draw_pairs)
        self._take_back()

    def read(self, dataset: Any) -> None:
        """Takes a set that a trainer may be given; also a plain one, whose images a sampler knows by their place in it."""
        self._shown = [known for known in self._shown if known() is not None] + [weakref.ref(dataset)]

    def begin(self, trainer: Any) -> None:
        """A trainer starts. Until :meth:`start_steps`, Lightning 2 cannot bear an error: its teardown would raise its own."""
        self.trainer, self._may_raise = trainer, False
        self._late_error = self._resumed_epoch = self._announced_epoch = self._resumed_record = self._checkpoint = None
        self._receipt.begin_training()
        self.steps_before = int(trainer.global_step)

    def resume_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Notes the epoch that a checkpoint resumes at, and takes back what :meth:`state` put into it.

        Only where a training resumes: weights that are loaded for anything else say nothing about the pairs.
        """
        if self.trainer is None:
            return
        progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
        self._resumed_epoch = progress.get("processed")
        self._checkpoint = checkpoint
        if self._pairing.is_ready:  # else the loader is still to be made
            self._take_back()

    def _take_back(self) -> None:
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None:
            return
        state = dict(checkpoint.get(KEY) or {})
        if state and state.pop("checksum", None) != _checksum(state):
            error = DataError(
                "what solo-gps keeps in the checkpoint (neighbours found by the network, counts) is damaged. Resume from another "
                "checkpoint, or start anew."
            )
            if self._may_raise:
                raise error
            self._late_error = error
            return
        self._resumed_record = state.get("record")
        if self._resumed_its_like:
            self._receipt.counts.update(state.get("counts", {}))
            self.steps_before = int(state.get("steps_before", 0))
        else:
            self.steps_before = int(checkpoint.get("global_step", 0))
            log.warning(
                "resumed from a checkpoint whose %d steps were %s: this run's record and receipt speak of the steps from here on",
                self.steps_before,
                "plain" if self._resumed_record is None else "guided by other samplers, keys, seed, embeddings or refreshes",
            )
        if state.get("refresh") is not None:
            self._pairing.load_state(state["refresh"])

    def state(self) -> dict[str, Any]:
        """Returns the run's record, and what a resumed run needs, for a checkpoint."""
        state = {
            "record": dict(self._record),
            "counts": dict(self._receipt.counts),
            "steps_before": self.steps_before,
            "refresh": self._pairing.state(),
        }
        return {**state, "checksum": _checksum(state)}

    def start_steps(self) -> None:
        """Raises what went wrong while the first iterator was made.

        Raises:
            HostError: The trainer reads another loader than the guided one, or none was ever guided.
        """
        self._may_raise = True
        if self._late_error is not None:
            raise self._late_error
        if not self._pairing.is_ready:
            raise HostError(f"training was about to start on a loader that solo-gps never guided. {self._mend}")
        self._take_back()
        for loader in loaders_of(self.trainer) if self._shown else ():
            shown = guided_dataset(loader.dataset) if isinstance(loader, GuidedLoader) else getattr(loader, "dataset", None)
            if not any(shown is known() for known in self._shown):
                raise HostError(f"training was about to start on another loader than the guided one. {self._mend}")
            self.dataset = shown if self.dataset is not None else None

    @property
    def _mend(self) -> str:
        return f"Give the trainer the one that solo-learn's {self._prepare} made while the plugin was switched on."

    def start_epoch(self) -> None:
        """The trainer's own count of epochs is right from now on."""
        self._resumed_epoch = None

    def draw_pairs(self) -> Pairs:
        """Returns the pairs of the epoch about to start; those of before where an error has to wait."""
        try:
            with our_part("choosing the pairs of an epoch"):
                return self._pairs_of(self.epoch)
        except BaseException as error:
            if self._may_raise:
                raise
            assert self.dataset is not None
            self._late_error = error
            return self.dataset.pairs

    def _pairs_of(self, epoch: int) -> Pairs:
        assert self.dataset is not None
        last = -1 if self.trainer is None else self.trainer.max_epochs or -1
        if not 0 <= last <= epoch:  # else a finished run was resumed, and nothing is left to train
            self._pairing.refresh_if_due(epoch, self.dataset.pipelines[0])
        self._epochs_by_hand += self.trainer is None
        pairs = self._pairing.pairs(epoch)
        if epoch != self._announced_epoch:  # Lightning may make an epoch's iterator twice
            self._announced_epoch = epoch
            more = None if pairs.more is None else read_only(pairs.more)
            seen = Pairs(anchors=read_only(pairs.anchors), positives=read_only(pairs.positives), more=more)
            plugin_manager().hook.on_epoch_pairs(epoch=epoch, pairs=seen, labels=self._pairing.labels)
        return pairs

    @property
    def epoch(self) -> int:
        """Number of the epoch about to start, from 0; without a trainer, of iterators made."""
        if self._resumed_epoch is not None:
            return self._resumed_epoch
        return self._epochs_by_hand if self.trainer is None else int(self.trainer.current_epoch)

    def check_batch(self) -> None:
        """Raises :class:`HostError` when a trainer steps though no iterator of the guided loader was made for it."""
        if self.trainer is not None and self._announced_epoch is None:
            raise HostError(f"a training step got a batch of another loader than the guided one. {self._mend}")

    def end(self) -> None:
        """The trainer is done, or has failed."""
        if self.trainer is not None:
            self.was_finished = self._resumed_its_like and self._receipt.steps == 0 < int(self.trainer.global_step)
            if self.was_finished:
                log.info(
                    "this run had finished, and nothing was left to train. For more epochs name its last checkpoint, "
                    "resume_from_checkpoint=..., and raise max_epochs; to train it again set auto_resume.enabled=False"
                )
        self.trainer, self._may_raise, self._late_error = None, True, None

    @property
    def _resumed_its_like(self) -> bool:
        record = self._resumed_record
        return record is not None and all(record.get(key) == self._record[key] for key in SAME_RUN)


def _checksum(state: Any) -> str:
    """SHA-256 of nested mappings, tensors and plain values, in hex: torch reads a checkpoint without looking at its checksums."""
    digest = hashlib.sha256()
    if isinstance(state, Mapping):
        for key in sorted(state):
            digest.update(f"{key!r}:{_checksum(state[key])},".encode())
    elif isinstance(state, torch.Tensor):
        digest.update(f"{state.dtype}{tuple(state.shape)}".encode() + state.numpy().tobytes())
    else:
        digest.update(repr(state).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
