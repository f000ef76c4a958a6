"""The sections of a recipe in solo-learn 1.0.6's form, typed, with 1.0.6's defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from solo_gps.config import check_at_least


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Section ``backbone``."""

    name: str = MISSING
    """Architecture, for example ``resnet18``."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Section ``data``."""

    dataset: str = MISSING
    """``custom`` for a folder, or cifar10, cifar100, stl10, imagenet, imagenet100."""
    train_path: str = MISSING
    """Folder of the training images."""
    val_path: str | None = None
    """Folder of the labelled validation images; none: no validation."""
    format: str = "image_folder"
    """How the images are stored."""
    num_workers: int = 4
    """Worker processes of a loader."""
    no_labels: bool = False
    """Whether ``train_path`` holds images without class folders."""
    fraction: float = -1.0
    """Share of the training images to use, below 1; -1: all."""

    def __post_init__(self) -> None:
        check_at_least("num_workers", self.num_workers, 0)
        if self.fraction >= 1 or self.fraction == 0:
            raise ValueError(f"fraction={self.fraction} must be between 0 and 1, or -1 for all images.")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Section ``optimizer``."""

    name: str = MISSING
    """sgd, lars, adam or adamw."""
    batch_size: int = MISSING
    """Images of a batch of one device."""
    lr: float = MISSING
    """Learning rate for 256 images a step; scaled linearly."""
    weight_decay: float = MISSING
    """Weight decay of everything but the classifier."""
    classifier_lr: float = MISSING
    """Learning rate of the online classifier; scaled when there is a validation set."""
    exclude_bias_n_norm_wd: bool = False
    """Whether one-dimensional parameters go without weight decay."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the optimizer's constructor."""

    def __post_init__(self) -> None:
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("lr", self.lr, 0)


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """Section ``scheduler``."""

    name: str = MISSING
    """warmup_cosine, step or none."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    warmup_start_lr: float = 3e-5
    """Learning rate of the first step."""
    warmup_epochs: float = 10.0
    """Epochs of linear warm-up."""
    lr_decay_steps: list[int] | None = None
    """Epochs at which ``step`` divides the learning rate by ten."""
    interval: str = "step"
    """Whether the cosine moves by ``step`` or by ``epoch``."""

    def __post_init__(self) -> None:
        if self.interval not in ("step", "epoch"):
            raise ValueError(f"interval={self.interval!r} is neither step nor epoch.")
        if self.name == "step" and not self.lr_decay_steps:
            raise ValueError("lr_decay_steps is missing: name=step needs it.")


@dataclass(frozen=True, kw_only=True)
class Momentum:
    """Section ``momentum``, of methods with a momentum network."""

    base_tau: float = 0.99
    """Weight of the old parameters at the start."""
    final_tau: float = 1.0
    """Weight of the old parameters at the end."""
    classifier: bool = False
    """Whether a second classifier is trained on the momentum network."""

    def __post_init__(self) -> None:
        if not 0 <= self.base_tau <= self.final_tau <= 1:
            raise ValueError(f"wanted 0 <= base_tau <= final_tau <= 1, got {self.base_tau} and {self.final_tau}.")


@dataclass(frozen=True, kw_only=True)
class KnnEval:
    """Section ``knn_eval``."""

    enabled: bool = False
    """Whether the validation set is classified by its nearest training features each epoch."""
    k: int = 20
    """Neighbours."""
    distance_func: str = "euclidean"
    """euclidean or cosine."""

    def __post_init__(self) -> None:
        check_at_least("k", self.k, 1)
        if self.distance_func not in ("euclidean", "cosine"):
            raise ValueError(f"distance_func={self.distance_func!r} is neither euclidean nor cosine.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Section ``checkpoint``."""

    enabled: bool = False
    """Whether checkpoints are written."""
    dir: str = "trained_models"
    """Folder; a subfolder for each method and run is made in it."""
    frequency: int = 1
    """Epochs between two checkpoints."""
    keep_prev: bool = False
    """Whether older checkpoints stay."""

    def __post_init__(self) -> None:
        check_at_least("frequency", self.frequency, 1)


@dataclass(frozen=True, kw_only=True)
class AutoResume:
    """Section ``auto_resume``."""

    enabled: bool = False
    """Whether the newest checkpoint of an equal recipe is resumed."""
    max_hours: int = 36
    """Age up to which a checkpoint counts."""


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """Section ``wandb``."""

    enabled: bool = False
    """Whether Weights & Biases logs the run."""
    entity: str | None = None
    """User or team."""
    project: str = "solo-learn"
    """Project."""
    offline: bool = False
    """Whether the log stays on this machine."""


@dataclass(frozen=True, kw_only=True)
class Performance:
    """Section ``performance``."""

    disable_channel_last: bool = False
    """Read by 1.0.6 alone: the memory layout changes speed, not meaning."""


SECTIONS: dict[str, type] = {
    "backbone": Backbone,
    "data": Data,
    "optimizer": Optimizer,
    "scheduler": Scheduler,
    "momentum": Momentum,
    "knn_eval": KnnEval,
    "checkpoint": Checkpoint,
    "auto_resume": AutoResume,
    "wandb": Wandb,
    "performance": Performance,
}


def plain(section: Any) -> dict[str, Any]:
    """Returns a parsed section as a mapping of plain values."""
    return dataclasses.asdict(section)
