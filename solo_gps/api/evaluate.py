"""Checkpoints beside their priors and an untrained network, judged by the same images."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solo_gps.api.images import image_set, some_of
from solo_gps.api.priors import as_arguments, prior_node, refuse_agreement
from solo_gps.config import parse
from solo_gps.embeddings.others import embed_others, has_views
from solo_gps.embeddings.resolve import parse_prior, resolve_prior
from solo_gps.embeddings.service import embed
from solo_gps.errors import ConfigError, DataError, SoloGpsError, our_part, printable
from solo_gps.evaluation.checkpoints import checkpoint_file, checkpoint_prior, untrained_prior
from solo_gps.evaluation.scores import Evaluation, Features, Row, ScoreConfig, score
from solo_gps.hosts.decode import Scaling
from solo_gps.interfaces import ImageSet
from solo_gps.priors.config import RUNTIME_KEYS
from solo_gps.runtime.determinism import preserved_generators
from solo_gps.runtime.devices import device_of

logger = logging.getLogger(__name__)

VIEWED = 4096
"""Test images whose views alignment is measured on, at most; evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A row before it is measured."""

    name: str
    kind: str
    node: Mapping[str, Any]


def evaluate(
    checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    *,
    test: Any,
    train: Any = None,
    priors: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = (),
    keys: Mapping[str, Any] | None = None,
    decode: Mapping[str, Any] | None = None,
    **scores: Any,
) -> Evaluation:
    """Judges checkpoints of solo-learn, of either generation, beside priors alone and the same network untrained.

    Everything is checked before any long work. Embeddings are kept in the cache and found again; of a prior that learns, the
    training images alone are learned from.

    Args:
        checkpoints: Files, or folders with one; with solo-learn's args.json beside.
        test: The N images that are judged: class folders, or what :func:`solo_gps.positives` takes, with labels of its own.
        train: The images that they are judged by, with the same classes; ``None``: each test image by all the others, without a
            linear probe.
        priors: Priors to be judged alone: a name, or a mapping of ``name`` and keys (docs/priors.md).
        keys: Keys of ``prior=checkpoint`` for every checkpoint and untrained network, for example ``{"image_size": 224}``.
        decode: Keys of the node ``images`` (docs/data.md), for images of more than 8 bits.
        **scores: ``k`` (20), ``temperature`` (0.07), ``recall`` ([1, 5, 10]), ``metrics`` (["knn", "linear", "retrieval",
            "geometry"]), ``seed`` (0) and ``device`` ("auto").

    Returns:
        The table.

    Raises:
        ConfigError: A key, type or value is wrong, or there is nothing to judge.
        DataError: A checkpoint cannot be read, its args.json is missing, images or labels are not what was wanted, or there are
            fewer images than neighbours asked for.
    """
    with as_arguments(), our_part("evaluating"):
        return judge(checkpoints, test=test, train=train, priors=priors, keys=keys, decode=decode, **scores)


def judge(
    checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    test: Any,
    train: Any,
    priors: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    keys: Mapping[str, Any] | None,
    decode: Mapping[str, Any] | None,
    untrained: bool = True,
    **scores: Any,
) -> Evaluation:
    """As :func:`evaluate`, with a recipe's keys in errors; the networks without training only where they are wanted."""
    with tempfile.TemporaryDirectory() as folder:
        config = parse(scores, ScoreConfig, "evaluate")
        device_of(config.device, "device")
        checkpoints = [checkpoints] if isinstance(checkpoints, (str, os.PathLike)) else checkpoints
        priors = [priors] if isinstance(priors, (str, Mapping)) else priors
        rows_asked = _rows(checkpoints, priors, keys or {}, config, Path(folder))
        asked = [row for row in rows_asked if untrained or row.kind != "untrained"]
        if not asked:
            raise ConfigError("evaluate: no checkpoint and no prior to judge. Name one.")
        scaling = parse({} if decode is None else decode, Scaling, "decode")
        tested = _Labelled.of("test", test, scaling)
        trained = None if train is None else _Labelled.of("train", train, scaling)
        _check(tested, trained, config)
        for row in asked:
            with _named(row):
                for part in (tested, trained):
                    if part is not None:
                        resolve_prior(row.node, part.images)
        rows = []
        for row in asked:
            with _named(row):
                logger.info("evaluating %s", row.name)
                features = _features(row, tested, trained, config)
                figures = score(features, config)
                prior = {
                    key: value for key, value in row.node.items() if row.kind != "untrained" or key not in ("path", "prefix")
                }
                size = features.test.shape[1]
                rows.append(Row(name=row.name, kind=row.kind, prior=prior, dimensions=size, figures=figures))
        sets = {"test": tested.described(), "train": None if trained is None else trained.described()}
        return Evaluation(rows=rows, settings={**asdict(config), **sets})


def check_images(train: Any, test: Any, **scores: Any) -> None:
    """Checks, before any training, what networks are to be judged by later: images, classes, and the keys of the scores.

    Args:
        train: As of :func:`evaluate`.
        test: As of :func:`evaluate`.
        **scores: As of :func:`evaluate`.

    Raises:
        ConfigError: A key, type or value is wrong, or a library is missing.
        DataError: Images or labels are not what was wanted, or there are fewer images than neighbours asked for.
    """
    config = parse(scores, ScoreConfig, "judge")
    if "linear" in config.metrics and find_spec("sklearn") is None:
        raise ConfigError("judge.metrics: linear needs scikit-learn: pip install 'solo-gps[report]', or leave it out.")
    scaling = parse({}, Scaling, "decode")
    _check(_Labelled.of("test", test, scaling), _Labelled.of("train", train, scaling), config)


