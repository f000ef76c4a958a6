"""The sections of a recipe in solo-learn 1.0.6's form, typed and within bounds, with 1.0.6's defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from solo_gps.config import Keys, check_choice, number
from solo_gps.priors.config import LARGEST_SIDE
from solo_gps.runtime.machine import MOST_WORKERS

DATASETS = ("cifar10", "cifar100", "stl10", "imagenet", "imagenet100", "custom")
RESUMED_WITH = (
    *("seed", "method_kwargs", "momentum", "optimizer", "scheduler", "augmentations", "data.fraction", "data.no_labels"),
    *("solo_gps.keys", "solo_gps.embeddings"),
)
"""What makes two runs different besides what 1.0.6's AutoResumer compares, which takes another seed for the same run. Of a prior,
what it made of the images."""
OPTIMIZERS = ("sgd", "lars", "adam", "adamw")
SCHEDULERS = ("warmup_cosine", "step", "none")


@dataclass(frozen=True, kw_only=True)
class Backbone(Keys):
    """Section ``backbone``."""

    name: str = MISSING
    """Architecture, for example ``resnet18``."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""


@dataclass(frozen=True, kw_only=True)
class Data(Keys):
    """Section ``data``."""

    dataset: str = MISSING
    """``custom`` for a folder, or cifar10, cifar100, stl10, imagenet, imagenet100, or a name of docs/datasets.md."""
    train_path: str | None = MISSING
    """Folder of the training images."""
    val_path: str | None = None
    """Folder of the labelled validation images; none: no validation."""
    format: str = "image_folder"
    """How the images are stored."""
    num_workers: int = number(4, least=0, most=MOST_WORKERS)
    """Worker processes of a loader."""
    no_labels: bool = False
    """Whether ``train_path`` holds images without class folders."""
    fraction: float = -1.0
    """Share of the training images to use, below 1; -1: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction < 1 and self.fraction != -1:
            raise ValueError(f"fraction={self.fraction} must be between 0 and 1, or -1 for all images.")


@dataclass(frozen=True, kw_only=True)
class Optimizer(Keys):
    """Section ``optimizer``."""

    name: str = MISSING
    """sgd, lars, adam or adamw."""
    batch_size: int = number(MISSING, least=2)
    """Images of a batch of one device; one image alone has nothing to differ from, and no batch norm can train on it."""
    lr: float = number(MISSING, least=0)
    """Learning rate for 256 images a step; scaled linearly."""
    weight_decay: float = number(MISSING, least=0)
    """Weight decay of everything but the classifier."""
    classifier_lr: float = number(MISSING, least=0)
    """Learning rate of the online classifier; scaled when there is a validation set."""
    exclude_bias_n_norm_wd: bool = False
    """Whether one-dimensional parameters go without weight decay."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the optimizer's constructor."""


@dataclass(frozen=True, kw_only=True)
class Scheduler(Keys):
    """Section ``scheduler``."""

    name: str = MISSING
    """warmup_cosine, step or none."""
    min_lr: float = number(0.0, least=0)
    """Learning rate at the end of the cosine."""
    warmup_start_lr: float = number(3e-5, least=0)
    """Learning rate of the first step."""
    warmup_epochs: float = number(10.0, least=0)
    """Epochs of linear warm-up."""
    lr_decay_steps: list[int] | None = number(None, least=0)
    """Epochs at which ``step`` divides the learning rate by ten."""
    interval: str = "step"
    """Whether the cosine moves by ``step`` or by ``epoch``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("interval", self.interval, ("step", "epoch"))
        if self.name == "step" and not self.lr_decay_steps:
            raise ValueError("lr_decay_steps is missing: name=step needs it.")


@dataclass(frozen=True, kw_only=True)
class Momentum(Keys):
    """Section ``momentum``, of methods with a momentum network."""

    base_tau: float = 0.99
    """Weight of the old parameters at the start."""
    final_tau: float = 1.0
    """Weight of the old parameters at the end."""
    classifier: bool = False
    """Whether a second classifier is trained on the momentum network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.base_tau <= self.final_tau <= 1:
            raise ValueError(f"wanted 0 <= base_tau <= final_tau <= 1, got {self.base_tau} and {self.final_tau}.")


@dataclass(frozen=True, kw_only=True)
class KnnEval(Keys):
    """Section ``knn_eval``."""

    enabled: bool = False
    """Whether the validation set is classified by its nearest training features each epoch."""
    k: int = number(20, least=1)
    """Neighbours."""
    distance_func: str = "euclidean"
    """euclidean or cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("distance_func", self.distance_func, ("euclidean", "cosine"))


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Keys):
    """Section ``checkpoint``."""

    enabled: bool = False
    """Whether checkpoints are written."""
    dir: str = "trained_models"
    """Folder; a subfolder for each method and run is made in it."""
    frequency: int = number(1, least=1)
    """Epochs between two checkpoints."""
    keep_prev: bool = False
    """Whether older checkpoints stay."""


@dataclass(frozen=True, kw_only=True)
class AutoResume(Keys):
    """Section ``auto_resume``."""

    enabled: bool = False
    """Whether the newest checkpoint of an equal recipe is resumed."""
    max_hours: float = number(36, least=0)
    """Age up to which a checkpoint counts."""


@dataclass(frozen=True, kw_only=True)
class Wandb(Keys):
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
class Performance(Keys):
    """Section ``performance``."""

    disable_channel_last: bool = False
    """Read by 1.0.6 alone: the memory layout changes speed, not meaning."""


@dataclass(frozen=True, kw_only=True)
class Crop(Keys):
    """Group ``rrc``."""

    enabled: bool = True
    """Whether a random part is cropped; otherwise the shorter side is resized to ``crop_size``."""
    crop_min_scale: float = number(0.08, above=0, most=1)
    """Least share of the area."""
    crop_max_scale: float = number(1.0, above=0, most=1)
    """Greatest share of the area."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_min_scale > self.crop_max_scale:
            raise ValueError(f"crop_min_scale={self.crop_min_scale} must not be above crop_max_scale={self.crop_max_scale}.")


