"""`solo-gps compare`: many trainings by Hydra's launchers, and one table."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from solo_gps.comparison.cells import CHECKPOINT, Cell
from solo_gps.comparison.plan import finished_checkpoint, quoted, words_of
from solo_gps.comparison.records import PLAN, Record, finished, read_record, read_records, write_record
from solo_gps.comparison.sweep import Sweep, composed, read_sweep
from solo_gps.errors import ConfigError, DataError, MachineError, SoloGpsError, printable

log = logging.getLogger(__name__)

TABLE, CELLS, LOCK = "table.md", "cells.csv", ".lock"
OF_THE_MACHINE = (
    *("hydra/launcher=", "hydra.launcher.", "hydra.job.", "accelerator=", "devices=", "strategy=", "num_nodes="),
    *("wandb.", "auto_resume.", "data.num_workers="),
)
"""What words behind the sweep file begin with: where and how a cell is trained, never what it is."""


def add_compare(command: argparse.ArgumentParser) -> None:
    """Adds the options of `solo-gps compare`."""
    command.add_argument("sweep", nargs="?", type=Path, default=None, metavar="SWEEP", help="the sweep file (docs/compare.md)")
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="for Hydra, in every cell: hydra/launcher=joblib hydra.launcher.n_jobs=2, accelerator=gpu, data.num_workers=8",
    )
    command.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="train these cells alone, and those whose checkpoints they read: 'simclr, weak*', or '*seed 0'; may be given again",
    )
    command.add_argument("--list", action="store_true", help="show every cell, and which are finished; train nothing")
    command.add_argument("--table", type=Path, default=None, metavar="RUNS", help="make the table of a folder of records again")
    command.add_argument("--out", type=Path, default=None, metavar="FOLDER", help="folder for table, picture and page of --table")
    command.add_argument("--report", action="store_true", help="also write a page about it, report.html")
    command.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    from solo_gps.runtime.console import show_progress_lines
    from solo_gps.runtime.files import check_can_write

    show_progress_lines()
    if (options.sweep is None) == (options.table is None):
        got = "neither" if options.sweep is None else f"both, {printable(options.sweep)} and --table {printable(options.table)}"
        raise ConfigError(f"compare: wanted a sweep file, or --table with a folder of records; got {got}.")
    if options.report:
        from solo_gps.report.page import check_can_draw

        check_can_draw("leave --report out")
    if options.out is not None:
        check_can_write(options.out, "--out")
    if options.sweep is None:
        if options.list or options.only:
            raise ConfigError("--list and --only choose among the cells of a sweep file; --table shows every record of a folder.")
        if (wrong := _conclude(read_records(options.table), options.out or options.table, options)) is not None:
            log.warning(wrong)
        return 0
    sweep = read_sweep(options.sweep)
    _check_words(options.overrides)
    asked = _asked(sweep, options.only)
    if options.list:
        _show_list(sweep, asked)
        return 0
    _check(sweep, _left(sweep, asked), options.overrides)
    with _alone_in(sweep.out):
        _run(sweep, _left(sweep, asked), options.overrides)
    failed = _left(sweep, asked)
    wrong = _conclude(done, options.out or sweep.out, options) if (done := _done(sweep)) else None
    if failed:
        rows = ", ".join(dict.fromkeys(cell.row for cell in failed))
        every = {cell.name for cell in (*asked, *failed)}
        raise DataError(f"{len(failed)} of {len(every)} cells have no record ({rows}): see the errors above, and type it again.")
    if wrong is not None and sweep.keys.equal_steps:
        raise DataError(wrong)
    return 0


def _named(cell: Cell) -> str:
    return cell.row if cell.seed is None else f"{cell.row}, seed {cell.seed}"


def _asked(sweep: Sweep, only: Sequence[str] | None) -> list[Cell]:
    """The cells that a pattern names; all without one.

    Raises:
        ConfigError: A pattern names none.
    """
    if only is None:
        return list(sweep.cells)
    for pattern in only:
        if not any(_is_called(cell, pattern) for cell in sweep.cells):
            raise ConfigError(
                f"--only {pattern!r}: no cell is called so; the first is {_named(sweep.cells[0])!r}. --list has all."
            )
    return [cell for cell in sweep.cells if any(_is_called(cell, pattern) for pattern in only)]


def _is_called(cell: Cell, pattern: str) -> bool:
    only_stars = pattern.replace("[", "[[]")  # a row may be called by brackets
    return any(fnmatchcase(name, only_stars) for name in (cell.row, _named(cell)))


def _show_list(sweep: Sweep, asked: Sequence[Cell]) -> None:
    left = {cell.name for cell in _left(sweep, asked)}
    for cell in sweep.cells:
        if cell.name in left:
            again = finished(sweep.records, cell) is not None
            print(f"to do     {_named(cell)}{' (again: its checkpoint, which another reads, is gone)' if again else ''}")
        elif cell in asked:
            print(f"finished  {_named(cell)}")


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Two at once in one folder would train the same cells."""
    from filelock import FileLock, Timeout

    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise MachineError(
            f"out={str(out)!r}: another solo-gps compare is at work there. Wait for it, or set another out."
        ) from error


