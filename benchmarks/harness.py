"""What the benchmarks share: images, a small recipe, clocks, turns, tables and records. A script holds what it measures alone."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # solo-learn's for sets of one's own
STRONG = {
    "rrc": {"enabled": True, "crop_min_scale": 0.2, "crop_max_scale": 1.0},
    "color_jitter": {"prob": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
    "grayscale": {"prob": 0.2},
}


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows the script's docstring, examples included."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, help="write the machine, the command and every row here, as one record")
    return made


def in_pieces(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """A parser with the arguments of a script that is run again until it says that all is done: see :class:`Ongoing`."""
    made.add_argument("--out", type=Path, required=True, help="folder of what is done")
    made.add_argument("--minutes", type=float, default=7.0, help="a call ends with what it is at when these are over")
    return made


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    cpus = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpus.read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": (names or [platform.processor() or platform.machine()])[0],
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


class Report:
    """Prints the machine, what was set up, and a table row by row; keeps the rows for the record.

    Args:
        what: One line about the set-up.
        columns: Key of a row to the head of its column, with the format of its cells after a ``|``, for example
            ``{"wall": "wall s|.2f"}``. ``None`` is an empty cell; a key without a column is in the record alone.
    """

    def __init__(self, what: str, columns: Mapping[str, str]) -> None:
        self.machine, self.what, self.rows = machine(), what, list[dict[str, Any]]()
        self._key, self._note = next(iter(columns)), ""
        self._formats = {key: head.partition("|")[2] for key, head in columns.items()}
        on = ", ".join(f"{key} {value}" for key, value in self.machine.items() if value is not None)
        heads = " | ".join(head.partition("|")[0] for head in columns.values())
        self._head = f"{what}\n{on}\n\n| {heads} |\n|{'---|' * len(columns)}"
        print(self._head, flush=True)

    @property
    def text(self) -> str:
        """All that was printed."""
        return "\n".join([self._head, *map(self._line, self.rows), *([f"\n{self._note}"] if self._note else []), ""])

    def _line(self, row: Mapping[str, Any]) -> str:
        cells = (format(row[key], spec) if row.get(key) is not None else "" for key, spec in self._formats.items())
        return f"| {' | '.join(cells)} |"

    def add(self, **row: Any) -> None:
        """Adds a row to the table and to the record."""
        self.rows.append(row)
        print(self._line(row), flush=True)

    def end(self, json_file: Path | None = None, note: str = "", page: Path | None = None, **facts: Any) -> None:
        """Prints a last line, and writes the record, and the table in Markdown, where they are wanted."""
        if note:
            self._note = note
            print(f"\n{note}", flush=True)
        self._write(json_file, page, **facts)

    def _write(self, json_file: Path | None, page: Path | None, **facts: Any) -> None:
        from solo_gps.runtime.files import write_text

        if json_file is not None:
            record = {"command": sys.argv, "machine": self.machine, "what": self.what, **facts, "rows": self.rows}
            json_file.parent.mkdir(parents=True, exist_ok=True)
            write_text(json_file, json.dumps(record, indent=1) + "\n")
        if page is not None:
            write_text(page, self.text)


class Ongoing(Report):
    """A report of a script that is run again until all is done: each row is on disk, JSON and Markdown, once it is there.

    Args:
        what: As for a report; also what the rows of an earlier call must have been measured with.
        columns: As for a report; the first one names a row.
        given: What the script was given (see :func:`in_pieces`).
        name: Of the two files.
    """

    def __init__(self, what: str, columns: Mapping[str, str], given: argparse.Namespace, name: str) -> None:
        self._end = time.monotonic() + 60 * given.minutes
        super().__init__(what, columns)
        self._files = given.json or given.out / f"{name}.json", given.out / f"{name}.md"
        if self._files[0].exists():
            earlier = json.loads(self._files[0].read_text())
            before, now = ((record["what"], record["machine"]["gpu"]) for record in (earlier, vars(self)))
            if before != now:
                sys.exit(f"{self._files[0]} holds rows of {before}, and this is {now}: give another --out.")
            for row in earlier["rows"]:
                super().add(**row)

    @property
    def over(self) -> bool:
        """Whether the minutes are over."""
        return time.monotonic() > self._end

    def row(self, name: str) -> dict[str, Any] | None:
        """The row of that name, of this call or an earlier one."""
        return next((row for row in self.rows if row[self._key] == name), None)

    def add(self, **row: Any) -> None:
        """Adds a row, in the place of one of the same name, and writes all."""
        before = self.row(row[self._key])
        if before is None:
            super().add(**row)
        else:
            self.rows[self.rows.index(before)] = row
            print(self._line(row), flush=True)
        self._write(*self._files)

    def done(self, left: Sequence[str], note: str = "") -> None:
        """Says what is left, and writes all once more."""
        state = f"To be gone on with: {', '.join(left)}." if left else "All is done."
        self.end(self._files[0], f"{state} {note}".strip(), self._files[1])


def spread(values: Sequence[float], spec: str = ".3f") -> str:
    """The median, and the least and the most."""
    return f"{statistics.median(values):{spec}} ({min(values):{spec}} to {max(values):{spec}})"


def mean_and_deviation(values: Sequence[float], spec: str = ".1f") -> str:
    """The mean, and the deviation of the sample where there is more than one."""
    deviation = f" ± {statistics.stdev(values):{spec}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{spec}}{deviation}"


def in_turns(one: Callable[[], Any], two: Callable[[], Any], repeats: int) -> list[tuple[Any, Any]]:
    """Calls both ``repeats`` times, next to each other and in alternating order, so that both see the same machine."""
    pairs = []
    for repeat in range(repeats):
        if repeat % 2 == 0:
            first = one()
            pairs.append((first, two()))
        else:
            second = two()
            pairs.append((one(), second))
    return pairs


@dataclass
class Spent:
    """Seconds, and memory in MiB: ``peak`` of the process, ``mib`` of it above that at the start."""

    wall: float = 0.0
    cpu: float = 0.0
    mib: float = 0.0
    peak: float = 0.0


@contextmanager
def spending() -> Iterator[Spent]:
    """Measures a block; CPU seconds are of all threads, and disturbed least by other work on the machine."""
    spent, ended, start = Spent(), threading.Event(), _resident()
    peak = start

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, _resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    wall, cpu = time.perf_counter(), time.process_time()
    yield spent
    spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu
    ended.set()
    thread.join()
    spent.peak = max(peak, _resident())
    spent.mib = spent.peak - start


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def in_a_process(script: str, *arguments: object) -> dict[str, Any]:
    """Runs a script anew, so that its memory is its own, and returns the JSON of its last line; its stderr is shown."""
    # Threads that wait sleep instead of spinning, or the CPU seconds would count the waiting.
    quiet = {**os.environ, "OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=quiet)
    return json.loads(done.stdout.splitlines()[-1])


def subset(source: Path, target: Path, count: int) -> Path:
    """Links ``count`` images, the first of each class by name, into class folders of ``target``, which is returned."""
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    for folder in folders:
        (target / folder.name).mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.iterdir())[: count // len(folders)]:
            link = target / folder.name / file.name
            if not link.is_symlink():
                link.symlink_to(file.resolve())
    return target


def recipe(method: str, train: Path, kwargs: Mapping[str, Any], crops: Sequence[Mapping[str, Any]] = ({},), **own: Any) -> Any:
    """``simclr_digits`` for another method and set, on one CPU thread and without files.

    Args:
        method: Name of the method, with ``kwargs`` as its ``method_kwargs``.
        train: Class folders.
        kwargs: What the method takes.
        crops: Keys that differ from the recipe's crop, one mapping a pipeline.
        own: Further nodes, merged in last.
    """
    from omegaconf import OmegaConf

    from solo_gps.commands.recipes import compose_recipe

    made = compose_recipe("simclr_digits")
    made.augmentations = [OmegaConf.merge(made.augmentations[0], crop) for crop in crops]
    made.name = made.method = method
    made.method_kwargs, made.data.train_path, made.data.num_workers = dict(kwargs), str(train), 0
    here = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return OmegaConf.merge(made, here, own)


def knn_percent(done: Any, train: Path, test: Path) -> float:
    """Accuracy of a trained backbone on held-out images, in per cent: 20 nearest training images, cosine, one vote each."""
    from solo_gps.evaluation.features import folder_features
    from solo_gps.evaluation.metrics import knn_accuracy

    backbone = getattr(done.model, done.host.backbone_name)
    sets = [folder_features(backbone, folder, size=32, **NORMALISATION) for folder in (train, test)]
    return 100 * knn_accuracy(*sets[0], *sets[1])
