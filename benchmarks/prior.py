"""Measures the prior room on real images: throughput against the bare forward loop, peak memory, purity of neighbours.

python benchmarks/prior.py speed --images FOLDER [--count 1000] [--models resnet18 vit_tiny_patch16_224]
python benchmarks/prior.py memory --images FOLDER [--counts 5000 50000]
python benchmarks/prior.py purity --images FOLDER [--count 5000] [--priors pixels pca patches vae]

FOLDER holds one folder of JPEG or PNG files for each class. Every measurement uses an empty cache of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODELS = ("resnet18", "vit_tiny_patch16_224")
PRIORS = ("pixels", "pca", "random", "autoencoder", "vae", "patches")


class Folder:
    """``count`` images of a class folder, evenly from each class."""

    def __init__(self, root: str, count: int) -> None:
        self.root = Path(root)
        classes = sorted(path for path in self.root.iterdir() if path.is_dir())
        self.files: list[Path] = []
        self._labels: list[int] = []
        for label, folder in enumerate(classes):
            files = sorted(folder.iterdir())[: count // len(classes)]
            self.files += files
            self._labels += [label] * len(files)

    @property
    def labels(self) -> np.ndarray:
        return np.array(self._labels)

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> Image.Image:
        with Image.open(self.files[index]) as image:
            return image.convert("RGB")

    def content(self) -> Iterator[bytes]:
        for path in self.files:
            yield f"{path.relative_to(self.root).as_posix()}\0{path.stat().st_size}".encode()


class Digits:
    """scikit-learn's handwritten digits."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        data = load_digits()
        self.pixels, self.labels = (data.images / 16 * 255).astype(np.uint8), data.target

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def content(self) -> Iterator[bytes]:
        return (image.tobytes() for image in self.pixels)


def bare_seconds(images: Any, prior: dict[str, Any]) -> tuple[float, float]:
    """Wall and CPU seconds of a plain loop over batches that lie ready on the device: no reading, decoding, copying, writing."""
    import torch

    from solo_gps.embeddings import resolve_prior
    from solo_gps.runtime.devices import device_of

    encoder = resolve_prior(prior, len(images))
    encoder.load(device_of("auto"))
    transform = encoder.transform()
    size = encoder.config.batch_size
    arrays = [torch.from_numpy(np.array(transform(images.image(index)))) for index in range(len(images))]
    batches = [torch.stack(arrays[start : start + size]).to(encoder.device) for start in range(0, len(arrays), size)]
    with torch.inference_mode(), encoder.autocast():
        float(encoder.embed(batches[0]).sum())  # warm-up
        started = time.perf_counter(), time.thread_time()
        total = torch.zeros((), device=encoder.device)
        for batch in batches:
            total += encoder.embed(batch).float().sum()
        float(total)
    return time.perf_counter() - started[0], time.thread_time() - started[1]


def cached_seconds(images: Any, prior: dict[str, Any]) -> tuple[float, float]:
    """Wall seconds of a build (files read, decoded, embedded, checked, hashed, written), and CPU seconds of its main thread."""
    from unittest.mock import patch

    from solo_gps.embeddings import build, embed

    spent = []
    embed_blocks = build._embed_blocks

    def timed(*arguments: Any) -> None:
        started = time.thread_time()
        embed_blocks(*arguments)
        spent.append(time.thread_time() - started)

    with tempfile.TemporaryDirectory() as folder, patch.object(build, "_embed_blocks", timed):
        embeddings = embed(images, {**prior, "cache_dir": folder})
        assert embeddings.folder is not None
        built = json.loads((embeddings.folder / "manifest.json").read_text())["built"]
    return built["embedding_seconds"], spent[0]


def speed(options: argparse.Namespace) -> None:
    images = Folder(options.images, options.count)
    print(f"{len(images):,} images, batches of {options.batch_size}, {device_name()}")
    print(
        "The last column is free of other work on the machine: CPU seconds of the thread that runs the network, bare over build."
    )
    print("| model | bare forward loop, img/s | through the cache, img/s | share | share by CPU seconds |\n|---|---|---|---|---|")
    for model in options.models:
        prior = {"name": "timm", "model": model, "pretrained": False, "batch_size": options.batch_size}
        prior["num_workers"] = options.workers
        pairs = [(bare_seconds(images, prior), cached_seconds(images, prior)) for _ in range(options.repeats)]
        bare, cached = (len(images) / statistics.median(one[0] for one in values) for values in zip(*pairs, strict=True))
        shares = [f"{statistics.median(bare[kind] / cached[kind] for bare, cached in pairs):.1%}" for kind in (0, 1)]
        print(f"| {model} | {bare:,.1f} | {cached:,.1f} | {' | '.join(shares)} |", flush=True)


def memory(options: argparse.Namespace) -> None:
    print(f"peak resident memory of a build in its own process, {device_name()}")
    print("| images | this process, MiB | its largest worker, MiB |\n|---|---|---|")
    for count in options.counts:
        command = [sys.executable, __file__, "peak", "--images", options.images, "--count", str(count)]
        peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(f"| {peak['images']:,} | {peak['self'] / 1024:,.0f} | {peak['worker'] / 1024:,.0f} |", flush=True)


def peak(options: argparse.Namespace) -> None:
    images = Folder(options.images, options.count)
    cached_seconds(images, {"name": "pixels", "num_workers": 1})  # the widest rows: 12 KiB an image
    used = {
        "images": len(images),
        "self": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
    }
    print(json.dumps(used))


def label_purity(embeddings: Any, labels: np.ndarray, space: str, k: int = 10) -> float:
    """Share of the k nearest neighbours with the anchor's label."""
    import torch

    rows = torch.from_numpy(np.array(embeddings.array, dtype=np.float32))
    if space == "cosine":
        rows = torch.nn.functional.normalize(rows, dim=1)
    distances = torch.cdist(rows, rows).fill_diagonal_(float("inf"))
    nearest = distances.topk(k, largest=False).indices.numpy()
    return float((labels[nearest] == labels[:, None]).mean())


def purity(options: argparse.Namespace) -> None:
    from solo_gps.embeddings import embed

    print(f"label purity of the 10 nearest neighbours, {device_name()}")
    print(
        "| prior | photos, euclidean | cosine | seconds | digits, euclidean | cosine | seconds |\n|---|---|---|---|---|---|---|"
    )
    for name in options.priors:
        cells = [name]
        for images in (Folder(options.images, options.count), Digits()):
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                embeddings = embed(images, {"name": name, "cache_dir": folder})
                seconds = time.perf_counter() - started
                cells += [f"{label_purity(embeddings, images.labels, space):.3f}" for space in ("euclidean", "cosine")]
                cells.append(f"{seconds:.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for run in (speed, memory, peak, purity):
        command = commands.add_parser(run.__name__)
        command.add_argument("--images", required=True)
        command.add_argument("--count", type=int, default=1000 if run is speed else 5000)
        command.add_argument("--counts", type=int, nargs="+", default=[5000, 50000])
        command.add_argument("--models", nargs="+", default=MODELS)
        command.add_argument("--priors", nargs="+", default=PRIORS)
        command.add_argument("--batch-size", type=int, default=64)
        command.add_argument("--workers", type=int, default=-1)
        command.add_argument("--repeats", type=int, default=3)
        command.set_defaults(run=run)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
