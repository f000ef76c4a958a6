"""Checks of the whole recipe before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from solo_gps.config import parse
from solo_gps.errors import ConfigError, DataError, RefusedMethodError, UnknownNameError
from solo_gps.host.detect import Host
from solo_gps.host.devices import rank_count
from solo_gps.neighbours.resolve import resolve_search
from solo_gps.plugins import lookup
from solo_gps.prior import resolve_prior
from solo_gps.samplers.base import Sampler

NEED_A_SAMPLER = ("prior", "search", "refresh")
NOT_METHODS = ("base", "linear")
DEFAULT_SEED = 5  # solo-learn's own when a recipe names none


def make_samplers(recipe: DictConfig) -> dict[str, Sampler]:
    """Returns the samplers of the recipe's ``sampler`` node, by name, in its order; none when it has no such node.

    Raises:
        ConfigError: The node is not a group of samplers, a key of one is wrong, or what only samplers use is there without it.
        UnknownNameError: No sampler of that name.
    """
    node = recipe.get("sampler")
    if isinstance(node, str):
        raise ConfigError(
            f"sampler={node!r} arrived as a plain string: Hydra did not find the config group 'sampler' on its search path "
            "(--info searchpath lists it; provider solo-gps must be there). Reinstall solo-gps into this environment, or add "
            "hydra.searchpath=[pkg://solo_gps.configs]; `solo-gps doctor` checks it."
        )
    if node is None:
        _check_nothing_is_mute(recipe)
        return {}
    if not OmegaConf.is_dict(node):
        raise ConfigError(f"sampler: wanted a group such as {{gps: {{k: 10}}}}, got {node!r}.")
    seed = recipe.get("seed")
    seed = DEFAULT_SEED if seed is None else int(seed)
    samplers: dict[str, Sampler] = {}
    for name, keys in node.items():
        cls = lookup("register_samplers", "sampler", str(name))
        samplers[str(name)] = cls(parse({} if keys is None else keys, cls.config_type, f"sampler.{name}"), seed=seed)
    return samplers


def _check_nothing_is_mute(recipe: DictConfig) -> None:
    mute = [key for key in NEED_A_SAMPLER if recipe.get(key) is not None]
    if mute:
        raise ConfigError(
            f"{' and '.join(mute)} without a sampler: nothing would use it. Add +sampler=gps, or another; for a plain run leave "
            "it out, or add +sampler=none."
        )


def check_recipe(recipe: DictConfig, host: Host, samplers: Mapping[str, Sampler]) -> None:
    """Checks method, prior, search and training folder.

    Raises:
        UnknownNameError: No method, prior or search backend of that name.
        RefusedMethodError: A sampler cannot act on the method.
        ConfigError: A key of ``prior`` or ``search`` is wrong, or the data's format cannot be guided.
        DataError: The training folder is missing or empty.
    """
    _check_method(recipe, host, samplers)
    resolve_prior(recipe.get("prior"))
    resolve_search(recipe.get("search"))
    check_data_folder(recipe)


def _check_method(recipe: DictConfig, host: Host, samplers: Mapping[str, Sampler]) -> None:
    method = recipe.get("method")
    known = [name for name in host.methods if name not in NOT_METHODS]
    if method not in known:
        raise UnknownNameError("method", method, known, f"(solo-learn {host.generation})")
    for name, sampler in samplers.items():
        reason = sampler.refusal(str(method))
        if reason:
            raise RefusedMethodError(f"sampler {name!r} cannot act on method {method!r}: {reason}. Choose another method.")
    if samplers and OmegaConf.select(recipe, "data.format") == "dali":
        raise ConfigError(
            "data.format='dali' decodes images on the GPU, out of solo-gps's reach; set data.format=image_folder for the same "
            "files."
        )


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
