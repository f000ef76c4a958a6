"""Loaders of solo-learn 1.0.2, for recipes in 1.0.6's form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10, CIFAR100, STL10, ImageFolder

from solo_gps.errors import DataError, first_line
from solo_gps.hosts.data_folder import check_batch
from solo_gps.hosts.named import held_out_loader, named_dataset
from solo_gps.hosts.named import train_set as named_set
from solo_gps.hosts.v102.augment import build_transform, parse_pipelines, validation_transform

FRACTION_SEED = 42


def train_loader(cfg: DictConfig, host: ModuleType) -> DataLoader:
    """Builds the training loader through 1.0.2's ``prepare_datasets`` and ``prepare_dataloader``.

    Both are looked up on ``host`` at call time, so that what is wrapped there is seen.

    Args:
        cfg: Completed recipe.
        host: ``solo.utils.pretrain_dataloader`` of 1.0.2.

    Returns:
        Loader of ``[index (B,), crops, target (B,)]``.

    Raises:
        DataError: There are fewer images than one batch.
    """
    data = cfg.data
    dataset = train_set(data, build_transform(data.dataset, parse_pipelines(cfg.augmentations), host), host)
    check_batch(cfg, len(dataset), cfg.optimizer.batch_size)
    return host.prepare_dataloader(dataset, batch_size=cfg.optimizer.batch_size, num_workers=data.num_workers)


def train_set(data: Mapping[str, Any], transform: Any, host: ModuleType) -> Any:
    """Builds the training set through 1.0.2's ``prepare_datasets``, and takes ``data.fraction`` of it.

    Raises:
        DataError: torchvision finds no images in the folder.
    """
    if named_dataset(data["dataset"]) is not None:
        return named_set(data, transform, host.dataset_with_index, keep_fraction)
    path = Path(os.path.abspath(data["train_path"]))
    try:
        dataset = host.prepare_datasets(
            data["dataset"], transform, data_dir=Path(path.anchor), train_dir=path, no_labels=data["no_labels"]
        )
    except FileNotFoundError as error:
        raise DataError(f"data.train_path={data['train_path']!r}: {first_line(error)}") from error
    if data["fraction"] > 0:
        keep_fraction(dataset, data["fraction"])
    return dataset


def val_loader(cfg: DictConfig) -> DataLoader | None:
    """Builds the loader of the validation images ``[image (B, 3, H, W), target (B,)]``.

    Returns:
        The loader, or ``None`` when the recipe names no ``data.val_path`` or has no labels.

    Raises:
        DataError: The folder is missing or holds other classes than the training folder.
    """
    data = cfg.data
    if data.val_path is None or data.no_labels:
        return None
    if named_dataset(data.dataset) is not None:
        return held_out_loader(data, cfg.optimizer.batch_size, data.num_workers)
    transform = validation_transform(data.dataset)
    if data.dataset in ("cifar10", "cifar100"):
        cls = CIFAR10 if data.dataset == "cifar10" else CIFAR100
        dataset: Any = cls(data.val_path, train=False, download=True, transform=transform)
    elif data.dataset == "stl10":
        dataset = STL10(data.val_path, split="test", download=True, transform=transform)
    else:
        dataset = _val_folder(data.train_path, data.val_path, transform)
    return DataLoader(
        dataset, batch_size=cfg.optimizer.batch_size, num_workers=data.num_workers, pin_memory=torch.cuda.is_available()
    )


def keep_fraction(dataset: Any, fraction: float) -> None:
    """Reduces a training set in place to a share of its images, drawn class by class, the same at every call.

    Args:
        dataset: Set of 1.0.2's ``prepare_datasets``: a folder with or without labels, CIFAR or STL-10.
        fraction: Share to keep, between 0 and 1.
    """
    if hasattr(dataset, "samples"):
        kept = stratified(np.array([label for _, label in dataset.samples]), fraction)
        dataset.samples = dataset.imgs = [dataset.samples[index] for index in kept]
        dataset.targets = [label for _, label in dataset.samples]
    elif hasattr(dataset, "images"):
        kept = stratified(np.zeros(len(dataset.images), dtype=np.int64), fraction)
        dataset.images = [dataset.images[index] for index in kept]
    else:
        name = "targets" if hasattr(dataset, "targets") else "labels"
        labels = np.asarray(getattr(dataset, name))
        kept = stratified(labels, fraction)
        dataset.data = dataset.data[kept]
        setattr(dataset, name, labels[kept] if name == "labels" else labels[kept].tolist())


def stratified(labels: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """Draws a share of the images of every class.

    Args:
        labels: (N,) class of each image.
        fraction: Share to keep, between 0 and 1.

    Returns:
        (M,) sorted positions: ``round(fraction * n)`` of each class of n images, at least one.
    """
    generator = np.random.default_rng(FRACTION_SEED)
    kept = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        kept.append(generator.permutation(members)[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(kept))


def _val_folder(train_path: str, val_path: str, transform: Any) -> ImageFolder:
    if not Path(val_path).is_dir():
        raise DataError(f"data.val_path={val_path!r}: no such folder. Give one with class folders, or null for none.")
    try:
        dataset = ImageFolder(val_path, transform)
    except FileNotFoundError as error:
        raise DataError(f"data.val_path={val_path!r}: {first_line(error)}") from error
    trained = sorted(entry.name for entry in os.scandir(train_path) if entry.is_dir())
    if dataset.classes != trained:
        different = sorted(set(dataset.classes) ^ set(trained))
        raise DataError(
            f"data.val_path={val_path!r} has other class folders than data.train_path={train_path!r} "
            f"({', '.join(different[:5])}): labels would not mean the same. Make them equal, or set data.val_path=null."
        )
    return dataset
