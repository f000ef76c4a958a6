"""A program as it arrives in a launcher's process: the registries of methods that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import FunctionType
from typing import Any


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
    for value in _names(program, set()):
        if isinstance(value, dict) and value.get(method) is methods[method]:
            found[id(value)] = value
    return list(found.values())


def _names(thing: Any, seen: set[int]) -> Iterator[Any]:
    """What a callable's names mean: through decorators, partials, bound methods, closures and defaults."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, FunctionType):
        inside = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values(), *_cells(thing)]
        yield from [*thing.__globals__.values(), *inside]
        for value in filter(callable, inside):
            yield from _names(value, seen)
    if isinstance(thing, partial):
        yield from [*thing.args, *thing.keywords.values()]
    for name in ("__wrapped__", "func", "__func__"):
        if (inner := getattr(thing, name, None)) is not None:
            yield from _names(inner, seen)


def _cells(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a name that was never bound
            yield cell.cell_contents
