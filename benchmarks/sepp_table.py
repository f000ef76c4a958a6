"""SimCLR, MoCo-v2+ and SimSiam: stock, with semantic pairs, and with as many random pairs, at equal optimizer steps.

    python benchmarks/sepp_table.py --data /path/to/cifar10

``--data`` holds train/<class>/* and test/<class>/* image files (CIFAR-10 unpacked as folders). The first images of each class, by
file name, are used; one thread; k-NN accuracy (20 neighbours, cosine) of the backbone on held-out images. Finished runs are kept
in ``--out`` and not repeated. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
import warnings
from pathlib import Path

ARMS = {
    "stock": None,
    "random pairs": {"select": "random"},
    "semantic pairs": {"select": "window"},
}
METHODS = {
    "simclr": {"seeds": 3, "lr": 0.4, "kwargs": {"temperature": 0.2}},
    "mocov2plus": {"seeds": 1, "lr": 0.3, "kwargs": {"temperature": 0.2, "queue_size": 1024}},
    "simsiam": {"seeds": 1, "lr": 0.4, "kwargs": {"pred_hidden_dim": 128}},
}
NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # solo-learn's for custom sets


def main() -> None:
    options = arguments()
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ.setdefault("SOLO_GPS_CACHE", str(options.out / "cache"))
    train = subset(options.data / "train", options.out / "train", options.per_class)
    test = subset(options.data / "test", options.out / "test", options.per_class_test)
    results = []
    for method, node in METHODS.items():
        for seed in range(node["seeds"]):
            for arm in ARMS:
                results.append(kept_run(options, method, arm, seed, train, test))
                print(json.dumps(results[-1]), flush=True)
    print(table(results))
    minutes = [sum(result[key] for result in results) / 60 for key in ("seconds", "cpu_seconds")]
    machine = platform.processor() or platform.machine()
    print(f"\n{machine}, 1 thread, torch {torch.__version__}: {minutes[0]:.1f} minutes, {minutes[1]:.1f} of one core.")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/sepp_table"))
    parser.add_argument("--per-class", type=int, default=200)
    parser.add_argument("--per-class-test", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=5, help="of stock's length in every arm")
    parser.add_argument("--batch-size", type=int, default=64)
    return parser.parse_args()


def subset(source: Path, target: Path, per_class: int) -> Path:
    """Copies the first images of each class; a finished copy is found again."""
    target = target.with_name(f"{target.name}-{per_class}")
    if target.exists():
        return target
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        (unfinished / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:per_class]:
            shutil.copy(file, unfinished / folder.name / file.name)
    os.replace(unfinished, target)
    return target


def kept_run(options: argparse.Namespace, method: str, arm: str, seed: int, train: Path, test: Path) -> dict:
    name = f"{method}-{arm.replace(' ', '_')}-{seed}-{options.per_class}-{options.epochs}-{options.batch_size}.json"
    file = options.out / "results" / name
    if file.exists():
        return json.loads(file.read_text())
    result = run(options, method, arm, seed, train, test)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(result))
    os.replace(unfinished, file)
    return result


def run(options: argparse.Namespace, method: str, arm: str, seed: int, train: Path, test: Path) -> dict:
    from solo_gps.commands.pretrain import pretrain
    from solo_gps.evaluation.features import folder_features
    from solo_gps.evaluation.metrics import knn_accuracy
    from solo_gps.guide.run import activate

    started, cpu = time.perf_counter(), time.process_time()
    cfg = recipe(options, method, arm, seed, train)
    with activate(cfg) as activation:
        done = pretrain(cfg)
        pairs = activation.samplers["sepp"].number_of_pairs if activation.samplers else 0
        purity = activation.samplers["sepp"].purity if activation.samplers else None
    backbone = getattr(done.model, done.host.backbone_name)
    features = [folder_features(backbone, folder, size=32, **NORMALISATION) for folder in (train, test)]
    return {
        "method": method,
        "arm": arm,
        "seed": seed,
        "steps": int(done.trainer.global_step),
        "accuracy": knn_accuracy(*features[0], *features[1]),
        "pairs": pairs,
        "purity": purity,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def recipe(options: argparse.Namespace, method: str, arm: str, seed: int, train: Path) -> object:
    from omegaconf import OmegaConf

    node, images = METHODS[method], 10 * options.per_class
    about_one_pair_an_image = 2 / (images - 1)
    sepp = {
        "fraction": 1.0,
        "low_quantile": 1 - about_one_pair_an_image,
        "high_quantile": 1 - 0.02 * about_one_pair_an_image,
        "equal_budget": True,
        "seed": 0,
    }
    return OmegaConf.create(
        {
            "name": f"{method}-{arm}-{seed}".replace(" ", "-"),
            "method": method,
            "seed": seed,
            "sampler": {} if ARMS[arm] is None else {"sepp": {**sepp, **ARMS[arm]}},
            "backbone": {"name": "resnet18", "kwargs": {}},
            "method_kwargs": {"proj_hidden_dim": 512, "proj_output_dim": 128, **node["kwargs"]},
            "momentum": {"base_tau": 0.99, "final_tau": 1.0},
            "augmentations": [
                {
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
            ],
            "data": {
                "dataset": "custom",
                "train_path": str(train),
                "val_path": None,
                "format": "image_folder",
                "no_labels": False,
                "fraction": -1,
                "num_workers": 0,
            },
            "optimizer": {
                "name": "sgd",
                "batch_size": options.batch_size,
                "lr": node["lr"],
                "classifier_lr": 0.1,
                "weight_decay": 1e-4,
            },
            "scheduler": {"name": "warmup_cosine", "warmup_epochs": 1},
            "checkpoint": {"enabled": False, "dir": "trained_models", "frequency": 1, "keep_prev": False},
            "auto_resume": {"enabled": False},
            "wandb": {"enabled": False},
            "knn_eval": {"enabled": False},
            "max_epochs": options.epochs,
            "devices": "1",
            "accelerator": "cpu",
            "strategy": "auto",
            "precision": 32,
            "sync_batchnorm": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    )


def table(results: list[dict]) -> str:
    import numpy as np

    lines = [
        "| method | arm | runs | steps | pairs | pairs of one class | k-NN accuracy, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        for arm in ARMS:
            some = [r for r in results if (r["method"], r["arm"]) == (method, arm)]
            accuracy = 100 * np.array([r["accuracy"] for r in some])
            spread = f" ± {accuracy.std(ddof=1):.2f}" if len(some) > 1 else ""
            purity = "-" if some[0]["purity"] is None else f"{100 * some[0]['purity']:.1f} %"
            each = f" ({', '.join(f'{a:.1f}' for a in accuracy)})" if len(some) > 1 else ""
            lines.append(
                f"| {method} | {arm} | {len(some)} | {some[0]['steps']} | {some[0]['pairs'] or '-'} | {purity} | "
                f"{accuracy.mean():.2f}{spread}{each} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
