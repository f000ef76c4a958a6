"""Runs the test suite on a machine that may be taken away: each outcome is on disk as soon as it is known.

python benchmarks/gpu_tests.py --out results/ [--minutes 7] [tests/neighbours tests/encoders ...]

Writes a line of JSON for each test to OUT/gpu_tests.jsonl, with the whole text of a failure, and gpu_tests.json and .md at the
end of a call. Run it again until it says that all has run: tests that are in the file are not run again, nor is one that had
begun when the machine or the call came to its end (it says "cut off").
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import Report, in_pieces, parser

COLUMNS = {"outcome": "outcome", "tests": "tests"}


class Notes:
    """Notes each test's beginning and end, and ends the session when the time is over."""

    def __init__(self, file: Path, minutes: float) -> None:
        self._file, self._end = file, time.monotonic() + 60 * minutes
        lines = file.read_text().splitlines() if file.exists() else []
        self.known: dict[str, dict[str, Any]] = {}
        for line in lines:
            note = json.loads(line)
            worse = self.known.get(note["test"], {}).get("outcome") in ("failed", "error")
            if not worse:
                self.known[note["test"]] = note
        self.left = 0
        self.over = False

    def _note(self, **note: Any) -> None:
        self.known[note["test"]] = note
        with self._file.open("a") as file:
            file.write(json.dumps(note) + "\n")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        known = [item for item in items if item.nodeid in self.known]
        config.hook.pytest_deselected(items=known)
        items[:] = [item for item in items if item.nodeid not in self.known]
        self.left = len(items)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._note(test=nodeid, outcome="cut off")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            outcome = "failed" if report.when == "call" else "error"
            self._note(test=report.nodeid, outcome=outcome, text=report.longreprtext)
        elif report.when == "call" or report.skipped:
            self._note(test=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 2))

    def pytest_runtest_logfinish(self) -> None:
        self.left -= 1

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        if time.monotonic() > self._end:
            self.over = True
            item.session.shouldstop = "the time is over"


def main() -> None:
    arguments = in_pieces(parser(__doc__))
    arguments.add_argument("tests", nargs="*", default=["tests"])
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    notes = Notes(given.out / "gpu_tests.jsonl", given.minutes)
    ended = pytest.main(["-q", "-p", "no:cacheprovider", *given.tests], plugins=[notes])
    report = Report(f"pytest {' '.join(given.tests)}", COLUMNS)
    for outcome, tests in sorted(Counter(note["outcome"] for note in notes.known.values()).items()):
        report.add(outcome=outcome, tests=tests)
    unwell = {
        name: note.get("text", "") for name, note in notes.known.items() if note["outcome"] in ("failed", "error", "cut off")
    }
    last = [f"- `{name}`: {text.strip().splitlines()[-1] if text.strip() else 'cut off'}" for name, text in unwell.items()]
    over = "All has run." if not notes.left else f"{notes.left} tests are left: run it again."
    record = given.json or given.out / "gpu_tests.json"
    report.end(record, "\n".join([over, *last]), given.out / "gpu_tests.md", unwell=unwell, left=notes.left)
    well = {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}
    if ended not in well and not (notes.over and ended == pytest.ExitCode.INTERRUPTED):
        sys.exit(f"pytest ended with {ended!r}.")


if __name__ == "__main__":
    main()
