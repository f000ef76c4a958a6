"""NNCLR against pNNCLR on a fixed subset of CIFAR-10, with the purity of the chosen neighbours epoch by epoch.

    python benchmarks/pnn_table.py --data /path/to/cifar10 --out runs/pnn_table

Wants CIFAR-10 as class folders (train/<class>/*.jpg, test/<class>/*.jpg). Writes table.md, curve.csv and curve.png after every
run, so that an interrupted table keeps what it has. NNCLR is pNN at its neutral point (alpha = beta = 0), which equals stock
NNCLR to the last bit (tests/samplers/pnn/test_training.py) and so has the same measures logged.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import platform
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from solo_gps.commands.pretrain import pretrain
from solo_gps.evaluation.features import folder_features
from solo_gps.evaluation.metrics import knn_accuracy

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
METHOD_KWARGS: dict[str, dict] = {
    "nnclr": {"temperature": 0.2, "pred_hidden_dim": 512},
    "mocov2plus": {"temperature": 0.2},
    "ressl": {"temperature_q": 0.1, "temperature_k": 0.04},
}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
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


def subset(data: Path, folder: Path, train: int, test: int) -> None:
    """Links the first images of every class, by name, into train/ and test/."""
    for split, count in (("train", train), ("test", test)):
        for name in CLASSES:
            target = folder / split / name
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted((data / split / name).iterdir())[: count // len(CLASSES)]:
                link = target / file.name
                if not link.exists():
                    link.symlink_to(file.resolve())


def recipe(method: str, pnn: dict, images: Path, args: argparse.Namespace, seed: int, log_dir: Path) -> DictConfig:
    crop = {
        "rrc": {"enabled": True, "crop_min_scale": 0.2, "crop_max_scale": 1.0},
        "color_jitter": {"prob": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
        "grayscale": {"prob": 0.2},
        "gaussian_blur": {"prob": 0.0},
        "solarization": {"prob": 0.0},
        "equalization": {"prob": 0.0},
        "horizontal_flip": {"prob": 0.5},
        "crop_size": 32,
        "num_crops": 2,
    }
    kwargs = {"proj_hidden_dim": 512, "proj_output_dim": 128, "queue_size": args.queue, **METHOD_KWARGS[method]}
    if method != "nnclr":
        pnn = {**pnn, "queue_size": args.queue}
    crops = [crop]
    if method == "ressl":
        # Its teacher sees a view without colour changes, as in solo-learn's recipe.
        weak = {**crop, "color_jitter": {"prob": 0.0}, "grayscale": {"prob": 0.0}}
        crops = [{**crop, "num_crops": 1}, {**weak, "num_crops": 1}]
    return OmegaConf.create(
        {
            "name": "table",
            "method": method,
            "seed": seed,
            "backbone": {"name": "resnet18", "kwargs": {}},
            "method_kwargs": kwargs,
            "momentum": {"base_tau": 0.99, "final_tau": 1.0},
            "augmentations": crops,
            "data": {
                "dataset": "custom",
                "train_path": str(images / "train"),
                "val_path": None,
                "format": "image_folder",
                "no_labels": False,
                "fraction": -1,
                "num_workers": 0,
            },
            "optimizer": {
                "name": "sgd",
                "batch_size": args.batch,
                "lr": 0.05 if method == "ressl" else 0.3,
                "classifier_lr": 0.1,
                "weight_decay": 1e-4,
                "kwargs": {"momentum": 0.9},
            },
            "scheduler": {"name": "warmup_cosine", "warmup_epochs": 1},
            "checkpoint": {"enabled": True, "dir": str(log_dir), "frequency": args.epochs, "keep_prev": False},
            "auto_resume": {"enabled": False},
            "wandb": {"enabled": False},
            "knn_eval": {"enabled": False},
            "max_epochs": args.epochs,
            "devices": "1",
            "accelerator": args.accelerator,
            "strategy": "auto",
            "precision": 32,
            "sync_batchnorm": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "sampler": {"pnn": pnn},
        }
    )


def train(method: str, pnn: dict, images: Path, args: argparse.Namespace, seed: int, log_dir: Path) -> dict:
    start = time.process_time()
    done = pretrain(recipe(method, pnn, images, args, seed, log_dir))
    seconds = time.process_time() - start
    backbone = getattr(done.model, done.host.backbone_name)
    split = {name: folder_features(backbone, images / name, size=32, **IMAGENET) for name in ("train", "test")}
    rows = list(csv.DictReader((Path(done.trainer.logger.log_dir) / "metrics.csv").open()))
    curve = [{key: float(row[key]) for key in row if key.startswith("pnn_") and row[key]} for row in rows if row.get("pnn_alpha")]
    return {"knn": 100 * knn_accuracy(*split["train"], *split["test"]), "curve": curve, "seconds": seconds}


def report(results: dict[str, list[dict]], args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    names = ("pnn_purity", "pnn_same_image", "pnn_distance", "pnn_positive_similarity", "pnn_age")
    with (args.out / "curve.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "seed", "epoch", *names])
        for label, runs in results.items():
            for seed, run in enumerate(runs):
                for epoch, point in enumerate(run["curve"]):
                    writer.writerow([label, seed, epoch, *(f"{point.get(name, float('nan')):.4f}" for name in names)])
    lines = [
        f"{args.images:,} training and {args.test:,} test images, ResNet-18 at 32 x 32, batch {args.batch}, queue {args.queue:,}"
        f", {args.epochs} epochs, torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} thread(s).",
        "",
        "| run | k-NN accuracy, % (mean ± sd) | by seed | purity in epoch 0 | halfway | in the last epoch "
        "| same image, last epoch | CPU seconds a run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, runs in results.items():
        knn = np.array([run["knn"] for run in runs])
        cells = [_mean(runs, "pnn_purity", epoch) for epoch in (0, args.epochs // 2, -1)] + [_mean(runs, "pnn_same_image", -1)]
        spread = f" ± {knn.std(ddof=1):.1f}" if len(knn) > 1 else ""
        seconds = np.mean([run["seconds"] for run in runs])
        seeds = ", ".join(f"{accuracy:.1f}" for accuracy in knn)
        lines.append(f"| {label} | {knn.mean():.1f}{spread} | {seeds} | {' | '.join(cells)} | {seconds:.0f} |")
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    _plot(results, args.out / "curve.png")


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--out", type=Path, default=Path("runs/pnn_table"))
    parser.add_argument("--suite", choices=sorted(SUITES), default="nnclr")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--queue", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("solo_gps").setLevel(logging.INFO)
    warnings.simplefilter("ignore")
    images = args.out / f"images-{args.images}-{args.test}"
    subset(args.data, images, args.images, args.test)
    results: dict[str, list[dict]] = defaultdict(list)
    for seed in range(args.seeds):
        for number, (label, (method, pnn)) in enumerate(SUITES[args.suite].items()):
            log_dir = args.out / "logs" / f"{os.getpid()}-{seed}-{number}"
            results[label].append(train(method, pnn, images, args, seed, log_dir))
            report(results, args)
            print(
                f"seed {seed}, {label}: k-NN {results[label][-1]['knn']:.1f} %, {results[label][-1]['seconds']:.0f} s", flush=True
            )
    print((args.out / "table.md").read_text())


if __name__ == "__main__":
    main()
