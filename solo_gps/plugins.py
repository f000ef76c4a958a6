"""The plugin manager: built-ins load like anyone's plugin, and a misspelt hook fails loudly."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any

import pluggy

from solo_gps import hookspecs
from solo_gps.errors import ConfigError, UnknownNameError

ENTRY_POINT_GROUP = "solo_gps"
BUILTIN_PLUGINS = (
    "solo_gps.samplers",
    "solo_gps.priors",
    "solo_gps.neighbours",
)


@lru_cache(maxsize=1)
def plugin_manager() -> pluggy.PluginManager:
    """Returns the process-wide manager, with built-ins and installed entry points loaded.

    Raises:
        ConfigError: An installed plugin cannot be imported, or implements a hook that does not exist.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name in BUILTIN_PLUGINS:
        manager.register(import_module(name), name=name)
    try:
        manager.load_setuptools_entrypoints(ENTRY_POINT_GROUP)
        manager.check_pending()
    except (ImportError, AttributeError, pluggy.PluginValidationError) as error:
        raise ConfigError(
            f"a plugin of the entry-point group {ENTRY_POINT_GROUP!r} could not be loaded: {error}. "
            "Mend or uninstall it; docs/plugins.md lists the hooks."
        ) from error
    return manager


def registered(hook: str) -> dict[str, Any]:
    """Merges the mappings that all plugins return for a ``register_*`` hook.

    Args:
        hook: Name of the hook, for example ``"register_samplers"``.

    Returns:
        Name to registered object, of all plugins.

    Raises:
        ConfigError: Two plugins register the same name.
    """
    merged: dict[str, Any] = {}
    for mapping in getattr(plugin_manager().hook, hook)():
        assert isinstance(mapping, Mapping), f"{hook} must return a mapping, got {type(mapping).__name__}"
        for name, value in mapping.items():
            if merged.get(name, value) is not value:
                raise ConfigError(f"two plugins register {name!r} by {hook}: {merged[name]!r} and {value!r}. Uninstall one.")
            merged[name] = value
    return merged


def wrapped(hook: str, key: str, value: Any, **others: Any) -> Any:
    """Hands a value through every implementation of a ``wrap_*`` hook: each wraps what the one before it returned.

    In pluggy's order, and with pluggy's promise: an implementation takes those arguments that it names.

    Args:
        hook: Name of the hook, for example ``"wrap_dataset"``.
        key: Name of the argument that is handed on, for example ``"dataset"``.
        value: What is wrapped first.
        others: The hook's other arguments.

    Returns:
        What the last implementation returned; of one that returns ``None``, what it was given.
    """
    for implementation in reversed(getattr(plugin_manager().hook, hook).get_hookimpls()):
        arguments = {**others, key: value}
        value = implementation.function(*(arguments[name] for name in implementation.argnames)) or value
    return value


def lookup(hook: str, kind: str, name: str) -> Any:
    """Returns the object registered under ``name``, or raises :class:`UnknownNameError` with the known names."""
    known = registered(hook)
    if name not in known:
        raise UnknownNameError(kind, name, known)
    return known[name]
