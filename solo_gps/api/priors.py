"""What a caller may bring for a prior, and its errors in a caller's words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from solo_gps.embeddings.resolve import parse_prior, resolve_prior
from solo_gps.errors import ConfigError, DataError, SoloGpsError, first_line
from solo_gps.interfaces import Embeddings, ImageSet
from solo_gps.priors.config import JoinConfig
from solo_gps.priors.join import JoinEncoder
from solo_gps.runtime.determinism import preserved_generators
from solo_gps.samplers.space import PriorSpace

_WORDS = (
    (r"^embeddings\b", "prior"),
    (r"sampler\.gps\.", ""),
    (r"sampler\.gps", "positives()"),
    (r"\+\+search", "search"),
    (r"\+images=fixed images\.low=(\S+) images\.high=(\S+[^.])", r"decode={'scale': 'fixed', 'low': \1, 'high': \2}"),
    (r"\+images=(\w+)", r"decode={'scale': '\1'}"),
    (r"images\.scale", "decode.scale"),
    (r"solo-learn cuts off", "would be cut off"),
)
"""How an error names a recipe's key, and what is the argument here."""
AT_ONE_POINT = "Look at the rows of prior: they are the same."


def is_array(prior: Any) -> bool:
    """Whether embeddings were brought, in place of a prior that makes them."""
    return hasattr(prior, "shape") or isinstance(prior, (list, tuple, Embeddings))


def prior_node(prior: Any) -> Mapping[str, Any] | None:
    """The recipe's ``prior`` node for a name or a mapping; ``None`` stays the default.

    Raises:
        ConfigError: It is neither.
    """
    node = {"name": prior} if isinstance(prior, str) else prior
    if not (node is None or isinstance(node, Mapping)):
        raise ConfigError(
            f"prior: wanted a prior's name, a mapping of its name and keys, or an array of (N, D) embeddings, got {prior!r}."
        )
    return node


def space_of(prior: Any, images: ImageSet, search: Mapping[str, Any] | None) -> PriorSpace:
    """The images in the space of what a caller brought as a prior; checked, and not embedded yet.

    Args:
        prior: A name, a mapping, ``None``, or embeddings.
        images: N raw images.
        search: Keys of the node ``search``.

    Raises:
        ConfigError: A key, type or value is wrong.
        DataError: The embeddings are not (N, D) finite numbers, or nearly all lie at one point.
    """
    if is_array(prior):
        return PriorSpace.of(images, _embeddings(prior, len(images)), search, AT_ONE_POINT)
    node = prior_node(prior)
    resolve_prior(node, images)
    return PriorSpace(images, node, search)


def refuse_agreement(prior: Any) -> None:
    """Raises :class:`ConfigError` for priors that agree: they say which neighbours count, and place no image anywhere."""
    if not is_array(prior) and isinstance(config := parse_prior(prior_node(prior)), JoinConfig) and config.agree:
        raise ConfigError(
            "prior.combine=agree says which neighbours count, by the k of a training, and is no space of its own to be measured. "
            "Take prior.combine=join, or its parts one by one."
        )


def check_loads(prior: Any, images: ImageSet) -> None:
    """Reads a prior's weights once, before a long work for others; those of several priors as they are needed.

    Raises:
        SoloGpsError: They cannot be read.
    """
    if is_array(prior):
        return
    encoder = resolve_prior(prior_node(prior), images)
    if not isinstance(encoder, JoinEncoder):
        cpu = torch.device("cpu")
        with preserved_generators(cpu):
            encoder.load(cpu)


def _embeddings(prior: Any, images: int) -> Embeddings:
    """Checked embeddings that a caller brought, of float32 unless they are of float16."""
    brought = prior if isinstance(prior, Embeddings) else Embeddings(array=_array(prior))
    array = brought.array
    if array.ndim != 2 or len(array) != images or array.dtype.kind not in "fiu":
        raise DataError(
            f"prior: wanted embeddings of shape ({images}, D), a row of numbers for each image, got {array.dtype} of shape "
            f"{array.shape}."
        )
    with np.errstate(over="ignore"):
        array = array if array.dtype == np.float16 else array.astype(np.float32, copy=False)
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise DataError(f"prior: row {int(bad.argmax())} holds a number that is not finite in {array.dtype}. Mend or remove it.")
    return Embeddings(array=array, fingerprint=brought.fingerprint, folder=brought.folder, space=brought.space)


def _array(prior: Any) -> np.ndarray:
    if hasattr(prior, "detach"):
        prior = prior.detach().cpu()
        prior = prior.float() if prior.is_floating_point() else prior
    try:
        return np.asarray(prior)
    except (ValueError, TypeError) as error:  # rows of unlike lengths, a sparse tensor
        raise DataError(f"prior: wanted an (N, D) array of numbers, got a {type(prior).__name__}: {first_line(error)}") from error


@contextmanager
def as_arguments() -> Iterator[None]:
    """Names arguments where an error names the recipe's keys."""
    try:
        yield
    except SoloGpsError as error:
        text = str(error)
        for words, ours in _WORDS:
            text = re.sub(words, ours, text)
        error.args = (text,)
        raise
