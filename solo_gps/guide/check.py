"""Checks of the whole recipe before anything is built."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from solo_gps.config import LARGEST_SEED, check_number, node_of, parse
from solo_gps.embeddings.resolve import parse_prior, resolve_prior
from solo_gps.errors import ConfigError, RefusedMethodError, UnknownNameError
from solo_gps.guide.crops import check_crops, key_of
from solo_gps.guide.refresh_config import RefreshConfig, parse_refresh
from solo_gps.guide.watch_config import WatchConfig, parse_watch
from solo_gps.hosts.dali import INSTEAD, check_dali, check_dali_runs
from solo_gps.hosts.data_folder import check_can_read, check_data_folder, check_validation_folder, reads_by_dali
from solo_gps.hosts.decode import ImagesConfig
from solo_gps.hosts.detect import Host, method_names
from solo_gps.hosts.devices import device_count
from solo_gps.hosts.keys import check_host_keys
from solo_gps.methods import NOT_METHODS
from solo_gps.neighbours.choose import parse_search, resolve_search
from solo_gps.neighbours.config import SearchConfig
from solo_gps.plugins import lookup, plugin_manager
from solo_gps.priors.config import PriorConfig
from solo_gps.samplers.base import Sampler

_STRANGERS = "Where the key sampler means something else in this program, give it another name."
NEED_A_SAMPLER = ("prior", "search", "refresh", "images", "watch")
DEFAULT_SEED = 5  # solo-learn's own when a recipe names none


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a recipe asks of solo-gps: every name known, every key and value checked.

    Attributes:
        samplers: Name to sampler, in the order in which they act.
        prior: The prior's keys with its defaults; ``None`` when nothing would use it.
        search: The search's keys.
        refresh: When the network being trained becomes the prior; ``None`` for never.
        images: What becomes of images with more than 8 bits, and whether each is decoded once.
        watch: What the loggers show of the pairs.
    """

    samplers: dict[str, Sampler]
    prior: PriorConfig | None
    search: SearchConfig
    refresh: RefreshConfig | None
    images: ImagesConfig
    watch: WatchConfig


def read_recipe(recipe: DictConfig) -> Asked:
    """Judges all that can be judged without torch and solo-learn, so that a misspelt word costs a second.

    Raises:
        ConfigError: A key, type or value is wrong, or what only samplers use is there without one.
        UnknownNameError: No sampler, prior, search backend or method of that name.
        RefusedMethodError: A sampler cannot act on the method.
    """
    samplers = make_samplers(recipe)
    if not samplers:  # a plain run, of whatever program: nothing of ours is read
        return Asked(samplers={}, prior=None, search=SearchConfig(), refresh=None, images=ImagesConfig(), watch=WatchConfig())
    prior, search = parse_prior(node_of(recipe, "prior")), parse_search(node_of(recipe, "search"))
    refresh, images = parse_refresh(recipe, samplers), parse_images(node_of(recipe, "images"))
    watch = parse_watch(node_of(recipe, "watch"))
    if node_of(recipe, "watch") is not None and (watch.every or watch.report):
        _check_pairs_to_watch(samplers)
    if reads_by_dali(recipe):
        check_dali(recipe)
        _check_dali_guided(samplers, images)
    names = method_names()
    if names is not None:
        check_method(recipe, names, samplers)
    first = [sampler for sampler in samplers.values() if refresh is None or refresh.first > 0 or not sampler.refreshable]
    used = [sampler for sampler in first if sampler.pairs_images or sampler.reads_prior]
    for sampler in used:
        sampler.check_prior(prior)
    for sampler in samplers.values():
        sampler.check_search(search)
    return Asked(samplers=samplers, prior=prior if used else None, search=search, refresh=refresh, images=images, watch=watch)


def _check_pairs_to_watch(samplers: Mapping[str, Sampler]) -> None:
    if not any(sampler.pairs_images for sampler in samplers.values()):
        raise ConfigError(
            f"watch: {' and '.join(samplers)} chooses no positive in the training set, so there are no pairs to show. Leave it "
            "out."
        )


def _check_dali_guided(samplers: Mapping[str, Sampler], images: ImagesConfig) -> None:
    """Refuses what happens where Python reads an image: with DALI it would not."""
    for key, default, why in (
        ("on_bad_image", "stop", "DALI cannot go on after an image that it cannot read"),
        ("augmentation", None, "DALI's pipelines do not know which items have a positive"),
        ("positives", 1, "DALI's graph reads two images an item"),
    ):
        if (value := key_of(samplers, key, default)) != default:
            raise ConfigError(f"sampler.gps.{key}={value!r}: {why}. Leave it out, or {INSTEAD}.")
    if images != ImagesConfig():
        raise ConfigError(f"images: with data.format='dali' DALI decodes the images by itself. Leave it out, or {INSTEAD}.")
    wraps = [hook.plugin_name for hook in plugin_manager().hook.wrap_dataset.get_hookimpls()]
    if wraps:
        raise ConfigError(
            f"data.format='dali': the plugin {wraps[0]!r} wraps the training set (wrap_dataset), and DALI would read past it. "
            f"Uninstall it, or {INSTEAD}."
        )


def parse_images(node: object) -> ImagesConfig:
    """Checks the recipe's ``images`` node; the defaults without one.

    Raises:
        ConfigError: A key, type or value is wrong.
    """
    if isinstance(node, str):
        raise ConfigError(f"images={node!r}: wanted a group such as {{scale: own}}; on a command line type +images=own.")
    return parse({} if node is None else node, ImagesConfig, "images")


