"""Measures the prior room on real images: throughput against the bare forward loop, peak memory, purity of neighbours.

python benchmarks/prior.py speed --images FOLDER [--count 1000] [--models resnet18 vit_tiny_patch16_224]
python benchmarks/prior.py memory --images FOLDER [--counts 5000 50000]
python benchmarks/prior.py purity --images FOLDER [--count 5000] [--priors pixels pca patches vae]
python benchmarks/prior.py join --images FOLDER [--count 5000]

FOLDER holds one folder of JPEG or PNG files for each class. Every measurement uses an empty cache of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Report, in_a_process, in_turns, parser, spending, subset

from solo_gps.hosts.images import host_images
from solo_gps.interfaces import ImageSet

MODELS = ("resnet18", "vit_tiny_patch16_224")
PRIORS = ("pixels", "pca", "random", "autoencoder", "vae", "patches")


@contextmanager
def photos(options: argparse.Namespace) -> Iterator[ImageSet]:
    """``count`` images of a class folder, evenly from each class."""
    from torchvision.datasets import ImageFolder

    with tempfile.TemporaryDirectory() as folder:
        yield host_images(ImageFolder(str(subset(options.images, Path(folder), options.count))))


def digits(folder: Path) -> ImageSet:
    """scikit-learn's handwritten digits, all of them."""
    from torchvision.datasets import ImageFolder

    from solo_gps.commands.demo import write_digits

    for part in write_digits(folder):
        subset(part, folder / "all", 10 * 1797)
    return host_images(ImageFolder(str(folder / "all")))


def bare_seconds(images: ImageSet, prior: dict[str, Any]) -> tuple[float, float]:
    """Wall and CPU seconds of a plain loop over batches that lie ready on the device: no reading, decoding, copying, writing."""
    from solo_gps.embeddings import resolve_prior
    from solo_gps.runtime.devices import device_of

    encoder = resolve_prior(prior, len(images))
    encoder.load(device_of("auto"))
    encoder.to_device()
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


def cached_seconds(images: ImageSet, prior: dict[str, Any]) -> tuple[float, float]:
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
    columns = {
        "model": "model",
        "bare": "bare forward loop, img/s|,.1f",
        "cached": "through the cache, img/s|,.1f",
        "share": "share|.1%",
        "cpu_share": "share by CPU seconds|.1%",
    }
    report = Report(f"{options.count:,} images, batches of {options.batch_size}, medians of {options.repeats} in turns", columns)
    with photos(options) as images:
        for model in options.models:
            prior = {"name": "timm", "model": model, "pretrained": False, "batch_size": options.batch_size}
            prior["num_workers"] = options.workers
            pairs = in_turns(lambda: bare_seconds(images, prior), lambda: cached_seconds(images, prior), options.repeats)  # noqa: B023
            bare, cached = (len(images) / statistics.median(one[0] for one in values) for values in zip(*pairs, strict=True))
            share, cpu_share = (statistics.median(one[kind] / two[kind] for one, two in pairs) for kind in (0, 1))
            report.add(model=model, bare=bare, cached=cached, share=share, cpu_share=cpu_share, seconds=pairs)
    note = "The last column is free of other work on the machine: CPU seconds of the network's thread, bare over build."
    report.end(options.json, note)


def memory(options: argparse.Namespace) -> None:
    columns = {"images": "images|,", "own": "this process, MiB|,.0f", "worker": "its largest worker, MiB|,.0f"}
    report = Report("peak resident memory of a build in its own process", columns)
    for count in options.counts:
        report.add(**in_a_process(__file__, "peak", "--images", options.images, "--count", count))
    report.end(options.json)


def peak(options: argparse.Namespace) -> None:
    with photos(options) as images, spending() as spent:
        cached_seconds(images, {"name": "pixels", "num_workers": 1})  # the widest rows: 12 KiB an image
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps({"images": len(images), "own": spent.peak, "worker": worker}))


