"""Switching on and off: the one place where samplers meet solo-learn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import Dataset

from solo_gps.errors import HostError
from solo_gps.evaluation.metrics import pair_purity
from solo_gps.host.detect import Host, detect_host
from solo_gps.host.guided import GuidedDataset, GuidedLoader, crop_pipelines, crops_from_positive
from solo_gps.host.images import host_images
from solo_gps.host.method import guided_method
from solo_gps.host.pairing import Pairing
from solo_gps.host.precheck import check_batch, check_recipe, make_samplers
from solo_gps.host.refresh import Refresh, make_refresh
from solo_gps.host.trainer_callback import trainer_callback
from solo_gps.interfaces import Pairs
from solo_gps.plugins import plugin_manager
from solo_gps.samplers.base import Sampler

log = logging.getLogger(__name__)

CHECKPOINT_KEY = "solo_gps"
REMEMBER_ITEMS = ("deepclusterv2",)  # their memory has a slot for each item of the loader, not for each image


class Activation:
    """The plugin while it is switched on. Made by :func:`activate`.

    Args:
        cfg: The whole recipe.
        host: The installed solo-learn.
        samplers: Name to sampler, in the order in which they act.
        refresh: When the network being trained becomes the prior; ``None`` for never.

    Attributes:
        pairing: Images, neighbour tables and pairs.
        dataset: The guided training set, once the host has made its loader and where a sampler guides it.
    """

    def __init__(self, cfg: DictConfig, host: Host, samplers: Mapping[str, Sampler], refresh: Refresh | None = None) -> None:
        self.cfg = cfg
        self.host = host
        self.samplers = dict(samplers)
        self.pairing = Pairing(cfg, self.samplers, refresh)
        self.dataset: GuidedDataset | None = None
        self.user_errors: Callable[[], AbstractContextManager[None]] = nullcontext
        self._fitting: Any = None
        self._may_raise = True
        self._late_error: BaseException | None = None
        self._epochs_by_hand = 0
        self._resumed_epoch: int | None = None
        self._announced_epoch: int | None = None

    @property
    def guides_images(self) -> bool:
        """Whether a sampler chooses positives in the dataset."""
        return any(sampler.pairs_images for sampler in self.samplers.values())

    def method_class(self) -> type:
        """Returns the class to train in place of the host's: every sampler's wrapper, then those of other plugins."""
        cls: Any = self.host.methods[self.cfg.method]
        for sampler in self.samplers.values():
            cls = sampler.wrap_method(cls, self.cfg)
        cls = guided_method(cls, self)
        for wrap in plugin_manager().hook.wrap_method.get_hookimpls():
            cls = wrap.function(method=cls, cfg=self.cfg) or cls
        return cls

    def make_loader(self, dataset: Dataset, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        """Stands in for ``DataLoader`` where the host makes its training loader."""
        with self.user_errors():
            check_batch(self.cfg, len(dataset), kwargs["batch_size"])  # type: ignore[arg-type]
        if not self.guides_images:
            if any(sampler.reads_prior for sampler in self.samplers.values()):
                with self.user_errors():
                    self.pairing.prepare(host_images(dataset))
            return torch.utils.data.DataLoader(dataset, *args, **kwargs)
        with self.user_errors():
            self.dataset = self._guide(dataset)
        wrapped: Any = self.dataset
        for wrap in plugin_manager().hook.wrap_dataset.get_hookimpls():
            wrapped = wrap.function(dataset=wrapped, cfg=self.cfg) or wrapped
        return GuidedLoader(wrapped, *args, **kwargs)

    def _guide(self, dataset: Any) -> GuidedDataset:
        images = host_images(dataset)
        pipelines = crop_pipelines(dataset.transform)
        self.pairing.prepare(images, pipelines[0])
        marks = crops_from_positive(self.cfg.method, len(pipelines), self._num_large_crops)
        guided = GuidedDataset(images, pipelines, marks, self.pairing.pairs(epoch=0))
        guided.draw_with(self._start_epoch)
        return guided

    @property
    def _num_large_crops(self) -> int:
        large = self.cfg.augmentations[0].crop_size
        return sum(pipeline.num_crops for pipeline in self.cfg.augmentations if pipeline.crop_size == large)

    def _start_epoch(self) -> Pairs:
        try:
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
            with self.user_errors():
                self.pairing.refresh_if_due(epoch, self.dataset.pipelines[0])
        self._epochs_by_hand += self._fitting is None
        pairs = self.pairing.pairs(epoch)
        if epoch != self._announced_epoch:  # Lightning may make an epoch's iterator twice
            self._announced_epoch = epoch
            plugin_manager().hook.on_epoch_pairs(epoch=epoch, pairs=pairs, labels=self.pairing.labels)
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
        if CHECKPOINT_KEY in checkpoint:
            self.pairing.load_state(checkpoint[CHECKPOINT_KEY])

    def save_to(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a resumed run needs to a checkpoint."""
        state = self.pairing.state()
        if state is not None:
            checkpoint[CHECKPOINT_KEY] = state

    def tag(self, cfg: Any) -> None:
        """Appends the samplers to the run's name, in place.

        Checkpoints are found again by that name: a plain run must never resume a guided one's, nor the other way round.
        """
        suffix = "-" + "+".join(self.samplers)
        if self.samplers and OmegaConf.is_config(cfg) and cfg.get("name") and not cfg.name.endswith(suffix):
            cfg.name = f"{cfg.name}{suffix}"

    def describe(
        self, items: torch.Tensor, targets: torch.Tensor, *, num_crops: int
    ) -> tuple[torch.Tensor, list[torch.Tensor] | None]:
        """Turns the items of a batch into image indices, and says whose class each crop shows.

        Args:
            items: (B,) int64 items of the guided set.
            targets: (B,) int64 classes of the anchors.
            num_crops: Number of crops of the batch.

        Returns:
            (B,) int64 image indices of the anchors (the items themselves for methods that remember items); and the (B,) int64
            targets of each crop, or ``None`` when the set has no labels or no sampler guides it.
        """
        if self.dataset is None:
            return items, None
        rows = items.cpu()
        indices = items if self.cfg.method in REMEMBER_ITEMS else self.dataset.anchors[rows].to(items)
        labels = self.pairing.labels
        if labels is None:
            return indices, None
        of_positive = torch.from_numpy(labels)[self.dataset.positives[rows].long()].to(targets)
        return indices, [of_positive if guided else targets for guided in self.dataset.from_positive[:num_crops]]

    def images_shown(self, items: torch.Tensor, *, num_crops: int) -> list[torch.Tensor] | None:
        """Returns the (B,) int64 image that each crop of the (B,) items shows, or ``None`` when no sampler guides the set."""
        if self.dataset is None:
            return None
        rows = items.cpu()
        anchors, positives = self.dataset.anchors[rows].to(items), self.dataset.positives[rows].to(items)
        return [positives if guided else anchors for guided in self.dataset.from_positive[:num_crops]]

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

    def begin_fit(self, trainer: Any, method: torch.nn.Module) -> None:
        """A training starts from the prior's tables, unless its checkpoint brings others.

        From here to :meth:`start_steps`, Lightning 2 makes the first iterator and cannot bear an error in it: its teardown then
        fails on its own, and the user would see that.

        Raises:
            HostError: The loader was never guided.
        """
        if self.guides_images and self.dataset is None:
            raise HostError(
                "training was about to start on a loader that solo-gps never guided. Make it by solo-learn's "
                f"{self.host.loader_module.__name__}.prepare_dataloader while the plugin is switched on."
            )
        self._fitting, self._may_raise = trainer, False
        self._late_error = self._resumed_epoch = self._announced_epoch = None
        with self.user_errors():
            self.pairing.watch(method)

    def start_steps(self) -> None:
        """Raises what went wrong while the first iterator was made."""
        self._may_raise = True
        if self._late_error is not None:
            raise self._late_error

    def start_epoch(self) -> None:
        """The trainer's own count of epochs is right from now on."""
        self._resumed_epoch = None

    def end_fit(self) -> None:
        """The trainer is done, or has failed."""
        self._fitting, self._may_raise, self._late_error = None, True, None


