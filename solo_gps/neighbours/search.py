"""From embeddings to a neighbour table: checks, the stored table if there is one, else the search."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from solo_gps.errors import ConfigError
from solo_gps.interfaces import Embeddings, NeighbourTable
from solo_gps.neighbours import tables as stored
from solo_gps.neighbours.backend import SearchBackend
from solo_gps.neighbours.choose import choose_backend, resolve_search
from solo_gps.neighbours.config import LEAST_MIB, check_neighbours
from solo_gps.neighbours.exact.ball import ball_table
from solo_gps.neighbours.exact.duplicates import duplicate_report
from solo_gps.neighbours.exact.fitting import RadiusAdvice, advise_radius
from solo_gps.neighbours.exact.nearest import expand_groups, nearest_points
from solo_gps.neighbours.exact.points import points_of
from solo_gps.neighbours.exact.recall import reach_recall
from solo_gps.neighbours.exact.workspace import Workspace
from solo_gps.runtime.determinism import true_float32
from solo_gps.runtime.devices import current, pick_device
from solo_gps.runtime.progress import Progress, duration
from solo_gps.runtime.ranks import training_ranks

log = logging.getLogger(__name__)


def find(
    brought: Embeddings | np.ndarray,
    search: Mapping | None,
    *,
    k: int | None,
    radius: float | None,
    name: Callable[[int], str],
) -> NeighbourTable:
    """See :func:`solo_gps.neighbours.find`."""
    config = resolve_search(search)
    embeddings = _embeddings(brought)
    _check_request(embeddings, k, radius)
    backend = choose_backend(config, images=len(embeddings.array), columns=_columns(embeddings), radius=radius)
    if radius is not None and not backend.exact:
        raise ConfigError(
            f"search.backend={backend.config.backend}: radius search is exact only. Use search.backend=auto, or k neighbours."
        )
    request = stored.Request(
        images=len(embeddings.array),
        fingerprint=embeddings.fingerprint,
        space=embeddings.space,
        k=k,
        radius=radius,
        backend="exact" if backend.exact else backend.config.backend,
        settings={} if backend.exact else _approximate_settings(backend),
    )
    if embeddings.folder is None:
        table, _ = _search(embeddings, backend, k, radius, name)
        return table
    searched = False

    def search_now() -> tuple[NeighbourTable, dict[str, object]]:
        nonlocal searched
        searched = True
        return _search(embeddings, backend, k, radius, name)

    table = stored.load_or_build(embeddings.folder, request, search_now)
    if radius is not None and table.indices.shape[1] > config.max_ball:  # stored under a larger one: refused as a fresh one is
        table, _ = _search(embeddings, backend, k, radius, name)
    if not searched:
        log.info("neighbours: %s found beside the embeddings, searched earlier (%s)", _wanted(table, k, radius), request.backend)
    return table


def _wanted(table: NeighbourTable, k: int | None, radius: float | None) -> str:
    images = f"{len(table.indices):,} images"
    return f"the {k} nearest of {images}" if radius is None else f"the balls of radius {radius:g} around {images}"


@true_float32()
def advise(brought: Embeddings | np.ndarray, search: Mapping | None, *, share: float) -> RadiusAdvice:
    """See :func:`solo_gps.neighbours.advise`."""
    config = resolve_search(search)
    embeddings = _embeddings(brought)
    backend = choose_backend(config, images=len(embeddings.array), columns=_columns(embeddings), radius=0.0)
    return advise_radius(_open(embeddings, backend), backend, share)


def _approximate_settings(backend: SearchBackend) -> dict[str, object]:
    config = backend.config
    measured = {"recall_floor": config.recall_floor, "recall_sample": config.recall_sample, "seed": config.seed}
    return {**measured, **backend.settings()}


def _embeddings(brought: object) -> Embeddings:
    if isinstance(brought, np.ndarray):
        return Embeddings(array=brought)
    if not isinstance(brought, Embeddings):
        raise ConfigError(
            f"neighbours: wanted an (N, D) numpy array, or solo_gps.interfaces.Embeddings, got {type(brought).__name__}."
        )
    if brought.folder is not None and not brought.fingerprint:
        raise ConfigError(
            f"embeddings: folder={str(brought.folder)!r} without a fingerprint: tables kept there are known by it. Give "
            "Embeddings(fingerprint=...), another for other embeddings, or no folder."
        )
    return brought


def _check_request(embeddings: Embeddings, k: int | None, radius: float | None) -> None:
    if (k is None) == (radius is None):
        raise ConfigError(f"neighbours: give exactly one of k and radius; got k={k}, radius={radius}.")
    if k is not None:
        check_neighbours(len(embeddings.array), k)
    if radius is not None and not (radius > 0 and math.isfinite(radius)):
        raise ConfigError(f"radius={radius}: wanted a finite number above 0 (squared distance, or 1 - cosine).")


def _columns(embeddings: Embeddings) -> int:
    return embeddings.array.shape[1] if embeddings.array.ndim == 2 else 0


def _search(
    embeddings: Embeddings, backend: SearchBackend, k: int | None, radius: float | None, name: Callable[[int], str]
) -> tuple[NeighbourTable, dict[str, object]]:
    """As :func:`_search_once`, in less of the GPU's memory where there is less: the table is the same."""
    while True:
        try:
            with current(pick_device(backend.config.device)):
                return _search_once(embeddings, backend, k, radius, name)
        except torch.cuda.OutOfMemoryError:
            config = backend.config
            if training_ranks(config.distributed).world > 1 or config.gpu_memory_mib < 2 * LEAST_MIB:
                raise
            backend = type(backend)(dataclasses.replace(config, gpu_memory_mib=config.gpu_memory_mib // 2))
            log.info(
                "neighbours: the GPU has less memory free than search.gpu_memory_mib=%d takes; trying with half of it",
                config.gpu_memory_mib,
            )
        finally:
            torch.cuda.empty_cache()  # nothing, where no GPU was used; the encoder and training need it


@true_float32()
def _search_once(
    embeddings: Embeddings, backend: SearchBackend, k: int | None, radius: float | None, name: Callable[[int], str]
) -> tuple[NeighbourTable, dict[str, object]]:
    """Returns the table, and the facts about it for the manifest."""
    begun = time.perf_counter()
    work = _open(embeddings, backend)
    report = duplicate_report(work.points.groups)
    if report.groups:
        log.warning(
            "neighbours: %s, for example %s; they are each other's nearest neighbours, at distance 0: a positive may be a copy "
            "of its anchor. Remove the copies unless they are meant.",
            report,
            " and ".join(map(name, report.examples[0][:2])),
        )
    facts: dict[str, object] = {
        "backend": backend.config.backend,
        "device": backend.device,
        "duplicates": {"images": report.images, "groups": report.groups, "largest": report.largest},
    }
    if radius is not None:
        with _progress(work) as progress:
            table = ball_table(work, backend, radius, progress.update)
    else:
        assert k is not None
        table = _nearest_table(work, backend, k, facts)
    seconds = facts["seconds"] = round(time.perf_counter() - begun, 3)
    log.info(
        "neighbours: %s found in %s (%s on %s, %s)",
        _wanted(table, k, radius),
        duration(seconds),
        backend.config.backend,
        backend.device,
        _how_many(facts.get("recall")),
    )
    for array in (table.indices, table.distances):
        array.flags.writeable = False
    return table, facts


def _how_many(recall: Any) -> str:
    """``recall`` is what :func:`reach_recall` measured, ``None`` for an exact backend."""
    if recall is None:
        return "exact"
    return f"approximate: {100 * recall['recall']:.1f} % of the true neighbours, by {recall['sample']:,} random images"


def _open(embeddings: Embeddings, backend: SearchBackend) -> Workspace:
    """Prepares the points and fits the backend."""
    ranks = training_ranks(backend.config.distributed)
    points = points_of(embeddings, ranks)
    with ranks.failing_together():
        backend.fit(points.search)
        return Workspace(points, backend.config, backend.device)


def _progress(work: Workspace) -> Progress:
    ranks = training_ranks(work.config.distributed)
    return Progress("neighbours", len(ranks.share_of(len(work.points.exact))), enabled=ranks.first)


def _nearest_table(work: Workspace, backend: SearchBackend, k: int, facts: dict[str, object]) -> NeighbourTable:
    total, ranks = len(work.points.exact), training_ranks(work.config.distributed)
    count = min(k + 1, total)
    with ranks.failing_together(), _progress(work) as progress:
        if not backend.exact:
            facts["recall"] = reach_recall(work, backend, count)
        keys = nearest_points(work, backend, count, ranks.share_of(total), progress.update)
    keys = ranks.gather_numbers(keys)
    indices, distances = expand_groups(keys, work.points.groups, work.points.factor, k)
    missing = int((indices < 0).any(axis=1).sum())
    if missing:
        name = work.config.backend
        log.warning(
            "neighbours: %s found fewer than k=%d for %d images, which have fewer to choose from. Raise search.effort, or use an "
            "exact backend: search.backend=torch.",
            name,
            k,
            missing,
        )
    return NeighbourTable(indices=indices, distances=distances)
