"""One cell of a comparison: the Hydra program that trains it, checks what it was shown, judges it, and keeps a record."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from solo_gps.comparison.cells import Cell, JudgeKeys
from solo_gps.comparison.plan import FINISHED, mark_finished
from solo_gps.comparison.records import finished, record_of, write_record
from solo_gps.comparison.sweep import Sweep
from solo_gps.errors import ConfigError, HostError
from solo_gps.hydra_switch import loader_workers
from solo_gps.runtime.console import show_progress_lines
from solo_gps.runtime.determinism import preserved_flags

TOLD = (
    *("share_guided", "purity_of_positives_used", "purity_of_all_neighbours", "measures"),
    *("samplers", "embeddings", "tables", "keys"),
)
"""What a record keeps of a receipt."""
OF_RANKS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "RANK", "WORLD_SIZE")
"""What Lightning tells the ranks that it starts."""


def run_cells(sweep: Sweep, cells: Sequence[Cell], arguments: Sequence[str]) -> None:
    """Runs the Hydra program whose sweeper launches the cells.

    Args:
        sweep: The sweep.
        cells: Those that are left.
        arguments: For Hydra.
    """
    typed = sys.argv
    by_name = {cell.name: cell for cell in cells}
    readers = [cell for cell in sweep.cells if finished(sweep.records, cell) is None]  # also those that a later command trains
    needed = {(row, cell.seed) for cell in readers for row in cell.needs}
    keep = {cell.name for cell in cells if sweep.keys.keep_checkpoints or (cell.row, cell.seed) in needed}
    # Plain values, for a launcher sends the program to another process with all that it reads.
    judge = replace(sweep.judge, **{part: os.path.abspath(getattr(sweep.judge, part)) for part in ("train", "test")})
    records, recipe = str(sweep.records.absolute()), list(arguments[:4])

    @hydra.main(version_base="1.2", config_path=None)
    def program(cfg: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig

        words = list(HydraConfig.get().overrides.task)
        sys.argv = [*typed[:1], "pretrain", *recipe, *words]  # Lightning starts the other ranks by it
        show_progress_lines()
        cell = by_name[Path(HydraConfig.get().runtime.output_dir).name]
        with loader_workers(), _ranks_let_go(), preserved_flags():
            train_and_judge(cfg, cell, judge, Path(records), keep=cell.name in keep)

    sys.argv = ["solo-gps compare", *arguments]
    try:
        program()
    except SystemExit as error:  # Hydra has said why
        raise ConfigError("Hydra could not start the trainings: its lines above say why.") from error
    finally:
        sys.argv = typed


@contextmanager
def _ranks_let_go() -> Iterator[None]:
    """Ends what a training of several processes leaves behind, which the next cell in this process would take for its own."""
    import torch.distributed as dist

    before, grouped = {key: os.environ.get(key) for key in OF_RANKS}, dist.is_initialized()
    try:
        yield
    finally:
        if dist.is_initialized() and not grouped:
            dist.destroy_process_group()
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def train_and_judge(cfg: DictConfig, cell: Cell, judge: JudgeKeys, records: Path, *, keep: bool) -> None:
    """Trains a cell, checks its receipt, judges its checkpoints and writes its record.

    Args:
        cfg: The composed recipe, with checkpoints enabled.
        cell: The cell.
        judge: How it is judged.
        records: Folder of the records.
        keep: Whether its checkpoints stay.

    Raises:
        HostError: The receipt says that the run was not what the cell asks for, or no checkpoint was left.
    """
    from solo_gps.commands.pretrain import pretrain

    OmegaConf.set_struct(cfg, False)
    asked = list(cfg.get("sampler") or {})
    folder = Path(cfg.checkpoint.dir)
    (folder / FINISHED).unlink(missing_ok=True)
    wall, cpu = time.perf_counter(), time.process_time()
    done = pretrain(cfg)
    trainer = done.trainer
    if trainer.state.status == "interrupted":
        raise KeyboardInterrupt  # Lightning keeps it to itself
    if cfg.wandb.enabled:
        import wandb

        wandb.finish()  # or the next cell of this process would go on with this one's run
    if not trainer.is_global_zero:
        return
    checkpoints = _checkpoints(folder, judge.every)
    steps, host, epochs, ranks = int(trainer.global_step), done.host, int(trainer.current_epoch), int(trainer.world_size)
    if checkpoints[-1][0] != epochs:
        raise HostError(
            f"{checkpoints[-1][1]}: solo-learn's last checkpoint is of {checkpoints[-1][0]} epochs, but {epochs} were trained: "
            "what was trained cannot be judged. Let the training end where it saves."
        )
    receipt = checked_receipt(checkpoints[-1][1].parent, asked)
    trained = time.perf_counter() - wall, time.process_time() - cpu
    del done, trainer
    curve: list[dict[str, Any]] = [
        {"epochs": after, "figures": judged_figures(judge, [str(path)])} for after, path in checkpoints
    ]
    record = record_of(
        cell,
        steps=steps,
        figures=curve[-1]["figures"],
        curve=curve if len(curve) > 1 else [],
        receipt=receipt,
        facts={
            "epochs": epochs,
            "processes": ranks,
            "seconds_of_training": round(trained[0], 1),
            "cpu_seconds_of_training": round(trained[1], 1),
            **facts(host.generation),
        },
    )
    if keep:
        mark_finished(folder, checkpoints[-1][1])  # before the record: a kill between them would train it twice
    write_record(records, cell.name, record)
    if not keep:
        for path in folder.glob("**/*.ckpt"):
            path.unlink()


def _checkpoints(folder: Path, every: int | None) -> list[tuple[int, Path]]:
    """Epochs and checkpoint of the newest run in a folder; the last alone without a curve."""
    found = sorted(folder.glob("**/*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    if not found:
        raise HostError(f"{folder}: the training left no checkpoint.")
    shown = sorted(found[-1].parent.glob("*.ckpt"), key=_epoch) if every is not None else found[-1:]
    return [(_epoch(path) + 1, path) for path in shown]


def _epoch(path: Path) -> int:
    digits = path.stem.rpartition("=")[2]
    if not digits.isdigit():
        raise HostError(f"{path}: wanted a name that ends in the number of an epoch, as solo-learn's checkpoints have.")
    return int(digits)


def checked_receipt(folder: Path, asked: Sequence[str]) -> dict[str, Any] | None:
    """What a table needs of a run's receipt, after a check that the run was guided as its recipe asked; ``None`` for a plain one.

    Args:
        folder: Folder of the checkpoint.
        asked: Names of the samplers.

    Raises:
        HostError: There is none, though samplers were asked for; or it says that the run was cut short, or never guided.
    """
    from solo_gps.guide.receipt import FILE

    file = folder / FILE
    if not asked:
        if file.exists():
            raise HostError(f"{file}: the receipt of a guided run beside a plain one. Remove the folder and train again.")
        return None
    if not file.exists():
        raise HostError(f"{folder}: no {FILE} beside the checkpoint, though the recipe asks for {' and '.join(asked)}.")
    receipt: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if receipt["ended"] != "finished" or set(receipt["samplers"]) != set(asked):
        raise HostError(
            f"{file}: says {receipt['ended']}, by {' and '.join(receipt['samplers'])}; wanted a finished run by "
            f"{' and '.join(asked)}."
        )
    if receipt["share_guided"] == 0:
        raise HostError(f"{file}: not one item of the run was guided: its positives are plain augmentations.")
    # Of the prior its digest alone: records travel, and paths are of one machine.
    return {key: receipt.get(key) for key in TOLD}


def judged_figures(
    judge: JudgeKeys, checkpoints: Sequence[str] = (), priors: Sequence[Mapping[str, Any]] = ()
) -> dict[str, float | None]:
    """The figures of one checkpoint, or of one prior alone; its embeddings are not kept.

    Args:
        judge: How it is judged.
        checkpoints: The checkpoint.
        priors: The prior.
    """
    import tempfile

    from solo_gps.api.evaluate import judge as judged

    with tempfile.TemporaryDirectory() as cache:
        result = judged(
            checkpoints,
            train=judge.train,
            test=judge.test,
            priors=[{"cache_dir": cache, **prior} for prior in priors],
            keys={"cache_dir": cache},
            decode=None,
            untrained=False,
            metrics=judge.metrics,
            k=judge.k,
        )
    return dict(result.rows[0].figures)


def facts(generation: str) -> dict[str, Any]:
    """The machine and the versions, as a record keeps them."""
    import torch

    from solo_gps.runtime.machine import cpu_count
    from solo_gps.version import __version__

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpus": cpu_count(), "gpu": gpu, "torch": torch.__version__, "solo_learn": generation, "solo_gps": __version__}


def judged_alone(cell: Cell, judge: JudgeKeys, records: Path) -> None:
    """Judges a prior without any training, and writes the record.

    Args:
        cell: The cell of the prior.
        judge: How it is judged.
        records: Folder of the records.
    """
    from solo_gps.commands.cache import prior_node
    from solo_gps.hosts.detect import detect_host

    record = record_of(
        cell,
        steps=None,
        figures=judged_figures(judge, priors=[prior_node(list(cell.overrides))]),
        facts=facts(detect_host().generation),
    )
    write_record(records, cell.name, record)
