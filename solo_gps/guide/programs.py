"""A program as it arrives in a launcher's process: the registries of methods that it reads."""

from __future__ import annotations

from collections.abc import Iterator
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
    for function in _functions(program, set()):
        for value in list(function.__globals__.values()):
            if isinstance(value, dict) and value.get(method) is methods[method]:
                found[id(value)] = value
    return list(found.values())


def _functions(thing: Any, seen: set[int]) -> Iterator[FunctionType]:
    """The functions behind a callable: through decorators, partials, bound methods and closures."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, FunctionType):
        yield thing
        for cell in thing.__closure__ or ():
            try:
                inside = cell.cell_contents
            except ValueError:  # a name that was never bound
                continue
            if callable(inside):
                yield from _functions(inside, seen)
    for name in ("__wrapped__", "func", "__func__"):
        if (inside := getattr(thing, name, None)) is not None:
            yield from _functions(inside, seen)
