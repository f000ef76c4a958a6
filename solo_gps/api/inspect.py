"""What priors know of N images, before any training."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from solo_gps.api.images import image_set
from solo_gps.api.priors import as_arguments, check_loads, is_array, refuse_agreement, space_of
from solo_gps.config import parse
from solo_gps.errors import ConfigError, SoloGpsError, our_part, printable
from solo_gps.evaluation.inspection import check_enough, inspect_space, telling_labels
from solo_gps.guide.check import DEFAULT_SEED
from solo_gps.hosts.decode import Scaling
from solo_gps.interfaces import ImageSet
from solo_gps.neighbours.choose import resolve_search
from solo_gps.priors import DEFAULT_ENCODER
from solo_gps.report.findings import Findings
from solo_gps.report.page import write_page
from solo_gps.samplers.space import PriorSpace

MOST_PRIORS = 12
"""Side by side: the page has room for no more."""


class Inspection(Findings):
    """What priors know of N images. Made by :func:`inspect`.

    Attributes:
        images: The N raw images.
        classes: A name for each known class; empty where labels say nothing.
        numbers: What each prior says of the images, by its name.
        tables: The neighbours that the numbers are of, by the prior's name.
        agreement: Share of the 10 nearest that two priors have in common, by their names; 10 / (N - 1) is that of chance.
    """

    def save(self, folder: str | Path, *, place: str = "these images", command: str = "") -> Path:
        """Writes the inspection as one page, ``report.html``, with its pictures as SVG files beside it.

        Args:
            folder: Folder to write to; it is made.
            place: What the images are called in the title.
            command: What to type to see the same.

        Returns:
            The page.

        Raises:
            ConfigError: matplotlib or jinja2 is missing (``pip install 'solo-gps[report]'``).
            SoloGpsError: An image that it shows cannot be read.
        """
        return write_page(self, Path(folder), place=place, command=command)


def inspect(
    images: Any,
    priors: Any = None,
    *,
    labels: Any = None,
    search: Mapping[str, Any] | None = None,
    decode: Mapping[str, Any] | None = None,
) -> Inspection:
    """Looks at what one prior or several know of N images: purity, hubs, copies, distances, and what to do.

    Labels, where there are some, judge the priors; nothing is trained. Embeddings and neighbours are kept in the cache, and a
    training finds them there.

    Args:
        images: In any form that :func:`solo_gps.positives` takes.
        priors: A prior as in :func:`solo_gps.positives` (a name, a mapping with ``name``, an array of embeddings, ``None`` for
            the default); a list of up to 12 of them; or a mapping of names of yours to priors.
        labels: (N,) classes, -1 where unknown, of images that have none of their own.
        search: Keys of the node ``search`` (docs/neighbours.md).
        decode: Keys of the node ``images`` (docs/data.md), for images of more than 8 bits.

    Returns:
        Numbers, neighbours, advice and the page.

    Raises:
        ConfigError: A key, type or value is wrong, or a prior is there twice.
        DataError: The images, labels or embeddings are not what was wanted, or nearly all images lie at one point of a space.
        CacheError: The cache is damaged or cannot be written.
    """
    with as_arguments(), our_part("inspecting priors"):
        resolve_search(search)
        named = _named(priors)
        found = image_set(images, labels=labels, decoding=parse({} if decode is None else decode, Scaling, "decode"))
        return inspect_priors(found, named, search)


def inspect_priors(images: ImageSet, priors: Mapping[str, Any], search: Mapping[str, Any] | None = None) -> Inspection:
    """As :func:`inspect`, of a set of images and priors that have names.

    Every prior is checked before any is built; an error names the one that it speaks of, where there are several.
    """
    if len(priors) > MOST_PRIORS:
        raise ConfigError(f"priors: {len(priors)} of them; {MOST_PRIORS} fit side by side. Leave some out.")
    check_enough(images)
    spaces: dict[str, PriorSpace] = {}
    for name, prior in priors.items():
        with _naming(name, priors):
            refuse_agreement(prior)
            spaces[name] = space_of(prior, images, search)
            if len(priors) > 1:
                check_loads(prior, images)
    seen = []
    for name, space in spaces.items():
        with _naming(name, priors):
            seen.append(inspect_space(name, space, telling_labels(images), seed=DEFAULT_SEED))
    return Inspection(images, seen, {name: words_of_prior(prior) for name, prior in priors.items()})


@contextmanager
def _naming(name: str, priors: Mapping[str, Any]) -> Iterator[None]:
    """Names one of several priors in errors."""
    try:
        yield
    except SoloGpsError as error:
        if len(priors) > 1:
            error.args = (f"{name}: {error}",)
        raise


def _named(priors: Any) -> dict[str, Any]:
    if isinstance(priors, Mapping) and "name" not in priors:
        named = {printable(str(name)): prior for name, prior in priors.items()}
    elif isinstance(priors, (list, tuple)):
        names = [name_of_prior(prior, f"array {place}") for place, prior in enumerate(priors, start=1)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"priors: {twice!r} is there twice. Leave one out, or give a mapping of names to priors.")
        named = dict(zip(names, priors, strict=True))
    else:
        named = {name_of_prior(priors, "array"): priors}
    if not named:
        raise ConfigError("priors: none given. Leave it out for the default prior, or name one.")
    return named


def name_of_prior(prior: Any, otherwise: str = "") -> str:
    """What to call a prior: its name and keys as they are typed; ``otherwise`` for embeddings that were brought."""
    if is_array(prior):
        return otherwise
    if not isinstance(prior, Mapping):
        return DEFAULT_ENCODER if prior is None else str(prior)
    keys = [f"{key}={_typed(value)}" for key, value in prior.items() if key not in ("name", "cache_dir")]
    return printable(" ".join([str(prior.get("name")), *keys]))


def words_of_prior(prior: Any) -> str:
    """What to type for a prior in a recipe; nothing for embeddings that were brought, which no recipe knows."""
    if is_array(prior):
        return ""
    keys = dict(prior) if isinstance(prior, Mapping) else {"name": DEFAULT_ENCODER if prior is None else prior}
    return shlex.join([f"+prior={keys.pop('name')}", *(f"prior.{key}={_typed(value)}" for key, value in keys.items())])


def _typed(value: Any) -> str:
    """A value as Hydra reads it on a command line."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_typed(below)}" for key, below in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_typed, value)) + "]"
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if re.fullmatch(r"[\w./:-]+", value, re.ASCII):
        return value
    # Of Hydra's quoted words: a backslash is itself, but before a quote or at the end.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + "\\'" * bool(found[2]), value) + "'"