def _done(sweep: Sweep) -> list[Record]:
    """The records in the order of the table; names and places that the sweep file changed are written back for ``--table``."""
    done = []
    for cell in sorted(sweep.cells, key=lambda cell: cell.place):
        if (record := finished(sweep.records, cell)) is not None:
            done.append(record)
            if record != read_record(sweep.records / f"{cell.name}.json"):
                write_record(sweep.records, cell.name, record)
    return done


def _left(sweep: Sweep, asked: Sequence[Cell]) -> list[Cell]:
    """Those of the asked cells that have no record, and others whose checkpoint, which such a cell reads, is not there."""
    wanted = {cell.name for cell in asked if finished(sweep.records, cell) is None}
    for cell in reversed(sweep.cells):
        for row in cell.needs if cell.name in wanted else ():
            other = sweep.cell(row, cell.seed)
            try:
                finished_checkpoint(sweep.folder(other))
            except DataError:
                wanted.add(other.name)
    return [cell for cell in sweep.cells if cell.name in wanted]


def _check_words(overrides: Sequence[str]) -> None:
    for word in overrides:
        if "=" not in word:
            raise ConfigError(f"{word!r}: wanted KEY=VALUE, for example hydra/launcher=joblib. (One sweep file at a time.)")
        if not word.lstrip("+").startswith(OF_THE_MACHINE):
            raise ConfigError(
                f"{word!r}: would change what the cells are, and their records would not tell. Write it under `overrides` in the "
                f"sweep file. Behind it may stand: {', '.join(OF_THE_MACHINE)}."
            )


def _check(sweep: Sweep, left: Sequence[Cell], overrides: Sequence[str]) -> None:
    """Checks all that can be wrong before the first cell is trained: folders, images of the judge, every cell's recipe."""
    from solo_gps.api.evaluate import check_images
    from solo_gps.runtime.files import check_can_write

    judge = sweep.judge
    for part in ("train", "test"):
        if not os.path.isdir(getattr(judge, part)):
            raise DataError(f"judge.{part}={getattr(judge, part)!r}: no such folder; wanted class folders of images.")
    check_images(judge.train, judge.test, metrics=judge.metrics, k=judge.k)
    check_can_write(sweep.out, "out")
    check_can_write(sweep.records, "records")
    own = [word for word in overrides if not word.lstrip("+").startswith("hydra")]
    counted: dict[str, int] = {}
    for cell in {cell.row: cell for cell in left}.values():  # seeds change nothing that can be wrong
        try:
            _check_prior(cell) if cell.alone else _check_recipe(sweep, cell, own, counted)
        except SoloGpsError as error:
            if not str(error).startswith(f"{cell.row}: "):
                error.args = (f"{cell.row}: {error}",)
            raise


def _check_prior(cell: Cell) -> None:
    from solo_gps.commands.cache import prior_node
    from solo_gps.embeddings.resolve import resolve_prior

    resolve_prior(prior_node(list(cell.overrides)))


