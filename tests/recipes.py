"""Each recipe of solo-learn 1.0.6 through its own, unmodified main_pretrain.py with +sampler=gps: three steps, or why not.

PYTHONPATH=. python tests/recipes.py --solo-learn path/to/solo-learn-1.0.6 --out docs/results/recipes.md
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

ROOT = Path(__file__).parent.parent
PRETRAIN = Path("scripts", "pretrain")
BATCH, STEPS, LARGE, SMALL = 16, 3, 32, 18
COMMON = (
    *("+sampler=gps", "data.num_workers=0", f"optimizer.batch_size={BATCH}", f"++max_steps={STEPS}", "wandb.enabled=False"),
    *("accelerator=cpu", "devices='1'", "strategy=auto", "precision=32", "sync_batchnorm=False"),
)
"""Beside the folder of the images, no folder of validation images, and where to write."""
HAS_DALI = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


@dataclass(frozen=True)
class Outcome:
    """One row.

    Attributes:
        recipe: File below scripts/pretrain.
        method: Its method.
        images: Its ``data.format``.
        overrides: What was overridden beside what all have.
        said: What was trained, or why nothing was.
    """

    recipe: str
    method: str
    images: str
    overrides: tuple[str, ...]
    said: str

    def row(self) -> str:
        overrides = " ".join(f"`{override}`" for override in self.overrides)
        return f"| {self.recipe} | {self.method} | {self.images} | {overrides} | {self.said} |"


def recipes(checkout: Path) -> list[str]:
    """The recipes' files below scripts/pretrain; groups of keys, which recipes are put together from, are none."""
    folder = checkout / PRETRAIN
    return sorted(str(file.relative_to(folder)) for file in folder.glob("*/*.y*ml"))


def overrides_of(recipe: DictConfig, *, dali: bool) -> list[str]:
    """What a recipe needs to read 48 small images, and to hold them, on a CPU."""
    found, method = [], recipe.method
    if recipe.data.dataset.startswith("cifar"):
        found.append("data.dataset=custom")  # torchvision knows CIFAR's files by their sums, and would download them
    if recipe.data.format == "dali":
        found.append("++dali.device=cpu" if dali else "data.format=image_folder")
    large = recipe.augmentations[0].crop_size
    for place, crop in enumerate(recipe.augmentations):
        size = LARGE if crop.crop_size == large else SMALL
        if crop.crop_size != size:
            found.append(f"augmentations.{place}.crop_size={size}")
    if recipe.backbone.name.startswith("vit") and large != LARGE:
        found.append(f"++backbone.kwargs.img_size={LARGE}")
    if method == "wmse":
        found += [f"method_kwargs.whitening_size={BATCH}", f"method_kwargs.proj_output_dim={BATCH // 2}"]  # fewer than images
    if method == "deepclusterv2":
        found.append("method_kwargs.num_prototypes=[4,4,4]")
    return found


def composed(checkout: Path, recipe: str) -> DictConfig:
    """The recipe as Hydra reads it, or its file alone where Hydra reads no file of that name."""
    from omegaconf import OmegaConf

    file = checkout / PRETRAIN / recipe
    if file.suffix != ".yaml":
        return OmegaConf.load(file)
    with initialize_config_dir(version_base="1.2", config_dir=str(file.parent)):
        return compose(file.stem)


def run(checkout: Path, recipe: str, images: Path, *, dali: bool = HAS_DALI) -> Outcome:
    """Trains a recipe in a process of its own.

    Args:
        checkout: solo-learn 1.0.6.
        recipe: One of :func:`recipes`.
        images: Folder of class folders.
        dali: Whether DALI is there to read what it should read.
    """
    file, cfg = checkout / PRETRAIN / recipe, composed(checkout, recipe)
    overrides = overrides_of(cfg, dali=dali) if file.suffix == ".yaml" else []
    with TemporaryDirectory() as folder:
        places = (f"data.train_path={images}", "data.val_path=null", f"checkpoint.dir={folder}/trained")
        done = subprocess.run(
            [
                *(sys.executable, str(checkout / "main_pretrain.py")),
                *("--config-path", str(file.parent), "--config-name", file.stem, *places, *COMMON, *overrides),
            ],
            capture_output=True,
            text=True,
            cwd=folder,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONWARNINGS": "ignore",
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                "SOLO_GPS_CACHE": f"{folder}/cache",
            },
        )
        said = _trained(Path(folder)) if done.returncode == 0 else _reason(done.stderr)
    return Outcome(recipe, cfg.method, cfg.data.format, tuple(overrides), said)


