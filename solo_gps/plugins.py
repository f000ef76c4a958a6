"""The plugin manager: built-ins load like anyone's plugin, and a misspelt hook fails loudly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any

import pluggy

from solo_gps import hookspecs
from solo_gps.errors import ConfigError, UnknownNameError, first_line

ENTRY_POINT_GROUP = "solo_gps"
BUILTIN_PLUGINS = (
    "solo_gps.samplers",
    "solo_gps.priors",
    "solo_gps.neighbours",
    "solo_gps.datasets",
)


@lru_cache(maxsize=1)
def plugin_manager() -> pluggy.PluginManager:
    """Returns the process-wide manager, with built-ins and installed entry points loaded.

    Raises:
        ConfigError: An installed plugin cannot be loaded, or implements a hook that does not exist; it is named.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name in BUILTIN_PLUGINS:
        manager.register(import_module(name), name=name)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            manager.register(entry.load(), name=entry.name)
            manager.check_pending()
        except Exception as error:
            package = entry.dist.name if entry.dist else entry.module
            raise ConfigError(
                f"plugin {entry.name!r} of the package {package} cannot be loaded: {type(error).__name__}: {first_line(error)}. "
                f"Mend it (docs/plugins.md lists the hooks), or uninstall it: pip uninstall {package}"
            ) from error
    return manager


def registered(hook: str) -> Mapping[str, Any]:
    """Merges the mappings that all plugins return for a ``register_*`` hook.

    Args:
        hook: Name of the hook, for example ``"register_samplers"``.

    Returns:
        Name to registered object, of all plugins. One that was registered by its dotted name is imported when it is looked up.

    Raises:
        ConfigError: Two plugins register the same name.
    """
    merged: dict[str, tuple[str, Any]] = {}
    for implementation in getattr(plugin_manager().hook, hook).get_hookimpls():
        mapping = implementation.function()
        assert isinstance(mapping, Mapping), f"{hook} must return a mapping, got {type(mapping).__name__}"
        for name, value in mapping.items():
            _, other = merged.setdefault(name, (implementation.plugin_name, value))
            if other != value:
                raise ConfigError(f"two plugins register {name!r} by {hook}: {other!r} and {value!r}. Uninstall one.")
    return _Registered(hook, merged)


class _Registered(Mapping[str, Any]):
    def __init__(self, hook: str, entries: Mapping[str, tuple[str, Any]]) -> None:
        self._hook, self._entries = hook, entries

    def __getitem__(self, name: str) -> Any:
        plugin, value = self._entries[name]
        try:
            return resolve_name(value) if isinstance(value, str) else value
        except Exception as error:
            raise ConfigError(
                f"plugin {plugin!r} registers {name!r} by {self._hook} as {value!r}, which cannot be imported: "
                f"{type(error).__name__}: {first_line(error)}. Mend the plugin or what it needs, or uninstall it."
            ) from error

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # Mapping's own would import it

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


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


def lookup(hook: str, kind: str, name: str, hint: str = "") -> Any:
    """Returns the object registered under ``name``, or raises :class:`UnknownNameError` with the known names and a hint."""
    known = registered(hook)
    if name not in known:
        raise UnknownNameError(kind, name, known, hint)
    return known[name]
