"""The reference of what is typed in a terminal, as argparse has it.

python tests/cli_reference.py    # writes docs/cli.md anew
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from solo_gps.commands.cli import PRETRAIN_HELP, _parser

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """\
# Command line

`python tests/cli_reference.py` writes this page from the parsers; `solo-gps COMMAND --help` says the same. A mistake is one line
on stderr and exit code 1; a word that argparse does not know is exit code 2.
"""


def page() -> str:
    """Returns the whole page."""
    parser = _parser()
    return "\n".join([HEAD, *(line for each in commands(parser, parser.description or "") for line in each)]).rstrip() + "\n"


def commands(parser: argparse.ArgumentParser, summary: str) -> Iterator[list[str]]:
    """Yields the lines of each command below a parser."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if parser.prog != "solo-gps":
        yield _command(parser, summary, leaf=not below)
    for action in below:
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, child in action.choices.items():
            yield from commands(child, helps[name])


def _command(parser: argparse.ArgumentParser, summary: str, *, leaf: bool) -> list[str]:
    level = "#" * (1 + parser.prog.count(" "))
    lines = [f"{level} {parser.prog}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
    if parser.usage == PRETRAIN_HELP:  # Hydra reads its arguments
        return [*lines, "```text", PRETRAIN_HELP.rstrip(), "```", ""]
    lines += [parser.description, ""] if parser.description else []
    if leaf:
        lines += ["```bash", (parser.epilog or "").removeprefix("example: "), "```", ""]
        rows = [_row(parser, action) for action in parser._actions if action.dest != "help"]
        lines += ["| argument | what it is |", "|---|---|", *rows, ""] if rows else []
    return lines


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if action.choices:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    first, *others = value if isinstance(value, tuple) else (value,)
    forms = {0: "", "*": "[{0} ...]", "+": "{0} [{1} ...]", "?": "[{0}]", None: "{0}"}
    shown = forms[action.nargs].format(first, *others, first)
    said = (action.help or "") % {**vars(action), "prog": parser.prog}
    if action.default not in (None, False, [], argparse.SUPPRESS) and "default" not in said:
        said += f"; default: `{action.default}`"
    if action.required and action.option_strings:
        said += "; required"
    name = " ".join(filter(None, [", ".join(action.option_strings), shown]))
    said = said.replace("|", "\\|").replace("<", "&lt;")
    return f"| `{name}` | {said} |"


if __name__ == "__main__":
    PAGE.write_text(page())
