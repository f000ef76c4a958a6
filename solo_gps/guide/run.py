"""Switching on and off: the one place where samplers meet solo-learn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import cached_property, partial, wraps
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from torch.utils.data import Dataset

from solo_gps.embeddings.fingerprint import data_digest
from solo_gps.errors import HostError, our_part
from solo_gps.evaluation.metrics import pair_purity, table_purity
from solo_gps.guide.check import Asked, check_recipe, check_unchanged, read_recipe
from solo_gps.guide.dataset import GuidedDataset, GuidedLoader, crop_pipelines, crops_from_positive, guided_dataset, loaders_of
from solo_gps.guide.method import guided_method, is_guided
from solo_gps.guide.pairing import Pairing
from solo_gps.guide.programs import registries
from solo_gps.guide.receipt import Receipt, receipt_folder, write_receipt
from solo_gps.guide.record import KEY, record_of, run_suffix, table_digest, write_into
from solo_gps.guide.refresh import Refresh
from solo_gps.guide.trainer_callback import trainer_callback
from solo_gps.hosts.data_folder import check_batch
from solo_gps.hosts.detect import Host, detect_host
from solo_gps.hosts.images import host_images
from solo_gps.interfaces import ImageSet, Pairs, ShownCrops, read_only
from solo_gps.methods import facts_of
from solo_gps.plugins import plugin_manager, wrapped

log = logging.getLogger(__name__)


class Activation:
    """The plugin while it is switched on. Made by :func:`activate`.

    Args:
        cfg: The whole recipe.
        host: The installed solo-learn.
        asked: What the recipe asks for.

    Attributes:
        pairing: Images, neighbour tables and pairs.
        dataset: The guided training set, once the host has made its loader and where a sampler guides it.
        record: What the run says of itself; complete once the host has made its loader.
        receipt: What the training was really shown.
    """

    def __init__(self, cfg: DictConfig, host: Host, asked: Asked) -> None:
        self.cfg = deepcopy(cfg)  # what was read is what acts, whatever the program does to its recipe
        self.host = host
        self.asked = asked
        self.samplers = asked.samplers
        refresh = None if asked.refresh is None else Refresh(asked.refresh, cfg, host.backbone_name)
        self.pairing = Pairing(cfg, self.samplers, refresh)
        self.dataset: GuidedDataset | None = None
        self.record = record_of(asked, host.generation)
        self.receipt = Receipt()
        self._suffix = run_suffix(asked) if asked.samplers else ""
        self._recipe: DictConfig | None = None
        self._fitting: Any = None
        self._may_raise = True
        self._late_error: BaseException | None = None
        self._epochs_by_hand = 0
        self._resumed_epoch: int | None = None
        self._announced_epoch: int | None = None
        self._was_finished = False
        self._resumed_record: Mapping[str, Any] | None = None
        self._steps_before = 0

    @property
    def guides_images(self) -> bool:
        """Whether a sampler chooses positives in the dataset."""
        return any(sampler.pairs_images for sampler in self.samplers.values())

    def method_class(self) -> type:
        """Returns the class to train in place of the host's: every sampler's wrapper, then those of other plugins."""
        cls: Any = self.host.methods[self.cfg.method]
        for sampler in self.samplers.values():
            cls = sampler.wrap_method(cls, self.cfg)
        cls = wrapped("wrap_method", "method", guided_method(cls, self), cfg=self.cfg)
        return cls

    def make_loader(self, dataset: Dataset, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        """Stands in for ``DataLoader`` where the host makes its training loader."""
        with our_part("guiding the training set"):
            check_batch(self.cfg, len(dataset), kwargs["batch_size"])  # type: ignore[arg-type]
            if self.guides_images:
                self.dataset = self._guide(dataset)
            elif any(sampler.reads_prior for sampler in self.samplers.values()):
                self.pairing.prepare(self._images_of(dataset))
            self._record_fingerprints()
            if not self.guides_images:
                return torch.utils.data.DataLoader(dataset, *args, **kwargs)
            whole = wrapped("wrap_dataset", "dataset", self.dataset, cfg=self.cfg)
            guided_dataset(whole)
        return GuidedLoader(whole, *args, **kwargs)

    def _guide(self, dataset: Any) -> GuidedDataset:
        images = self._images_of(dataset)
        pipelines = crop_pipelines(dataset.transform)
        self.pairing.prepare(images, pipelines[0])
        marks = crops_from_positive(self.cfg.method, len(pipelines), self._num_large_crops)
        guided = GuidedDataset(images, pipelines, marks, self.pairing.pairs(epoch=0))
        guided.draw_with(self._start_epoch)
        return guided

    def _images_of(self, dataset: Any) -> ImageSet:
        """The raw images; of one training set alone, else one would be paired by the other's neighbours."""
        images, before = host_images(dataset), self.pairing.images
        if before is not None and data_digest(before.content()) != data_digest(images.content()):
            raise HostError(
                f"prepare_dataloader got a second training set ({len(images)} images, after one of {len(before)}): one "
                "is guided while the plugin is switched on. Switch it on anew for the other: with solo_gps.activate(cfg)."
            )
        return images

    def _record_fingerprints(self) -> None:
        space = self.pairing.space
        self.record["embeddings"] = None if space is None else space.fingerprint
        self.record["tables"] = {name: table_digest(table) for name, table in self.pairing.tables.items()}
        if self._recipe is not None:
            write_into(self._recipe, self.record)

    @property
    def _num_large_crops(self) -> int:
        large = self.cfg.augmentations[0].crop_size
        return sum(pipeline.num_crops for pipeline in self.cfg.augmentations if pipeline.crop_size == large)

    def _start_epoch(self) -> Pairs:
        try:
            with our_part("choosing the pairs of an epoch"):
                return self._draw_pairs()
        except BaseException as error:
            if self._may_raise:
                raise
            assert self.dataset is not None
            self._late_error = error
            return Pairs(anchors=self.dataset.anchors.numpy(), positives=self.dataset.positives.numpy())

    def _draw_pairs(self) -> Pairs:
        assert self.dataset is not None
        epoch = self._epoch()
        last = -1 if self._fitting is None else self._fitting.max_epochs or -1
        if not 0 <= last <= epoch:  # else a finished run was resumed, and nothing is left to train
            self.pairing.refresh_if_due(epoch, self.dataset.pipelines[0])
        self._epochs_by_hand += self._fitting is None
        pairs = self.pairing.pairs(epoch)
        if epoch != self._announced_epoch:  # Lightning may make an epoch's iterator twice
            self._announced_epoch = epoch
            shown = Pairs(anchors=read_only(pairs.anchors), positives=read_only(pairs.positives))
            plugin_manager().hook.on_epoch_pairs(epoch=epoch, pairs=shown, labels=self.pairing.labels)
        return pairs

    def _epoch(self) -> int:
        if self._resumed_epoch is not None:
            return self._resumed_epoch
        return self._epochs_by_hand if self._fitting is None else int(self._fitting.current_epoch)

    def resume_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Notes the epoch that a checkpoint resumes at, and takes back what :meth:`save_to` put into it.

        Only where a training resumes: weights that are loaded for anything else say nothing about the pairs. Lightning 2 makes
        the first epoch's iterator, whose workers start to read ahead, before it restores its own count.
        """
        if self._fitting is None:
            return
        progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
        self._resumed_epoch = progress.get("processed")
        state = checkpoint.get(KEY, {})
        self._resumed_record = state.get("record")
        if self._resumed_its_like:
            self.receipt.counts.update(state.get("counts", {}))
            self._steps_before = 0
        else:
            self._steps_before = int(checkpoint.get("global_step", 0))
            log.warning(
                "resumed from a checkpoint whose %d steps were %s: this run's record and receipt speak of the steps from here on",
                self._steps_before,
                "plain" if self._resumed_record is None else "guided by other samplers, keys, embeddings or refreshes",
            )
        tables = state if "refreshed_epoch" in state else state.get("refresh")  # the former: written before there were counts
        if tables is not None:
            self.pairing.load_state(tables)

    def save_to(self, checkpoint: dict[str, Any]) -> None:
        """Adds the run's record, and what a resumed run needs, to a checkpoint."""
        if self.samplers:
            counts = dict(self.receipt.counts)
            checkpoint[KEY] = {"record": self.record, "counts": counts, "refresh": self.pairing.state()}

    def record_in(self, recipe: Any, *, loaded: bool = False) -> None:
        """Appends the samplers to the run's name and writes the record into the recipe, in place.

        Checkpoints are found again by that name: a plain run must never resume a guided one's, nor the other way round.

        Args:
            recipe: The recipe that the host will save.
            loaded: It came out of a checkpoint, and may ask for something else.

        Raises:
            ConfigError: The program has changed what the recipe asks of us since it was read.
        """
        if not self.samplers or not isinstance(recipe, DictConfig):
            return
        if not loaded and self._recipe is not recipe:
            check_unchanged(recipe, self.asked, self.cfg.method)
        self._recipe = recipe
        write_into(recipe, self.record)
        name = self.cfg.method if recipe.get("name") is None else str(recipe.name)
        with read_write(recipe), open_dict(recipe):
            recipe.name = name if name.endswith(self._suffix) else f"{name}{self._suffix}"

    def describe(self, items: torch.Tensor, targets: torch.Tensor, *, num_crops: int) -> tuple[torch.Tensor, ShownCrops]:
        """Turns the items of a batch into image indices, and says whose image and class each crop shows.

        Args:
            items: (B,) int64 items of the guided set; image indices when no sampler guides it.
            targets: (B,) int64 classes of the anchors.
            num_crops: Number of crops of the batch.

        Returns:
            (B,) int64 image indices of the anchors (the items themselves for methods that remember items); and what each crop
            shows.
        """
        if self.dataset is None:
            self.receipt.counts["items"] += len(items)
            return items, ShownCrops(images=(items,) * num_crops, targets=(targets,) * num_crops)
        if self._fitting is not None and self._announced_epoch is None:
            raise HostError(
                "a training step got a batch of another loader than the guided one. Give the trainer the one that solo-learn's "
                f"{self.host.loader_module.__name__}.prepare_dataloader made while the plugin was switched on."
            )
        rows, labels = items.cpu(), self.pairing.labels
        self.receipt.add(*self.dataset.rows(rows.numpy()), labels)
        anchors, positives = self.dataset.anchors[rows].to(items), self.dataset.positives[rows]
        theirs = targets if labels is None else torch.from_numpy(labels)[positives.long()].to(targets)
        positives, guided = positives.to(items), self.dataset.from_positive[:num_crops]
        shown = ShownCrops(
            images=tuple(positives if positive else anchors for positive in guided),
            targets=tuple(theirs if positive else targets for positive in guided),
        )
        return items if facts_of(self.cfg.method).remembers_items else anchors, shown

    def diagnostics(self) -> dict[str, float]:
        """Share of items whose positive is another image and, where labels exist, of those with the anchor's label."""
        if self.dataset is None:
            return {}
        labels = self.pairing.labels
        unknown = np.full(len(self.dataset.images), -1) if labels is None else labels
        share, purity = pair_purity(self.dataset.anchors.numpy(), self.dataset.positives.numpy(), unknown)
        return {"guided_share": share} | ({} if np.isnan(purity) else {"guided_purity": purity})

    @cached_property
    def trainer_callback(self) -> Any:
        """The callback that ties the plugin to the trainer that the host makes; one, however often a trainer fits."""
        return trainer_callback(self)

    def begin_fit(self, trainer: Any, method: Any) -> None:
        """A training starts from the prior's tables, unless its checkpoint brings others.

        From here to :meth:`start_steps`, Lightning 2 makes the first iterator and cannot bear an error in it: its teardown then
        fails on its own, and the user would see that.
        """
        self._fitting, self._may_raise = trainer, False
        self._late_error = self._resumed_epoch = self._announced_epoch = self._resumed_record = None
        self.receipt.begin_training()
        self._steps_before = int(trainer.global_step)
        self.pairing.attach(method)
        method.save_hyperparameters({KEY: self.record})

    def start_steps(self) -> None:
        """Raises what went wrong while the first iterator was made.

        Raises:
            HostError: The trainer reads another loader than the guided one, or none was ever guided.
        """
        self._may_raise = True
        if self._late_error is not None:
            raise self._late_error
        reads_prior = any(sampler.reads_prior for sampler in self.samplers.values())
        if (self.guides_images and self.dataset is None) or (reads_prior and self.pairing.space is None):
            raise HostError(
                "training was about to start on a loader that solo-gps never guided. Make it by solo-learn's "
                f"{self.host.loader_module.__name__}.prepare_dataloader while the plugin is switched on."
            )
        if self.dataset is not None and not all(map(self._is_guided, loaders_of(self._fitting))):
            raise HostError(
                "training was about to start on another loader than the guided one. Give the trainer the one that solo-learn's "
                f"{self.host.loader_module.__name__}.prepare_dataloader made while the plugin was switched on."
            )

    def _is_guided(self, loader: Any) -> bool:
        return isinstance(loader, GuidedLoader) and guided_dataset(loader.dataset) is self.dataset

    def check_step(self, method: Any, *, described: bool) -> None:
        """Looks at each training step: hooks that a subclass or a program leaves out would train plainly.

        Args:
            method: The guided method.
            described: Its batch went through :meth:`describe`.

        Raises:
            HostError: A trainer steps without our callback, or with a batch that nobody told the images of.
        """
        if getattr(method, "_trainer", None) is not None and self._fitting is None:
            raise HostError(
                f"{type(method).__name__} trains without the callback that guides it. A subclass that overrides "
                "configure_callbacks must return [*super().configure_callbacks(), ...]."
            )
        if self.guides_images and not described:
            raise HostError(
                f"a step of {type(method).__name__} got a batch that never went through its on_after_batch_transfer, which tells "
                "the image that each crop shows. Train by Trainer.fit(method, loader); a subclass that overrides that hook must "
                "call super()."
            )

    def start_epoch(self) -> None:
        """The trainer's own count of epochs is right from now on."""
        self._resumed_epoch = None

    def end_training(self, trainer: Any, method: Any, error: BaseException | None = None) -> None:
        """Writes the receipt.

        Args:
            trainer: The trainer that has finished, or failed.
            method: What it trained.
            error: Why it failed; other ranks may still be at work then, and are not counted.
        """
        alone = error is not None or trainer.world_size == 1
        counts = self.receipt.counts if alone else self.receipt.sum_over_ranks(trainer, method.device)
        folder = None if error is not None and trainer.world_size > 1 else receipt_folder(trainer)
        if not self.samplers or not trainer.is_global_zero:
            return
        labels = self.pairing.labels if self.pairing.images is not None else None
        facts = {
            "run": None if self._recipe is None else self._recipe.get("name"),
            "method": self.cfg.method,
            "ended": "finished" if error is None else f"ended by {type(error).__name__}",
            "epochs": int(trainer.current_epoch),
            "steps": int(trainer.global_step) - self._steps_before,
            "steps_before": self._steps_before,
            "ranks_counted": 1 if alone else trainer.world_size,
            "measures": {name: dict(values) for name, sampler in self.samplers.items() if (values := sampler.measured(method))},
            "purity_of_all_neighbours": {}
            if labels is None
            else {name: table_purity(table, labels) for name, table in self.pairing.tables.items()},
        }
        write_receipt(folder, self.record, counts, facts, by_pairs=self.dataset is not None)

    def end_fit(self) -> None:
        """The trainer is done, or has failed."""
        if self._fitting is not None:
            self._was_finished = self._resumed_its_like and self.receipt.steps == 0 < int(self._fitting.global_step)
        self._fitting, self._may_raise, self._late_error = None, True, None

    @property
    def _resumed_its_like(self) -> bool:
        """Whether the checkpoint that a training resumed from was guided as this run is."""
        record = self._resumed_record
        return record is not None and all(record.get(key) == self.record[key] for key in ("samplers", "refresh", "embeddings"))

    def check_trained(self) -> None:
        """Ends a job that asked for guidance and never trained a guided method.

        Raises:
            HostError: No guided method took a step, and none was resumed at its end; or not one item was guided.
        """
        counts = self.receipt.counts
        if self.dataset is not None and counts["items"] and not counts["guided"]:
            raise HostError(
                f"the training is over, and not one of its {counts['items']:,} items had another image as its positive: "
                f"{'+'.join(self.samplers)} guided nothing."
            )
        if self.samplers and not self.receipt.steps and not self._was_finished:
            raise HostError(
                f"the job is over, and {'+'.join(self.samplers)} never guided a training step: the program trained nothing, "
                "resumed a finished run that was not guided so, or trained something else than a method of solo-learn's METHODS."
            )


