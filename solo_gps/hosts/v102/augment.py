"""Augmentation pipelines of a 1.0.6 recipe, built from torchvision for solo-learn 1.0.2, whose own lack options of 1.0.6."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

from omegaconf import OmegaConf
from torchvision import transforms

from solo_gps.config import parse
from solo_gps.errors import ConfigError, did_you_mean
from solo_gps.hosts.schema import CROP_GROUPS, Chance, Crop, Frame, Jitter

IMAGENET: tuple[Sequence[float], Sequence[float]] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Mean and standard deviation of the channels, as published for each set and used by solo-learn 1.0.6.
CHANNELS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": ((0.4914, 0.4823, 0.4466), (0.247, 0.243, 0.261)),
    "imagenet100": IMAGENET,
    "imagenet": IMAGENET,
}
# 1.0.6 normalises the validation images of every CIFAR by the first set of these.
VALIDATION_CIFAR: tuple[Sequence[float], Sequence[float]] = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One entry of ``augmentations``, checked."""

    frame: Frame
    """Size and number of the crops, and channels."""
    rrc: Crop
    """Random resized crop."""
    color_jitter: Jitter
    """Colours."""
    grayscale: Chance
    """Grey."""
    gaussian_blur: Chance
    """Blur of a radius between 0.1 and 2 pixels."""
    solarization: Chance
    """Inverts bright pixels."""
    equalization: Chance
    """Equalises the histogram."""
    horizontal_flip: Chance
    """Mirrors."""


def parse_pipelines(node: Any) -> list[Pipeline]:
    """Checks the recipe's ``augmentations``; absent groups are off, an absent ``rrc`` is 1.0.6's usual crop.

    Raises:
        ConfigError: It is not a list with at least one entry, or a key or value in it is wrong.
    """
    if not OmegaConf.is_list(node) or len(node) == 0:
        raise ConfigError(f"augmentations: wanted a list of pipelines, got {node!r}.")
    return [_parse_pipeline(entry, f"augmentations[{index}]") for index, entry in enumerate(node)]


def _parse_pipeline(entry: Any, where: str) -> Pipeline:
    if not OmegaConf.is_dict(entry):
        raise ConfigError(f"{where}: wanted a group of keys, got {entry!r}.")
    values: dict[str, Any] = OmegaConf.to_container(entry, resolve=True)  # type: ignore[assignment]
    own = [field.name for field in fields(Frame)]
    for key in values:
        if key not in CROP_GROUPS and key not in own:
            known = [*CROP_GROUPS, *own]
            raise ConfigError(f"{where}.{key}: no such key; known: {', '.join(known)}.{did_you_mean(key, known)}")
    groups: dict[str, Any] = {
        name: parse(values.pop(name, {}), schema, f"{where}.{name}") for name, schema in CROP_GROUPS.items()
    }
    return Pipeline(frame=parse(values, Frame, where), **groups)


def build_transform(dataset: str, pipelines: Sequence[Pipeline], host: ModuleType) -> Any:
    """Builds the transform that makes all crops of an image.

    Args:
        dataset: ``data.dataset``, for the channels' mean and standard deviation.
        pipelines: Checked entries of ``augmentations``.
        host: ``solo.utils.pretrain_dataloader`` of 1.0.2.

    Returns:
        1.0.2's ``FullTransformPipeline`` over ``NCropAugmentation``: from a PIL image to a list of (3, crop_size, crop_size)
        float32 tensors (other shapes where ``rrc.enabled`` is false and the image is not square).
    """
    return host.FullTransformPipeline(
        [host.NCropAugmentation(_one_crop(dataset, pipeline, host), pipeline.frame.num_crops) for pipeline in pipelines]
    )


def _one_crop(dataset: str, pipeline: Pipeline, host: ModuleType) -> transforms.Compose:
    custom = (pipeline.frame.mean or IMAGENET[0], pipeline.frame.std or IMAGENET[1])
    mean, std = CHANNELS.get(dataset, custom)
    jitter = pipeline.color_jitter
    colours = transforms.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    # In the order of 1.0.6, and left out at probability 0 as there: an applied step with no effect would still draw numbers.
    optional = [
        (jitter.prob, lambda p: transforms.RandomApply([colours], p=p)),
        (pipeline.grayscale.prob, lambda p: transforms.RandomGrayscale(p=p)),
        (pipeline.gaussian_blur.prob, lambda p: transforms.RandomApply([host.GaussianBlur([0.1, 2.0])], p=p)),
        (pipeline.solarization.prob, lambda p: transforms.RandomSolarize(threshold=128, p=p)),
        (pipeline.equalization.prob, lambda p: transforms.RandomEqualize(p=p)),
        (pipeline.horizontal_flip.prob, lambda p: transforms.RandomHorizontalFlip(p=p)),
    ]
    steps = [step(prob) for prob, step in optional if prob > 0]
    return transforms.Compose([_crop(pipeline), *steps, transforms.ToTensor(), transforms.Normalize(mean, std)])


def _crop(pipeline: Pipeline) -> Any:
    bicubic = transforms.InterpolationMode.BICUBIC
    if not pipeline.rrc.enabled:
        return transforms.Resize(pipeline.frame.crop_size, interpolation=bicubic)
    scale = (pipeline.rrc.crop_min_scale, pipeline.rrc.crop_max_scale)
    return transforms.RandomResizedCrop(pipeline.frame.crop_size, scale=scale, interpolation=bicubic)


def validation_transform(dataset: str) -> transforms.Compose:
    """Builds 1.0.6's transform of validation images: (3, H, W) float32, 32 x 32 CIFAR, 96 x 96 STL-10, else 224 x 224."""
    if dataset in ("cifar10", "cifar100"):
        resize: list[Any] = []
        mean, std = VALIDATION_CIFAR
    elif dataset == "stl10":
        resize = [transforms.Resize((96, 96))]
        mean, std = CHANNELS["stl10"]
    else:
        resize = [transforms.Resize(256), transforms.CenterCrop(224)]
        mean, std = IMAGENET
    return transforms.Compose([*resize, transforms.ToTensor(), transforms.Normalize(mean, std)])
