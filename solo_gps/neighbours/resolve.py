"""From the recipe's ``search`` node to a checked configuration, before any long work."""

from __future__ import annotations

from collections.abc import Mapping

from solo_gps.config import parse
from solo_gps.neighbours.base import SearchConfig
from solo_gps.neighbours.choose import choose_backend


def resolve_search(search: Mapping | None = None) -> SearchConfig:
    """Checks the recipe's ``search`` node: keys, types, values, and that a backend asked for by name can run here.

    Raises:
        ConfigError: A key, type or value is wrong, or the backend is not installed.
        UnknownNameError: No backend of that name.
    """
    config = parse({} if search is None else search, SearchConfig, "search")
    if config.backend != "auto":
        choose_backend(config, images=2, columns=1, radius=None)
    return config
