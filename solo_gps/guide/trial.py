"""A recipe tried out before many trainings: all that one stumbles over before its first step, without embedding an image."""

from __future__ import annotations

import logging
from copy import deepcopy

import torch
from omegaconf import DictConfig, OmegaConf

from solo_gps.errors import SoloGpsError, of_host
from solo_gps.guide.crops import key_of
from solo_gps.guide.switch import activate
from solo_gps.hosts.data_folder import check_batch, reads_by_dali
from solo_gps.hosts.rehearsal import quiet, rehearse
from solo_gps.runtime.determinism import preserved_flags, preserved_generators

ON_THIS_MACHINE = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": 32}
"""The training itself may be sent to another machine, with GPUs that this one lacks."""


def try_out(recipe: DictConfig, counted: dict[str, int]) -> None:
    """Switches on, builds what a training builds (network, optimizer, trainer, training set), and throws it away.

    Args:
        recipe: The whole recipe; not changed.
        counted: Number of training images by the recipe's ``data`` node; what is not in there is read and added, so that the rows
            of one table list its images once.

    Raises:
        SoloGpsError: The recipe cannot be trained.
    """
    trial = deepcopy(recipe)
    for key, value in ON_THIS_MACHINE.items():
        OmegaConf.update(trial, key, value, force_add=True)
    with preserved_generators(torch.device("cpu")), preserved_flags(), quiet(logging.INFO), activate(trial) as run:
        cfg = rehearse(trial, run.host)
        try:
            run.host.build_method(cfg, run.host.methods[cfg.method])
            images = counted.get(data := OmegaConf.to_yaml(cfg.data))
            if images is None:
                files = {**cfg.data, "format": "image_folder"} if reads_by_dali(cfg) else cfg.data
                images = counted[data] = len(run.host.build_train_set(files, run.host.build_transform(cfg)))
                run.host.build_val_loader(cfg)
        except SoloGpsError:
            raise
        except Exception as error:
            raise of_host(error, "building what the recipe asks for") from error
        check_batch(cfg, images, cfg.optimizer.batch_size, apart=bool(key_of(run.samplers, "keep_apart", False)))
        for sampler in run.samplers.values():
            sampler.check(images)
