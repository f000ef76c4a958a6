"""Start of a run whose embeddings are cached, over many files: with the record of their digests warm or cold, and listing alone.

python benchmarks/start.py
python benchmarks/start.py --images 50000 --json start.json
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report, parser, spread
from PIL import Image
from torchvision.datasets import ImageFolder

from solo_gps.embeddings import embed
from solo_gps.embeddings.digests import RECORDS, SETTLED_NS
from solo_gps.hosts.images import host_images

PRIOR = {"name": "pixels", "image_size": 8, "device": "cpu"}


def write_images(folder: Path, count: int) -> None:
    """JPEG files of CIFAR's size, in ten class folders."""
    random = np.random.default_rng(0)
    for index in range(count):
        path = folder / str(index % 10) / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(path)


def stamps_alone(dataset: ImageFolder) -> None:
    """The physical bound: one look at each file."""
    for path, _ in dataset.samples:
        os.stat(path)


def names_and_sizes(dataset: ImageFolder) -> None:
    """What a start cost while an image was known by its name and size."""
    import hashlib

    digest = hashlib.sha256()
    root = Path(dataset.root)
    for path, _ in dataset.samples:
        digest.update(f"{Path(path).relative_to(root).as_posix()}\0{os.stat(path).st_size}".encode())


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    begun, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    work()
    now = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter() - begun, now.ru_utime + now.ru_stime - cpu.ru_utime - cpu.ru_stime


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, default=50_000)
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    columns = {"what": "what", "wall": "wall s (least to most)", "cpu": "CPU s"}
    report = Report(f"{options.images:,} JPEG files of 32 x 32 in ten folders, page cache warm", columns)
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place, "train"), Path(place, "cache")
        write_images(folder, options.images)
        time.sleep(2 * SETTLED_NS / 1e9)
        dataset = ImageFolder(folder)
        prior = {**PRIOR, "cache_dir": str(cache)}
        first = timed(lambda: embed(host_images(dataset), prior))
        report.add(what="build (decode, embed, digest)", wall=f"{first[0]:.2f}", cpu=f"{first[1]:.2f}")

        def warm() -> None:
            embed(host_images(dataset), prior)

        def cold() -> None:
            shutil.rmtree(cache / RECORDS)
            embed(host_images(dataset), prior)

        def one_changed() -> None:
            path, _ = dataset.samples[len(dataset.samples) // 2]
            os.utime(path)
            embed(host_images(dataset), prior)

        turns: dict[str, Callable[[], Any]] = {
            "list the folder (torchvision)": lambda: ImageFolder(folder),
            "look at each file's stamp": lambda: stamps_alone(dataset),
            "names and sizes, as before": lambda: names_and_sizes(dataset),
            "start, record warm": warm,
            "start, one stamp changed": one_changed,
            "start, record cold (each file read)": cold,
        }
        times: dict[str, list[tuple[float, float]]] = {what: [] for what in turns}
        for _ in range(options.repeats):
            for what, work in turns.items():
                times[what].append(timed(work))
        for what, found in times.items():
            report.add(what=what, wall=spread([wall for wall, _ in found], ".2f"), cpu=spread([cpu for _, cpu in found], ".2f"))
    report.end(options.json)


if __name__ == "__main__":
    main()
