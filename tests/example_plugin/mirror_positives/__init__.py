"""An example plugin of solo-gps: the positive of image i is image N - 1 - i, and every epoch's pairs are written down."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from solo_gps import hookimpl
from solo_gps.interfaces import Pairs
from solo_gps.samplers.base import Sampler


@dataclass(frozen=True, kw_only=True)
class MirrorConfig:
    """Keys under ``sampler.mirror``."""

    every: int = 1
    """Only every n-th image is guided; the others stay plain."""


class Mirror(Sampler):
    config_class = MirrorConfig
    pairs_images = True

    def pairs(self, pairs: Pairs, epoch: int) -> Pairs:
        mirrored = len(pairs.anchors) - 1 - pairs.anchors
        guided = pairs.anchors % self.config.every == 0
        return Pairs(anchors=pairs.anchors, positives=np.where(guided, mirrored, pairs.positives).astype(np.int32))


@hookimpl
def register_samplers() -> dict[str, type]:
    return {"mirror": Mirror}


@hookimpl
def on_epoch_pairs(epoch: int, pairs: Pairs) -> None:
    if "MIRROR_LOG" in os.environ:
        with open(os.environ["MIRROR_LOG"], "a") as log:
            log.write(f"{epoch} {pairs.positives.tolist()}\n")
