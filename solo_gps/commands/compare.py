"""`solo-gps compare`: many trainings by Hydra's launchers, and one table."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from solo_gps.comparison.records import Record, finished, read_records, write_record
from solo_gps.comparison.sweep import CHECKPOINT, Cell, Sweep, read_sweep
from solo_gps.errors import ConfigError, DataError, MachineError, SoloGpsError, printable

TABLE, CELLS, PLAN, LOCK = "table.md", "cells.csv", "plan.json", ".lock"
OF_THE_MACHINE = (
    *("hydra/", "hydra.", "accelerator=", "devices=", "strategy=", "num_nodes=", "wandb.", "auto_resume."),
    *("data.num_workers=", "data.train_path=", "data.val_path=", "prior.device=", "prior.num_workers=", "search.device="),
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
    command.add_argument("--list", action="store_true", help="show every cell, and which are finished; train nothing")
    command.add_argument("--table", type=Path, default=None, metavar="RUNS", help="make the table of a folder of records again")
    command.add_argument("--out", type=Path, default=None, metavar="FOLDER", help="folder for table, picture and page of --table")
    command.add_argument("--report", action="store_true", help="also write a page about it, report.html")
    command.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    from solo_gps.runtime.console import show_progress_lines

    show_progress_lines()
    if (options.sweep is None) == (options.table is None):
        raise ConfigError("compare: wanted a sweep file, or --table with a folder of records.")
    if options.report:
        from solo_gps.report.page import check_can_draw

        check_can_draw("leave --report out")
    if options.sweep is None:
        return _conclude(read_records(options.table), options.out or options.table, None, options)
    sweep = read_sweep(options.sweep)
    left = _left(sweep)
    if options.list:
        names = {cell.name for cell in left}
        for cell in sweep.cells:
            seed = "" if cell.seed is None else f", seed {cell.seed}"
            print(f"{'to do   ' if cell.name in names else 'finished'}  {cell.row}{seed}")
        return 0
    _check(sweep, left, options.overrides)
    with _alone_in(sweep.out):
        _run(sweep, left, options.overrides)
    failed = _left(sweep)
    if done := _done(sweep):
        code = _conclude(done, options.out or sweep.out, sweep, options)
    if failed:
        rows = ", ".join(dict.fromkeys(cell.row for cell in failed))
        raise DataError(
            f"{len(failed)} of {len(sweep.cells)} cells have no record ({rows}): see the errors above, and type it again."
        )
    return code


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
    done = []
    for cell in sorted(sweep.cells, key=lambda cell: cell.place):
        record = finished(sweep.records, cell)
        if record is not None and record.place != cell.place:  # a sweep file in another order, for who makes the table without it
            record = replace(record, place=cell.place)
            write_record(sweep.records, cell.name, record)
        done += [record] if record is not None else []
    return done


def _left(sweep: Sweep) -> list[Cell]:
    """Cells without a record, and those whose checkpoint, which such a cell reads, is gone."""
    wanted = {cell.name: cell for cell in sweep.cells if finished(sweep.records, cell) is None}
    for cell in reversed(sweep.cells):
        for row in cell.needs if cell.name in wanted else ():
            other = sweep.cell(row, cell.seed)
            if not any(sweep.folder(other).glob("**/*.ckpt")):
                wanted.setdefault(other.name, other)
    return [cell for cell in sweep.cells if cell.name in wanted]


def _check(sweep: Sweep, left: Sequence[Cell], overrides: Sequence[str]) -> None:
    """Checks everything that can be wrong before the first cell is trained: folders, the judge's keys, every cell's recipe."""
    from solo_gps.config import parse
    from solo_gps.evaluation.scores import ScoreConfig
    from solo_gps.runtime.files import check_can_write

    judge = sweep.judge
    for part in ("train", "test"):
        if not os.path.isdir(getattr(judge, part)):
            raise DataError(f"judge.{part}={getattr(judge, part)!r}: no such folder; wanted class folders of images.")
    parse({"metrics": judge.metrics, "k": judge.k}, ScoreConfig, "judge")
    check_can_write(sweep.out, "out")
    check_can_write(sweep.records, "records")
    for word in overrides:
        if "=" not in word:
            raise ConfigError(f"{word!r}: wanted KEY=VALUE, for example hydra/launcher=joblib. (One sweep file at a time.)")
        if not word.lstrip("+").startswith(OF_THE_MACHINE):
            raise ConfigError(
                f"{word!r}: would change what the cells are, and their records would not tell. Write it under `overrides` in the "
                f"sweep file. Behind it may stand: {', '.join(OF_THE_MACHINE)}."
            )
    _check_recipes(sweep, left, [word for word in overrides if not word.lstrip("+").startswith(("hydra/", "hydra."))])


def _check_recipes(sweep: Sweep, left: Sequence[Cell], overrides: Sequence[str]) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from solo_gps.commands.recipes import check_recipe_name, recipe_folder
    from solo_gps.guide.check import check_recipe, read_recipe
    from solo_gps.hosts.detect import detect_host

    if sweep.recipe_folder is None:
        check_recipe_name(sweep.keys.recipe)
    folder, host = sweep.recipe_folder or recipe_folder(), detect_host()
    with initialize_config_dir(version_base="1.2", config_dir=str(folder)):
        for cell in left:
            if cell.alone:
                continue
            words = [CHECKPOINT.sub("of_that_row.ckpt", word) for word in cell.overrides]
            try:
                cfg = compose(sweep.keys.recipe, overrides=[*overrides, *words])
                OmegaConf.set_struct(cfg, False)
                asked = read_recipe(cfg)
                if not cell.needs:  # else a file is read that another cell is to leave
                    check_recipe(cfg, host, asked.samplers)
                _check_curve(cfg, sweep.judge.every)
            except HydraException as error:
                raise ConfigError(f"{cell.row}: {' '.join(str(error).split())}") from error
            except SoloGpsError as error:
                error.args = (f"{cell.row}: {error}",)
                raise


def _check_curve(cfg: object, every: int | None) -> None:
    from omegaconf import OmegaConf

    epochs = OmegaConf.select(cfg, "max_epochs")  # type: ignore[arg-type]
    if every is not None and (not isinstance(epochs, int) or (epochs - 1) % every):
        raise ConfigError(
            f"judge.every={every} with max_epochs={epochs}: solo-learn saves after 1, {every + 1}, {2 * every + 1}, ... epochs, "
            "so the last would not be judged. Set max_epochs to one of these."
        )


def _run(sweep: Sweep, left: Sequence[Cell], overrides: Sequence[str]) -> None:
    from solo_gps.commands.cell import judged_alone, run_cells
    from solo_gps.commands.recipes import recipe_folder
    from solo_gps.comparison.plan import write_plan

    for cell in left:
        if cell.alone:
            judged_alone(cell, sweep.judge, sweep.records)
    trained = [cell for cell in left if not cell.alone]
    if not trained:
        return
    plan = sweep.out.absolute() / PLAN
    write_plan(sweep, trained, plan)
    run_cells(
        sweep,
        trained,
        [
            *("--config-path", str(sweep.recipe_folder or recipe_folder()), "--config-name", sweep.keys.recipe, "--multirun"),
            *("hydra/sweeper=solo_gps_cells", f"hydra.sweeper.plan={plan}", f"hydra.sweep.dir={sweep.out.absolute() / 'cells'}"),
            *overrides,
        ],
    )


def _conclude(records: Sequence[Record], out: Path, sweep: Sweep | None, options: argparse.Namespace) -> int:
    """Prints and writes the table; with unequal steps the command fails, after all is written."""
    from solo_gps.comparison.table import as_csv, as_markdown, cells, lines, made_with, unequal_steps
    from solo_gps.report.summary import aligned
    from solo_gps.runtime.files import write_text

    table = lines(records, None if sweep is None else sweep.keys.baseline)
    print("\n".join(aligned(cells(table))))
    write_text(out / TABLE, as_markdown(table))
    write_text(out / CELLS, as_csv(records))
    print(f"\ntable: {printable((out / TABLE).absolute())}; beside it {CELLS}")
    if options.report:
        from solo_gps.report.comparison import write_comparison

        name = (options.sweep or options.table).stem
        page = write_comparison(table, out, title=f"Comparison {name}", command=shlex.join(["solo-gps", *options.typed]))
        print(f"page:  {printable(page.absolute())}")
    print(f"made with {'; '.join(made_with(records))}")
    wrong = unequal_steps(table) if sweep is None or sweep.keys.equal_steps else None
    if wrong is not None:
        raise DataError(wrong)
    return 0
