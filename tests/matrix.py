"""Each method with each way of storing images and each sampler, three steps, and from the pixels which image each crop shows.

Image i is of one colour, whose red says i. Run it once in an environment of either generation of solo-learn: each writes its own
part of the page.

PYTHONPATH=. python tests/matrix.py --out docs/results/matrix.md
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import CIFAR10
from trainings import Record, recorded, small_recipe

import solo_gps
from solo_gps import SoloGpsError, plugins
from solo_gps.hosts.detect import detect_host
from solo_gps.methods import NOT_METHODS, facts_of

IMAGES, CLASSES, SIDE, CROP, BATCH, STEPS, APART = 48, 4, 32, 16, 16, 3, 5
K = 3
SAMPLERS = {
    "gps": {"gps": {"k": K}},
    "pnn": {"pnn": {"beta": 0.0}},
    "sepp": {"sepp": {"fraction": 0.5, "low_quantile": 0.5, "high_quantile": 1.0}},
}
FORMATS = ("image_folder", "cifar10", "h5", "dali")
IMAGENET = (0.485, 0.229)
RED = {"cifar10": (0.4914, 0.247)}
"""Mean and standard deviation of the red channel, as solo-learn normalises them; ImageNet's elsewhere."""
NAN_IN_FIRST_EPOCH = {"deepclusterv2"}  # upstream


def colours() -> np.ndarray:
    """(48, 3) uint8: red says which image, green and blue are by chance and make it nearer to some than to others."""
    others = np.random.default_rng(1).integers(0, 256, (IMAGES, 2))
    return np.column_stack([APART * np.arange(IMAGES), others]).astype(np.uint8)


LABELS = np.arange(IMAGES) * CLASSES // IMAGES


def kth_nearest() -> np.ndarray:
    """(48,) the image whose colour is the k-th nearest."""
    rows = colours().astype(np.int64)
    distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    assert (np.diff(np.sort(distances, axis=1)[:, : K + 2], axis=1) > 0).all(), "no two are as near"
    return np.argsort(distances, axis=1)[:, K]  # the first is the image itself


def _pixels(colour: np.ndarray) -> np.ndarray:
    return np.broadcast_to(colour, (SIDE, SIDE, 3))


def _write_folder(folder: Path) -> Path:
    for number, (colour, label) in enumerate(zip(colours(), LABELS, strict=True)):
        file = folder / str(label) / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_pixels(colour)).save(file)
    return folder


def _write_h5(file: Path, folder: Path) -> Path:
    import h5py

    with h5py.File(file, "w") as h5:
        for image in sorted(folder.glob("*/*.png")):
            h5.require_group(image.parent.name)[image.name] = np.frombuffer(image.read_bytes(), dtype=np.uint8)
    return file


def _in_memory(self: CIFAR10, root: str, train: bool = True, transform: object = None, **_: object) -> None:
    """What torchvision makes of CIFAR-10's files, which nobody can download here."""
    self.root, self.train, self.transform, self.target_transform = str(root), train, transform, None
    self.data = np.ascontiguousarray(np.stack([_pixels(colour) for colour in colours()]))
    self.targets = LABELS.tolist()


@contextmanager
def stored(images: str, folder: Path) -> Iterator[dict[str, object]]:
    """The keys of a recipe's ``data`` node for the images as they are stored that way."""
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, {"HOME": str(folder), "SOLO_GPS_CACHE": str(folder / "cache")}))
        if images == "cifar10":
            stack.enter_context(patch.object(CIFAR10, "__init__", _in_memory))
            yield {"dataset": "cifar10", "train_path": str(folder)}
            return
        path = folder / "images"
        if not path.exists():
            _write_folder(path)
        if images == "h5":
            path = folder / "images.h5"
            if not path.exists() and _is_there("h5py"):  # 1.0.2 says no without looking
                _write_h5(path, folder / "images")
            yield {"dataset": "imagenet", "train_path": str(path), "format": "h5"}
        else:
            yield {"train_path": str(path), "format": images}


def shown(crop: torch.Tensor, images: str) -> np.ndarray:
    """(B,) which image each (B, 3, H, W) crop shows, by its red; each pixel of a crop says the same."""
    mean, std = RED.get(images, IMAGENET)
    numbers = (crop[:, 0].double().cpu().numpy() * std + mean) * 255 / APART
    assert np.abs(numbers - numbers.round()).max() < 0.1, "a colour that no image has"
    numbers = numbers.round().astype(int).reshape(len(crop), -1)
    assert (numbers == numbers[:, :1]).all()
    return numbers[:, 0]


class _Drawn:
    """The pairs of each epoch, as announced."""

    def __init__(self) -> None:
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []

    @solo_gps.hookimpl
    def on_epoch_pairs(self, epoch, pairs):
        self.pairs.append((np.array(pairs.anchors), np.array(pairs.positives)))