def _check_recipe(sweep: Sweep, cell: Cell, overrides: Sequence[str], counted: dict[str, int]) -> None:
    from omegaconf import OmegaConf

    from solo_gps.guide.check import check_strategy, read_recipe
    from solo_gps.guide.trial import try_out

    cfg = composed(sweep.recipe, sweep.recipe_folder, [*overrides, *words_of(sweep, cell)], cell.row, with_hydra=True)
    with _as_in_its_job(cfg, sweep.folder(cell)):
        if read_recipe(cfg).samplers:  # both read what the trial replaces
            check_strategy(cfg)
        for word in cell.overrides:
            if CHECKPOINT.search(word):  # a file that another cell is to leave
                key = word.partition("=")[0].lstrip("+")
                OmegaConf.update(cfg, "prior" if key.partition(".")[0] == "prior" else key, None)
        try_out(cfg, counted)
    every, epochs, steps = sweep.judge.every, OmegaConf.select(cfg, "max_epochs"), OmegaConf.select(cfg, "max_steps")
    if every is None:
        return
    if not isinstance(epochs, int) or (epochs - 1) % every or (steps or -1) > 0:
        raise ConfigError(
            f"judge.every={every} with max_epochs={epochs}{f', max_steps={steps}' if steps else ''}: solo-learn saves after 1, "
            f"{every + 1}, {2 * every + 1}, ... epochs, so the last would not be judged. Set max_epochs to one of these, without "
            "max_steps."
        )
    if OmegaConf.select(cfg, "auto_resume.enabled"):
        raise ConfigError(f"judge.every={every} with auto_resume.enabled: the curve would lack what came before. Leave one out.")


@contextmanager
def _as_in_its_job(cfg: Any, folder: Path) -> Iterator[None]:
    """Takes Hydra's own node out of a recipe, which may read it meanwhile as in its job (``${hydra:runtime.cwd}``)."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    jobs = HydraConfig.instance()
    before = jobs.cfg
    with open_dict(cfg):
        cfg.hydra.job.num, cfg.hydra.job.id, cfg.hydra.runtime.output_dir = 0, "0", str(folder.absolute())
        jobs.set_config(cfg)
        cfg.pop("hydra")
    try:
        yield
    finally:
        jobs.cfg = before


def _run(sweep: Sweep, left: Sequence[Cell], overrides: Sequence[str]) -> None:
    from solo_gps.commands.cell import judged_alone, run_cells
    from solo_gps.comparison.plan import write_plan

    for cell in left:
        if cell.alone:
            try:
                judged_alone(cell, sweep.judge, sweep.records)
            except SoloGpsError as error:
                log.error("%s: not judged: %s", cell.row, error)
    trained = [cell for cell in left if not cell.alone]
    if not trained:
        return
    plan = sweep.out.absolute() / PLAN
    write_plan(sweep, trained, plan)
    run_cells(
        sweep,
        trained,
        [
            *("--config-path", str(sweep.recipe_folder), "--config-name", sweep.recipe, "--multirun"),
            *("hydra/sweeper=solo_gps_cells", f"hydra.sweeper.plan={quoted(plan)}"),
            *(f"hydra.sweep.dir={quoted(sweep.out.absolute() / 'cells')}", *overrides),
        ],
    )


def _conclude(records: Sequence[Record], out: Path, options: argparse.Namespace) -> str | None:
    """Prints and writes the table; returns what is wrong where rows took different numbers of steps."""
    from solo_gps.comparison.table import as_csv, as_markdown, cells, lines, made_with, unequal_steps
    from solo_gps.report.page import missing_for_pages
    from solo_gps.report.summary import aligned
    from solo_gps.runtime.files import write_text

    table = lines(records)
    print("\n".join(aligned(cells(table))))
    write_text(out / TABLE, as_markdown(table))
    write_text(out / CELLS, as_csv(records))
    print(f"\ntable: {printable((out / TABLE).absolute())}; beside it {CELLS}")
    if options.report:
        from solo_gps.report.comparison import write_comparison

        name = (options.sweep or options.table).stem
        page = write_comparison(table, out, title=f"Comparison {name}", command=shlex.join(["solo-gps", *options.typed]))
        print(f"page:  {printable(page.absolute())}")
    elif missing := missing_for_pages():
        print(f"no picture: it needs {missing} (pip install 'solo-gps[report]')")
    else:
        from solo_gps.report.comparison import pictures
        from solo_gps.report.page import save_pictures

        drawn = save_pictures(list(pictures(table)), out)
        print(f"drawn: {', '.join(file.name for file in drawn) or 'nothing, for no row has a figure'}")
    print(f"made with {'; '.join(made_with(records))}")
    return unequal_steps(table)