@contextmanager
def activate(cfg: Mapping[str, Any], *, program: Callable[..., Any] | None = None) -> Iterator[Activation]:
    """Switches the plugin on for the installed solo-learn, and off again on exit.

    Within the context, ``METHODS[cfg.method]`` is the guided method and training loaders that solo-learn's ``prepare_dataloader``
    makes are guided. On exit, solo-learn is exactly as before.

    Args:
        cfg: The whole recipe, in the form of solo-learn 1.0.6, with a group ``sampler`` (for example
            ``{"gps": {"k": 10}}``) and, where the defaults do not do, ``prior`` and ``search``.
        program: The function that will train. Launchers send it to other processes by value, where it looks methods up in
            copies of METHODS; those are guided too.

    Raises:
        ConfigError: A key, name or value is wrong.
        RefusedMethodError: A sampler cannot act on the method.
        DataError: The training folder is missing or empty.
        HostError: No solo-learn of a known generation is installed.
        MachineError: A file cannot be read or written, or memory ran out.
        UnexpectedError: A bug.

    Example:
        >>> with solo_gps.activate(cfg):  # doctest: +SKIP
        ...     model = METHODS[cfg.method](cfg)
    """
    recipe = cfg if isinstance(cfg, DictConfig) else OmegaConf.create(dict(cfg))
    with ExitStack() as stack:
        with our_part("switching on"):
            activation = _switch_on(recipe, program, stack)
        yield activation