def _trained(folder: Path) -> str:
    (file,), (checkpoint,) = folder.rglob("solo_gps_receipt.json"), folder.rglob("*.ckpt")
    receipt = json.loads(file.read_text())
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    except UnpicklingError:
        weights = "weights not read, as solo-learn put a pickled scheduler beside them"
    else:
        odd = [name for name, values in state.items() if not torch.isfinite(values).all()]
        weights = f"NOT FINITE: {', '.join(odd)}" if odd else "all weights finite"
    return f"trained {receipt['steps']} steps; {receipt['share_guided']:.0%} of {receipt['items_seen']} items guided; {weights}"


def _reason(printed: str) -> str:
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("solo-gps: ")]
    return (ours[-1] if ours else next((line for line in lines if "primary config" in line), lines[-1])).replace("|", r"\|")


def page(outcomes: list[Outcome], where: str) -> str:
    """The page of results."""
    trained = sum(outcome.said.startswith("trained") for outcome in outcomes)
    return "\n".join(
        [
            "# Every recipe of solo-learn 1.0.6",
            "",
            f"{len(outcomes)} recipes of `scripts/pretrain`, each through solo-learn's own, unmodified `main_pretrain.py` in a",
            f"process of its own, on 48 handwritten digits: {trained} trained, the others say why not. Written by",
            "",
            "```",
            "PYTHONPATH=. python tests/recipes.py --solo-learn path/to/solo-learn-1.0.6 --out docs/results/recipes.md",
            "```",
            "",
            f"{where}.",
            "Every run had these overrides, which are for the images, their number and a CPU:",
            "",
            "```",
            "data.train_path=... data.val_path=null checkpoint.dir=...",
            *(" ".join(COMMON[start : start + 5]) for start in range(0, len(COMMON), 5)),
            "```",
            "",
            "| recipe | method | data.format | overridden beside those | outcome |",
            "|---|---|---|---|---|",
            *(outcome.row() for outcome in outcomes),
            "",
        ]
    )


def digits(folder: Path) -> Path:
    """48 of scikit-learn's handwritten digits, 12 of each of four classes, as PNG files in class folders."""
    from sklearn.datasets import load_digits

    data = load_digits()
    for digit in range(4):
        (folder / str(digit)).mkdir(parents=True)
        for number, image in enumerate(data.images[data.target == digit][: BATCH * STEPS // 4]):
            pixels = Image.fromarray((image * (255 / 16)).round().astype("uint8"))
            pixels.convert("RGB").save(folder / str(digit) / f"{number:03d}.png")
    return folder


def _versions() -> str:
    from importlib.metadata import version

    names = ["torch", "lightning", "timm", *(["nvidia-dali-cuda120"] if HAS_DALI else [])]
    without = "" if HAS_DALI else "; without DALI"
    return f"CPU, {', '.join(f'{name} {version(name)}' for name in names)}{without}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solo-learn", type=Path, default=os.environ.get("SOLO_LEARN_CHECKOUT"), help="checkout of 1.0.6")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--only", default="", help="recipes whose names hold this; the page is printed, not written")
    options = parser.parse_args()
    if options.solo_learn is None:
        parser.error("--solo-learn, or SOLO_LEARN_CHECKOUT in the environment, names a checkout of solo-learn 1.0.6")
    checkout, outcomes = options.solo_learn.resolve(), []
    with TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        images = digits(Path(folder, "images"))
        names = [name for name in recipes(checkout) if options.only in name]
        for outcome in pool.map(partial(run, checkout, images=images), names):
            print(outcome.row(), file=sys.stderr, flush=True)
            outcomes.append(outcome)
    if options.only:
        print(page(outcomes, _versions()))
    else:
        options.out.write_text(page(outcomes, _versions()))


if __name__ == "__main__":
    main()
