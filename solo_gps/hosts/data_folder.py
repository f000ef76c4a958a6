"""What the host reads of a recipe, before any work: a folder of images, one batch for each rank."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from solo_gps.config import node_of
from solo_gps.errors import DataError, UnreadableImageError, printable
from solo_gps.hosts.decode import ImagesConfig, LostValuesError, decoded
from solo_gps.hosts.devices import rank_count
from solo_gps.hosts.h5 import wrong_with_h5
from solo_gps.hosts.named import check_named

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's IMG_EXTENSIONS, which would take a second to import."""
CLASSES_LOOKED_AT = 8
BATCHES_APART = 4
MOST_OPENED = 256
"""Files of a flat folder whose names are no image's are opened, at most so many: a run must not wait for a million."""


def check_data_folder(recipe: DictConfig) -> None:
    """Checks by listing alone what solo-learn would stumble over when it builds its training set, or in the middle of an epoch.

    Sets that torchvision downloads by itself (cifar10, cifar100, stl10) are left to it, and named ones to their readers.

    Raises:
        DataError: The folder or file is missing, empty, or holds what solo-learn cannot read.
        ConfigError: A named data set cannot be read as the recipe says.
    """
    data: Any = recipe.get("data") or {}
    check_named(data)
    if data.get("dataset") not in ("custom", "imagenet", "imagenet100"):
        return
    kind = kind_of(data)
    path = data.get("train_path")
    if path is None:
        raise DataError(
            f"data.train_path: wanted {'an H5 file' if kind == 'h5' else 'a folder'} of training images, got nothing."
        )
    wrong = next(iter(_CHECKS[kind](path)), None)
    if wrong is not None:
        raise DataError(f"data.train_path={str(path)!r}: {wrong}")


def check_can_read(data: Mapping[str, Any], generation: str) -> None:
    """Checks that this solo-learn reads H5 files at all, and can take a share of the training set: 1.0.6 of image files alone.

    Args:
        data: The recipe's ``data`` node.
        generation: Of solo-learn. For 1.0.2 its adapter takes the share, of any set.

    Raises:
        DataError: It cannot.
    """
    h5, dataset, fraction = kind_of(data) == "h5", data.get("dataset"), data.get("fraction", -1)
    arrays = dataset in ("cifar10", "cifar100", "stl10")
    if generation != "1.0.6":
        if h5 and not arrays:
            raise DataError(
                "data.format='h5': H5 files came with solo-learn 1.0.6. Install it (docs/hosts.md), or set "
                "data.format=image_folder with a folder of image files."
            )
    elif fraction > 0 and (h5 or arrays):
        what, mend = (f"the arrays of {dataset}", "data.dataset=custom") if arrays else ("an H5 file", "data.format=image_folder")
        raise DataError(
            f"data.fraction={fraction}: solo-learn 1.0.6 takes a share of image files alone, not of {what}. Leave data.fraction "
            f"out, or set {mend} with a folder of image files."
        )


def check_validation_folder(recipe: DictConfig) -> None:
    """Checks by listing, and by the first image of some classes, what solo-learn would stumble over in its validation.

    Raises:
        DataError: The folder or file is missing, empty, or holds what solo-learn cannot read; or an image has more than 8 bits,
            which solo-learn, that reads it by itself, would cut off at 0 and 255.
    """
    data: Any = recipe.get("data") or {}
    path = data.get("val_path")
    kind = kind_of(data)
    if path in (None, "None") or kind == "flat" or data.get("dataset") not in ("custom", "imagenet", "imagenet100"):
        return
    wrong = next(iter(_CHECKS[kind](path)), None)
    if wrong is not None:
        raise DataError(f"data.val_path={str(path)!r}: {wrong}")
    for of_class in sorted(Path(path).expanduser().glob("*/"))[:CLASSES_LOOKED_AT] if kind == "classes" else ():
        first = next((image for image in sorted(of_class.iterdir()) if is_image_name(image.name) and not image.is_dir()), None)
        if first is not None:
            _check_validation_image(first)


def _check_validation_image(file: Path) -> None:
    from PIL import Image

    try:
        with Image.open(file) as image:
            decoded(image, ImagesConfig())
    except LostValuesError as error:
        raise DataError(
            f"data.val_path: {printable(file)} {str(error).partition(', which')[0]}. images.scale does not reach the validation "
            "set, which solo-learn reads by itself and cuts off at 0 and 255. Set data.val_path=null, or give it 8-bit images."
        ) from error
    except Exception as error:  # a damaged file brings out errors of any type
        raise UnreadableImageError(f"data.val_path: {printable(file)}", error) from error


def reads_by_dali(recipe: DictConfig) -> bool:
    """Whether a recipe has its training images read by DALI."""
    data = node_of(recipe, "data")
    return isinstance(data, DictConfig) and data.get("format") == "dali"


def kind_of(data: Mapping[str, Any]) -> str:
    """How solo-learn reads a set of files: ``classes`` of folders, a ``flat`` folder, or an ``h5`` file.

    Args:
        data: The recipe's ``data`` node.
    """
    if data.get("dataset") == "custom":
        return "flat" if data.get("no_labels", False) else "classes"
    return "h5" if data.get("format", "image_folder") == "h5" else "classes"


