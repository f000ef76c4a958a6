"""Data sets that ``data.dataset`` names beside solo-learn's own: as solo-learn trains on them, and as solo-gps reads them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from solo_gps.config import node_of
from solo_gps.errors import ConfigError, DataError, SoloGpsError, brief, first_line, printable
from solo_gps.hosts.schema import DATASETS
from solo_gps.interfaces import Contents, NamedDataset
from solo_gps.plugins import lookup, registered

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Dataset

log = logging.getLogger(__name__)

LOCK = ".solo-gps-download.lock"


def dataset_names() -> list[str]:
    """Names that ``data.dataset`` may have: solo-learn's own, then those of plugins, the built-in ones too."""
    return [*DATASETS, *registered("register_named_datasets")]


def named_dataset(name: Any) -> NamedDataset | None:
    """Returns the data set of a name; ``None`` for solo-learn's own, and for names that nobody knows."""
    if name in DATASETS or name not in registered("register_named_datasets"):
        return None
    found: NamedDataset = lookup("register_named_datasets", "data.dataset", name)
    return found


def check_named(data: Mapping[str, Any]) -> None:
    """Checks the keys of a ``data`` node that say how files are read, which a named data set knows by itself.

    Raises:
        ConfigError: They say something else.
        DataError: No folder is named.
    """
    name = data.get("dataset")
    found = named_dataset(name)
    if found is None:
        return
    for key, wanted in (("format", "image_folder"), ("no_labels", False)):
        if data.get(key, wanted) != wanted:
            raise ConfigError(f"data.{key}={data[key]!r}: data.dataset={name} is read in one way alone. Leave data.{key} out.")
    if data.get("train_path") in (None, "None"):
        raise DataError(f"data.train_path: wanted the folder of {name}, into which it is fetched: {found.layout}.")
    classes, asked = class_count(found, data["train_path"]), data.get("num_classes")
    if asked not in (None, classes):
        raise ConfigError(f"data.num_classes={asked!r}: {name} has {classes}. Leave data.num_classes out.")
    held_out = data.get("val_path")
    if held_out not in (None, "None") and found.classes == 1:
        raise ConfigError(f"data.val_path: {name} has no classes to validate by. Set data.val_path=null.")
    if held_out not in (None, "None") and 1 < class_count(found, held_out) != classes:
        raise DataError(
            f"data.val_path={str(held_out)!r}: {name} has {class_count(found, held_out)} classes there, and {classes} below "
            "data.train_path, so that their numbers would mean others. Name the same folder, or set data.val_path=null."
        )


def complete_named(recipe: DictConfig, found: NamedDataset) -> None:
    """Writes the mean and standard deviation of a named data set into the crops of a recipe that name none, for solo-learn."""
    crops = node_of(recipe, "augmentations")
    if not OmegaConf.is_list(crops):
        return
    with open_dict(recipe):
        for crop in crops:
            for key in ("mean", "std"):
                if OmegaConf.is_dict(crop) and crop.get(key) is None:
                    crop[key] = list(getattr(found, key))


def class_count(found: NamedDataset, root: str) -> int:
    """Number of classes of a named data set below a folder."""
    count: int = resolve_name(found.classes)(root) if isinstance(found.classes, str) else found.classes
    return count


