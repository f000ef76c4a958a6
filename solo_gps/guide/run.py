"""What is switched on for one job: the samplers, the guided training set, and what the run says of itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import CenterCrop, Compose

from solo_gps.embeddings.decoded import keep_decoded
from solo_gps.embeddings.digests import same_listing
from solo_gps.errors import HostError, our_part
from solo_gps.evaluation.metrics import table_purity
from solo_gps.guide.apart import apart
from solo_gps.guide.batch import shown_crops
from solo_gps.guide.check import Asked, check_unchanged
from solo_gps.guide.crops import key_of, kinds_of_crops, recipe_of_positive
from solo_gps.guide.dataset import GuidedDataset, GuidedLoader, HostItems, Pipeline, crop_pipelines, guided_dataset
from solo_gps.guide.fit import Fit
from solo_gps.guide.pairing import Pairing, plain_pairs
from solo_gps.guide.receipt import Receipt, receipt_folder, write_receipt
from solo_gps.guide.record import KEY, record_of, run_suffix, table_digest, write_into
from solo_gps.guide.refresh import Refresh
from solo_gps.guide.watch import Watch
from solo_gps.hosts.dali import Shown, check_reads
from solo_gps.hosts.data_folder import check_batch, reads_by_dali
from solo_gps.hosts.detect import Host
from solo_gps.hosts.images import HostImages, can_read, check_decoding, check_shapes, host_images
from solo_gps.interfaces import ImageSet, Pairs, ShownCrops, name_of
from solo_gps.methods import crops_from_positive, facts_of
from solo_gps.plugins import wrapped

log = logging.getLogger(__name__)


class GuidedRun:
    """The plugin while it is switched on. Made by :func:`solo_gps.activate`.

    Args:
        cfg: The whole recipe.
        host: The installed solo-learn.
        asked: What the recipe asks for.

    Attributes:
        pairing: Images, neighbour tables and pairs.
        record: What the run says of itself; complete once the host has made its loader.
        receipt: What the training was really shown.
        fit: The training under way.
        callback: The Lightning callback that the guided method brings along; one, however often a trainer fits.
    """

    callback: Any

    def __init__(self, cfg: DictConfig, host: Host, asked: Asked) -> None:
        self.cfg = deepcopy(cfg)  # what was read is what acts, whatever the program does to its recipe
        self.host = host
        self.asked = asked
        self.samplers = asked.samplers
        refresh = None if asked.refresh is None else Refresh(asked.refresh, self.cfg, host.backbone_name)
        self.pairing = Pairing(self.cfg, self.samplers, refresh)
        self.record = record_of(asked, host.generation)
        self.receipt = Receipt()
        self._watch = Watch(asked.watch, self.pairing, self.record["seed"] or 0)
        self.fit = Fit(self.pairing, self.receipt, self.record, f"{host.loader_module.__name__}.prepare_dataloader")
        self._suffix = run_suffix(asked) if asked.samplers else ""
        self._recipe: DictConfig | None = None
        self._counted: dict[str, int] | None = None

    @property
    def dataset(self) -> GuidedDataset | None:
        """The guided training set, once the host has made its loader and where a sampler guides it."""
        return self.fit.dataset

    @property
    def guides_images(self) -> bool:
        """Whether a sampler chooses positives in the dataset."""
        return any(sampler.pairs_images for sampler in self.samplers.values())

    @property
    def _keeps_apart(self) -> bool:
        return bool(self._key("keep_apart", False))

    def make_loader(self, dataset: Dataset, *args: Any, **kwargs: Any) -> DataLoader:
        """Stands in for ``DataLoader`` where the host makes its training loader."""
        with our_part("guiding the training set"):
            check_batch(self.cfg, len(dataset), kwargs["batch_size"], apart=self._keeps_apart)  # type: ignore[arg-type]
            if self.guides_images:
                guided = self._guide(dataset)
            else:
                dataset = self._decoded(dataset)
            self._record_fingerprints()
            if not self.guides_images:
                return DataLoader(dataset, *args, **kwargs)
            self.fit.guide(guided)
            whole = wrapped("wrap_dataset", "dataset", guided, cfg=self.cfg)
            guided_dataset(whole)  # it must still be found in there
        return GuidedLoader(whole, *args, **kwargs)

    def shown_by(self, module: Any) -> Shown:
        """What solo-learn's data module for DALI is to show: the same items as :meth:`make_loader`'s, of the same folder.

        Args:
            module: A ``PretrainDALIDataModule``.
        """
        with our_part("guiding the training set"):
            dataset = self.host.build_train_set(
                {
                    "dataset": module.dataset,
                    "train_path": module.train_data_path,
                    "format": "image_folder",
                    "no_labels": module.no_labels,
                    "fraction": module.data_fraction,
                },
                self.host.build_transform(self.cfg),
            )
            check_batch(self.cfg, len(dataset), module.batch_size, apart=self._keeps_apart)
            items = self._guide(dataset) if self.guides_images else self._items(dataset)
            self._record_fingerprints()
            if isinstance(items, GuidedDataset):
                self.fit.guide(items)
            kept = apart if self._keeps_apart else None
            return Shown(dataset=items, pairs=partial(self._drawn, items), seed=self.record["seed"], apart=kept)

    def _drawn(self, items: GuidedDataset | HostItems) -> tuple[int, Pairs]:
        """The number of the epoch about to start, and its pairs."""
        epoch = self.fit.epoch
        if not isinstance(items, GuidedDataset):
            return epoch, plain_pairs(len(items))
        items.redraw()
        return epoch, items.pairs

    def _guide(self, dataset: Any) -> GuidedDataset:
        pipelines = crop_pipelines(dataset.transform)
        marks = crops_from_positive(
            self.cfg.method,
            len(pipelines),
            self._num_large_crops(len(pipelines)),
            self._key("show", "second"),
            self._key("positives", 1),
        )
        of_positive = self._pipelines_of_positive(pipelines, marks)
        images = self._prepare(dataset, pipelines[0])
        return GuidedDataset(
            images,
            pipelines,
            marks,
            self.pairing.pairs(epoch=0),
            of_positive=of_positive,
            keep_apart=self._keeps_apart,
            skip=self._skips_unreadable,
        )

    def _pipelines_of_positive(self, pipelines: Sequence[Pipeline], marks: Sequence[int]) -> list[Pipeline] | None:
        """One pipeline a crop, for items that show another image than the anchor; ``None`` where they are the crop's own."""
        asked = self._key("augmentation", None)
        if asked is None:
            return None
        theirs = crop_pipelines(self.host.build_transform(recipe_of_positive(self.cfg, asked)))
        if asked == "none":  # solo-learn resizes the shorter side alone
            sizes = [kind.crop_size for kind in kinds_of_crops(self.cfg)]
            theirs = [Compose([pipeline, CenterCrop(size)]) for pipeline, size in zip(theirs, sizes, strict=True)]
        return [other if mark else own for own, other, mark in zip(pipelines, theirs, marks, strict=True)]

    def _key(self, name: str, default: Any) -> Any:
        return key_of(self.samplers, name, default)

    def _decoded(self, dataset: Any) -> Dataset:
        """The host's items, of images that are decoded by us, for samplers that choose no positive in the dataset."""
        needed = self._reads_prior or self.record["images"] or can_read(dataset)
        return self._items(dataset) if needed else dataset

    def _items(self, dataset: Any) -> HostItems:
        images = self._prepare(dataset) if self._reads_prior else self._images_of(dataset)
        items = HostItems(images, dataset.transform)
        if self._reads_prior:
            self.fit.read(items)
        return items

    @property
    def _reads_prior(self) -> bool:
        return any(sampler.reads_prior for sampler in self.samplers.values())

    def _images_of(self, dataset: Any) -> ImageSet:
        images = host_images(dataset, self.asked.images)
        if reads_by_dali(self.cfg):
            check_reads(images, np.zeros(1, np.int64))
        check_decoding(images)
        for kind in () if reads_by_dali(self.cfg) else self.cfg.augmentations:
            if OmegaConf.select(kind, "rrc.enabled") is False:
                check_shapes(images, kind.crop_size)
        if self.asked.images.store is not None:
            assert isinstance(images, HostImages), "a plugin's are refused by host_images"
            keep_decoded(
                images, self.asked.images.store, OmegaConf.select(self.cfg, "prior.cache_dir"), skip=self._skips_unreadable
            )
        return images

    @property
    def _skips_unreadable(self) -> bool:
        return bool(self._key("on_bad_image", "stop") == "skip")

    def _prepare(self, dataset: Any, pipeline: Any = None) -> ImageSet:
        """The raw images, with their tables; of one training set alone, else one would be paired by the other's neighbours."""
        images, before = self._images_of(dataset), self.pairing.images
        if before is None:  # else the loader is made anew, and goes on with the tables that there are
            self.pairing.prepare(images, pipeline)
        elif not same_listing(before, images):
            raise HostError(
                f"prepare_dataloader got a second training set ({len(images)} images, after one of {len(before)}): one "
                "is guided while the plugin is switched on. Train on the other in a job of its own."
            )
        return images

    def _record_fingerprints(self) -> None:
        space = self.pairing.space
        self.record["embeddings"] = None if space is None else space.fingerprint
        self.record["tables"] = {name: table_digest(table) for name, table in self.pairing.tables.items()}
        if self._recipe is not None:
            write_into(self._recipe, self.record)

    def _num_large_crops(self, crops: int) -> int:
        kinds = (self.cfg if self._recipe is None else self._recipe).augmentations
        if sum(kind.num_crops for kind in kinds) != crops:
            raise HostError(
                f"the training set makes {crops} crops of an image, the recipe's augmentations say "
                f"{sum(kind.num_crops for kind in kinds)}. Say it in the recipe's file or on the command line."
            )
        return sum(kind.num_crops for kind in kinds if kind.crop_size == kinds[0].crop_size)

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

    def begin_fit(self, trainer: Any, method: Any) -> None:
        """A training starts from the prior's tables, unless its checkpoint brings others."""
        self.fit.begin(trainer)
        self.pairing.attach(method)
        method.save_hyperparameters({KEY: self.record})

    def describe(
        self, items: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, *, num_crops: int
    ) -> tuple[torch.Tensor, ShownCrops]:
        """Turns the items of a batch into image indices, and says whose image and class each crop shows.

        Args:
            items: (B,) int64 items of the guided set; image indices when no sampler guides it.
            rows: The same, on the CPU.
            targets: (B,) int64 classes of the anchors.
            num_crops: Number of crops of the batch.

        Returns:
            (B,) int64 image indices of the anchors (the items themselves for methods that remember items); and what each crop
            shows.
        """
        if self.dataset is None:
            self.receipt.counts["items"] += len(items)
            return items, ShownCrops(images=(items,) * num_crops, targets=(targets,) * num_crops)
        self.fit.check_batch()
        labels = self.pairing.labels
        self.receipt.add(*self.dataset.rows(rows.numpy()), labels=labels)
        self.receipt.counts["skipped"] += self.dataset.skipped(rows.numpy())
        anchors, shown = shown_crops(self.dataset, labels, rows, targets, self.dataset.from_positive[:num_crops])
        return items if facts_of(self.cfg.method).remembers_items else anchors, shown

    def measures(self, epoch: int) -> dict[str, float]:
        """Returns what is logged of an epoch: its pairs, and what the latest refresh changed."""
        changes = self.pairing.take_changes()
        return changes if self.dataset is None else self._watch.numbers(self.dataset, epoch) | changes

    def show(self, trainer: Any) -> None:
        """Gives the loggers pictures of the pairs of the epoch that ends, where it has its turn."""
        if self.dataset is not None:
            self._watch.show(trainer, self.dataset)

    def check_step(self, method: Any, *, described: bool) -> None:
        """Looks at each training step: hooks that a subclass or a program leaves out would train plainly.

        Args:
            method: The guided method.
            described: Its batch went through :meth:`describe`.

        Raises:
            HostError: A trainer steps without our callback, or with a batch that nobody told the images of.
        """
        if getattr(method, "_trainer", None) is not None and self.fit.trainer is None:
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

    def end_training(self, trainer: Any, method: Any, error: BaseException | None = None) -> None:
        """Writes the receipt, and the page of a training that has finished.

        Args:
            trainer: The trainer that has finished, or failed.
            method: What it trained.
            error: Why it failed; other ranks may still be at work then, and are not counted.
        """
        alone = error is not None or trainer.world_size == 1
        counts = self.receipt.counts if alone else self.receipt.sum_over_ranks(trainer, method.device)
        self._counted = None if error is not None else counts
        unreadable = self._unreadable()
        if unreadable:  # of this rank's items; every rank says its own
            log.warning("%d images were skipped, since they cannot be read: %s", len(unreadable), ", ".join(unreadable))
        folder = None if error is not None and trainer.world_size > 1 else receipt_folder(trainer)
        if not self.samplers or not trainer.is_global_zero:
            return
        labels = self.pairing.labels if self.pairing.images is not None else None
        facts = {
            "run": None if self._recipe is None else self._recipe.get("name"),
            "method": self.cfg.method,
            "ended": "finished" if error is None else f"ended by {type(error).__name__}",
            "epochs": int(trainer.current_epoch),
            "steps": int(trainer.global_step) - self.fit.steps_before,
            "steps_before": self.fit.steps_before,
            "ranks_counted": 1 if alone else trainer.world_size,
            "measures": {name: dict(values) for name, sampler in self.samplers.items() if (values := sampler.measured(method))},
            "refreshed_epoch": self.pairing.refreshed_epoch,
            "purity_of_all_neighbours": {}
            if labels is None
            else {name: table_purity(table, labels) for name, table in self.pairing.tables.items()},
        }
        tables = {name: table_digest(table) for name, table in self.pairing.tables.items()}
        receipt = write_receipt(folder, {**self.record, "tables": tables}, counts, facts, by_pairs=self.dataset is not None)
        if error is None and folder is not None and self.dataset is not None:
            page = self._watch.write_page(folder, receipt, self.dataset)
            if page is not None:
                log.info("report: %s", page)

    def _unreadable(self) -> list[str]:
        if self.dataset is None or self.dataset.unreadable is None:
            return []
        return [name_of(self.dataset.images, row) for row in self.dataset.unreadable.nonzero()[:, 0].tolist()]

    def check_trained(self, recipe: DictConfig | None = None) -> None:
        """Ends a job that asked for guidance and never trained a guided method.

        Args:
            recipe: The job's own, at its end: what it asks for, if it still says so, must be what acted.

        Raises:
            ConfigError: The program has changed what the recipe asks for.
            HostError: No guided method took a step, and none was resumed at its end; or not one item was guided.
        """
        if recipe is not None and "sampler" in recipe:
            check_unchanged(recipe, self.asked, self.cfg.method)
        counts = self._counted  # of all ranks: one alone may have had no neighbour to show
        if self.dataset is not None and counts is not None and counts["items"] and not counts["guided"]:
            raise HostError(
                f"the training is over, and not one of its {counts['items']:,} items had another image as its positive: "
                f"{'+'.join(self.samplers)} guided nothing."
            )
        if self.samplers and not self.receipt.steps and not self.fit.was_finished:
            raise HostError(
                f"the job is over, and {'+'.join(self.samplers)} never guided a training step: the program trained nothing, "
                "resumed a finished run that was not guided so, or trained something else than a method of solo-learn's METHODS."
            )
