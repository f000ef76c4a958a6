"""What solo-learn makes of a recipe only after the prior is built, made once before: by its own code, and thrown away."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from omegaconf import DictConfig

from solo_gps.config import numbers_of
from solo_gps.errors import ConfigError, SoloGpsError, of_host
from solo_gps.hosts.detect import Host
from solo_gps.runtime.determinism import preserved_generators


def rehearse(recipe: DictConfig, host: Host) -> DictConfig:
    """Completes a copy of the recipe, and makes the crops' pipelines, the optimizer and the trainer that it asks for.

    Returns:
        The completed copy.

    Raises:
        HostError: solo-learn or Lightning cannot use the recipe.
        SoloGpsError: Nor can we.
    """
    with preserved_generators(torch.device("cpu")), quiet():
        try:
            cfg = host.complete(deepcopy(recipe))
            host.build_transform(cfg)
            host.build_optimizer(cfg, torch.nn.Linear(1, 1))
            keys = host.trainer_kwargs(cfg)
            _check_trainer(keys, host)
            host.lightning.Trainer(**{**keys, "logger": False, "callbacks": []})
            return cfg
        except SoloGpsError:
            raise
        except Exception as error:
            raise of_host(error, "reading the recipe") from error


def _check_trainer(keys: Mapping[str, Any], host: Host) -> None:
    for key, value in numbers_of(keys, ""):
        if not math.isfinite(value):
            raise ConfigError(f"{key}={value} must be a finite number.")
    if keys.get("log_every_n_steps") == 0 and host.generation == "1.0.2":
        raise ConfigError("log_every_n_steps=0: its Lightning would divide by it. Set at least 1.")


@contextmanager
def quiet(level: int = logging.CRITICAL) -> Iterator[None]:
    """Without what the host says up to a level, which it says again when all is made for good."""
    before = logging.root.manager.disable
    logging.disable(max(before, level))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
