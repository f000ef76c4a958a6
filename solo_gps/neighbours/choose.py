"""The ``search`` node, checked before any long work; and which backend: the one asked for, or the best here, with the reason."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from solo_gps.config import parse
from solo_gps.errors import ConfigError, UnknownNameError
from solo_gps.neighbours.backend import SearchBackend
from solo_gps.neighbours.backends.faiss_here import installed_faiss
from solo_gps.neighbours.config import SearchConfig
from solo_gps.plugins import registered
from solo_gps.runtime.devices import pick_device

log = logging.getLogger(__name__)

# Multiply-adds of an exact self-join above which auto turns to an approximate search: some ten minutes on two cores or one GPU.
MOST_PRODUCTS = {"cpu": 2e14, "cuda": 2e17}


def resolve_search(search: Mapping[str, Any] | None = None) -> SearchConfig:
    """Checks keys, values, device and backend.

    Args:
        search: Mapping or ``DictConfig``; ``None`` takes the defaults.

    Returns:
        The configuration; its backend is ``auto``, or one that can run here.

    Raises:
        ConfigError: A key, type or value is wrong, or the backend or device is not there.
        UnknownNameError: No backend of that name.
    """
    config = parse_search(search)
    pick_device(config.device)
    if config.backend != "auto":
        missing = registered("register_search_backends")[config.backend].missing(config)
        if missing:
            raise ConfigError(f"search.backend={config.backend}: {missing}")
    return config


def parse_search(search: Mapping[str, Any] | None = None) -> SearchConfig:
    """Checks names, keys and values of the ``search`` node, and nothing that needs torch or FAISS.

    Raises:
        UnknownNameError: No backend of that name.
        ConfigError: A key, type or value is wrong.
    """
    if isinstance(search, str):
        raise ConfigError(
            f"search: wanted a group of keys, got the name {search!r}. Either write {{backend: {search}}}, or, if you typed "
            f"+search={search}, Hydra did not find the config groups of solo-gps: run `solo-gps doctor`."
        )
    config = parse({} if search is None else search, SearchConfig, "search")
    known = registered("register_search_backends")
    if config.backend != "auto" and config.backend not in known:
        raise UnknownNameError("search backend", config.backend, [*known, "auto"])
    return config


def choose_backend(config: SearchConfig, *, images: int, columns: int, radius: float | None) -> SearchBackend:
    """Returns the backend, not fitted yet.

    Args:
        config: The node ``search``, resolved.
        images: N.
        columns: D.
        radius: The radius asked for; approximate backends are never chosen for one.
    """
    known = registered("register_search_backends")
    if config.backend != "auto":
        return known[config.backend](config)
    name, reason = _automatic(config, images, columns, radius)
    log.debug("neighbours: backend %s for N=%d, D=%d: %s", name, images, columns, reason)
    backend = known[name](dataclasses.replace(config, backend=name))
    if not backend.exact:
        log.info(
            "neighbours: an exact search of %s images would take more than about ten minutes here; %s finds most neighbours "
            "sooner, and how many is measured (search.backend=torch finds all)",
            f"{images:,}",
            name,
        )
    return backend


def _automatic(config: SearchConfig, images: int, columns: int, radius: float | None) -> tuple[str, str]:
    device = pick_device(config.device)
    products = float(images) ** 2 * columns
    if radius is not None:
        return "torch", f"exact on {device}, as every radius search"
    most = MOST_PRODUCTS[device.partition(":")[0]]
    if products <= most:
        return "torch", f"exact on {device}, {products:.1e} multiply-adds are at most {most:.0e}"
    large = f"{products:.1e} multiply-adds are more than {most:.0e}"
    faiss = installed_faiss()
    if device != "cpu" and faiss.cagra:
        return "faiss_cagra", f"approximate, {large}"
    if device == "cpu" and faiss.version is not None:
        return "faiss_ivf", f"approximate, {large}"
    mend = "pip install 'solo-gps[cpu]'" if device == "cpu" else "Install a FAISS built with cuVS (conda: faiss-gpu-cuvs)"
    log.warning(
        "neighbours: an exact search of %s images takes more than about ten minutes here, and nothing faster is installed "
        "(%s). %s.",
        f"{images:,}",
        faiss,
        mend,
    )
    return "torch", f"exact on {device}, for want of an approximate backend: {large}"
