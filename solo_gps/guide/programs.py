"""A program as it arrives in a launcher's process: the registries of methods that it reads, and the functions it calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FunctionType
from typing import Any

from solo_gps.interfaces import StandIn


def registries(program: Any, methods: dict[str, type], method: str) -> list[dict[str, type]]:
    """Returns every dict in which a program looks up its method: the host's METHODS, and copies of it.

    joblib, submitit and Ray send the function of a `main_pretrain.py` by value (cloudpickle), its global names with it: its
    METHODS is then a copy of the host's.

    Args:
        program: The function that will train, or ``None``.
        methods: The host's METHODS.
        method: Name of the recipe's method.
    """
    found = {id(methods): methods}
    for names in _scopes(program, set()):
        for value in names.values():
            if isinstance(value, dict) and value.get(method) is methods[method]:
                found[id(value)] = value
    return list(found.values())


@contextmanager
def standing_in(program: Any, stand_ins: Sequence[StandIn]) -> Iterator[None]:
    """Has a program call other functions by the global names under which it imported them, until the end.

    Args:
        program: The function that will train, or ``None``.
        stand_ins: Functions, each with the one that stands in for it.
    """
    changed: list[tuple[dict[str, Any], str, Any]] = []
    for names in _scopes(program, set()):
        for name, value in list(names.items()):
            stand_in = next((stand_in for stock, stand_in in stand_ins if value is stock), None)
            if stand_in is not None:
                changed.append((names, name, value))
                names[name] = stand_in
    try:
        yield
    finally:
        for names, name, value in changed:
            names[name] = value


def _scopes(thing: Any, seen: set[int]) -> Iterator[dict[str, Any]]:
    """What a callable's names mean: through decorators, partials, bound methods, closures and defaults."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, FunctionType):
        inside = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values(), *_cells(thing)]
        yield thing.__globals__
        yield {str(place): value for place, value in enumerate(inside)}
        for value in filter(callable, inside):
            yield from _scopes(value, seen)
    if isinstance(thing, partial):
        yield {str(place): value for place, value in enumerate([*thing.args, *thing.keywords.values()])}
    for name in ("__wrapped__", "func", "__func__"):
        if (inner := getattr(thing, name, None)) is not None:
            yield from _scopes(inner, seen)


def _cells(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a name that was never bound
            yield cell.cell_contents
