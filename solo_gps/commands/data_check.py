"""`solo-gps data check`: every image of a training set looked at, before a run stumbles over one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from solo_gps.commands.training_set import add_folder, data_node
from solo_gps.config import check_number
from solo_gps.errors import ConfigError
from solo_gps.runtime.machine import MOST_WORKERS

if TYPE_CHECKING:
    from solo_gps.survey import Finding, Survey

SHOWN = 3
"""Names of one finding on standard output; --json has all."""
MOST_CLASSES = 20


def add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `solo-gps data check`."""
    check = commands.add_parser(
        "check",
        help="decode every image once: what would stop a run, or teach it from nothing",
        description="Exit code 1 when something would stop a run, or teach it from nothing.",
        epilog="example: solo-gps data check data/train --json report.json",
    )
    add_folder(check)
    check.add_argument("--workers", type=int, default=-1, help="processes that decode; default: one for each CPU")
    check.add_argument("--json", type=Path, default=None, help="file for the whole report, with every name")
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from solo_gps.hosts.data_folder import kind_of
    from solo_gps.hosts.named import named_dataset
    from solo_gps.runtime.console import show_progress_lines
    from solo_gps.runtime.files import write_text
    from solo_gps.survey import survey

    show_progress_lines()
    try:
        check_number("--workers", options.workers, least=-1, most=MOST_WORKERS)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    data = data_node(options)
    if named_dataset(data["dataset"]) is not None:
        raise ConfigError(f"--dataset {data['dataset']}: its own reader checks its files. Leave it out, to look at folders.")
    seen = survey(options.folder, kind_of(data), workers=options.workers)
    print("\n".join(_printable(line) for line in _lines(seen)))
    if options.json is not None:
        write_text(options.json, json.dumps(seen.as_json(), indent=1) + "\n")
    return int(seen.bad)


def _lines(seen: Survey) -> Iterator[str]:
    images = sum(seen.classes.values())
    yield f"{seen.place}: {images:,} image{'s' * (images != 1)}"
    named = {name: count for name, count in seen.classes.items() if name}
    if named:
        shown = ", ".join(f"{name} {count:,}" for name, count in named.items())
        counts = f"{len(named):,}, of {min(named.values()):,} to {max(named.values()):,} images"
        yield f"classes: {shown if len(named) <= MOST_CLASSES else counts}"
    if seen.sizes:
        yield "sizes: " + ", ".join(f"{name} {width} x {height}" for name, (width, height) in seen.size_quantiles().items())
        yield "modes: " + ", ".join(f"{mode} {count:,}" for mode, count in seen.modes.items())
    yield ""
    yield from _table(seen.findings)
    bad = sum(len(finding.names) for finding in seen.findings if finding.bad)
    yield f"{bad:,} would stop a run or teach it from nothing." if bad else "Nothing would stop a run or teach it from nothing."


def _table(findings: list[Finding]) -> Iterator[str]:
    if not findings:
        return
    rows = [("", "what", "how many", "solo-learn")]
    rows += [("!" if one.bad else " ", one.what, f"{len(one.names):,}", one.solo_learn) for one in findings]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for number, (mark, what, count, does) in enumerate(rows):
        yield f"{mark:<{widths[0]}} {what:<{widths[1]}}  {count:>{widths[2]}}  {does}".rstrip()
        for name in findings[number - 1].names[:SHOWN] if number else ():
            yield f"      {name}"
        if number and (more := len(findings[number - 1].names) - SHOWN) > 0:
            yield f"      and {more:,} more"
    yield ""


def _printable(line: str) -> str:
    """Names that are no UTF-8, with escapes."""
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
