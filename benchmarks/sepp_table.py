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
import warnings
from pathlib import Path

from harness import STRONG, Report, knn_percent, mean_and_deviation, parser, recipe, spending, subset

from solo_gps.runtime.files import write_text

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
COLUMNS = {
    "method": "method",
    "arm": "arm",
    "runs": "runs",
    "steps": "steps",
    "pairs": "pairs",
    "purity": "pairs of one class|.1%",
    "accuracy": "k-NN accuracy, %",
    "each": "by seed",
}


def main() -> None:
    options = arguments()
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ.setdefault("SOLO_GPS_CACHE", str(options.out / "cache"))
    folders = []
    for split, per_class in (("train", options.per_class), ("test", options.per_class_test)):
        classes = sum(path.is_dir() for path in (options.data / split).iterdir())
        folders.append(subset(options.data / split, options.out / f"{split}-{per_class}", per_class * classes))
    results = []
    for method, node in METHODS.items():
        for seed in range(node["seeds"]):
            for arm in ARMS:
                results.append(kept_run(options, method, arm, seed, *folders))
                print(json.dumps(results[-1]), flush=True)
    tabulate(results, options)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--data", type=Path, required=True)
    made.add_argument("--out", type=Path, default=Path("runs/sepp_table"))
    made.add_argument("--per-class", type=int, default=200)
    made.add_argument("--per-class-test", type=int, default=100)
    made.add_argument("--epochs", type=int, default=5, help="of stock's length in every arm")
    made.add_argument("--batch-size", type=int, default=64)
    return made.parse_args()


def kept_run(options: argparse.Namespace, method: str, arm: str, seed: int, train: Path, test: Path) -> dict:
    name = f"{method}-{arm.replace(' ', '_')}-{seed}-{options.per_class}-{options.epochs}-{options.batch_size}.json"
    file = options.out / "results" / name
    if file.exists():
        return json.loads(file.read_text())
    result = run(options, method, arm, seed, train, test)
    write_text(file, json.dumps(result))
    return result


def run(options: argparse.Namespace, method: str, arm: str, seed: int, train: Path, test: Path) -> dict:
    from solo_gps.commands.pretrain import pretrain
    from solo_gps.guide.switch import activate

    cfg = recipe_of(options, method, arm, seed, train)
    with spending() as spent:
        with activate(cfg) as activation:
            done = pretrain(cfg)
            sepp = activation.samplers.get("sepp")
        accuracy = knn_percent(done, train, test)
    return {
        "method": method,
        "arm": arm,
        "seed": seed,
        "steps": int(done.trainer.global_step),
        "accuracy": accuracy,
        "pairs": sepp and sepp.number_of_pairs,
        "purity": sepp and sepp.purity,
        "seconds": round(spent.wall, 1),
        "cpu_seconds": round(spent.cpu, 1),
    }


def recipe_of(options: argparse.Namespace, method: str, arm: str, seed: int, train: Path) -> object:
    node = METHODS[method]
    about_one_pair_an_image = 2 / (10 * options.per_class - 1)
    sepp = {
        "fraction": 1.0,
        "low_quantile": 1 - about_one_pair_an_image,
        "high_quantile": 1 - 0.02 * about_one_pair_an_image,
        "equal_budget": True,
        "seed": 0,
    }
    return recipe(
        method,
        train,
        {"proj_hidden_dim": 512, "proj_output_dim": 128, **node["kwargs"]},
        [STRONG],
        seed=seed,
        sampler={} if ARMS[arm] is None else {"sepp": {**sepp, **ARMS[arm]}},
        momentum={"base_tau": 0.99, "final_tau": 1.0},
        optimizer={"batch_size": options.batch_size, "lr": node["lr"]},
        max_epochs=options.epochs,
    )


def tabulate(results: list[dict], options: argparse.Namespace) -> None:
    what = f"{options.per_class} training and {options.per_class_test} held-out images a class, ResNet-18 at 32 x 32"
    report = Report(what, COLUMNS)
    for method in METHODS:
        for arm in ARMS:
            some = [result for result in results if (result["method"], result["arm"]) == (method, arm)]
            accuracies = [result["accuracy"] for result in some]
            report.add(
                **{key: some[0][key] for key in ("method", "arm", "steps", "pairs", "purity")},
                runs=len(some),
                accuracy=mean_and_deviation(accuracies, ".2f"),
                each=", ".join(f"{accuracy:.1f}" for accuracy in accuracies),
                all_runs=some,
            )
    minutes = [sum(result[key] for result in results) / 60 for key in ("seconds", "cpu_seconds")]
    report.end(options.json, f"{minutes[0]:.1f} minutes, {minutes[1]:.1f} of one core.")


if __name__ == "__main__":
    main()