@dataclass(frozen=True, kw_only=True)
class Chance(Keys):
    """Groups with a probability alone."""

    prob: float = number(0.0, least=0, most=1)
    """Probability that it is applied."""
    enabled: bool = True
    """Not read, as in 1.0.6: the probability decides."""


@dataclass(frozen=True, kw_only=True)
class Jitter(Chance):
    """Group ``color_jitter``."""

    brightness: float = number(0.0, least=0, most=1000)
    """Greatest relative change of brightness."""
    contrast: float = number(0.0, least=0, most=1000)
    """Greatest relative change of contrast."""
    saturation: float = number(0.0, least=0, most=1000)
    """Greatest relative change of saturation."""
    hue: float = number(0.0, least=0, most=0.5)
    """Greatest shift of hue, at most 0.5."""


@dataclass(frozen=True, kw_only=True)
class Frame(Keys):
    """Keys of an entry of ``augmentations`` that are not groups."""

    crop_size: int = number(MISSING, least=1, most=LARGEST_SIDE)
    """Side of the crop in pixels."""
    num_crops: int = number(MISSING, least=0, most=1000)
    """Crops that this pipeline makes of an image."""
    mean: list[float] | None = None
    """Mean of the channels, for ``data.dataset=custom``; ImageNet's by default."""
    std: list[float] | None = None
    """Standard deviation of the channels, for ``data.dataset=custom``; ImageNet's by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != 3:
                raise ValueError(f"{name}={values}: wanted one number for each of 3 channels.")
        if self.std is not None and 0 in self.std:
            raise ValueError(f"std={self.std}: images are divided by it, so no channel's may be 0.")


CROP_GROUPS: dict[str, type] = {
    "rrc": Crop,
    "color_jitter": Jitter,
    "grayscale": Chance,
    "gaussian_blur": Chance,
    "solarization": Chance,
    "equalization": Chance,
    "horizontal_flip": Chance,
}


@dataclass(frozen=True, kw_only=True)
class MethodKwargs(Keys):
    """Numbers of section ``method_kwargs`` that several methods have, or that do harm; each method wants its own."""

    proj_hidden_dim: int | None = number(None, least=1)
    """Width of the projector."""
    proj_output_dim: int | None = number(None, least=1)
    """Dimensions of the embedding."""
    pred_hidden_dim: int | None = number(None, least=1)
    """Width of the predictor."""
    temperature: float | None = number(None, above=0)
    """What similarities are divided by."""
    temperature_q: float | None = number(None, above=0)
    """The same for ReSSL's student."""
    temperature_k: float | None = number(None, above=0)
    """The same for ReSSL's teacher."""
    student_temperature: float | None = number(None, above=0)
    """The same for DINO's student."""
    teacher_temperature: float | None = number(None, above=0)
    """The same for DINO's teacher."""
    warmup_teacher_temperature: float | None = number(None, above=0)
    """The same in its first epoch."""
    warmup_teacher_temperature_epochs: int | None = number(None, least=0)
    """Epochs until it has its value."""
    clip_grad: float | None = number(None, least=0)
    """Largest norm of DINO's gradients; 0: any."""
    freeze_last_layer: int | None = number(None, least=0)
    """Epochs in which DINO's last layer rests."""
    queue_size: int | None = number(None, least=0)
    """Embeddings of earlier steps that are kept."""
    num_prototypes: Any = number(None, least=1)
    """Clusters."""
    kmeans_iters: int | None = number(None, least=0)
    """Steps of DeepCluster's k-means."""
    sk_epsilon: float | None = number(None, above=0)
    """Temperature of SwAV's codes."""
    sk_iters: int | None = number(None, least=1)
    """Steps of SwAV's codes."""
    freeze_prototypes_epochs: int | None = number(None, least=0)
    """Epochs in which SwAV's prototypes rest."""
    epoch_queue_starts: int | None = number(None, least=0)
    """Epoch from which SwAV uses its queue."""
    whitening_size: int | None = number(None, least=2)
    """Images that are whitened together."""
    whitening_iters: int | None = number(None, least=1)
    """How often."""
    whitening_eps: float | None = number(None, least=0)
    """What is added to their variances."""
    lamb: float | None = None
    """Weight of Barlow Twins' second term."""
    scale_loss: float | None = None
    """Factor of Barlow Twins' loss."""
    sim_loss_weight: float | None = None
    """Weight of VICReg's first term."""
    var_loss_weight: float | None = None
    """Of its second."""
    cov_loss_weight: float | None = None
    """Of its third."""


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
