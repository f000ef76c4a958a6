"""The crops of a recipe: which show the positive, and by which pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from omegaconf import DictConfig, OmegaConf

from solo_gps.errors import ConfigError
from solo_gps.hosts.schema import CROP_GROUPS
from solo_gps.methods import crops_from_positive
from solo_gps.samplers.base import Sampler


def key_of(samplers: Mapping[str, Sampler], name: str, default: Any) -> Any:
    """What the one sampler that has a key of that name says."""
    return next((getattr(sampler.config, name) for sampler in samplers.values() if hasattr(sampler.config, name)), default)


def kinds_of_crops(recipe: DictConfig) -> list[Any]:
    """Returns, for each crop of an item, the entry of ``augmentations`` that makes it."""
    return [kind for kind in recipe.augmentations for _ in range(kind.num_crops)]


def check_crops(recipe: DictConfig, samplers: Mapping[str, Sampler]) -> None:
    """Checks that what the samplers say of crops can be done with those of the recipe, and says something.

    Raises:
        ConfigError: It does not.
    """
    show, augmentation = key_of(samplers, "show", "second"), key_of(samplers, "augmentation", None)
    kinds = kinds_of_crops(recipe)
    large = sum(kind.crop_size == kinds[0].crop_size for kind in kinds)
    marks = crops_from_positive(recipe.method, len(kinds), large, show)
    if show != "second" and marks == crops_from_positive(recipe.method, len(kinds), large):
        raise ConfigError(
            f"sampler.gps.show={show}: the recipe has {large} large and {len(kinds) - large} small crops, of which it shows the "
            "positive in the same as show=second. Leave it out, or add crops."
        )
    positives, shown = key_of(samplers, "positives", 1), sum(map(bool, marks))
    if positives > shown:
        raise ConfigError(
            f"sampler.gps.positives={positives}: the recipe has {large} large and {len(kinds) - large} small crops, of which "
            f"{shown} show{'s' * (shown == 1)} a positive with show={show}. Lower it, set show=large or all, or add crops."
        )
    if augmentation in (None, "none"):
        return
    if augmentation >= len(recipe.augmentations):
        raise ConfigError(
            f"sampler.gps.augmentation={augmentation}: the recipe has {len(recipe.augmentations)} augmentations, from 0 to "
            f"{len(recipe.augmentations) - 1}. Take one of them, or none."
        )
    size = recipe.augmentations[augmentation].crop_size
    other = next((kind.crop_size for kind, mark in zip(kinds, marks, strict=True) if mark and kind.crop_size != size), None)
    if other is not None:
        raise ConfigError(
            f"sampler.gps.augmentation={augmentation}: makes crops of {size} pixels, for a crop of {other}. Take one of that "
            "crop_size, or none."
        )


def recipe_of_positive(recipe: DictConfig, augmentation: Any) -> DictConfig:
    """Returns a recipe with one augmentation a crop, those of items that show another image than the anchor.

    Args:
        recipe: The whole recipe.
        augmentation: As ``sampler.gps.augmentation``, not ``None``.
    """
    changed = deepcopy(recipe)
    OmegaConf.set_readonly(changed, False)
    OmegaConf.set_struct(changed, False)
    kinds = kinds_of_crops(recipe)
    chosen = [_plain(kind) if augmentation == "none" else recipe.augmentations[augmentation] for kind in kinds]
    changed.augmentations = [OmegaConf.merge(kind, {"num_crops": 1}) for kind in chosen]
    return changed


def _plain(kind: DictConfig) -> DictConfig:
    """A crop that is resized and normalised alone."""
    off = {group: {"enabled": False} if group == "rrc" else {"prob": 0.0} for group in CROP_GROUPS}
    return OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(kind, resolve=True)), off)  # type: ignore[return-value]