@contextmanager
def activate(cfg: Mapping[str, Any]) -> Iterator[Activation]:
    """Switches the plugin on for the installed solo-learn, and off again on exit.

    Within the context, ``METHODS[cfg.method]`` is the guided method and training loaders that solo-learn's ``prepare_dataloader``
    makes are guided. On exit, solo-learn is exactly as before.

    Args:
        cfg: The whole recipe, in the form of solo-learn 1.0.6, with a group ``sampler`` (for example
            ``{"gps": {"k": 10}}``) and, where the defaults do not do, ``prior`` and ``search``.

    Raises:
        ConfigError: A key, name or value is wrong.
        RefusedMethodError: A sampler cannot act on the method.
        DataError: The training folder is missing or empty.
        HostError: No solo-learn of a known generation is installed.

    Example:
        >>> with solo_gps.activate(cfg):  # doctest: +SKIP
        ...     model = METHODS[cfg.method](cfg)
    """
    recipe = cfg if isinstance(cfg, DictConfig) else OmegaConf.create(dict(cfg))
    samplers = make_samplers(recipe)
    host = detect_host()
    check_recipe(recipe, host, samplers)
    refresh = make_refresh(recipe, host, samplers)
    activation = Activation(recipe, host, samplers, refresh)
    with ExitStack() as stack:
        stack.enter_context(_as_current(activation))
        stack.enter_context(host.switched_on())
        if samplers:
            stack.enter_context(_item(host.methods, recipe.method, activation.method_class()))
            stack.enter_context(_attribute(host.loader_module, "DataLoader", activation.make_loader))
            log.info("%s on %s (solo-learn %s)", "+".join(samplers), recipe.method, host.generation)
        yield activation


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
def _item(mapping: dict[str, Any], key: str, value: Any) -> Iterator[None]:
    before = mapping[key]
    mapping[key] = value
    try:
        yield
    finally:
        mapping[key] = before


@contextmanager
def _attribute(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
