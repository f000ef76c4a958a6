"""The demonstration: real digits, SimCLR with and without guided positives, in minutes on a laptop."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from solo_gps.errors import ConfigError
from solo_gps.evaluation.features import folder_features
from solo_gps.evaluation.gallery import gallery
from solo_gps.evaluation.metrics import HOSTS_TEMPERATURE, knn_accuracy
from solo_gps.runtime.files import whole_file

if TYPE_CHECKING:
    from solo_gps.guide.run import GuidedRun

RECIPE = "simclr_digits"
TEST_SHARE = 0.25
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # solo-learn's for custom sets
GALLERY_ANCHORS, GALLERY_POSITIVES = 10, 8


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the demonstration's table; accuracy and purity are shares in [0, 1]."""

    name: str
    steps: int
    accuracy: float
    weighted: float
    purity: float | None
    cache: Path | None
    picture: Path | None


def run_demo(out: Path, *, epochs: int | None = None) -> None:
    """Writes the digits as an image folder, trains plain and guided SimCLR for the same steps, and prints one table.

    Args:
        out: Folder for images, cache and picture.
        epochs: Epochs of each run; the recipe's when ``None``.

    Raises:
        ConfigError: scikit-learn, which brings the digits, is not installed.
    """
    from solo_gps.runtime.console import show_progress_lines

    show_progress_lines()
    os.environ.setdefault("SOLO_GPS_CACHE", str(out / "cache"))
    train, test = write_digits(out / "digits")
    started = time.perf_counter()
    results = []
    for name, sampler in (("SimCLR", []), ("SimCLR + GPS", ["+sampler=gps"])):
        print(f"\n== {name}: {'augmented views of one image' if not sampler else 'views of an image and its positive'}")
        overrides = [f"data.train_path={train}", *sampler, *([f"max_epochs={epochs}"] if epochs else [])]
        overrides.append(f"checkpoint.dir={out / 'trained'}")
        results.append(_train_and_judge(name, overrides, train, test, out / "positives.png"))
    _print_table(results, time.perf_counter() - started)
    print(f"checkpoints: {out / 'trained'}, with args.json, metrics and the receipt of each run")


def write_digits(folder: Path) -> tuple[Path, Path]:
    """Writes scikit-learn's 1,797 handwritten digits as PNG files in class folders; a fixed quarter is held out.

    Source: Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, test part, 8 x 8 pixels.

    Returns:
        The folders of the training and of the held-out images.
    """
    from PIL import Image

    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ConfigError("the demo's images come with scikit-learn: pip install 'solo-gps[report]'.") from error
    digits = load_digits()
    parts = train_test_split(np.arange(len(digits.target)), test_size=TEST_SHARE, stratify=digits.target, random_state=0)
    for split, indices in zip(("train", "test"), parts, strict=True):
        for index in indices:
            file = folder / split / str(digits.target[index]) / f"{index:04d}.png"
            if not file.exists():
                pixels = (digits.images[index] * (255 / 16)).round().astype(np.uint8)
                with whole_file(file) as unfinished:
                    Image.fromarray(pixels).convert("RGB").save(unfinished, format="PNG")
    return folder / "train", folder / "test"


def _train_and_judge(name: str, overrides: list[str], train: Path, test: Path, picture: Path) -> Result:
    from solo_gps.commands.pretrain import pretrain
    from solo_gps.commands.recipes import compose_recipe
    from solo_gps.guide.switch import activate

    cfg = compose_recipe(RECIPE, overrides)
    with activate(cfg) as run:
        trained = pretrain(cfg)
        diagnostics = run.measures(trained.trainer.current_epoch)
        drawn = _draw_gallery(run, picture) if run.pairing.tables else None
        cache = run.pairing.space.embeddings.folder if run.pairing.space else None
    backbone = getattr(trained.model, trained.host.backbone_name)
    features = [
        folder_features(backbone, folder, size=cfg.augmentations[0].crop_size, mean=MEAN, std=STD) for folder in (train, test)
    ]
    accuracy = knn_accuracy(*features[0], *features[1])
    weighted = knn_accuracy(*features[0], *features[1], temperature=HOSTS_TEMPERATURE)
    purity = diagnostics.get("guided_purity")
    return Result(
        name=name,
        steps=int(trained.trainer.global_step),
        accuracy=accuracy,
        weighted=weighted,
        purity=purity,
        cache=cache,
        picture=drawn,
    )


def _draw_gallery(run: GuidedRun, path: Path) -> Path:
    assert run.pairing.images is not None
    table = run.pairing.tables["gps"]
    anchors = np.linspace(0, len(run.pairing.images) - 1, GALLERY_ANCHORS).astype(int)
    return gallery(
        run.pairing.images,
        anchors.tolist(),
        table.indices[anchors, :GALLERY_POSITIVES],
        path,
        title="anchor | its nearest images in the prior space (green: same digit, red: another)",
    )


def _print_table(results: list[Result], seconds: float) -> None:
    print(f"\n{'run':<16}{'steps':>8}{'k-NN accuracy':>16}{'purity of positives':>22}")
    for result in results:
        purity = "-" if result.purity is None else f"{100 * result.purity:.1f} %"
        print(f"{result.name:<16}{result.steps:>8}{100 * result.accuracy:>14.1f} %{purity:>22}")
    guided = results[-1]
    print("\nk-NN: 20 neighbours, cosine, on held-out images, one vote each; purity: positives that show the anchor's digit")
    weighted = ", ".join(f"{100 * result.weighted:.1f} %" for result in results)
    print(f"k-NN with votes of exp(cosine / {HOSTS_TEMPERATURE}), as solo-learn's own: {weighted}")
    print(f"prior cache: {guided.cache}")
    print(f"picture:     {guided.picture}")
    print(f"time:        {seconds:.0f} s")
