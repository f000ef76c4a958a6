"""The recipe's ``search`` node, checked before any long work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from solo_gps.config import parse
from solo_gps.errors import ConfigError, UnknownNameError
from solo_gps.neighbours.backend import SearchConfig
from solo_gps.neighbours.backends.faiss_here import pick_device
from solo_gps.plugins import registered


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
    if config.backend != "auto" and config.backend not in (known := registered("register_search_backends")):
        raise UnknownNameError("search backend", config.backend, [*known, "auto"])
    return config