def _switch_on(recipe: DictConfig, program: Any, stack: ExitStack) -> Activation:
    asked = read_recipe(recipe)
    host = detect_host()
    check_recipe(recipe, host, asked.samplers)
    activation = Activation(recipe, host, asked)
    stack.enter_context(_as_current(activation))
    stack.enter_context(host.switched_on())
    if asked.samplers:
        original, guided = host.methods[recipe.method], activation.method_class()
        for methods in registries(program, host.methods, recipe.method):
            stack.enter_context(_replaced(methods.__setitem__, recipe.method, original, guided))
        for where, name, value in (
            (host.loader_module, "DataLoader", activation.make_loader),
            (host.lightning.Trainer, "fit", _guarded_fit(host)),
        ):
            stack.enter_context(_replaced(partial(setattr, where), name, getattr(where, name), value))
        if asked.refresh is not None and asked.prior is None and recipe.get("prior") is not None:
            log.warning(
                "refresh.start=0: the network being trained guides from the first epoch on, and the prior is never used. Set "
                "refresh.start higher, or leave the prior out."
            )
        log.info("switched on: %s on %s (solo-learn %s)", "+".join(asked.samplers), recipe.method, host.generation)
    return activation


def _guarded_fit(host: Host) -> Callable[..., Any]:
    """The trainer's ``fit``, which refuses a method of the host that was not built guided."""
    fit = host.lightning.Trainer.fit

    @wraps(fit)
    def guarded(trainer: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        network = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
        if isinstance(network, host.methods["base"]) and not is_guided(network):
            raise HostError(
                f"a plain {type(network).__name__} was about to be trained, though the recipe asks for guidance. Build it by "
                "solo.methods.METHODS[cfg.method](cfg), while the plugin is switched on, and no earlier."
            )
        return fit(trainer, model, *args, **kwargs)

    return guarded


def current_activation() -> Activation | None:
    """Returns what :func:`activate` has switched on, or ``None`` while solo-learn is untouched."""
    return _current[-1] if _current else None


_current: list[Activation] = []


@contextmanager
def _as_current(activation: Activation) -> Iterator[None]:
    if _current:
        raise HostError("solo-gps is switched on already; leave the first `with activate(...)` before the second.")
    _current.append(activation)
    try:
        yield
    finally:
        _current.pop()


@contextmanager
def _replaced(put: Callable[[str, Any], Any], name: str, before: Any, value: Any) -> Iterator[None]:
    put(name, value)
    try:
        yield
    finally:
        put(name, before)
