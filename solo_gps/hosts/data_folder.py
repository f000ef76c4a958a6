"""What the host reads of a recipe, before any work: a folder of images, one batch for each rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from solo_gps.errors import DataError
from solo_gps.hosts.devices import rank_count


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
