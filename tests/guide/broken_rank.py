"""Run by test_broken_rank.py in two processes (gloo): in the phase that is named, rank 1 fails.

python -m torch.distributed.run --standalone --nproc-per-node=2 broken_rank.py PHASE RECIPE.yaml
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from unittest.mock import patch

import torch
from omegaconf import OmegaConf

from solo_gps.commands.cli import main as cli
from solo_gps.commands.pretrain import pretrain
from solo_gps.guide.switch import activate
from solo_gps.hosts.detect import detect_host

PLACES = {
    "embedding": "solo_gps.priors.pixels.PixelsEncoder.embed",
    "search": "solo_gps.neighbours.search.nearest_points",
    "refresh": "solo_gps.embeddings.live.LiveNetwork.embed",
}


def broken(*args, **kwargs):
    Path("raised").touch()
    raise ValueError("by hand, in rank 1")


def train(recipe):
    with activate(recipe):
        pretrain(recipe)


def main(phase, path):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    recipe = OmegaConf.load(path)
    if phase == "first batch":
        place = patch.object(detect_host().methods["base"], "training_step", broken)
    elif phase == "refresh":
        with activate(recipe) as on:  # the rehearsal before all else goes well
            rehearse = type(on.pairing.refresh).rehearse

        def rehearsed(*args):
            rehearse(*args)
            if os.environ["RANK"] == "1":
                patch(PLACES[phase], broken).start()

        patch.object(type(on.pairing.refresh), "rehearse", rehearsed).start()
        return train(recipe)
    else:
        place = patch(PLACES[phase], broken)
    if os.environ["RANK"] == "1":
        place.start()
    if phase == "first batch":
        return train(recipe)
    return sys.exit(cli(["cache", "build", recipe.data.train_path, "--k", "3", "--prior", "pixels", "image_size=8"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
