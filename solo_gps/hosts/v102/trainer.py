"""What a 1.0.6 recipe says about the trainer, for Lightning 1.9, which solo-learn 1.0.2 runs on."""

from __future__ import annotations

import inspect
import json
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from solo_gps.errors import ConfigError
from solo_gps.hosts.devices import device_count
from solo_gps.hosts.schema import RESUMED_WITH

PRECISIONS: dict[str, Any] = {
    **{"32": 32, "32-true": 32, "64": 64, "64-true": 64},
    **{"16": 16, "16-mixed": 16, "bf16": "bf16", "bf16-mixed": "bf16"},
}
STRATEGIES: dict[str | None, bool | None] = {
    None: None,
    "auto": None,
    "ddp": False,
    "ddp_find_unused_parameters_false": False,
    "ddp_find_unused_parameters_true": True,
}
# What 1.0.6's AutoResumer compares, and what else makes a run another run.
RESUME_KEYS = (
    *(
        "name",
        "backbone",
        "method",
        "data.dataset",
        "max_epochs",
        "optimizer.name",
        "optimizer.batch_size",
        "optimizer.lr",
    ),
    *("optimizer.weight_decay", "wandb.project", "wandb.entity", *RESUMED_WITH),
)


def trainer_kwargs(cfg: DictConfig) -> dict[str, Any]:
    """Translates a completed recipe to keyword arguments of Lightning 1.9's ``Trainer``; callbacks and logger left out.

    Every key of the recipe that the trainer knows is passed on, as 1.0.6's ``main_pretrain.py`` does.

    Raises:
        ConfigError: A precision, strategy or device does not exist there, or wandb is asked for and not installed.
    """
    from pytorch_lightning import Trainer

    recipe: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    known = set(inspect.signature(Trainer.__init__).parameters) - {
        "self",
        "callbacks",
        "logger",
        "resume_from_checkpoint",
    }
    kwargs = {name: recipe[name] for name in known if recipe.get(name) is not None}
    kwargs.update(check_trainer(cfg))
    kwargs["strategy"] = _strategy(recipe.get("strategy"), device_count(recipe.get("devices", 1), recipe.get("accelerator")))
    kwargs["enable_checkpointing"] = False
    if recipe.get("use_distributed_sampler") is not None:
        kwargs["replace_sampler_ddp"] = recipe["use_distributed_sampler"]
    return kwargs


def check_trainer(cfg: DictConfig) -> dict[str, Any]:
    """Checks what can be checked without making a trainer, and returns ``precision`` and ``devices`` translated.

    Raises:
        ConfigError: See :func:`trainer_kwargs`.
    """
    recipe: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    accelerator, precision = recipe.get("accelerator"), str(recipe.get("precision", 32))
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r}: Lightning 1.9 and solo-gps know {', '.join(PRECISIONS)}.")
    if PRECISIONS[precision] == 16 and accelerator == "cpu":
        raise ConfigError(f"precision={precision!r} needs a GPU; with accelerator=cpu set precision=32 or bf16-mixed.")
    if recipe.get("strategy") not in STRATEGIES:
        known = ", ".join(str(name) for name in STRATEGIES if name)
        raise ConfigError(f"strategy={recipe['strategy']!r}: solo-learn 1.0.2 trains through solo-gps by {known}.")
    if recipe["wandb"]["enabled"]:
        _check_wandb()
    devices = recipe.get("devices", 1)
    count = device_count(devices, accelerator)
    # Lightning takes ids of GPUs and a number of processes on the CPU; recipes say [0] for either.
    return {"precision": PRECISIONS[precision], "devices": count if accelerator == "cpu" else devices}


def _strategy(name: str | None, devices: int) -> Any:
    find_unused = STRATEGIES[name]
    if find_unused is None and devices == 1:
        return None  # else Lightning 1.9 would spawn, and a guided method cannot be pickled
    from pytorch_lightning.strategies import DDPStrategy

    return DDPStrategy(find_unused_parameters=bool(find_unused))


def callbacks(cfg: DictConfig) -> list[Any]:
    """Builds solo-learn's checkpointer when the recipe enables it, and Lightning's learning-rate monitor beside wandb."""
    built: list[Any] = []
    if cfg.checkpoint.enabled:
        from solo.utils.checkpointer import Checkpointer

        built.append(
            Checkpointer(
                Namespace(**OmegaConf.to_container(cfg, resolve=True)),  # type: ignore[arg-type]
                logdir=os.path.join(cfg.checkpoint.dir, cfg.method),
                frequency=cfg.checkpoint.frequency,
                keep_previous_checkpoints=cfg.checkpoint.keep_prev,
            )
        )
    if cfg.wandb.enabled:
        from pytorch_lightning.callbacks import LearningRateMonitor

        built.append(LearningRateMonitor(logging_interval="step"))
    return built


def checkpoint_to_resume(cfg: DictConfig) -> str | None:
    """Returns the recipe's checkpoint or, with ``auto_resume.enabled``, the newest one of an equal recipe; else ``None``.

    Equal means what 1.0.6's AutoResumer compares, and the same sampler, embeddings and refresh. Written anew because 1.0.2's own
    compares flat argparse names, and would take a guided run for its baseline.

    Raises:
        ConfigError: ``resume_from_checkpoint`` is not a file, or solo-learn cannot resume the method.
    """
    path = _named_checkpoint(cfg) or _newest_checkpoint(cfg)
    # These make buffers when training starts, which a checkpoint holds and a new model lacks.
    lacks_buffers = cfg.method == "deepclusterv2" or (cfg.method == "swav" and cfg.method_kwargs.queue_size > 0)
    if path is not None and lacks_buffers:
        raise ConfigError(
            f"solo-learn cannot resume {cfg.method} (from {path}): its checkpoints do not load. "
            "Set auto_resume.enabled=False and resume_from_checkpoint=null to start anew."
        )
    return path


def _named_checkpoint(cfg: DictConfig) -> str | None:
    path = cfg.resume_from_checkpoint
    if path is not None and not os.path.isfile(path):
        raise ConfigError(f"resume_from_checkpoint={path!r}: no such file.")
    return None if path is None else str(path)


def _newest_checkpoint(cfg: DictConfig) -> str | None:
    if not cfg.auto_resume.enabled:
        return None
    wanted = _signature(cfg)
    oldest = time.time() - cfg.auto_resume.max_hours * 3600
    found = Path(cfg.checkpoint.dir, cfg.method).glob("**/*.ckpt")
    for checkpoint in sorted(found, key=lambda file: file.stat().st_mtime, reverse=True):
        arguments = checkpoint.parent / "args.json"
        if checkpoint.stat().st_mtime < oldest or not arguments.is_file():
            continue
        if _signature(OmegaConf.create(json.loads(arguments.read_text()))) == wanted:
            return str(checkpoint)
    return None


def _signature(cfg: Any) -> str:
    values = {key: OmegaConf.select(cfg, key) for key in RESUME_KEYS}
    plain = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    return json.dumps(plain, sort_keys=True, default=str)


def _check_wandb() -> None:
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"wandb.enabled=True, but wandb cannot be imported ({error}). Set wandb.enabled=False, or: pip install wandb"
        ) from error
