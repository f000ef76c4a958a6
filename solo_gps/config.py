"""Typed configuration: user keys are checked once, here, and only frozen objects travel on."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from solo_gps.errors import ConfigError, did_you_mean, first_line

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")

LARGEST_SEED = 2**32 - 1
"""What every generator takes, also after the seed of an image or an epoch was derived from it within 64 bits."""
LARGEST_WHOLE = 2**31 - 1
"""What a whole number without a bound of its own may be: what C, FAISS and Lightning take."""
LARGEST_REAL = 1e37
"""What any other number may be: within float32, with room for a factor."""


def number(
    default: Any, *, least: float = -LARGEST_REAL, most: float | None = None, above: float | None = None
) -> Any:  # Any: a field of whatever type its class gives it
    """A dataclass field that holds a number, a list of numbers or ``None``, with its bounds.

    Args:
        default: Value without the key.
        least: Smallest value.
        most: Largest value; ``None`` takes the largest of its type.
        above: Bound that the value must exceed, in place of ``least``.
    """
    return dataclasses.field(default=default, metadata={"least": least, "most": most, "above": above})


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Base of a group's dataclass: every number in it is finite and within the bounds of its field."""

    def __post_init__(self) -> None:
        check_numbers(self)


def check_numbers(keys: Any) -> None:
    """Raises ``ValueError`` for the first number of a dataclass that is not finite, or out of its field's bounds.

    Args:
        keys: A dataclass; numbers within its lists and mappings are looked at too.
    """
    for field in dataclasses.fields(keys):
        for key, value in numbers_of(getattr(keys, field.name), field.name):
            check_number(key, value, **field.metadata)


def check_number(
    key: str, value: float, *, least: float = -LARGEST_REAL, most: float | None = None, above: float | None = None
) -> None:
    """Raises ``ValueError`` when a number is not finite, or out of its bounds (see :func:`number`)."""
    largest = most if most is not None else LARGEST_WHOLE if isinstance(value, int) else LARGEST_REAL
    if least <= value <= largest and (above is None or value > above):
        return
    if above is not None:
        wanted = f"above {above:.10g} and at most {largest:.10g}"
    elif most is None and least > -LARGEST_REAL and value < least:
        wanted = f"at least {least:.10g}"
    else:
        wanted = f"from {least:.10g} to {largest:.10g}"
    raise ValueError(f"{key}={value} must be {wanted}.")


def numbers_of(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """Every number in plain values, with the dotted place of each; true and false are none."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from numbers_of(below, f"{key}.{name}" if key else str(name))
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for place, below in enumerate(value):
            yield from numbers_of(below, f"{key}[{place}]")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield key, value


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key of a group, for the user.

    Attributes:
        name: As it is typed.
        type: In words.
        default: As it would be typed.
        sentence: What it means.
    """

    name: str
    type: str
    default: str
    sentence: str


def described(schema: type) -> list[Key]:
    """Returns the keys of a group's dataclass, those that it inherits included, each with the text below its field."""
    sentences = _sentences(schema)
    return [
        Key(
            name=field.name,
            type=_in_words(str(field.type)),
            default=_as_typed(field.default if field.default_factory is dataclasses.MISSING else field.default_factory()),
            sentence=sentences.get(field.name, ""),
        )
        for field in dataclasses.fields(schema)
    ]


def _in_words(annotation: str) -> str:
    words = annotation.replace(" | None", " or null").replace("dict[str, Any]", "mapping")
    return re.sub(r"list\[(\w+)\]", r"list of \1", words)


def _as_typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _sentences(schema: type) -> dict[str, str]:
    """Field name to the text below it, in the class itself or in the nearest that it derives from."""
    found: dict[str, str] = {}
    for cls in reversed([cls for cls in schema.__mro__ if dataclasses.is_dataclass(cls)]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[ast.unparse(field.target)] = " ".join(str(below.value.value).split()).replace("``", "`")
    return found


def parse(node: object, schema: type[T], where: str) -> T:
    """Checks a configuration node against a frozen dataclass.

    Args:
        node: Mapping or ``DictConfig`` with the user's values; missing keys take the schema's defaults.
        schema: Frozen, keyword-only dataclass. Its ``__post_init__`` checks the values and raises ``ValueError``.
        where: Dotted place of the node in the recipe, named in errors, for example ``"sampler.gps"``.

    Returns:
        An instance of ``schema``.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type or is out of range, or the node is not a mapping.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    values: Any = plain(node, where) if isinstance(node, DictConfig) else node
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: wanted a group of keys, got {values!r}.")
    known = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}.{key}: no such key; known: {', '.join(known)}.{did_you_mean(key, known)}")
    try:
        keys: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(values)))
        check_numbers(keys)  # also of a plugin's own class
        return keys
    except OmegaConfBaseException as error:
        key = f"{where}.{error.full_key}" if getattr(error, "full_key", None) else where
        raise ConfigError(f"{key}: {_wanted(error, schema)}") from error
    except ConfigError:
        raise
    except (ValueError, OverflowError) as error:  # the latter: a whole number beyond every float
        raise ConfigError(f"{where}: {error}") from error


def _wanted(error: Any, schema: type) -> str:
    """What OmegaConf says of a value; of a list it speaks by its own classes."""
    text = first_line(error)
    lists = [field.name for field in dataclasses.fields(schema) if field.default_factory is list]
    if "ListConfig" not in text:
        return text
    named = f" ({' and '.join(lists)} {'are lists' if len(lists) > 1 else 'is a list'})" if lists else ""
    return f"wanted a list, for example [a,b]{named}."


def plain(node: DictConfig, where: str) -> Any:
    """Returns a node as plain values, interpolations resolved.

    Args:
        node: Node of the recipe.
        where: Its dotted place in the recipe, named in errors.

    Raises:
        ConfigError: An interpolation leads nowhere, or a value is missing (``???``).
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or where
        raise ConfigError(f"{key}: {first_line(error)}. Give it a value.") from error


def node_of(recipe: DictConfig, key: str) -> Any:
    """Returns what a recipe says under a top-level key, ``None`` where it says nothing.

    Raises:
        ConfigError: Its interpolation leads nowhere, or its value is missing (``???``); ``get`` would return ``None`` for both.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if key not in recipe.keys():  # noqa: SIM118 - `in` alone is False where an interpolation fails
        return None
    try:
        if not OmegaConf.is_missing(recipe, key):
            return recipe[key]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {first_line(error)}. Give it a value.") from error
    raise ConfigError(f"{key}: Missing mandatory value (???). Give it a value.")


def check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises ``ValueError`` with "did you mean" when ``value`` is not one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is not one of {', '.join(allowed)}.{did_you_mean(value, allowed)}")
