"""From the raw training images to the pairs of each epoch: neighbour tables, refreshes, and the samplers in their order."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from solo_gps.embeddings.snapshot import check_same_images
from solo_gps.errors import ConfigError, DataError
from solo_gps.evaluation.gallery import draw_exhibits
from solo_gps.evaluation.metrics import pair_purity, table_change, table_purity
from solo_gps.guide.record import that_act
from solo_gps.guide.refresh import Refresh
from solo_gps.interfaces import ImageSet, NeighbourTable, Pairs, read_only
from solo_gps.methods import facts_of
from solo_gps.plugins import plugin_manager
from solo_gps.runtime.progress import duration
from solo_gps.runtime.ranks import training_ranks
from solo_gps.samplers.base import Sampler
from solo_gps.samplers.space import PriorSpace

log = logging.getLogger(__name__)


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
        refreshed_epoch: Epoch before which the tables were built anew; ``None`` while they are the prior's.
    """

    def __init__(self, cfg: DictConfig, samplers: Mapping[str, Sampler], refresh: Refresh | None) -> None:
        self.refresh = refresh
        self.images: ImageSet | None = None
        self.space: PriorSpace | None = None
        self.tables: dict[str, NeighbourTable] = {}
        self.refreshed_epoch: int | None = None
        self._cfg = cfg
        self._samplers = samplers
        self._refreshable = [name for name, sampler in samplers.items() if sampler.refreshable]
        self._without_table: set[str] = set()
        self._data_digest: str | None = None
        self._pipeline: Any = None
        self._changes: dict[str, float] = {}

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,) int64 classes, -1 where unknown; ``None`` without any."""
        assert self.images is not None, "prepare() comes first"
        return self.images.labels

    @property
    def is_ready(self) -> bool:
        """Whether every sampler that needs the training images has seen them."""
        needed = any(sampler.pairs_images or sampler.reads_prior for sampler in self._samplers.values())
        return self.images is not None or not needed

    def prepare(self, images: ImageSet, pipeline: Any = None) -> None:
        """Builds the tables that are needed before the first epoch.

        Args:
            images: The raw training images, as the host will index them.
            pipeline: The host's transform of the first crop; needed where a sampler chooses positives in the dataset.
        """
        for sampler in self._samplers.values():
            sampler.check(len(images))
        if self.refresh is not None:
            self.refresh.rehearse(images, pipeline)
        self.images, self._pipeline, self._data_digest, self.refreshed_epoch = images, pipeline, None, None
        self.space = PriorSpace(images, self._cfg.get("prior"), self._cfg.get("search"))
        self._use_prior(self._samplers)

    def attach(self, method: torch.nn.Module) -> None:
        """Takes the method that is about to be trained; the tables that another training left give way to the prior's."""
        if self.refresh is None:
            return
        self.refresh.attach(method)
        if self.refreshed_epoch is not None:
            self.refreshed_epoch = None
            self._use_prior(self._refreshable)

    def _use_prior(self, names: Iterable[str]) -> None:
        assert self.space is not None, "prepare() comes first"
        network_first = self.refresh is not None and self.refresh.config.first == 0
        self._without_table = set(self._refreshable) if network_first else set()
        for name in self._without_table:
            self.tables.pop(name, None)
        self._build_tables(self.space, [name for name in names if name not in self._without_table])

    def pairs(self, epoch: int) -> Pairs:
        """Returns the items of an epoch: a pure function of tables, seed and epoch."""
        assert self.images is not None, "prepare() comes first"
        pairs = plain_pairs(len(self.images))
        for name, sampler in self._samplers.items():
            if name not in self._without_table:
                before, pairs = pairs, sampler.pairs(pairs, epoch)
                if before.more is not None and pairs.more is None:
                    raise ConfigError(
                        f"sampler {name!r} knows of one positive an item, and drops the further ones of sampler.gps.positives. "
                        "Put it before gps, or leave positives out."
                    )
        return pairs

    def refresh_if_due(self, epoch: int, pipeline: Any) -> None:
        """Builds the tables anew in the space of the network as it is now, when the recipe wants that before ``epoch``.

        Args:
            epoch: The epoch about to start.
            pipeline: The host's transform of the first crop.

        Raises:
            DataError: The network's embeddings have no neighbours to give, or the ranks list different images.
        """
        if self.refresh is None or not self.refresh.due(epoch, self.refreshed_epoch):
            return
        assert self.images is not None, "prepare() comes first"
        before, begun = dict(self.tables), time.perf_counter()
        self._digest_of_images()
        with self.refresh.embeddings(self.images, pipeline) as embeddings:
            try:
                self._build_tables(PriorSpace.of(self.images, embeddings, self._cfg.get("search")), self._refreshable, epoch)
            except DataError as error:
                mend = " refresh.space=euclidean needs no direction." if self.refresh.config.space == "cosine" else ""
                raise DataError(f"the refresh before epoch {epoch}: {error}{mend}") from error
        self.refreshed_epoch = epoch
        self._without_table.clear()
        for name in self._refreshable:
            change = table_change(before.get(name), self.tables[name], self.labels)
            self._changes.update({f"refresh_{name}_{key}": value for key, value in change.items()})
            if training_ranks().first:
                _log_refresh(name, epoch, self.refresh.config.of, time.perf_counter() - begun, change.get("kept"))

    def warn_if_never_refreshed(self, epochs: int) -> None:
        """Says so when a training has ended before its first refresh, for example by ``max_steps`` or an early stop."""
        if self.refresh is not None and self.refreshed_epoch is None:
            log.warning(
                "refresh: the training ended after %d epochs, the first refresh was to come at epoch %d: the prior guided it "
                "all. Set refresh.start or refresh.every lower.",
                epochs,
                self.refresh.config.first,
            )

    def take_changes(self) -> dict[str, float]:
        """Returns what the latest refresh changed (:func:`table_change`), once."""
        values, self._changes = self._changes, {}
        return values

    def state(self) -> dict[str, Any] | None:
        """Returns the refreshed tables for a checkpoint: the weights that made them are gone when a run resumes.

        A table takes N x K x 8 bytes.
        """
        if self.refresh is None or self.refreshed_epoch is None:
            return None
        tables = {
            name: {
                "indices": torch.from_numpy(np.array(self.tables[name].indices)),
                "distances": torch.from_numpy(np.array(self.tables[name].distances)),
            }
            for name in self._refreshable
        }
        return {"refreshed_epoch": self.refreshed_epoch, "made_from": self._made_from(), "tables": tables}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` returned, where this run would have made it too; else the next epoch refreshes anew."""
        if self.refresh is None:
            log.warning(
                "refresh: the checkpoint's run was guided by the network being trained; this one is guided by its prior. Add "
                "+refresh=... to go on as before."
            )
            return
        made_from = self._made_from()
        other = sorted(key for key in made_from if state.get("made_from", {}).get(key) != made_from[key])
        if other:
            log.warning(
                "refresh: the checkpoint's neighbours were found with other %s: they are not taken over, but looked for anew as "
                "soon as a refresh is due. Resume with what they were found with to go on as before.",
                " and ".join(other),
            )
            return
        for name in self._refreshable:
            table = NeighbourTable(**{key: tensor.numpy() for key, tensor in state["tables"][name].items()})
            self._samplers[name].use(table)
            self.tables[name] = table
        self.refreshed_epoch = state["refreshed_epoch"]
        self._without_table.clear()

    def _made_from(self) -> dict[str, Any]:
        """What a refreshed table depends on beside the weights, in words for the user and plain values."""
        assert self.refresh is not None
        made_from = {
            "training images": self._digest_of_images(),
            "images.* or first crop (size, normalisation)": repr(
                (getattr(self.images, "identity", {}), self.refresh.sight(self._pipeline))
            ),
            "refresh.of or refresh.space": [self.refresh.config.of, self.refresh.config.space],
        }
        keys = {f"keys of sampler.{name}": that_act(asdict(self._samplers[name].config)) for name in self._refreshable}
        return {**made_from, **keys, "labels as a mask": self._label_mask()}

    def _label_mask(self) -> str | None:
        """A digest of the labels that tables are confined by."""
        if not self._same_label or self.labels is None:
            return None
        return hashlib.sha256(self.labels.tobytes()).hexdigest()

    def _digest_of_images(self) -> str:
        if self._data_digest is None:
            assert self.images is not None, "prepare() comes first"
            cache_dir = OmegaConf.select(self._cfg, "prior.cache_dir")
            self._data_digest = check_same_images(self.images, cache_dir)
        return self._data_digest

    @property
    def _same_label(self) -> bool:
        supervised = bool(OmegaConf.select(self._cfg, "method_kwargs.supervised", default=False))
        return facts_of(self._cfg.method).label_mask or supervised

    def _build_tables(self, space: PriorSpace, names: Iterable[str], epoch: int = 0) -> None:
        for name in names:
            table = build_table(name, self._samplers[name], space, same_label=self._same_label, epoch=epoch)
            if table is not None:
                self.tables[name] = table


def build_table(name: str, sampler: Sampler, space: PriorSpace, *, same_label: bool, epoch: int = 0) -> NeighbourTable | None:
    """Has a sampler build its table, and tells those who watch.

    Args:
        name: Of the sampler.
        sampler: The sampler.
        space: The images in the space of the prior, or of the network being trained.
        same_label: Positives must have the anchor's label.
        epoch: Whose pairs are judged, for the log.

    Returns:
        The table, or ``None`` where the sampler needs none.
    """
    table = sampler.prepare(space, same_label=same_label)
    draw_exhibits(sampler.exhibits(), space.images)
    if table is not None:
        log.info("%s: %s%s", name, _sizes(table), _judged(sampler, table, space.images.labels, epoch))
        shown = NeighbourTable(indices=read_only(table.indices), distances=read_only(table.distances))
        plugin_manager().hook.on_table_built(sampler=name, table=shown, labels=space.images.labels)
    return table


def plain_pairs(images: int) -> Pairs:
    """Returns every image as the positive of itself."""
    plain = np.arange(images, dtype=np.int32)
    return Pairs(anchors=plain, positives=plain)


def _log_refresh(sampler: str, epoch: int, of: str, seconds: float, kept: float | None) -> None:
    log.info(
        "refresh: from epoch %d on %s has its neighbours among the %s of the network being trained, which took %s%s",
        epoch,
        sampler,
        of,
        duration(seconds),
        "" if kept is None else f"; {100 * kept:.1f} % of them are the neighbours of before",
    )


def _sizes(table: NeighbourTable) -> str:
    sizes = (table.indices >= 0).sum(axis=1)
    least, most, images = int(sizes.min()), int(sizes.max()), f"{len(sizes):,} images"
    if least == most > 0:
        return f"every one of {images} has {most} neighbour{'s' * (most > 1)}"
    if least > 0:
        return f"balls of {least} to {most} images around {images}"
    return f"balls of 0 to {most} images; {int((sizes == 0).sum()):,} of {images} have none and keep their own view"


def _judged(sampler: Sampler, table: NeighbourTable, labels: NDArray[np.int64] | None, epoch: int) -> str:
    """Share of right labels, where labels are known: of all neighbours, and of the few that are chosen as positives."""
    if labels is None or np.isnan(purity := table_purity(table, labels)):
        return ""
    text = f"; {100 * purity:.1f} % of all neighbours have the anchor's label"
    chosen = sampler.pairs(plain_pairs(len(labels)), epoch)
    _, purity = pair_purity(chosen.anchors, chosen.positives, labels)
    return text if np.isnan(purity) else f"{text}, and {100 * purity:.1f} % of the positives chosen among them"
