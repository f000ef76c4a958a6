"""What pNN adds to a training step, with a queue of 65,536 x 256, against stock NNCLR and its own queue of that size.

    python benchmarks/pnn_step.py --repeats 7

Stock and pNN take turns, step by step, on the same batches in the same process, so that both see the same machine. A step is
forward, loss, backward and optimizer; on the CPU it is timed in CPU seconds, which other processes disturb least. The spread is
that of the median ratio over the repeats. The last row compares stock with stock: what NNCLR's own queue costs it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from harness import Report, in_turns, parser, recipe, spread
from omegaconf import DictConfig
from PIL import Image

from solo_gps.guide.switch import activate
from solo_gps.hosts.detect import detect_host

HOST = detect_host()


def recipe_of(method: str, images: Path, args: argparse.Namespace, sampler: dict, queue: int) -> DictConfig:
    kwargs = {"proj_hidden_dim": 2048, "proj_output_dim": args.dimension, "temperature": 0.2}
    if method == "nnclr":
        kwargs |= {"pred_hidden_dim": 2048, "queue_size": queue}
    nodes = {"optimizer": {"batch_size": args.batch, "lr": 0.01}, "scheduler": {"name": "none"}, "max_epochs": 1}
    return recipe(method, images, kwargs, [{"crop_size": args.size}], accelerator=args.accelerator, sampler=sampler, **nodes)


class Contestant:
    """A method with its optimizer, and with a full queue."""

    def __init__(self, method: str, images: Path, args: argparse.Namespace, pnn: dict | None, queue: int, data: list) -> None:
        self.data = itertools.cycle(data)
        cfg = recipe_of(method, images, args, {} if pnn is None else {"pnn": pnn}, queue)
        with activate(cfg) as on:
            completed = HOST.complete(on.cfg)
            HOST.lightning.seed_everything(1)
            self.model = HOST.build_method(completed, HOST.methods[method]).train().to(args.device)
        self.optimizer = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=0.01)
        self.clock = time.perf_counter if args.device == "cuda" else time.process_time
        self.sync = torch.cuda.synchronize if args.device == "cuda" else (lambda: None)
        if pnn is not None:
            for start in range(0, args.queue, 4096):
                index = torch.arange(start, min(start + 4096, args.queue), device=args.device)
                if method == "nnclr":
                    self.model.pnn.rows.write(start, index)
                else:
                    self.model.pnn.rows.push(torch.randn(len(index), args.dimension, device=args.device), index % 10, index)

    def step(self) -> float:
        batch = next(self.data)
        self.sync()
        start = self.clock()
        loss = self.model.training_step(batch, 0)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.sync()
        return self.clock() - start


def batches(args: argparse.Namespace) -> list:
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(4):
        crops = [torch.randn(args.batch, 3, args.size, args.size, generator=generator) for _ in range(2)]
        index = torch.arange(number * args.batch, (number + 1) * args.batch)
        made.append([index.to(args.device), [crop.to(args.device) for crop in crops], (index % 10).to(args.device)])
    return made


def compare(one: Contestant, two: Contestant, args: argparse.Namespace) -> list[tuple[float, float]]:
    """Returns seconds of each repeat: the medians of its steps, the contestants taking turns; the first repeat warms up."""
    repeats = [in_turns(one.step, two.step, args.steps) for _ in range(args.repeats + 1)]
    return [tuple(statistics.median(seconds) for seconds in zip(*steps, strict=True)) for steps in repeats[1:]]


def images_folder(folder: Path) -> Path:
    for name in range(10):
        (folder / str(name)).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / str(name) / "0.png")
    return folder


COLUMNS = {
    "stock": "stock",
    "other": "with pNN",
    "stock_ms": "stock ms|.0f",
    "other_ms": "pNN ms|.0f",
    "ratio": "median of the ratios (least to most over repeats)",
}


def main() -> None:
    arguments = parser(__doc__)
    sizes = {"queue": 65536, "dimension": 256, "batch": 256, "size": 32, "steps": 3, "repeats": 7, "threads": 1}
    for name, default in sizes.items():
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    args = arguments.parse_args()
    args.device = "cuda" if args.accelerator == "gpu" else "cpu"
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    data = batches(args)
    sizes = f"queue {args.queue:,} x {args.dimension}, batch {args.batch}, {args.size} x {args.size}"
    report = Report(f"{sizes}, {args.device}, {args.repeats} x {args.steps} steps", COLUMNS)
    own, full = {"queue_size": args.queue}, args.queue
    pairs = [
        ("nnclr", ("nnclr", None, full), "nnclr", ("nnclr", {}, full)),
        ("nnclr", ("nnclr", None, full), "nnclr, exclude_same_image", ("nnclr", {"exclude_same_image": True}, full)),
        ("simclr (no queue)", ("simclr", None, full), "simclr", ("simclr", own, full)),
        (f"nnclr, queue of {args.batch}", ("nnclr", None, args.batch), "(stock nnclr)", ("nnclr", None, full)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        images = images_folder(Path(folder) / "images")
        for left, stock, right, pnn in pairs:
            contestants = [Contestant(method, images, args, keys, queue, data) for method, keys, queue in (stock, pnn)]
            seconds = compare(*contestants, args)
            one, two = (1000 * statistics.median(times) for times in zip(*seconds, strict=True))
            ratio = spread([b / a for a, b in seconds])
            report.add(stock=left, other=right, stock_ms=one, other_ms=two, ratio=ratio, seconds=seconds)
    report.end(args.json)


if __name__ == "__main__":
    main()
