"""What is left to train, as a file that Hydra's sweeper reads, and its launch, batch by batch."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from solo_gps.comparison.cells import CHECKPOINT, Cell
from solo_gps.comparison.sweep import Sweep
from solo_gps.errors import DataError, brief, printable
from solo_gps.runtime.console import show_progress_lines
from solo_gps.runtime.files import write_text

log = logging.getLogger(__name__)

FINISHED = "finished"
"""File in a cell's folder that names the checkpoint of a training that came to its end."""


def write_plan(sweep: Sweep, left: Sequence[Cell], file: Path) -> None:
    """Writes the batches of the cells that are left: within one, none reads the checkpoint of another.

    Args:
        sweep: The sweep.
        left: Cells to train, those that read a checkpoint after those that leave it.
        file: JSON file to write.
    """
    depth: dict[tuple[str, int | None], int] = {}
    batches: list[list[dict[str, Any]]] = []
    for cell in left:
        below = [depth[row, cell.seed] + 1 for row in cell.needs if (row, cell.seed) in depth]
        depth[cell.row, cell.seed] = max(below, default=0)
        if depth[cell.row, cell.seed] == len(batches):
            batches.append([])
        words = [*words_of(sweep, cell), f"hydra.sweep.subdir={cell.name}"]
        needs = {row: str(sweep.folder(sweep.cell(row, cell.seed)).absolute()) for row in cell.needs}
        batches[depth[cell.row, cell.seed]].append({"row": cell.row, "seed": cell.seed, "words": words, "needs": needs})
    write_text(file, json.dumps({"batches": batches}, indent=1) + "\n")


def words_of(sweep: Sweep, cell: Cell) -> list[str]:
    """All overrides of a cell: its own, and where its checkpoints go, whatever its recipe says of them."""
    every = sweep.judge.every
    return [
        *cell.overrides,
        "++checkpoint.enabled=true",
        f"++checkpoint.dir={quoted(sweep.folder(cell).absolute())}",
        f"++checkpoint.frequency={every or 1}",
        f"++checkpoint.keep_prev={str(every is not None).lower()}",
    ]


def launch(plan: str, launcher: Any, arguments: Sequence[str]) -> list[Any]:
    """Launches the batches of a plan by one of Hydra's launchers.

    A cell that fails leaves no record, and a line; the others go on, but for those that read its checkpoint.

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
        try:
            returned = launcher.launch(jobs, initial_job_idx=len(done))
        except Exception as error:  # noqa: BLE001 - of the launcher, or of Hydra: the next batch may do, and each cell is named
            show_progress_lines()
            log.error("not trained: %s: %s", "; ".join(f"{cell['row']}, seed {cell['seed']}" for cell in cells), brief(error))
            continue
        show_progress_lines()  # a job's own logging may have silenced ours
        for cell, job in zip(cells, returned, strict=True):
            if job.status != JobStatus.COMPLETED:
                again = "typing the same command again trains it again"
                log.error("%s, seed %s: failed%s; %s", cell["row"], cell["seed"], _why(job), again)
        done += returned
    return done


def _why(job: Any) -> str:
    """What ended a job, where it has not said so by itself, as our own errors do."""
    error = job._return_value
    return "" if error is None or isinstance(error, SystemExit) else f" ({brief(error)})"


def with_checkpoints(words: Sequence[str], needs: Mapping[str, str]) -> list[str]:
    """Returns overrides in which ``{checkpoint of ROW}`` is the path of that row's checkpoint.

    Args:
        words: Overrides.
        needs: Row to the folder of its cell of the same seed.

    Raises:
        DataError: The row was not trained to its end.
    """
    return [CHECKPOINT.sub(lambda match: quoted(finished_checkpoint(Path(needs[match[1]]))), word) for word in words]


def mark_finished(folder: Path, checkpoint: Path) -> None:
    """Says that a cell was trained to its end, for those that read its checkpoint."""
    write_text(folder / FINISHED, f"{checkpoint.absolute().relative_to(folder.absolute())}\n")


def finished_checkpoint(folder: Path) -> Path:
    """The checkpoint of a cell that was trained to its end.

    Raises:
        DataError: It was not, or the checkpoint is gone.
    """
    try:
        checkpoint = folder / (folder / FINISHED).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise DataError(f"{printable(folder)}: no checkpoint of a training that came to its end.") from error
    if not checkpoint.is_file():
        raise DataError(f"{printable(checkpoint)}: the checkpoint is gone.")
    return checkpoint


def quoted(path: object) -> str:
    """A path as the value of an override, in which Hydra then reads no sign of its own."""
    # A backslash means itself but before a quote.
    text = re.sub(r"(\\+)('|\Z)", r"\1\1\2", str(path))
    return "'" + text.replace("'", "\\'") + "'"