def wrong_with_classes(path: str) -> Iterator[str]:
    """Yields why torchvision's ImageFolder would refuse a folder; it follows links, and takes hidden folders for classes."""
    folder = os.path.expanduser(path)
    if not os.path.isdir(folder):
        yield f"no such folder. Relative paths start at {Path.cwd()}."
        return
    try:
        with os.scandir(folder) as entries:
            classes = sorted(entry.path for entry in entries if entry.is_dir())
    except OSError as error:
        yield f"{os.path.relpath(error.filename, folder)!r} cannot be looked at: {error.strerror}. Remove it."
        return
    if not classes and not os.listdir(folder):
        yield "it is empty. Wanted images in class folders."
    elif not classes:
        yield "it has no class folders. For images without labels set data.no_labels=True."
    for of_class in classes:
        some = False
        for place, folders, names in os.walk(of_class, followlinks=True):
            some = some or any(map(is_image_name, names))
            above = next((name for name in folders if leads_above(folder, os.path.join(place, name))), None)
            if above is not None:
                yield (
                    f"{os.path.relpath(os.path.join(place, above), folder)!r} is a link to a folder above it, so that all images "
                    "there would be listed again and again, each its own neighbour. Remove it."
                )
                return
        if not some:
            yield (
                f"class folder {os.path.basename(of_class)!r} is empty or holds no image, by their names "
                f"({', '.join(sorted(EXTENSIONS))}), and every folder in there is a class. Remove it or fill it."
            )


def leads_above(folder: str, place: str) -> bool:
    """Whether a place below a folder is a link to that folder, or to one between: whoever follows it comes back for ever."""
    if not os.path.islink(place):
        return False
    above = os.path.dirname(place)
    while len(above) > len(folder) and not os.path.samefile(place, above):
        above = os.path.dirname(above)
    return os.path.samefile(place, above)


def wrong_with_flat(path: str) -> Iterator[str]:
    """Yields what solo-learn would take for an image in a flat folder though it is none: it takes every entry for one."""
    if not os.path.isdir(path):
        yield f"no such folder. Relative paths start at {Path.cwd()}."
        return
    some, opened = False, 0
    with os.scandir(path) as entries:
        for entry in entries:
            some = True
            lost = entry.is_symlink() and not os.path.exists(entry.path)
            if not lost and entry.is_file():
                if is_image_name(entry.name) or opened == MOST_OPENED:
                    continue
                opened += 1
                if _opens(entry.path):
                    continue
            what = "a link to nothing" if lost else "a folder" if entry.is_dir() else "not an image file"
            yield (
                f"{entry.name!r} is {what}, but data.no_labels=True takes every entry of the folder for an image. Remove it, or "
                "set data.no_labels=False for class folders."
            )
    if not some:
        yield "it is empty. Wanted image files."


def is_image_name(name: str) -> bool:
    """Whether torchvision takes a file for an image, by its name."""
    return name.lower().endswith(EXTENSIONS)


def _opens(path: str) -> bool:
    from PIL import Image

    try:
        with Image.open(path):
            return True
    except Exception:  # noqa: BLE001 - a damaged file brings out errors of any type
        return False


_CHECKS: dict[str, Callable[[str], Iterator[str]]] = {
    "classes": wrong_with_classes,
    "flat": wrong_with_flat,
    "h5": wrong_with_h5,
}


def check_batch(recipe: DictConfig, images: int, batch_size: int, *, apart: bool = False) -> None:
    """Raises :class:`DataError` when no rank would get one whole batch of the training set: the host drops incomplete ones.

    Lightning deals the items to the ranks, and fills up so that all have as many; DALI leaves over what is no whole share. A
    batch is one rank's.

    Args:
        recipe: The whole recipe, completed or not.
        images: Number of training images.
        batch_size: Of one rank.
        apart: Whether partners are kept in different batches: with few batches that goes well or not by the epoch's draws.
    """
    by_dali = reads_by_dali(recipe)
    ranks = 1 if recipe.get("use_distributed_sampler") is False and not by_dali else rank_count(recipe)
    share = images // ranks if by_dali else -(-images // ranks)
    if share < batch_size:
        each = "" if ranks == 1 else f", {share} for each of {ranks} devices"
        mend = f"Set optimizer.batch_size to at most {share}." if share else "Check data.train_path and data.fraction."
        raise DataError(
            f"the training set has {images} images{each}, but optimizer.batch_size={batch_size}: not one whole batch. {mend}"
        )
    if apart and share < BATCHES_APART * batch_size:
        most = share // BATCHES_APART
        mend = f"Set optimizer.batch_size to at most {most}, or leave keep_apart out." if most else "Leave it out."
        raise DataError(
            f"sampler.gps.keep_apart: {share} images in batches of {batch_size} are too few to keep partners in different ones, "
            f"which takes {BATCHES_APART} batches an epoch. {mend}"
        )
