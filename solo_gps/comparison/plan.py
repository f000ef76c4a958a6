"""What is left to train, as a file that Hydra's sweeper reads, and its launch, batch by batch."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from solo_gps.comparison.sweep import CHECKPOINT, Cell, Sweep
from solo_gps.errors import DataError, printable
from solo_gps.runtime.console import show_progress_lines
from solo_gps.runtime.files import write_text

log = logging.getLogger(__name__)


def write_plan(sweep: Sweep, left: Sequence[Cell], file: Path) -> None:
    """Writes the batches of the cells that are left: within one, none reads the checkpoint of another.

    Args:
        sweep: The sweep.
        left: Cells to train, those that read a checkpoint after those that leave it.
        file: JSON file to write.
    """
    batches: list[list[dict[str, Any]]] = [[]]
    inside: set[tuple[str, int | None]] = set()
    for cell in left:
        if any((row, cell.seed) in inside for row in cell.needs):
            batches.append([])
            inside = set()
        inside.add((cell.row, cell.seed))
        every = sweep.judge.every
        words = [
            *cell.overrides,
            "++checkpoint.enabled=true",
            f"++checkpoint.dir={quoted(sweep.folder(cell).absolute())}",
            f"++checkpoint.frequency={every or 1}",
            f"++checkpoint.keep_prev={str(every is not None).lower()}",
            f"hydra.sweep.subdir={cell.name}",
        ]
        needs = {row: str(sweep.folder(sweep.cell(row, cell.seed)).absolute()) for row in cell.needs}
        batches[-1].append({"row": cell.row, "seed": cell.seed, "words": words, "needs": needs})
    write_text(file, json.dumps({"batches": batches}, indent=1) + "\n")


def launch(plan: str, launcher: Any, arguments: Sequence[str]) -> list[Any]:
    """Launches the batches of a plan by one of Hydra's launchers.

    A cell that fails leaves no record, and a line; the others go on.

    Args:
        plan: File that :func:`write_plan` wrote.
        launcher: A Hydra launcher.
        arguments: Overrides for every cell.

    Returns:
        Hydra's ``JobReturn`` of each cell that was launched.
    """
    from hydra.core.utils import JobStatus

    done: list[Any] = []
    for batch in json.loads(Path(plan).read_text(encoding="utf-8"))["batches"]:
        jobs, cells = [], []
        for cell in batch:
            try:
                # The cell's own words come last, as those typed for all must not take them back.
                jobs.append([*arguments, *with_checkpoints(cell["words"], cell["needs"])])
                cells.append(cell)
            except DataError as error:
                log.error("%s, seed %s: not trained: %s", cell["row"], cell["seed"], error)
        if not jobs:
            continue
        returned = launcher.launch(jobs, initial_job_idx=len(done))
        show_progress_lines()  # a job's own logging may have silenced ours
        for cell, job in zip(cells, returned, strict=True):
            if job.status != JobStatus.COMPLETED:
                log.error("%s, seed %s: failed; typing the same command again trains it again", cell["row"], cell["seed"])
        done += returned
    return done


def with_checkpoints(words: Sequence[str], needs: dict[str, str]) -> list[str]:
    """Returns overrides in which ``{checkpoint of ROW}`` is the path of that row's last checkpoint.

    Args:
        words: Overrides.
        needs: Row to the folder of its cell of the same seed.

    Raises:
        DataError: There is no checkpoint.
    """
    return [CHECKPOINT.sub(lambda match: quoted(last_checkpoint(Path(needs[match[1]]))), word) for word in words]


def last_checkpoint(folder: Path) -> Path:
    """The newest checkpoint below a cell's folder.

    Raises:
        DataError: There is none.
    """
    found = sorted(folder.glob("**/*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    if not found:
        raise DataError(f"{printable(folder)}: no checkpoint here.")
    return found[-1]


def quoted(path: object) -> str:
    """A path as the value of an override, in which Hydra then reads no sign of its own."""
    # A backslash means itself but before a quote.
    text = re.sub(r"(\\+)('|\Z)", r"\1\1\2", str(path))
    return "'" + text.replace("'", "\\'") + "'"
