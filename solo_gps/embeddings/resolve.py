"""From the recipe's ``prior`` node to a checked encoder, before any long work."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from solo_gps.config import parse
from solo_gps.errors import ConfigError, DataError, SoloGpsError
from solo_gps.interfaces import ImageSet
from solo_gps.plugins import lookup
from solo_gps.priors import DEFAULT_ENCODER
from solo_gps.priors.config import CONFIGS, RUNTIME_KEYS, JoinConfig, PriorConfig
from solo_gps.runtime.devices import device_of
from solo_gps.runtime.machine import check_fits

if TYPE_CHECKING:
    from solo_gps.priors.base import Encoder

T = TypeVar("T")


def resolve_prior(prior: Mapping[str, Any] | None = None, images: ImageSet | None = None) -> Encoder:
    """Checks the recipe's ``prior`` node and returns its encoder, not loaded yet.

    Args:
        prior: Mapping or ``DictConfig`` with ``name`` and the encoder's keys; ``None`` is the default prior.
        images: The images, where they are known: brought embeddings are checked against them.

    Returns:
        The encoder, with a checked configuration.

    Raises:
        UnknownNameError: No encoder, model or layer of that name.
        ConfigError: A key, type or value is wrong.
        DataError: A file that the prior needs is missing or does not fit.
    """
    config = parse_prior(prior)
    encoder: Encoder = lookup("register_encoders", "prior", config.name)(config)
    encoder.check(images)
    of_parts(config, lambda node: resolve_prior(node, images))
    device_of(config.device)
    return encoder


def parse_prior(prior: Mapping[str, Any] | None = None) -> PriorConfig:
    """Checks name, keys and values of the ``prior`` node, and nothing of our own that needs torch, a library or a file.

    Raises:
        UnknownNameError: No encoder of that name.
        ConfigError: A key, type or value is wrong.
    """
    if prior is None:
        prior = {"name": DEFAULT_ENCODER}
    if isinstance(prior, str):
        raise ConfigError(
            f"prior: wanted a group of keys, got the name {prior!r}. Either write {{name: {prior}}}, or, if you typed "
            f"+prior={prior}, Hydra did not find the config groups of solo-gps: run `solo-gps doctor`."
        )
    try:
        name = prior.get("name")
    except AttributeError as error:
        raise ConfigError(f"prior: wanted a group of keys, got {prior!r}.") from error
    if not isinstance(name, str) or not name:
        raise ConfigError(f"prior.name: wanted the name of an encoder, got {name!r}. For example prior.name={DEFAULT_ENCODER}.")
    config = parse(prior, CONFIGS.get(name) or lookup("register_encoders", "prior", name).config_class, "prior")
    check_fits(
        f"prior={name} with these sizes", config.least_memory, "Lower prior.batch_size, prior.image_size or what is large."
    )
    parts: list[dict[str, Any]] = []
    for place, part in enumerate(of_parts(config, parse_prior)):
        spoken = dataclasses.asdict(part)
        parts.append({key: value for key, value in spoken.items() if key not in RUNTIME_KEYS})
        if parts[place] in parts[:place]:
            raise ConfigError(f"prior: parts[{place}] is there twice, so it adds nothing. Leave it out, or give it other keys.")
    return config


def of_parts(config: PriorConfig, act: Callable[[Mapping[str, Any]], T]) -> list[T]:
    """Returns what ``act`` makes of the node of each part of a join, of which its errors then speak; nothing without parts."""
    done = []
    for place, node in enumerate(config.nodes if isinstance(config, JoinConfig) else []):
        try:
            done.append(act(node))
        except SoloGpsError as error:
            key = f"prior.parts[{place}]"
            text, found = re.subn(r"\bprior(?=[.:]\S|: )", key, str(error))
            error.args = (text if found else f"{key}: {text}",)
            raise
    return done


def check_not_empty(images: int) -> None:
    """Raises :class:`DataError` for an empty set."""
    if images == 0:
        raise DataError("the training set holds no image, so there is nothing to embed. Check data.train_path.")
