"""The reference of what is called from Python, as the docstrings have it.

python tests/api_reference.py    # writes docs/reference.md anew, between its markers
"""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference.md"
PARTS = re.compile(r"(<!-- docstring: (?P<name>[\w.]+) -->\n).*?(<!-- end of docstring -->)", re.DOTALL)


def found(name: str) -> Any:
    """Returns what a dotted name stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def part(name: str) -> str:
    """Returns one part of the page: signature, docstring, and those of a class's own public methods."""
    thing = found(name)
    made_by_callers = not inspect.isclass(thing) or "Args:" in (thing.__doc__ or "") or is_dataclass(thing)
    lines = [f"```text\n{signature(name, thing) if made_by_callers else f'class {name}'}\n```", "", *prose(thing)]
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        value = getattr(value, "__func__", value)
        if member.startswith("_") or not (inspect.isfunction(value) or isinstance(value, property)):
            continue
        shown = member if isinstance(value, property) else signature(member, value)
        lines += ["", f"**`{shown}`**", "", *prose(value)]
    return "\n".join(lines) + "\n"


def signature(name: str, thing: Any) -> str:
    """Returns a call as it stands in the code: names, types and defaults, without self."""
    whole = inspect.signature(thing)
    parts: list[str] = []
    for parameter in whole.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts and not any(part.startswith("*") for part in parts):
            parts.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        typed = "" if parameter.annotation is parameter.empty else f": {_type(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        parts.append(f"{stars}{parameter.name}{typed}{default}")
    returned = "" if inspect.isclass(thing) or whole.return_annotation is whole.empty else f" -> {_type(whole.return_annotation)}"
    call = f"{name}({', '.join(parts)}){returned}"
    return call if len(call) <= 130 else f"{name}(\n    " + ",\n    ".join(parts) + f",\n){returned}"


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _default(value: Any) -> str:
    bound = getattr(value, "__self__", None)  # "image {}".format
    return f"{bound!r}.{value.__name__}" if isinstance(bound, str) else repr(value)


def prose(thing: Any) -> list[str]:
    """Returns a docstring in Google's style as lines of Markdown."""
    text, *sections = re.split(r"^(Args|Attributes|Returns|Raises|Example):\n", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    lines = _markdown(text).rstrip().splitlines()
    for heading, below in zip(sections[::2], sections[1::2], strict=True):
        below = textwrap.dedent(below).strip()
        if heading == "Example":
            shown = re.sub(r"^(>>>|\.\.\.) ?", "", re.sub(r"  # doctest: \+SKIP", "", below), flags=re.MULTILINE)
            lines += ["", "*Example*", "", "```python", *shown.splitlines(), "```"]
            continue
        below = _markdown(below)
        joined = re.sub(r"\n\s+" if heading != "Returns" else r"\n\s*", " ", below).splitlines()
        entries = [re.sub(r"^(\*{0,2}[\w, ]+): ", r"- `\1`: ", entry) for entry in joined if entry]
        lines += ["", f"*{heading}*: {joined[0]}"] if heading == "Returns" else ["", f"*{heading}*", "", *entries]
    return lines


def _markdown(text: str) -> str:
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text).replace("``", "`")


def with_parts(text: str) -> str:
    """Returns the page with its parts as the docstrings have them."""
    return PARTS.sub(lambda match: f"{match[1]}{part(match['name'])}{match[3]}", text)


if __name__ == "__main__":
    PAGE.write_text(with_parts(PAGE.read_text()))
