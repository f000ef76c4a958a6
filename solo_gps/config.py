"""Typed configuration: user keys are checked once, here, and only frozen objects travel on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from solo_gps.errors import ConfigError, did_you_mean, first_line

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")

LARGEST_SEED = 2**32 - 1
"""What every generator takes, also after the seed of an image or an epoch was derived from it within 64 bits."""


def parse(node: object, schema: type[T], where: str) -> T:
    """Checks a configuration node against a frozen dataclass.

    Args:
        node: Mapping or ``DictConfig`` with the user's values; missing keys take the schema's defaults.
        schema: Frozen, keyword-only dataclass. Its ``__post_init__`` checks the values and raises ``ValueError``.
        where: Dotted place of the node in the recipe, named in errors, for example ``"sampler.gps"``.

    Returns:
        An instance of ``schema``.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type or is out of range, or the node is not a mapping.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    values: Any = plain(node, where) if isinstance(node, DictConfig) else node
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: wanted a group of keys, got {values!r}.")
    known = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}.{key}: no such key; known: {', '.join(known)}.{did_you_mean(key, known)}")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(values)))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = f"{where}.{error.full_key}" if getattr(error, "full_key", None) else where
        raise ConfigError(f"{key}: {first_line(error)}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def plain(node: DictConfig, where: str) -> Any:
    """Returns a node as plain values, interpolations resolved.

    Args:
        node: Node of the recipe.
        where: Its dotted place in the recipe, named in errors.

    Raises:
        ConfigError: An interpolation leads nowhere, or a value is missing (``???``).
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or where
        raise ConfigError(f"{key}: {first_line(error)}. Give it a value.") from error


def node_of(recipe: DictConfig, key: str) -> Any:
    """Returns what a recipe says under a top-level key, ``None`` where it says nothing.

    Raises:
        ConfigError: Its interpolation leads nowhere, or its value is missing (``???``); ``get`` would return ``None`` for both.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if key not in recipe.keys():  # noqa: SIM118 - `in` alone is False where an interpolation fails
        return None
    try:
        if not OmegaConf.is_missing(recipe, key):
            return recipe[key]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {first_line(error)}. Give it a value.") from error
    raise ConfigError(f"{key}: Missing mandatory value (???). Give it a value.")


def check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises ``ValueError`` with "did you mean" when ``value`` is not one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is not one of {', '.join(allowed)}.{did_you_mean(value, allowed)}")


def check_at_least(key: str, value: float, least: float) -> None:
    """Raises ``ValueError`` when ``value`` is below ``least``."""
    if not value >= least:
        raise ValueError(f"{key}={value} must be at least {least}.")


def check_seed(value: int | None) -> None:
    """Raises ``ValueError`` when ``value`` is given and no generator would take it."""
    if value is not None and not 0 <= value <= LARGEST_SEED:
        raise ValueError(f"seed={value} must be from 0 to {LARGEST_SEED}.")
