"""What a refresh costs: the network being trained embeds every image and neighbours are searched, against an epoch of training.

python benchmarks/refresh.py --images FOLDER [--count 1000] [--method simclr] [--of features]

FOLDER holds one folder of image files for each class. Two epochs are trained, with a refresh before each. Seconds are CPU seconds
of the main process, all its threads, and so free of other work on the machine; workers that decode images are left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from solo_gps.commands.pretrain import pretrain
from solo_gps.commands.recipes import compose_recipe
from solo_gps.guide.run import activate


def subset(source: Path, target: Path, count: int) -> None:
    """Links the first images of every class."""
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    for folder in classes:
        (target / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[: count // len(classes)]:
            (target / folder.name / file.name).symlink_to(file.resolve())


def measure(recipe: Any) -> tuple[list[float], float]:
    """CPU seconds of each refresh, and of the whole training."""
    with activate(recipe) as activation:
        refresh, spent = activation.pairing.refresh_if_due, []

        def timed(epoch: int, pipeline: Any) -> None:
            started = time.process_time()
            refresh(epoch, pipeline)
            spent.append(time.process_time() - started)

        activation.pairing.refresh_if_due = timed  # type: ignore[method-assign]
        started = time.process_time()
        pretrain(recipe)
        return spent, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--of", default="features")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        subset(options.images, Path(folder) / "train", options.count)
        recipe = compose_recipe("simclr_digits", ["+sampler=gps", f"+refresh={options.of}", "refresh.start=0", "refresh.every=1"])
        own = {
            "method": options.method,
            "data": {"train_path": f"{folder}/train", "val_path": None, "num_workers": 1},
            "max_epochs": 2,
            "max_steps": -1,
            "refresh": {"num_workers": 1},
            "checkpoint": {"enabled": False},
            "enable_progress_bar": False,
        }
        spent, whole = measure(OmegaConf.merge(recipe, own))
    epoch = (whole - sum(spent)) / 2
    print(f"{options.count:,} images, {options.method}, {recipe.backbone.name} at {recipe.augmentations[0].crop_size} pixels")
    print("| an epoch, CPU s | a refresh, CPU s | refresh / epoch |\n|---|---|---|")
    print(f"| {epoch:.1f} | {spent[-1]:.1f} | {spent[-1] / epoch:.2f} |")


if __name__ == "__main__":
    main()
