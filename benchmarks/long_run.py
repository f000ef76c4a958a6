"""Whether a long run stays as it began: memory, open files and seconds a step, with refreshes and persistent workers.

python benchmarks/long_run.py --images FOLDER [--steps 2000] [--workers 4]

FOLDER holds one folder of image files for each class. Memory is the proportional share (PSS) of the process and its workers, and
open files are theirs. CPU seconds are of the main process, and disturbed least by other work on the machine.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness import Report, parser, recipe, subset

from solo_gps.commands.pretrain import pretrain
from solo_gps.guide.dataset import GuidedLoader
from solo_gps.guide.run import GuidedRun


def family() -> list[int]:
    """This process, and those that it started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def memory_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def state() -> dict[str, Any]:
    """Memory, open files and clocks now."""
    pids = family()
    return {
        "processes": len(pids),
        "mib": sum(map(memory_mib, pids)),
        "files": sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        "wall": time.perf_counter(),
        "cpu": time.process_time(),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=Path, required=True)
    arguments.add_argument("--count", type=int, default=1000)
    arguments.add_argument("--steps", type=int, default=2000)
    arguments.add_argument("--workers", type=int, default=4)
    arguments.add_argument("--every", type=int, default=10, help="epochs between two refreshes")
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    states: list[dict[str, Any]] = []
    parts, seen = 8, [0]
    describe = GuidedRun.describe

    def counted(self: GuidedRun, *args: Any, **kwargs: Any) -> Any:
        if seen[0] % (options.steps // parts) == options.steps // parts // 2:  # in the middle of an epoch, workers alive
            states.append({"step": seen[0], **state()})
        seen[0] += 1
        return describe(self, *args, **kwargs)

    with tempfile.TemporaryDirectory() as folder:
        train = subset(options.images, Path(folder), options.count)
        kwargs = {"proj_hidden_dim": 128, "proj_output_dim": 64, "temperature": 0.2}
        nodes = {"sampler": {"gps": {}}, "refresh": {"of": "features", "start": 0, "every": options.every, "num_workers": 1}}
        batch = {"optimizer": {"batch_size": 40}, "data": {"num_workers": options.workers}}
        epochs = -(-options.steps // (options.count // 40))
        cfg = recipe("simclr", train, kwargs, max_epochs=epochs, **batch, **nodes)
        loader = partial(GuidedLoader, persistent_workers=True)
        with patch.object(GuidedRun, "describe", counted), patch("solo_gps.guide.run.GuidedLoader", loader):
            pretrain(cfg)
    what = f"{seen[0]:,} steps of simclr, {options.workers} persistent workers, a refresh every {options.every} epochs"
    columns = {
        "steps": "steps",
        "rate": "steps a second|.2f",
        "cpu": "CPU s a step|.3f",
        "processes": "processes",
        "mib": "memory, MiB|.0f",
        "files": "open files",
    }
    report = Report(what, columns)
    for one, two in pairwise(states):
        steps = two["step"] - one["step"]
        report.add(
            steps=f"{one['step']:,} to {two['step']:,}",
            rate=steps / (two["wall"] - one["wall"]),
            cpu=(two["cpu"] - one["cpu"]) / steps,
            **{key: two[key] for key in ("processes", "mib", "files")},
        )
    report.end(options.json)


if __name__ == "__main__":
    main()