def open_named(name: str, root: str, *, train: bool) -> Contents:
    """Opens a part of a named data set; it is fetched first where it is not there.

    Args:
        name: Of ``data.dataset``.
        root: ``data.train_path`` or ``data.val_path``.
        train: The part that is trained on, or the one that is held out.

    Raises:
        DataError: It is not there whole, and cannot be fetched; or it holds no image.
    """
    found = named_dataset(name)
    assert found is not None
    root, key = os.path.expanduser(root), "data.train_path" if train else "data.val_path"
    try:
        opens: Callable[[str, str, bool, bool], Contents] = resolve_name(found.open)
    except ImportError as error:
        raise DataError(f"data.dataset={name}: {first_line(error)}. Run pip install 'solo-gps[datasets]'.") from error
    _wait_for_a_fetch(root)
    try:
        try:
            contents = opens(name, root, train, False)
        except (RuntimeError, OSError) as missing:
            try:
                contents = _fetched(opens, name, root, train)
            except (RuntimeError, OSError, ImportError) as error:
                raise DataError(
                    f"{key}={root!r}: {name} is not there ({brief(missing)}), and cannot be fetched: "
                    f"{brief(error).rstrip('.')}. Mend that, or put there by hand: {found.layout}."
                ) from error
    except SoloGpsError:
        raise
    except Exception as error:  # damaged lists, annotations and archives bring out errors of any type
        raise DataError(
            f"{key}={root!r}: what lies there is not {name} as it is published, or not whole ({brief(error).rstrip('.')}). Mend "
            f"it, or remove it, an archive too, so that it is fetched again. Wanted {found.layout}."
        ) from error
    if not len(contents.samples):
        raise DataError(f"{key}={root!r}: {name} holds no image there. Wanted {found.layout}.")
    _check_classes(contents, class_count(found, root), f"{key}={root!r}: {name}")
    published = (found.trained_on if train else found.held_out).rpartition(", ")[2]
    if published[0].isdigit() and published != f"{len(contents.samples):,}":
        log.warning("%s=%r: %s has %s images there; published are %s", key, root, name, f"{len(contents.samples):,}", published)
    return contents


def _check_classes(contents: Contents, classes: int, what: str) -> None:
    for number, (where, label) in enumerate(contents.samples):
        if not -1 <= label < classes:
            image = printable(contents.source.name(where))
            raise DataError(
                f"{what}: image {number} ({image}) is of class {label}, but there are {classes}, from 0. Mend its label."
            )


def _wait_for_a_fetch(root: str) -> None:
    """Waits for a process that is unpacking just now: what it has written so far may look whole."""
    from filelock import FileLock

    lock = os.path.join(root, LOCK)
    with suppress(OSError):  # nobody can fetch into a folder that may not be written
        if os.path.exists(lock):
            with FileLock(lock):
                pass


def _fetched(opens: Callable[[str, str, bool, bool], Contents], name: str, root: str, train: bool) -> Contents:
    """Has a set fetched by the first process that comes; the others find it there."""
    from filelock import FileLock

    Path(root).mkdir(parents=True, exist_ok=True)
    with FileLock(os.path.join(root, LOCK)):
        with suppress(RuntimeError, OSError):
            return opens(name, root, train, False)
        return opens(name, root, train, True)


def train_set(data: Mapping[str, Any], transform: Any, with_index: Callable[[type], type], share: Callable[..., None]) -> Any:
    """Builds a training set whose items are ``(index, crops, target)``.

    Args:
        data: The recipe's ``data`` node, of a named data set.
        transform: From an image to its crops; ``None`` for the image itself.
        with_index: solo-learn's ``dataset_with_index``.
        share: Keeps ``data.fraction`` of a set's ``samples``, in place, as this solo-learn does of image files.
    """
    from solo_gps.hosts.named_set import NamedSet

    root = os.path.expanduser(data["train_path"])
    dataset = with_index(NamedSet)(open_named(data["dataset"], root, train=True), root, transform)
    if data.get("fraction", -1) > 0:
        share(dataset, data["fraction"])
    return dataset


def held_out_set(data: Mapping[str, Any]) -> Dataset | None:
    """Builds the set of ``(image (3, size, size), target)`` that is held out; ``None`` without ``data.val_path``."""
    if data.get("val_path") in (None, "None"):
        return None
    from torchvision import transforms

    from solo_gps.hosts.named_set import NamedSet

    found = named_dataset(data["dataset"])
    assert found is not None
    sides: list[Any] = [transforms.Resize((found.size, found.size))]
    if found.shorter_side is not None:
        sides = [transforms.Resize(found.shorter_side), transforms.CenterCrop(found.size)]
    transform = transforms.Compose([*sides, transforms.ToTensor(), transforms.Normalize(found.mean, found.std)])
    root = os.path.expanduser(data["val_path"])
    return NamedSet(open_named(data["dataset"], root, train=False), root, transform)


def held_out_loader(data: Mapping[str, Any], batch_size: int, num_workers: int) -> DataLoader | None:
    """Builds the loader of the held-out images; ``None`` without ``data.val_path``."""
    import torch
    from torch.utils.data import DataLoader

    dataset = held_out_set(data)
    if dataset is None:
        return None
    return DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, pin_memory=torch.cuda.is_available())
