"""Checks of the training folder before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from solo_gps.errors import DataError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_data_folder(recipe: DictConfig) -> None:
    """Raises :class:`DataError` when a dataset of files has no folder, or an empty one.

    Sets that torchvision downloads by itself (cifar10, cifar100, stl10) are left to it.
    """
    data = recipe.get("data") or {}
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
