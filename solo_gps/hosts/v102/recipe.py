"""Recipes in the form of solo-learn 1.0.6, completed and translated for 1.0.2, which has none of its own.

Meaning and defaults are 1.0.6's (``solo/args/pretrain.py`` of
https://github.com/vturrisi/solo-learn/tree/9187ea39c2c3f43c455ab06664d2b019a9802954). What 1.0.2 cannot do is an error.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from solo_gps.config import parse
from solo_gps.errors import ConfigError, UnknownNameError, did_you_mean
from solo_gps.hosts import schema
from solo_gps.hosts.data_folder import check_data_folder
from solo_gps.hosts.devices import rank_count
from solo_gps.hosts.named import class_count, dataset_names, named_dataset
from solo_gps.hosts.v102.augment import parse_pipelines
from solo_gps.hosts.v102.methods import (
    MOMENTUM_METHODS,
    MULTICROP_METHODS,
    NEEDS_106,
    check_method,
    complete_method_kwargs,
)

CLASSES = {"cifar10": 10, "cifar100": 100, "stl10": 10, "imagenet": 1000, "imagenet100": 100}
BACKBONES = (
    *("resnet18", "resnet50", "vit_tiny", "vit_small", "vit_base", "vit_large"),
    *("swin_tiny", "swin_small", "swin_base", "swin_large"),
)
BACKBONES_106 = ("poolformer", "convnext", "wide_resnet")
OPTIMIZERS = {"sgd": "SGD", "lars": "SGD", "adam": "Adam", "adamw": "AdamW"}
LARS_KWARGS = {"eta": 1e-3, "clip_lr": False, "exclude_bias_n_norm": False}
SCHEDULERS = ("warmup_cosine", "step", "none")


def complete_recipe(cfg: DictConfig) -> DictConfig:
    """Fills in what a recipe leaves out and derives the rest, as 1.0.6's ``parse_cfg`` does; checks it for 1.0.2 on the way.

    Args:
        cfg: Recipe in 1.0.6's form; not changed. Sections that solo-learn does not know (``sampler``, ``prior``, ...) are kept.

    Returns:
        A new recipe with every default, ``data.num_classes``, ``data.num_large_crops``, ``data.num_small_crops``, and learning
        rates scaled by batch x devices x nodes / 256. Completing it again would scale them again.

    Raises:
        ConfigError: A key, type or value is wrong, missing, or beyond 1.0.2.
        DataError: The training folder is missing or empty.
    """
    cfg = copy.deepcopy(cfg)
    OmegaConf.set_struct(cfg, False)
    method = check_method(cfg.get("method"))
    _complete_sections(cfg)
    _check_names(cfg)
    _complete_top_level(cfg)
    check_data_folder(cfg)
    cfg.data.num_classes = _num_classes(cfg)
    _count_crops(cfg)
    _scale_rates(cfg)
    _complete_optimizer_kwargs(cfg)
    cfg.method_kwargs = complete_method_kwargs(method, cfg.get("method_kwargs"))
    _check_sizes(cfg)
    return cfg


def method_arguments(cfg: DictConfig) -> dict[str, Any]:
    """Translates a completed recipe to the keyword arguments of ``METHODS[cfg.method]`` of 1.0.2.

    Args:
        cfg: What :func:`complete_recipe` returned.
    """
    optimizer, scheduler = cfg.optimizer, cfg.scheduler
    extra: dict[str, Any] = dict(OmegaConf.to_container(optimizer.kwargs, resolve=True))  # type: ignore[arg-type]
    lars = {key: extra.pop(key) for key in LARS_KWARGS if key in extra}
    arguments = {
        "encoder": cfg.backbone.name,
        "backbone_args": _backbone_args(cfg),
        "num_classes": cfg.data.num_classes,
        "max_epochs": cfg.max_epochs,
        "batch_size": optimizer.batch_size,
        "optimizer": "sgd" if optimizer.name == "lars" else optimizer.name,
        "lars": optimizer.name == "lars",
        "lr": optimizer.lr,
        "weight_decay": optimizer.weight_decay,
        "classifier_lr": optimizer.classifier_lr,
        "eta_lars": lars.get("eta", LARS_KWARGS["eta"]),
        "grad_clip_lars": lars.get("clip_lr", False),
        "exclude_bias_n_norm": lars.get("exclude_bias_n_norm", False),
        "accumulate_grad_batches": cfg.accumulate_grad_batches,
        "extra_optimizer_args": extra,
        "scheduler": scheduler.name,
        "min_lr": scheduler.min_lr,
        "warmup_start_lr": scheduler.warmup_start_lr,
        "warmup_epochs": scheduler.warmup_epochs,
        "lr_decay_steps": None if scheduler.lr_decay_steps is None else list(scheduler.lr_decay_steps),
        "num_large_crops": cfg.data.num_large_crops,
        "num_small_crops": cfg.data.num_small_crops,
        "knn_eval": cfg.knn_eval.enabled,
        "knn_k": cfg.knn_eval.k,
    }
    if cfg.method in MOMENTUM_METHODS:
        arguments["base_tau_momentum"] = cfg.momentum.base_tau
        arguments["final_tau_momentum"] = cfg.momentum.final_tau
        arguments["momentum_classifier"] = cfg.momentum.classifier
    return {**arguments, **OmegaConf.to_container(cfg.method_kwargs, resolve=True)}  # type: ignore[dict-item]


def optimizer(cfg: DictConfig, network: Any) -> Any:
    """Builds torch's optimizer of a completed recipe; its LARS of 1.0.2 wraps SGD."""
    import torch

    keys = cfg.optimizer
    kwargs = {str(key): value for key, value in keys.kwargs.items() if key not in LARS_KWARGS}
    kind = getattr(torch.optim, OPTIMIZERS[keys.name])
    return kind(network.parameters(), lr=keys.lr, weight_decay=keys.weight_decay, **kwargs)


