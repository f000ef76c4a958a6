"""The pretraining program for either generation: what `main_pretrain.py` does, for those without a checkout of solo-learn."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.error import URLError

from omegaconf import DictConfig, OmegaConf

from solo_gps.errors import ConfigError, of_host
from solo_gps.guide.switch import activate, current_run
from solo_gps.hosts.dali import data_module
from solo_gps.hosts.data_folder import reads_by_dali
from solo_gps.hosts.detect import Host, detect_host


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What a pretraining leaves in memory.

    Attributes:
        model: The trained LightningModule.
        trainer: The Lightning trainer that trained it.
        cfg: The completed recipe.
        host: The adapter of the solo-learn that was used.
    """

    model: Any
    trainer: Any
    cfg: DictConfig
    host: Host


def pretrain(cfg: DictConfig) -> Pretrained:
    """Trains a recipe with the installed solo-learn, guided by its ``sampler`` node when it has one.

    Args:
        cfg: Recipe in the form of solo-learn 1.0.6; not changed where the host allows it.

    Returns:
        The trained model and its trainer.
    """
    switched_on: AbstractContextManager[Any] = nullcontext() if current_run() else activate(cfg)
    with switched_on:
        host = detect_host()
        cfg = host.complete(cfg)
        run = current_run()
        assert run is not None
        run.record_in(cfg)
        host.lightning.seed_everything(cfg.seed)
        model = host.build_method(cfg, host.methods[cfg.method])
        try:
            data = _data(cfg, host)
        except URLError as error:  # torchvision's, of a set that solo-learn has it fetch
            raise of_host(error, "reading the data") from error
        trainer = host.lightning.Trainer(
            **{**host.trainer_kwargs(cfg), "callbacks": host.callbacks(cfg), "logger": _logger(cfg, host)}
        )
        trainer.fit(model, **data, ckpt_path=host.checkpoint_to_resume(cfg))
    return Pretrained(model=model, trainer=trainer, cfg=cfg, host=host)


def _data(cfg: DictConfig, host: Host) -> dict[str, Any]:
    """The trainer's loaders; the held-out images come first, since tables are built for those that are trained on."""
    val_loader = host.build_val_loader(cfg)
    if reads_by_dali(cfg):
        return {"datamodule": data_module(cfg, val_loader)}
    return {"train_dataloaders": host.build_train_loader(cfg), "val_dataloaders": val_loader}


def _logger(cfg: DictConfig, host: Host) -> Any:
    from importlib import import_module
    from importlib.util import find_spec

    loggers = import_module(f"{host.lightning.__name__}.loggers")
    if cfg.wandb.enabled:
        if find_spec("wandb") is None:
            raise ConfigError("wandb.enabled=True, but wandb is not installed: pip install wandb, or set wandb.enabled=False.")
        entity = None if cfg.wandb.entity == "None" else cfg.wandb.entity
        logger = loggers.WandbLogger(name=cfg.name, project=cfg.wandb.project, entity=entity, offline=cfg.wandb.offline)
        logger.log_hyperparams(OmegaConf.to_container(cfg))  # as 1.0.6's own program does
        return logger
    if not cfg.checkpoint.enabled:
        return False
    folder = Path(cfg.checkpoint.dir) / cfg.method
    return loggers.CSVLogger(str(folder.parent), name=folder.name, version=_new_version(folder, cfg.name))


def _new_version(folder: Path, name: str) -> str:
    """The run's name, numbered where a run of that name, which this one may resume, has written its metrics already.

    Lightning would delete them, or fail on their columns.
    """
    versions = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(version for version in versions if not (folder / version / "metrics.csv").exists())