def train(method: str, images: str, sampler: str, folder: Path) -> str:
    """Trains one cell and checks what it showed; returns how many steps it took, or why solo-gps refused it.

    Args:
        method: Of the installed solo-learn.
        images: One of :data:`FORMATS`.
        sampler: One of :data:`SAMPLERS`.
        folder: Where the images are written, once, and a cache.

    Raises:
        AssertionError: A crop showed another image than the pairs say.
    """
    drawn = _Drawn()
    plugins.plugin_manager().register(drawn)
    try:
        with stored(images, folder) as data:
            nodes = {"sampler": SAMPLERS[sampler], "data": data, "max_steps": STEPS, "limit_val_batches": 0}
            nodes |= {} if sampler == "pnn" else {"prior": {"name": "pixels", "image_size": SIDE}}
            nodes |= {"dali": {"device": "cpu"}, "data": {**data, "num_workers": 1}} if images == "dali" else {}
            cfg = small_recipe(str(folder), method, batch_size=BATCH, **nodes)
            cfg.augmentations[0].crop_size = CROP
            run = recorded(cfg)
    except SoloGpsError as error:
        return str(error)
    finally:
        plugins.plugin_manager().unregister(drawn)
    check(run, drawn.pairs, method, images, sampler)
    return f"{run.model.trainer.global_step} steps"


def check(run: Record, drawn: list[tuple[np.ndarray, np.ndarray]], method: str, images: str, sampler: str) -> None:
    """Asserts that the crops show the pairs that were drawn, and that those are the right ones."""
    passes = len(run.batches) // STEPS  # with pNN, one for each view that is replaced
    batches = run.batches[::passes]
    assert len(batches) == run.model.trainer.global_step == STEPS
    assert passes == 1 or sampler == "pnn"
    pairs, others = Counter(), 0
    for items, (first, second), targets in batches:
        one, two = shown(first, images), shown(second, images)
        if not facts_of(method).remembers_items:
            assert (items.numpy() == one).all()
        assert (targets.numpy() == LABELS[one]).all()
        pairs.update(zip(one.tolist(), two.tolist(), strict=True))
        others += int((one != two).sum())
        if sampler == "gps" and not facts_of(method).label_mask:
            assert (two == kth_nearest()[one]).all()
    if sampler == "pnn":
        assert others == 0
    else:
        anchors, positives = drawn[0]
        assert not pairs - Counter(zip(anchors.tolist(), positives.tolist(), strict=True))
        assert others > 0
    if method not in NAN_IN_FIRST_EPOCH:
        assert all(map(math.isfinite, run.losses))


def methods() -> list[str]:
    """The methods of the installed solo-learn."""
    return sorted(set(detect_host().methods) - set(NOT_METHODS))


def formats() -> list[str]:
    """The ways of storing images that this environment can read, or that solo-gps has a word on."""
    missing = []
    if detect_host().generation == "1.0.6":
        missing = [name for name, module in (("h5", "h5py"), ("dali", "nvidia.dali")) if not _is_there(module)]
    return [name for name in FORMATS if name not in missing]


def _is_there(module: str) -> bool:
    top = module.partition(".")[0]
    return importlib.util.find_spec(top) is not None and importlib.util.find_spec(module) is not None


def part(cells: dict[tuple[str, str, str], str]) -> str:
    """The part of the page of one generation: a table, and below it each refusal once."""
    columns = list(dict.fromkeys((images, sampler) for _, images, sampler in cells))
    reasons = list(dict.fromkeys(said for said in cells.values() if not said.endswith(" steps")))
    lines = ["| method |" + "".join(f" {images}, {sampler} |" for images, sampler in columns), "|---|" + "---|" * len(columns)]
    for method in dict.fromkeys(method for method, _, _ in cells):
        said = [cells[method, images, sampler] for images, sampler in columns]
        lines.append(
            f"| {method} |" + "".join(f" {f'refused ({reasons.index(one) + 1})' if one in reasons else one} |" for one in said)
        )
    return "\n".join([*lines, "", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)), ""])


def read(page: str, generation: str) -> dict[tuple[str, str, str], str]:
    """The cells of a generation's part of the page."""
    text = _part_of(generation).search(page)[2]
    head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    columns = [tuple(column.split(", ")) for column in head[1:]]
    found = {}
    for method, *cells in rows:
        for (images, sampler), said in zip(columns, cells, strict=True):
            refused = re.fullmatch(r"refused \((\d+)\)", said)
            found[method, images, sampler] = reasons[refused[1]] if refused else said
    return found


def _part_of(generation: str) -> re.Pattern[str]:
    start, end = f"<!-- solo-learn {re.escape(generation)} -->\n", "<!-- end -->"
    return re.compile(f"({start})(.*?)({end})", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="page to write this generation's part of")
    options = parser.parse_args()
    generation, cells = detect_host().generation, {}
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for images in formats():
        with TemporaryDirectory() as folder:
            for method in methods():
                for sampler in SAMPLERS:
                    cells[method, images, sampler] = train(method, images, sampler, Path(folder))
                    print(f"{method}, {images}, {sampler}: {cells[method, images, sampler]}", file=sys.stderr, flush=True)
    page, count = _part_of(generation).subn(lambda found: f"{found[1]}{part(cells)}{found[3]}", options.out.read_text())
    assert count == 1, f"the page needs the lines '<!-- solo-learn {generation} -->' and '<!-- end -->'"
    options.out.write_text(page)


if __name__ == "__main__":
    main()
