"""From the raw training images to the pairs of each epoch: neighbour tables, refreshes, and the samplers in their order."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from solo_gps.errors import DataError
from solo_gps.evaluation.metrics import table_change, table_purity
from solo_gps.evaluation.sepp_pictures import draw_exhibits
from solo_gps.host.refresh import Refresh
from solo_gps.interfaces import ImageSet, NeighbourTable, Pairs
from solo_gps.plugins import plugin_manager
from solo_gps.samplers.base import PriorSpace, Sampler

log = logging.getLogger(__name__)

LABEL_MASKED = ("supcon",)


class Pairing:
    """Draws the pairs of every epoch.

    Args:
        cfg: The whole recipe.
        samplers: Name to sampler, in the order in which they act.
        refresh: When the network being trained becomes the prior; ``None`` for never.

    Attributes:
        images: The raw training images, ``None`` before :meth:`prepare`.
        space: The images in the recipe's prior space, ``None`` before :meth:`prepare`.
        tables: Name of a sampler to its neighbour table.
    """

    def __init__(self, cfg: DictConfig, samplers: Mapping[str, Sampler], refresh: Refresh | None) -> None:
        self.refresh = refresh
        self.images: ImageSet | None = None
        self.space: PriorSpace | None = None
        self.tables: dict[str, NeighbourTable] = {}
        self._cfg = cfg
        self._samplers = samplers
        self._refreshable = [name for name, sampler in samplers.items() if sampler.refreshable]
        self._without_table: set[str] = set()
        self._changes: dict[str, float] = {}

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,) int64 classes, -1 where unknown; ``None`` without any."""
        assert self.images is not None, "prepare() comes first"
        return self.images.labels

    def prepare(self, images: ImageSet) -> None:
        """Builds the tables that are needed before the first epoch.

        Args:
            images: The raw training images, as the host will index them.
        """
        self.images = images
        self.space = PriorSpace(images, self._cfg.get("prior"), self._cfg.get("search"))
        refreshed_first = self.refresh is not None and self.refresh.config.first == 0
        self._without_table = set(self._refreshable) if refreshed_first else set()
        self._build_tables(self.space, [name for name in self._samplers if name not in self._without_table])

    def pairs(self, epoch: int) -> Pairs:
        """Returns the items of an epoch: a pure function of tables, seed and epoch."""
        assert self.images is not None, "prepare() comes first"
        plain = np.arange(len(self.images), dtype=np.int32)
        pairs = Pairs(anchors=plain, positives=plain)
        for name, sampler in self._samplers.items():
            if name not in self._without_table:
                pairs = sampler.pairs(pairs, epoch)
        return pairs

    def refresh_if_due(self, epoch: int, pipeline: Any) -> None:
        """Builds the tables anew in the space of the network as it is now, when the recipe wants that before ``epoch``.

        Args:
            epoch: The epoch about to start.
            pipeline: The host's transform of the first crop.
        """
        if self.refresh is None or not self.refresh.due(epoch):
            return
        assert self.images is not None, "prepare() comes first"
        before = dict(self.tables)
        log.info("epoch %d: the network being trained becomes the prior (its %s)", epoch, self.refresh.config.of)
        with self.refresh.embeddings(self.images, pipeline) as embeddings:
            self._build_tables(PriorSpace.of(self.images, embeddings, self._cfg.get("search")), self._refreshable)
        self.refresh.epoch = epoch
        self._without_table.clear()
        for name in self._refreshable:
            change = table_change(before.get(name), self.tables[name], self.labels)
            self._changes.update({f"refresh_{name}_{key}": value for key, value in change.items()})

    def take_changes(self) -> dict[str, float]:
        """Returns what the latest refresh changed (:func:`table_change`), once."""
        values, self._changes = self._changes, {}
        return values

    def state(self) -> dict[str, Any] | None:
        """Returns the refreshed tables for a checkpoint: the weights that made them are gone when a run resumes."""
        if self.refresh is None or self.refresh.epoch is None:
            return None
        tables = {
            name: {
                "indices": torch.from_numpy(np.array(self.tables[name].indices)),
                "distances": torch.from_numpy(np.array(self.tables[name].distances)),
            }
            for name in self._refreshable
        }
        return {"refreshed_epoch": self.refresh.epoch, "tables": tables}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` returned; a run whose samplers are others refreshes anew instead.

        Raises:
            DataError: The tables are of another number of images.
        """
        tables = state["tables"]
        if self.refresh is None or not set(self._refreshable) <= tables.keys():
            return
        assert self.images is not None, "the loader comes before the checkpoint"
        for name in self._refreshable:
            table = NeighbourTable(**{key: tensor.numpy() for key, tensor in tables[name].items()})
            if len(table.indices) != len(self.images):
                raise DataError(
                    f"the checkpoint's neighbours of sampler {name!r} are of {len(table.indices):,} images, the training set has "
                    f"{len(self.images):,}. Resume with the set that the run began with."
                )
            self._samplers[name].use(table)
            self.tables[name] = table
        self.refresh.epoch = state["refreshed_epoch"]
        self._without_table.clear()

    @property
    def _same_label(self) -> bool:
        supervised = bool(OmegaConf.select(self._cfg, "method_kwargs.supervised", default=False))
        return self._cfg.method in LABEL_MASKED or supervised

    def _build_tables(self, space: PriorSpace, names: Iterable[str]) -> None:
        for name in names:
            sampler = self._samplers[name]
            table = sampler.prepare(space, same_label=self._same_label)
            draw_exhibits(sampler.exhibits(), space.images)
            if table is not None:
                self.tables[name] = table
                _log_table(name, table, space.images)
                plugin_manager().hook.on_table_built(sampler=name, table=table, labels=space.images.labels)


def _log_table(sampler: str, table: NeighbourTable, images: ImageSet) -> None:
    sizes = (table.indices >= 0).sum(axis=1)
    line = f"{sampler}: balls of {sizes.min()} to {sizes.max()} images, {int((sizes == 0).sum()):,} of {len(sizes):,} empty"
    if images.labels is not None:
        line += f"; {100 * table_purity(table, images.labels):.1f} % of all neighbours have the anchor's label"
    log.info(line)
