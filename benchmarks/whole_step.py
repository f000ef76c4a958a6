"""Whole steps of training, guided against plain: loader, transfer, network and everything that is ours.

    python benchmarks/whole_step.py --images data/train
    python benchmarks/whole_step.py --images data/train --accelerator gpu --precision 16-mixed --workers 8 --crop 96

SimCLR from image files, the variants in turns, several rounds (pNN's step: pnn_step.py). A step's seconds are those of whole
epochs after the first, which also starts the network, divided by their steps; CPU seconds are of the process and of its workers.
On a GPU each variant trains once more under torch's profiler: ``waits`` is how often a step waits for the device. Where DALI is
installed it has two variants; its guided one is compared with its plain one. On a CPU solo-learn's own asks for a GPU even where
``dali.device=cpu``: here it is told that there is none.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness import STRONG, Report, parser, recipe, spread, subset

from solo_gps.commands.pretrain import pretrain
from solo_gps.hosts.detect import detect_host

KWARGS = {"proj_hidden_dim": 2048, "proj_output_dim": 128, "temperature": 0.2}
GPS = {"sampler": {"gps": {}}}
DALI = {"data": {"format": "dali"}}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gps": GPS,
    "gps, images=memory": {**GPS, "images": {"store": "memory"}},
    "gps, keep_apart": {"sampler": {"gps": {"keep_apart": True}}},
    "plain, dali": DALI,
    "gps, dali": {**GPS, **DALI},
    "gps, refresh every epoch": {**GPS, "prior": {"name": "pca"}, "refresh": {"of": "features", "start": 0, "every": 1}},
}
ALL_OFF = {name: {"prob": 0.0} for name in ("gaussian_blur", "solarization", "equalization")}
"""Said for DALI, which wants each kind named."""
PROFILED = range(20, 30)
"""Steps of an epoch that the profiler sees."""


def spent() -> float:
    """CPU seconds of this process and of its workers that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def train(cfg: Any, profile: bool) -> dict[str, float]:
    """Trains, and returns the seconds and CPU seconds a step; or the waits a step under the profiler."""
    import torch

    host = detect_host()
    marks: list[tuple[float, float]] = []
    found: dict[str, float] = {}

    class Clock(host.lightning.callbacks.Callback):  # type: ignore[name-defined, misc]
        profiler: Any = None

        def mark(self) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            marks.append((time.perf_counter(), spent()))

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            self.mark()

        def on_train_end(self, trainer: Any, module: Any) -> None:
            self.mark()
            found["steps"] = trainer.global_step / trainer.max_epochs

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if profile and trainer.current_epoch == 1 and batch_idx == PROFILED.start:
                activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
                self.profiler = torch.profiler.profile(activities=activities)
                self.profiler.__enter__()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.profiler is not None and batch_idx == PROFILED.stop - 1:
                self.profiler.__exit__(None, None, None)
                waits = [event for event in self.profiler.events() if event.name.endswith("Synchronize")]
                found["waits"] = len(waits) / len(PROFILED)
                self.profiler = None

    own: Callable[..., list[Any]] = type(host).callbacks
    with patch.object(type(host), "callbacks", lambda self, cfg: [*own(self, cfg), Clock()]), without_gpu(cfg):
        pretrain(cfg)
    if profile:
        return {"waits": found["waits"]}
    (wall, cpu), (wall_end, cpu_end) = marks[1], marks[-1]
    steps = found["steps"] * (len(marks) - 2)
    return {"wall": (wall_end - wall) / steps, "cpu": (cpu_end - cpu) / steps}


@contextmanager
def without_gpu(cfg: Any) -> Iterator[None]:
    """Tells solo-learn's DALI, guided or not, that there is no GPU where the recipe has none."""
    if cfg.data.get("format") != "dali" or cfg.accelerator == "gpu":
        yield
        return
    from solo.data.dali_dataloader import PretrainPipelineBuilder as Builder

    build = Builder.pipeline
    with patch.object(Builder, "pipeline", lambda self, **asked: build(self, **{**asked, "device_id": None})):
        yield


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=Path, required=True, help="one folder of image files for each class")
    arguments.add_argument("--count", type=int, default=2000)
    arguments.add_argument("--batch", type=int, default=64)
    arguments.add_argument("--crop", type=int, default=32)
    arguments.add_argument("--backbone", default="resnet18")
    arguments.add_argument("--accelerator", default="cpu")
    arguments.add_argument("--precision", default="32")
    arguments.add_argument("--workers", type=int, default=1)
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--only", nargs="+", choices=list(VARIANTS))
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    options.only = options.only or [name for name in VARIANTS if "dali" not in name or find_spec("nvidia.dali")]
    what = (
        f"simclr, {options.backbone}, {options.count} images, crops of {options.crop}, batches of {options.batch}, "
        f"{options.precision}, {options.workers} workers, {options.epochs - 1} epochs after the first, {options.rounds} rounds"
    )
    columns = {
        "what": "what",
        "wall": "s a step",
        "cpu": "CPU s a step",
        "ratio": "of plain",
        "cpu_ratio": "of plain, CPU",
        "waits": "waits|.1f",
    }
    report = Report(what, columns)
    with tempfile.TemporaryDirectory() as folder:
        images = subset(options.images, Path(folder), options.count)

        def run(name: str, profile: bool = False) -> dict[str, float]:
            nodes = dict(VARIANTS[name])
            cfg = recipe(
                "simclr",
                images,
                KWARGS,
                [{**STRONG, **ALL_OFF, "crop_size": options.crop, "num_crops": 2}],
                backbone={"name": options.backbone},
                optimizer={"batch_size": options.batch},
                data={"num_workers": options.workers, **nodes.pop("data", {})},
                dali={"device": options.accelerator},
                accelerator=options.accelerator,
                devices=1,
                precision=options.precision,
                max_epochs=options.epochs,
                **nodes,
            )
            return train(cfg, profile)

        orders = (options.only, options.only[::-1])
        rounds = [{name: run(name) for name in orders[turn % 2]} for turn in range(options.rounds)]
        for name in options.only:
            row: dict[str, Any] = {"what": name}
            for key, ratio in (("wall", "ratio"), ("cpu", "cpu_ratio")):
                row[key] = f"{statistics.median(one[name][key] for one in rounds):.4f}"
                base = "plain, dali" if name == "gps, dali" else options.only[0]
                row[ratio] = spread([one[name][key] / one[base][key] for one in rounds])
            if options.accelerator == "gpu":
                row.update(run(name, profile=True))
            report.add(**row)
    report.end(options.json)


if __name__ == "__main__":
    main()
