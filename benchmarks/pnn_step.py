"""What pNN adds to a training step, with a queue of 65,536 x 256, against stock NNCLR and its own queue of that size.

    python benchmarks/pnn_step.py --repeats 7

Stock and pNN take turns, step by step, on the same batches in the same process, so that both see the same machine. A step is
forward, loss, backward and optimizer; on the CPU it is timed in CPU seconds, which other processes disturb least. The spread is
that of the median ratio over the repeats. The last row compares stock with stock: what NNCLR's own queue costs it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from solo_gps.guide.run import activate
from solo_gps.hosts.detect import detect_host

HOST = detect_host()


def recipe(method: str, images: Path, args: argparse.Namespace, sampler: dict, queue: int) -> DictConfig:
    crop = {
        "rrc": {"enabled": False, "crop_min_scale": 1.0, "crop_max_scale": 1.0},
        **{name: {"prob": 0.0} for name in ("grayscale", "gaussian_blur", "solarization", "equalization", "horizontal_flip")},
        "color_jitter": {"prob": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
        "crop_size": args.size,
        "num_crops": 2,
    }
    kwargs = {"proj_hidden_dim": 2048, "proj_output_dim": args.dimension, "temperature": 0.2}
    if method == "nnclr":
        kwargs |= {"pred_hidden_dim": 2048, "queue_size": queue}
    return OmegaConf.create(
        {
            "name": "step",
            "method": method,
            "seed": 1,
            "backbone": {"name": "resnet18", "kwargs": {}},
            "method_kwargs": kwargs,
            "augmentations": [crop],
            "data": {
                "dataset": "custom",
                "train_path": str(images),
                "val_path": None,
                "format": "image_folder",
                "no_labels": False,
                "fraction": -1,
                "num_workers": 0,
            },
            "optimizer": {"name": "sgd", "batch_size": args.batch, "lr": 0.01, "classifier_lr": 0.01, "weight_decay": 1e-4},
            "scheduler": {"name": "none"},
            "checkpoint": {"enabled": False},
            "auto_resume": {"enabled": False},
            "wandb": {"enabled": False},
            "knn_eval": {"enabled": False},
            "max_epochs": 1,
            "devices": "1",
            "accelerator": args.accelerator,
            "strategy": "auto",
            "precision": 32,
            "sync_batchnorm": False,
            "sampler": sampler,
        }
    )


class Contestant:
    """A method with its optimizer, and with a full queue."""

    def __init__(self, method: str, images: Path, args: argparse.Namespace, pnn: dict | None, queue: int) -> None:
        cfg = recipe(method, images, args, {} if pnn is None else {"pnn": pnn}, queue)
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

    def step(self, batch: list) -> float:
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


def compare(one: Contestant, two: Contestant, data: list, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Returns seconds of each repeat: the median of its steps, the contestants taking turns in alternating order."""
    medians: tuple[list[float], list[float]] = ([], [])
    for repeat in range(args.repeats + 1):
        seconds: tuple[list[float], list[float]] = ([], [])
        for step in range(args.steps):
            order = (0, 1) if step % 2 == 0 else (1, 0)
            for which in order:
                seconds[which].append((one, two)[which].step(data[step % len(data)]))
        if repeat:  # the first warms up
            for which in (0, 1):
                medians[which].append(statistics.median(seconds[which]))
    return medians


def images_folder(folder: Path) -> Path:
    for name in range(10):
        (folder / str(name)).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / str(name) / "0.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", type=int, default=65536)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    args = parser.parse_args()
    args.device = "cuda" if args.accelerator == "gpu" else "cpu"
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    data = batches(args)
    sizes = f"queue {args.queue:,} x {args.dimension}, batch {args.batch}, {args.size} x {args.size}"
    print(f"{sizes}, torch {torch.__version__}, {args.device}, {args.threads} thread(s), {args.repeats} x {args.steps} steps")
    print("\n| stock | with pNN | stock ms | pNN ms | median of the ratios | least and most over repeats |")
    print("|---|---|---|---|---|---|")
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
            contestants = [Contestant(method, images, args, keys, queue) for method, keys, queue in (stock, pnn)]
            theirs, ours = compare(*contestants, data, args)
            ratios = [b / a for a, b in zip(theirs, ours, strict=True)]
            one, two = (f"{1000 * statistics.median(times):.0f}" for times in (theirs, ours))
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"| {left} | {right} | {one} | {two} | {statistics.median(ratios):.3f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
