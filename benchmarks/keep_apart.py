"""Partners in one batch: how often an anchor meets its positive's own item, and what sampler.gps.keep_apart changes.

    python benchmarks/keep_apart.py [--images 400] [--batch-size 128] [--seeds 3]

SimCLR on scikit-learn's digits, few of them, so that a batch is a large share of the set; plain, guided, and guided with partners kept
apart, for equal steps; one thread. k-NN accuracy (20 neighbours, cosine) of the backbone on held-out digits. The cost of putting the
batches together is measured alone, on random pairs.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report, mean_and_deviation, parser, subset

from solo_gps.guide.apart import apart
from solo_gps.interfaces import Pairs

ARMS = {"plain": [], "guided": ["+sampler=gps"], "guided, kept apart": ["+sampler=gps", "sampler.gps.keep_apart=true"]}
GPS = ["sampler.gps.k=5", "sampler.gps.choose=uniform"]
COLUMNS = {
    "arm": "SimCLR",
    "met": "items whose positive's item was in their batch|.1%",
    "accuracy": "k-NN accuracy, %",
    "each": "by seed",
}
COST = {"items": "items|,", "batch": "batch", "cost": "ms of CPU a batch|.3f"}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--images", type=int, default=400)
    made.add_argument("--batch-size", type=int, default=128)
    made.add_argument("--epochs", type=int, default=30)
    made.add_argument("--seeds", type=int, default=3)
    options = made.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SOLO_GPS_CACHE"] = f"{scratch}/cache"
        report = Report(f"{options.images} digits, batches of {options.batch_size}, {options.epochs} epochs", COLUMNS)
        train, test = digits(Path(scratch), options.images)
        for arm, typed in ARMS.items():
            runs = [
                trained(options, [*typed, *(GPS if typed else []), f"seed={seed}"], train, test) for seed in range(options.seeds)
            ]
            accuracies = [100 * accuracy for accuracy, _ in runs]
            report.add(
                arm=arm,
                met=float(np.mean([met for _, met in runs])) if typed else None,
                accuracy=mean_and_deviation(accuracies),
                each=" ".join(f"{accuracy:.1f}" for accuracy in accuracies),
            )
    costs = Report("batches put together, random pairs", COST)
    for items, size in ((2_000, 256), (50_000, 256), (1_281_167, 256), (1_281_167, 1024)):
        costs.add(items=items, batch=size, cost=cost(items, size))
    report.end(options.json)
    costs.end()


def digits(folder: Path, images: int) -> tuple[Path, Path]:
    from solo_gps.commands.demo import write_digits

    train, test = write_digits(folder / "digits")
    return subset(train, folder / "few", images), test


def trained(options: Any, typed: list[str], train: Path, test: Path) -> tuple[float, float]:
    """k-NN accuracy, and the share of items that met their positive's own item."""
    from solo_gps.commands.demo import MEAN, STD
    from solo_gps.commands.pretrain import pretrain
    from solo_gps.commands.recipes import compose_recipe
    from solo_gps.evaluation.features import folder_features
    from solo_gps.evaluation.metrics import knn_accuracy
    from solo_gps.guide.switch import activate

    sizes = [f"optimizer.batch_size={options.batch_size}", f"max_epochs={options.epochs}", "data.num_workers=0"]
    cfg = compose_recipe("simclr_digits", [f"data.train_path={train}", *sizes, *typed])
    with activate(cfg) as run:
        done = pretrain(cfg)
        met = 0.0 if run.dataset is None else share_met(run, done.trainer)
    backbone = getattr(done.model, done.host.backbone_name)
    features = [folder_features(backbone, folder, size=32, mean=MEAN, std=STD) for folder in (train, test)]
    return knn_accuracy(*features[0], *features[1]), met


def share_met(run: Any, trainer: Any) -> float:
    from solo_gps.guide.dataset import loaders_of

    anchors, positives = run.dataset.anchors.numpy(), run.dataset.positives.numpy()
    batches = [np.asarray(batch) for loader in loaders_of(trainer) for _ in range(5) for batch in loader._index_sampler]
    met = sum(int((np.isin(positives[batch], anchors[batch]) & (positives[batch] != anchors[batch])).sum()) for batch in batches)
    return met / sum(map(len, batches))


def cost(items: int, size: int) -> float:
    draw = np.random.default_rng(0)
    anchors = np.arange(items, dtype=np.int32)
    pairs = Pairs(anchors=anchors, positives=draw.integers(0, items, items).astype(np.int32))
    order = draw.permutation(items).tolist()
    begun = time.process_time()
    batches = apart([order], pairs, size)[0]
    return 1000 * (time.process_time() - begun) / len(batches)


if __name__ == "__main__":
    main()
