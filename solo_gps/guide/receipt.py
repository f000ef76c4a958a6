"""The receipt: what a training was really shown, counted batch by batch, in the log and beside the checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_gps.guide.record import default_of
from solo_gps.plugins import registered
from solo_gps.runtime.files import write_text

log = logging.getLogger(__name__)

FILE = "solo_gps_receipt.json"
COUNTS = ("items", "guided", "judged", "pure", "skipped")


class Receipt:
    """Counts the items of all batches of a training, also of its part before it was resumed.

    Attributes:
        steps: Training steps that guided methods took in this process.
        counts: ``items`` seen; those ``guided`` (a positive is another image); of their positives, those ``judged`` (both
            classes known); and of these, the ``pure`` ones (equal classes). Items ``skipped`` showed one image alone, because
            the other cannot be read.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.begin_training()

    def begin_training(self) -> None:
        """Starts counting anew."""
        self.counts = dict.fromkeys(COUNTS, 0)

    def add(
        self, anchors: NDArray[np.integer], *positives: NDArray[np.integer], labels: NDArray[np.integer] | None = None
    ) -> None:
        """Adds a batch.

        Args:
            anchors: (B,) image indices.
            *positives: Of each of an item's positives, (B,) image indices; equal to the anchor where an item fell back on plain
                augmentation.
            labels: (N,) classes, -1 where unknown; ``None`` without any.
        """
        guided = [anchors != one for one in positives]
        self.counts["items"] += len(anchors)
        self.counts["guided"] += int(np.logical_or.reduce(guided).sum())
        for one, other in zip(positives, guided, strict=True) if labels is not None else ():
            ours, theirs = labels[anchors[other]], labels[one[other]]  # type: ignore[index]
            judged = (ours >= 0) & (theirs >= 0)
            self.counts["judged"] += int(judged.sum())
            self.counts["pure"] += int((ours == theirs)[judged].sum())

    def sum_over_ranks(self, trainer: Any, device: Any) -> dict[str, int]:
        """Returns the counts of all ranks; every rank must call it."""
        import torch

        own = torch.tensor([self.counts[name] for name in COUNTS], dtype=torch.int64, device=device)
        total = trainer.strategy.reduce(own, reduce_op="sum")
        return dict(zip(COUNTS, total.tolist(), strict=True))


def write_receipt(
    folder: Path | None, record: Mapping[str, Any], counts: Mapping[str, int], facts: Mapping[str, Any], by_pairs: bool
) -> dict[str, Any]:
    """Logs the receipt and, where there is a folder for it, writes it as JSON; returns it.

    Args:
        folder: Folder of the checkpoint; ``None`` when the run leaves nothing on disk.
        record: The run's record (:func:`solo_gps.guide.record.record_of`).
        counts: Of all ranks (:class:`Receipt`).
        facts: Name of the run, steps, how it ended, and what the samplers measured.
        by_pairs: Whether a sampler chose positives in the dataset; else ``guided`` counts nothing.
    """
    receipt = {
        **facts,
        "items_seen": counts["items"],
        "share_guided": _share(counts["guided"], counts["items"]) if by_pairs else None,
        "items_with_an_unreadable_image": counts["skipped"],
        "purity_of_positives_used": _share(counts["pure"], counts["judged"]),
        **record,
    }
    path = None if folder is None else folder / FILE
    if path is not None:
        write_text(path, json.dumps(receipt, indent=1) + "\n")
    log.info("receipt: %s", "; ".join(_shown(receipt)))
    log.info("receipt: by %s", "; ".join(_means(receipt)) + ("" if path is None else f"; all of it in {path}"))
    return receipt


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _shown(receipt: Mapping[str, Any]) -> list[str]:
    words = [f"{receipt['items_seen']:,} items seen in {receipt['steps']:,} steps ({receipt['ended']})"]
    if receipt["share_guided"] is not None:
        words.append(f"{100 * receipt['share_guided']:.1f} % of them guided")
    if receipt["items_with_an_unreadable_image"]:
        words.append(f"{receipt['items_with_an_unreadable_image']:,} with one image alone, as the other cannot be read")
    if receipt["purity_of_positives_used"] is not None:
        words.append(f"{100 * receipt['purity_of_positives_used']:.1f} % of the positives used had the anchor's label")
    for name, purity in receipt["purity_of_all_neighbours"].items():
        words.append(f"{100 * purity:.1f} % of all neighbours in the table of {name} have it")
    for name, measures in receipt["measures"].items():
        words += [f"{name} {key} {value:.3g}" for key, value in measures.items()]
    return words


def _means(receipt: Mapping[str, Any]) -> list[str]:
    words = [_keys_set(name, keys) for name, keys in receipt["samplers"].items()]
    if receipt["prior"] is not None:
        words.append(f"prior {receipt['prior']['name']}, embeddings {str(receipt['embeddings'])[:12]}")
    words += [f"table of {name} {digest[:12]}" for name, digest in receipt["tables"].items()]
    if receipt["refreshed_epoch"] is not None:
        words.append(f"found in the network's own {receipt['refresh']['of']} before epoch {receipt['refreshed_epoch']}")
    return [*words, f"solo-learn {receipt['solo_learn']}"]


def _keys_set(name: str, keys: Mapping[str, Any]) -> str:
    """A sampler with its keys that are not the defaults; the record holds all."""
    defaults = {field.name: default_of(field) for field in fields(registered("register_samplers")[name].config_class)}
    own = [f"{key}={value}" for key, value in keys.items() if value != defaults.get(key)]
    return f"{name} with {', '.join(own)}" if own else f"{name} by its defaults"


def receipt_folder(trainer: Any) -> Path | None:
    """Returns the folder of the checkpoint; else the logger's; else the one that Hydra made for the job; else ``None``."""
    for callback in trainer.callbacks:
        if type(callback).__name__ == "Checkpointer" and getattr(callback, "path", None) is not None:
            return Path(callback.path)
    if trainer.loggers and trainer.log_dir is not None:
        return Path(trainer.log_dir)
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized() and HydraConfig.get().output_subdir is not None:
        return Path(HydraConfig.get().runtime.output_dir)
    return None