def purity(options: argparse.Namespace) -> None:
    from solo_gps.embeddings import embed
    from solo_gps.evaluation.metrics import table_purity
    from solo_gps.neighbours import find

    sets, spaces = ("photos", "digits"), ("euclidean", "cosine")
    columns = {"prior": "prior"}
    for which in sets:
        columns |= {f"{which}_{space}": f"{which}, {space}|.3f" for space in spaces} | {f"{which}_seconds": "seconds|.1f"}
    report = Report("label purity of the 10 nearest neighbours", columns)
    with photos(options) as photographs, tempfile.TemporaryDirectory() as written:
        both = dict(zip(sets, (photographs, digits(Path(written))), strict=True))
        for name in options.priors:
            row: dict[str, Any] = {"prior": name}
            for which, images in both.items():
                with tempfile.TemporaryDirectory() as folder:
                    with spending() as spent:
                        embeddings = embed(images, {"name": name, "cache_dir": folder})
                    row[f"{which}_seconds"] = spent.wall
                    for space in spaces:
                        table = find(dataclasses.replace(embeddings, space=space), {"backend": "torch"}, k=10)
                        row[f"{which}_{space}"] = table_purity(table, images.labels)
            report.add(**row)
    report.end(options.json)


def join(options: argparse.Namespace) -> None:
    """Purity, and share of images with a neighbour, of priors alone, joined and where they agree."""
    from solo_gps.evaluation.metrics import table_purity
    from solo_gps.samplers.gps.choose import share_with_positive
    from solo_gps.samplers.space import PriorSpace

    columns = {"prior": "prior"}
    for k in (1, 10):
        columns |= {f"purity_{k}": f"purity, k={k}|.3f", f"share_{k}": f"with a neighbour, k={k}|.3f"}
        columns |= {f"found_{k}": f"neighbours, k={k}|.2f"}
    report = Report(f"priors alone and together, {options.count:,} photos", columns)
    pairs = [["patches", "pca"], ["patches", "random"]]
    asked = {name: {"name": name} for name in ("patches", "pca", "random")}
    asked["random, cosine"] = {"name": "random", "space": "cosine"}
    for pair in pairs:
        half = [pair[0], {"name": pair[1], "weight": 0.5}]
        asked[f"join of {', '.join(pair)}"] = {"name": "join", "parts": pair}
        asked[f"join, {pair[1]} of weight 0.5"] = {"name": "join", "parts": half}
        asked[f"agree of {', '.join(pair)}"] = {"name": "join", "parts": pair, "combine": "agree"}
    with photos(options) as images, tempfile.TemporaryDirectory() as folder:
        for title, prior in asked.items():
            space, row = PriorSpace(images, {**prior, "cache_dir": folder}, {"backend": "torch"}), {"prior": title}
            for k in (1, 10):
                table = space.neighbours(k=k)
                row[f"purity_{k}"], row[f"share_{k}"] = table_purity(table, images.labels), share_with_positive(table)
                row[f"found_{k}"] = float((table.indices >= 0).sum(axis=1).mean())
            report.add(**row)
    report.end(options.json)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = arguments.add_subparsers(required=True)
    for run in (speed, memory, peak, purity, join):
        command = commands.add_parser(run.__name__, parents=[parser(None)], add_help=False)
        command.add_argument("--images", type=Path, required=True)
        command.add_argument("--count", type=int, default=1000 if run is speed else 5000)
        command.add_argument("--counts", type=int, nargs="+", default=[5000, 50000])
        command.add_argument("--models", nargs="+", default=MODELS)
        command.add_argument("--priors", nargs="+", default=PRIORS)
        command.add_argument("--batch-size", type=int, default=64)
        command.add_argument("--workers", type=int, default=-1)
        command.add_argument("--repeats", type=int, default=3)
        command.set_defaults(run=run)
    options = arguments.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