def _complete_sections(cfg: DictConfig) -> None:
    for name, section in schema.SECTIONS.items():
        node = cfg.get(name)
        values = {} if node is None else _without_none_strings(OmegaConf.to_container(node, resolve=True))
        cfg[name] = OmegaConf.create(schema.plain(parse(values, section, name)))


def _without_none_strings(values: Any) -> Any:
    """Recipes write ``None`` for YAML's ``null``; 1.0.6 reads both alike."""
    if not isinstance(values, Mapping):
        return values
    return {key: None if value == "None" else value for key, value in values.items()}


def _complete_top_level(cfg: DictConfig) -> None:
    cfg.devices = 1 if cfg.get("devices") is None else cfg.devices
    cfg.accelerator = cfg.get("accelerator") or "auto"
    for key, default, least in (
        ("max_epochs", None, 1),
        ("accumulate_grad_batches", 1, 1),
        ("num_nodes", 1, 1),
        ("seed", 5, 0),
    ):
        value = default if cfg.get(key) is None else cfg[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{key}={value!r}: wanted a whole number of at least {least}.")
        cfg[key] = value
    cfg.name = cfg.get("name") or cfg.method
    for key in ("strategy", "resume_from_checkpoint"):
        cfg[key] = None if cfg.get(key) in (None, "None") else cfg[key]
    if OmegaConf.select(cfg, "auto_umap.enabled", default=False):
        raise ConfigError(f"auto_umap.enabled=True: 1.0.2's recipes have no such callback. Set it to False. {NEEDS_106}")


def _check_names(cfg: DictConfig) -> None:
    if cfg.data.dataset not in dataset_names():
        raise UnknownNameError("dataset (data.dataset)", cfg.data.dataset, dataset_names())
    if cfg.data.format != "image_folder":
        raise ConfigError(f"data.format={cfg.data.format!r}: 1.0.2 reads 'image_folder' through solo-gps. {NEEDS_106}")
    if cfg.backbone.name not in BACKBONES:
        if str(cfg.backbone.name).startswith(BACKBONES_106):
            raise ConfigError(f"backbone.name={cfg.backbone.name!r} is not part of solo-learn 1.0.2. {NEEDS_106}")
        raise UnknownNameError("backbone (backbone.name)", cfg.backbone.name, BACKBONES)
    if cfg.optimizer.name not in OPTIMIZERS:
        raise UnknownNameError("optimizer (optimizer.name)", cfg.optimizer.name, OPTIMIZERS)
    if cfg.scheduler.name not in SCHEDULERS:
        raise UnknownNameError("scheduler (scheduler.name)", cfg.scheduler.name, SCHEDULERS)


def _num_classes(cfg: DictConfig) -> int:
    if cfg.data.dataset in CLASSES:
        return CLASSES[cfg.data.dataset]
    if (found := named_dataset(cfg.data.dataset)) is not None:
        return class_count(found, cfg.data.train_path)
    return max(1, sum(entry.is_dir() for entry in os.scandir(cfg.data.train_path)))


def _count_crops(cfg: DictConfig) -> None:
    frames = [pipeline.frame for pipeline in parse_pipelines(cfg.get("augmentations"))]
    size = frames[0].crop_size
    large = sum(frame.num_crops for frame in frames if frame.crop_size == size)
    small = sum(frame.num_crops for frame in frames) - large
    if large != 2 and not (cfg.method == "wmse" and large > 2):
        raise ConfigError(
            f"augmentations: {large} large crops (of size {size}, the first pipeline's), wanted 2; "
            "only wmse takes more. Check num_crops and crop_size."
        )
    if small and cfg.method not in MULTICROP_METHODS:
        raise ConfigError(
            f"augmentations: {small} small crops, but {cfg.method} of solo-learn 1.0.2 takes none "
            f"(multicrop there: {', '.join(MULTICROP_METHODS)}). 1.0.6 has it for swav and supcon too. {NEEDS_106}"
        )
    cfg.data.num_large_crops, cfg.data.num_small_crops = large, small


def _scale_rates(cfg: DictConfig) -> None:
    scale = cfg.optimizer.batch_size * rank_count(cfg) / 256
    cfg.optimizer.lr *= scale
    if cfg.data.val_path is not None:
        cfg.optimizer.classifier_lr *= scale


def _complete_optimizer_kwargs(cfg: DictConfig) -> None:
    import torch

    name, kwargs = cfg.optimizer.name, cfg.optimizer.kwargs
    if name in ("sgd", "lars"):
        kwargs.momentum = kwargs.get("momentum", 0.9)
    if name == "lars":
        for key, default in LARS_KWARGS.items():
            kwargs[key] = kwargs.get(key, default)
    known = set(inspect.signature(getattr(torch.optim, OPTIMIZERS[name])).parameters) - {"params", "lr", "weight_decay"}
    known |= set(LARS_KWARGS) if name == "lars" else set()
    for key in kwargs:
        if key not in known:
            raise ConfigError(f"optimizer.kwargs.{key}: {name} takes no such key on 1.0.2.{did_you_mean(key, known)}")


def _check_sizes(cfg: DictConfig) -> None:
    kwargs, batch = cfg.method_kwargs, cfg.optimizer.batch_size
    step = batch * rank_count(cfg)
    if "queue_size" in kwargs and cfg.method != "swav" and kwargs.queue_size % step:
        raise ConfigError(f"method_kwargs.queue_size={kwargs.queue_size} must be a multiple of batch x devices = {step}.")
    if cfg.method == "wmse" and batch % kwargs.whitening_size:
        raise ConfigError(f"method_kwargs.whitening_size={kwargs.whitening_size} must divide optimizer.batch_size={batch}.")
    if cfg.method == "dino" and kwargs.warmup_teacher_temperature_epochs > cfg.max_epochs:
        raise ConfigError(
            f"method_kwargs.warmup_teacher_temperature_epochs={kwargs.warmup_teacher_temperature_epochs} "
            f"is more than max_epochs={cfg.max_epochs}."
        )
    if cfg.knn_eval.enabled and (cfg.data.val_path is None or cfg.data.no_labels):
        raise ConfigError("knn_eval.enabled=True needs a labelled validation set; set data.val_path, or knn_eval.enabled=False.")
    if cfg.method in MOMENTUM_METHODS and cfg.momentum.classifier and cfg.data.num_classes < 5:
        raise ConfigError(
            f"momentum.classifier=True: 1.0.2 reports its top-5 accuracy and fails on {cfg.data.num_classes} classes. "
            "Set it to False."
        )


def _backbone_args(cfg: DictConfig) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(OmegaConf.to_container(cfg.backbone.kwargs, resolve=True))  # type: ignore[arg-type]
    # Resnets alone: for swin, 1.0.2 would take it for a window size that the recipe did not ask for.
    if cfg.backbone.name.startswith("resnet"):
        arguments["cifar"] = cfg.data.dataset in ("cifar10", "cifar100")
    return arguments
