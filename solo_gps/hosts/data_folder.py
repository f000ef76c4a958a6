"""What the host reads of a recipe, before any work: its keys' types, a folder of images, one batch for each rank."""

from __future__ import annotations

from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from solo_gps.errors import ConfigError, DataError, first_line
from solo_gps.hosts.devices import rank_count

_GROUPS = ("data", "optimizer", "checkpoint")
_NUMBERS: dict[str, tuple[Any, int]] = {
    "data.num_workers": (Integral, 0),
    "data.fraction": (Real, -1),
    "optimizer.batch_size": (Integral, 1),
}
_LIGHTNINGS = ("best", "last", "hpc", "registry")  # what Lightning looks for by itself
_TEXTS = ("data.dataset", "data.train_path", "data.val_path", "data.format", "resume_from_checkpoint")


def check_host_keys(recipe: DictConfig) -> None:
    """Checks what solo-learn would only stumble over in the middle of its work.

    Raises:
        ConfigError: A key that the host reads has a value of the wrong type, or names a checkpoint that is not there.
    """
    for key in _GROUPS:
        if not isinstance(_value(recipe, key), (DictConfig, NoneType)):
            raise ConfigError(f"{key}={_value(recipe, key)!r}: wanted a group of keys.")
    for key, (kind, least) in _NUMBERS.items():
        value = _value(recipe, key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind) or not value >= least):
            raise ConfigError(f"{key}={value!r}: wanted a {'whole ' * (kind is Integral)}number, at least {least}.")
    for key in _TEXTS:
        if not isinstance(_value(recipe, key), (str, NoneType)):
            raise ConfigError(
                f"{key}={_value(recipe, key)!r}: wanted a text. Write it in quotes, as {key}=\\'...\\' on a shell's line."
            )
    crops = _value(recipe, "augmentations")
    if not (isinstance(crops, ListConfig) and crops and all(isinstance(crop, DictConfig) for crop in crops)):
        raise ConfigError(f"augmentations={crops!r}: wanted a list with the keys of each kind of crop.")
    name = str(_value(recipe, "name"))
    if {"{", "}"} & set(name):
        raise ConfigError(
            f"name={name!r}: solo-learn makes file names of it, and takes braces for places to fill in. Leave them out."
        )
    checkpoint = _value(recipe, "resume_from_checkpoint")
    if checkpoint is not None and checkpoint not in _LIGHTNINGS and "://" not in checkpoint and not Path(checkpoint).exists():
        raise ConfigError(f"resume_from_checkpoint={checkpoint!r}: no such file. Relative paths start at {Path.cwd()}.")


def _value(recipe: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(recipe, key, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {first_line(error)}. Give it a value.") from error


def check_data_folder(recipe: DictConfig) -> None:
    """Raises :class:`DataError` when a dataset of files has no folder, or an empty one.

    Sets that torchvision downloads by itself (cifar10, cifar100, stl10) are left to it.
    """
    data: Any = recipe.get("data") or {}
    if data.get("dataset") not in ("custom", "imagenet", "imagenet100") or data.get("format", "image_folder") == "h5":
        return
    if data.get("train_path") is None:
        raise DataError("data.train_path: wanted a folder of training images, got nothing.")
    folder = Path(data.train_path)
    if not folder.is_dir():
        raise DataError(f"data.train_path={str(folder)!r}: no such folder. Relative paths start at {Path.cwd()}.")
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if not entries:
        raise DataError(f"data.train_path={str(folder)!r} is empty: wanted images in class folders.")
    if not data.get("no_labels", False):
        classes = [entry for entry in entries if entry.is_dir()]
        if not classes:
            raise DataError(
                f"data.train_path={str(folder)!r} has no class folders. For images without labels set data.no_labels=True."
            )
        for folder_of_class in classes:
            if not any(folder_of_class.iterdir()):
                raise DataError(f"data.train_path: class folder {str(folder_of_class)!r} is empty. Remove it or fill it.")


def check_batch(recipe: DictConfig, images: int, batch_size: int) -> None:
    """Raises :class:`DataError` when no rank would get one whole batch of the training set: the host drops incomplete ones.

    Lightning deals the items to the ranks, and fills up so that all have as many; a batch is one rank's.

    Args:
        recipe: The whole recipe, completed or not.
        images: Number of training images.
        batch_size: Of one rank.
    """
    ranks = 1 if recipe.get("use_distributed_sampler") is False else rank_count(recipe)
    share = -(-images // ranks)
    if share < batch_size:
        each = "" if ranks == 1 else f", {share} for each of {ranks} devices"
        mend = f"Set optimizer.batch_size to at most {share}." if share else "Check data.train_path and data.fraction."
        raise DataError(
            f"the training set has {images} images{each}, but optimizer.batch_size={batch_size}: not one whole batch. {mend}"
        )