def make_samplers(recipe: DictConfig) -> dict[str, Sampler]:
    """Returns the samplers of the recipe's ``sampler`` node, by name, in its order; none when it has no such node.

    Raises:
        ConfigError: The node is not a group of samplers, a key of one is wrong, or what only samplers use is there without it.
        UnknownNameError: No sampler of that name.
    """
    node = node_of(recipe, "sampler")
    if isinstance(node, str):
        raise ConfigError(
            f"sampler={node!r}: wanted a group of samplers. In a recipe's file write `sampler: {{gps: {{}}}}`, or null for none; "
            "on a command line type +sampler=gps. If you did, Hydra did not find our config groups: `solo-gps doctor` says why."
        )
    if node is None:
        _check_nothing_is_mute(recipe)
        return {}
    if not OmegaConf.is_dict(node):
        raise ConfigError(f"sampler: wanted a group such as {{gps: {{k: 10}}}}, got {node!r}.")
    seed = _seed(recipe)
    samplers: dict[str, Sampler] = {}
    for name, keys in node.items():
        cls = lookup("register_samplers", "sampler", str(name), _STRANGERS)
        samplers[str(name)] = cls(parse({} if keys is None else keys, cls.config_class, f"sampler.{name}"), seed=seed)
    return samplers


def _seed(recipe: DictConfig) -> int:
    seed = node_of(recipe, "seed")
    seed = DEFAULT_SEED if seed is None else seed
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"seed={seed!r}: wanted a whole number from 0 to {LARGEST_SEED}.")
    try:
        check_number("seed", seed, least=0, most=LARGEST_SEED)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return seed


def _check_nothing_is_mute(recipe: DictConfig) -> None:
    mute = [key for key in NEED_A_SAMPLER if node_of(recipe, key) is not None]
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
        DataError: The training folder is missing or empty, or this solo-learn cannot read it, or not ``data.fraction`` of it.
    """
    check_method(recipe, list(host.methods), samplers)
    if samplers:
        check_strategy(recipe)
        check_host_keys(recipe)
        resolve_prior(node_of(recipe, "prior"))
        resolve_search(node_of(recipe, "search"))
        check_crops(recipe, samplers)
        check_can_read(recipe.data, host.generation)
        if reads_by_dali(recipe):
            check_dali_runs(recipe)
    check_data_folder(recipe)
    if samplers:
        check_validation_folder(recipe)


def check_strategy(recipe: DictConfig) -> None:
    """Raises :class:`ConfigError` for a strategy whose ranks are copies of this process."""
    strategy = str(node_of(recipe, "strategy"))
    if any(word in strategy for word in ("fork", "spawn", "notebook")):
        raise ConfigError(
            f"strategy={strategy!r} trains in copies of this process, where what solo-gps counts and switches off is lost. Use "
            "strategy=ddp."
        )
    devices = node_of(recipe, "devices")
    if hasattr(sys, "ps1") and strategy in ("None", "auto") and devices not in (None, 1, "1"):
        count = device_count(devices, node_of(recipe, "accelerator"))
        if count > 1:
            raise ConfigError(
                f"strategy={strategy} with {count} devices in a notebook or at a prompt: Lightning would fork this process, and "
                "what solo-gps counts and switches off is lost there. Train by a script, or use devices=1."
            )


def check_unchanged(recipe: DictConfig, asked: Asked, method: str) -> None:
    """Raises :class:`ConfigError` when a recipe does not ask any more what it asked when it was read.

    Args:
        recipe: The recipe that the guided method is built from.
        asked: What was read at the start, and acts.
        method: Name of the method that was guided then.
    """
    now = read_recipe(recipe)
    same = {
        "sampler or seed": {name: (sampler.config, sampler.seed) for name, sampler in now.samplers.items()}
        == {name: (sampler.config, sampler.seed) for name, sampler in asked.samplers.items()},
        "prior": asked.prior is None or now.prior == asked.prior,
        "search": now.search == asked.search,
        "refresh": now.refresh == asked.refresh,
        "images": now.images == asked.images,
        "watch": now.watch == asked.watch,
        "method": recipe.get("method") == method,
    }
    changed = [key for key, is_same in same.items() if not is_same]
    if changed:
        raise ConfigError(
            f"the program changed {' and '.join(changed)} of its recipe after guidance was switched on by it. Say it in the "
            "recipe's file or on the command line."
        )


def check_method(recipe: DictConfig, names: Sequence[str], samplers: Mapping[str, Sampler]) -> None:
    """Checks the method of a recipe for the samplers.

    Args:
        recipe: The whole recipe.
        names: Keys of the installed solo-learn's METHODS.
        samplers: Name to sampler.

    Raises:
        UnknownNameError: There is no such method.
        RefusedMethodError: A sampler cannot act on it.
        ConfigError: The recipe names none.
    """
    method = node_of(recipe, "method")
    if method is None:
        raise ConfigError(
            "this recipe names no method: solo-gps guides pretraining alone (main_pretrain.py, solo-gps pretrain). Leave the "
            "sampler out of it."
        )
    known = [name for name in names if name not in NOT_METHODS]
    if method not in known:
        raise UnknownNameError("method", method, known, "(of the installed solo-learn)")
    for name, sampler in samplers.items():
        reason = sampler.refusal(str(method))
        if reason:
            raise RefusedMethodError(f"sampler {name!r} cannot act on method {method!r}: {reason}. Choose another method.")