def _rows(
    checkpoints: Sequence[str | os.PathLike[str]],
    priors: Sequence[str | Mapping[str, Any]],
    keys: Mapping[str, Any],
    config: ScoreConfig,
    folder: Path,
) -> Iterator[_Asked]:
    """Each checkpoint's weights are read once here, so that a bad one is known before the first is embedded."""
    untrained: dict[str, _Asked] = {}
    for path, name in zip(checkpoints, _names(checkpoints), strict=True):
        row = _Asked(
            name=name, kind="checkpoint", node={**checkpoint_prior(checkpoint_file(path)), "device": config.device, **keys}
        )
        with _named(row), preserved_generators(torch.device("cpu")):
            resolve_prior(row.node).load(torch.device("cpu"))
        yield row
        network = row.node["architecture"]
        alike = repr(sorted({**row.node, "path": ""}.items()))
        if alike not in untrained:
            others = sum(one.node["architecture"] == network for one in untrained.values())
            node = untrained_prior(row.node, config.seed, folder)
            name = f"untrained {network}" + (f" ({others + 1})" if others else "")
            untrained[alike] = _Asked(name=name, kind="untrained", node=node)
    for prior in priors:
        node = {"device": config.device, **(prior_node(prior) or {})}
        said = " ".join(f"{key}={value}" for key, value in node.items() if key not in ("name", *RUNTIME_KEYS))
        row = _Asked(name=f"prior {node.get('name')} {said}".strip(), kind="prior", node=node)
        with _named(row):
            parse_prior(node)
            refuse_agreement(node)
        yield row
    yield from untrained.values()


def _names(checkpoints: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The name of each file; where two have one, with the folders in which they differ."""
    files = [checkpoint_file(path).absolute().with_suffix("") for path in checkpoints]
    if len({file.name for file in files}) == len(files):
        return [printable(file.name) for file in files]
    above = os.path.commonpath([file.parent for file in files])
    return [printable(file.relative_to(above)) for file in files]


@contextmanager
def _named(row: _Asked) -> Iterator[None]:
    """Names the row in errors."""
    try:
        yield
    except SoloGpsError as error:
        error.args = (f"{row.name}: {error}",)
        raise


@dataclass(frozen=True, kw_only=True)
class _Labelled:
    """Images whose classes are all known.

    Attributes:
        what: ``"train"`` or ``"test"``.
        images: The images.
        labels: (N,) classes.
        classes: Names of the classes, in the order of their numbers; their numbers where they have no name.
    """

    what: str
    images: ImageSet
    labels: NDArray[np.int64]
    classes: list[str]

    @classmethod
    def of(cls, what: str, brought: Any, scaling: Scaling) -> _Labelled:
        try:
            images = image_set(brought, decoding=scaling)
        except SoloGpsError as error:
            error.args = (f"{what}: {error}",)
            raise
        labels = images.labels
        if labels is None or (labels < 0).any():
            raise DataError(f"{what}: wanted images with a class each, in class folders; here some have none.")
        classes = getattr(brought, "classes", None)
        if isinstance(brought, (str, os.PathLike)):
            classes = sorted(entry.name for entry in os.scandir(os.path.expanduser(brought)) if entry.is_dir())
        return cls(what=what, images=images, labels=labels, classes=list(classes or map(str, np.unique(labels))))

    def described(self) -> dict[str, Any]:
        return {"images": len(self.images), "classes": len(self.classes), "place": getattr(self.images, "place", None)}


def _check(test: _Labelled, train: _Labelled | None, config: ScoreConfig) -> None:
    """Raises :class:`DataError` where the classes differ, or there are too few images."""
    if train is not None and train.classes != test.classes:
        extra = [
            f"{printable(name)!r} is in {here.what} alone"
            for here, there in ((train, test), (test, train))
            for name in here.classes
            if name not in there.classes
        ]
        raise DataError(f"train and test: wanted the same classes, but {', '.join(extra[:3]) or 'their order differs'}.")
    if len(test.classes) < 2:
        raise DataError(f"test: wanted images of two classes or more, got {len(test.classes)}: every guess would be right.")
    places = {str(getattr(part.images, "place", None) or part.what) for part in (test, train) if part is not None}
    if train is not None and len({os.path.realpath(place) for place in places}) == 1:
        raise DataError("test: the same folder as train, so that each image would vote for itself. Leave train out.")
    among = len(test.images) - 1 if train is None else len(train.images)
    if config.neighbours > among:
        raise DataError(f"k={config.neighbours} neighbours among {among:,} images; wanted k of at most {among:,}. Lower it.")


def _features(row: _Asked, test: _Labelled, train: _Labelled | None, config: ScoreConfig) -> Features:
    fitted_on = test if train is None else train
    views = None
    if "geometry" in config.metrics and has_views(row.node):
        some = some_of(test.images, VIEWED)
        views = embed_others(some, row.node, fitted_on.images, views=2, seed=config.seed)
    if train is None:
        return Features(test=embed(test.images, row.node).array, test_labels=test.labels, views=views)
    return Features(
        train=embed(train.images, row.node).array,
        train_labels=train.labels,
        test=embed_others(test.images, row.node, train.images),
        test_labels=test.labels,
        views=views,
    )
