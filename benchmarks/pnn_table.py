"""NNCLR against pNNCLR on a fixed subset of CIFAR-10, with the purity of the chosen neighbours epoch by epoch.

    python benchmarks/pnn_table.py --data /path/to/cifar10 --out runs/pnn_table

Wants CIFAR-10 as class folders (train/<class>/*.jpg, test/<class>/*.jpg). Prints the table anew, and writes table.md, curve.csv
and curve.png, after every run, so that an interrupted table keeps what it has. NNCLR is pNN at its neutral point (alpha = beta =
0), which equals stock NNCLR to the last bit (tests/samplers/pnn/test_training.py) and so has the same measures logged.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from harness import STRONG, Report, knn_percent, mean_and_deviation, parser, recipe, spending, subset
from omegaconf import DictConfig

from solo_gps.commands.pretrain import pretrain
from solo_gps.runtime.files import whole_file, write_text

METHOD_KWARGS: dict[str, dict] = {
    "nnclr": {"temperature": 0.2, "pred_hidden_dim": 512},
    "mocov2plus": {"temperature": 0.2},
    "ressl": {"temperature_q": 0.1, "temperature_k": 0.04},
}
SUITES: dict[str, dict[str, tuple[str, dict]]] = {
    "nnclr": {
        "NNCLR": ("nnclr", {"alpha": 0.0, "beta": 0.0}),
        "pNNCLR, alpha 0.05, beta 0.1": ("nnclr", {"alpha": 0.05, "beta": 0.1}),
    },
    "schedule": {
        "pNNCLR, alpha from 1 to 0.05, beta 0.1": ("nnclr", {"alpha": 1.0, "alpha_end": 0.05, "beta": 0.1}),
        "pNNCLR, alpha 0.05, beta 0.1, ema 0.99": ("nnclr", {"alpha": 0.05, "beta": 0.1, "ema": 0.99}),
    },
    "negatives": {
        f"{title}, {label}": (method, pnn)
        for title, method in (("MoCo v2+", "mocov2plus"), ("ReSSL", "ressl"))
        for label, pnn in {
            "stock": {"alpha": 1.0, "beta": 0.0},
            "alpha 0.5, mask": {"alpha": 0.5, "beta": 0.1},
            "alpha 0.5, keep": {"alpha": 0.5, "beta": 0.1, "own_queue": "keep"},
            "alpha 0.05, mask": {"alpha": 0.05, "beta": 0.1},
            "alpha 0.05, keep": {"alpha": 0.05, "beta": 0.1, "own_queue": "keep"},
        }.items()
    },
}


def recipe_of(method: str, pnn: dict, images: Path, args: argparse.Namespace, seed: int, log_dir: Path) -> DictConfig:
    kwargs = {"proj_hidden_dim": 512, "proj_output_dim": 128, "queue_size": args.queue, **METHOD_KWARGS[method]}
    if method != "nnclr":
        pnn = {**pnn, "queue_size": args.queue}
    crops = [STRONG]
    if method == "ressl":
        # Its teacher sees a view without colour changes, as in solo-learn's recipe.
        weak = {**STRONG, "color_jitter": {"prob": 0.0}, "grayscale": {"prob": 0.0}}
        crops = [{**STRONG, "num_crops": 1}, {**weak, "num_crops": 1}]
    lr = 0.05 if method == "ressl" else 0.3
    return recipe(
        method,
        images / "train",
        kwargs,
        crops,
        seed=seed,
        momentum={"base_tau": 0.99, "final_tau": 1.0},
        optimizer={"batch_size": args.batch, "lr": lr, "kwargs": {"momentum": 0.9}},
        checkpoint={"enabled": True, "dir": str(log_dir), "frequency": args.epochs, "keep_prev": False},
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        sampler={"pnn": pnn},
    )


def train(method: str, pnn: dict, images: Path, args: argparse.Namespace, seed: int, log_dir: Path) -> dict:
    with spending() as spent:
        done = pretrain(recipe_of(method, pnn, images, args, seed, log_dir))
    rows = list(csv.DictReader((Path(done.trainer.logger.log_dir) / "metrics.csv").open()))
    curve = [{key: float(row[key]) for key in row if key.startswith("pnn_") and row[key]} for row in rows if row.get("pnn_alpha")]
    return {"knn": knn_percent(done, images / "train", images / "test"), "curve": curve, "seconds": spent.cpu}


MEASURES = ("pnn_purity", "pnn_same_image", "pnn_distance", "pnn_positive_similarity", "pnn_age")
COLUMNS = {
    "run": "run",
    "knn": "k-NN accuracy, % (mean ± sd)",
    "seeds": "by seed",
    "first": "purity in epoch 0",
    "halfway": "halfway",
    "last": "in the last epoch",
    "same": "same image, last epoch",
    "seconds": "CPU seconds a run|.0f",
}


def write_curves(results: dict[str, list[dict]], out: Path) -> None:
    """All that was measured so far, epoch by epoch."""
    with whole_file(out / "curve.csv") as name, name.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "seed", "epoch", *MEASURES])
        for label, runs in results.items():
            for seed, run in enumerate(runs):
                for epoch, point in enumerate(run["curve"]):
                    writer.writerow([label, seed, epoch, *(f"{point.get(name, float('nan')):.4f}" for name in MEASURES)])
    _plot(results, out / "curve.png")


def tabulate(results: dict[str, list[dict]], args: argparse.Namespace) -> None:
    what = (
        f"{args.images:,} training and {args.test:,} test images, ResNet-18 at 32 x 32, batch {args.batch}, "
        f"queue {args.queue:,}, {args.epochs} epochs"
    )
    report = Report(what, COLUMNS)
    for label, runs in results.items():
        accuracies = [run["knn"] for run in runs]
        purities = (_mean(runs, "pnn_purity", epoch) for epoch in (0, args.epochs // 2, -1))
        report.add(
            run=label,
            knn=mean_and_deviation(accuracies),
            seeds=", ".join(f"{accuracy:.1f}" for accuracy in accuracies),
            **dict(zip(("first", "halfway", "last"), purities, strict=True)),
            same=_mean(runs, "pnn_same_image", -1),
            seconds=np.mean([run["seconds"] for run in runs]),
            runs=runs,
        )
    report.end(args.json)
    write_text(args.out / "table.md", report.text)


def _mean(runs: list[dict], name: str, epoch: int) -> str:
    return f"{100 * np.mean([run['curve'][epoch].get(name, np.nan) for run in runs]):.1f} %"


def _plot(results: dict[str, list[dict]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for label, runs in results.items():
        purity = 100 * np.array([[point["pnn_purity"] for point in run["curve"]] for run in runs])
        epochs = np.arange(purity.shape[1])
        axes.plot(epochs, purity.mean(0), marker="o", markersize=3, label=label)
        axes.fill_between(epochs, purity.min(0), purity.max(0), alpha=0.2)
    axes.set(xlabel="epoch", ylabel="neighbours with the anchor's label, %", title="Purity of the chosen neighbours")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/")
    arguments.add_argument("--out", type=Path, default=Path("runs/pnn_table"))
    arguments.add_argument("--suite", choices=sorted(SUITES), default="nnclr")
    sizes = {"images": 2000, "test": 1000, "epochs": 6, "batch": 64, "queue": 1024, "seeds": 3, "threads": 1}
    for name, default in sizes.items():
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--accelerator", default="cpu")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("solo_gps").setLevel(logging.INFO)
    warnings.simplefilter("ignore")
    images = args.out / f"images-{args.images}-{args.test}"
    for split, count in (("train", args.images), ("test", args.test)):
        subset(args.data / split, images / split, count)
    results: dict[str, list[dict]] = defaultdict(list)
    for seed in range(args.seeds):
        for number, (label, (method, pnn)) in enumerate(SUITES[args.suite].items()):
            log_dir = args.out / "logs" / f"{os.getpid()}-{seed}-{number}"
            results[label].append(train(method, pnn, images, args, seed, log_dir))
            write_curves(results, args.out)
            tabulate(results, args)


if __name__ == "__main__":
    main()
