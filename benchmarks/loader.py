"""DataLoader throughput, guided against stock: in-memory images, and JPEG folders without and with a store of decoded images.

    python benchmarks/loader.py                      # in-memory images and JPEG files that it writes itself
    python benchmarks/loader.py --folder data/train  # your own class folders

Stock is solo-learn's own dataset and transform. Each pair of loaders runs in turn, several times; the table gives medians.
Without workers, the time is the process's CPU time, which other programs on the machine disturb little; with workers, it is the
wall's. The last row is a decode alone: torchvision's loader against ours.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from harness import Report, in_turns, parser, spread
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.datasets.folder import default_loader

from solo_gps.embeddings.decoded import keep_decoded
from solo_gps.guide.dataset import GuidedDataset, GuidedLoader, crop_pipelines
from solo_gps.hosts.detect import detect_host
from solo_gps.hosts.images import host_images
from solo_gps.interfaces import Pairs

HOST = detect_host().loader_module


def two_crops(augmentation):
    return HOST.FullTransformPipeline([HOST.NCropAugmentation(augmentation, 2)])


def in_memory(images, transform):
    """CIFAR-10 of solo-learn as it is once loaded; nothing is downloaded."""
    cls = HOST.dataset_with_index(CIFAR10)
    dataset = cls.__new__(cls)
    vars(dataset).update(data=images, targets=[0] * len(images), transform=transform, target_transform=None)
    return dataset


def strong(size):
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )


def weak(size):
    return transforms.Compose([transforms.Resize(size), transforms.RandomHorizontalFlip(), transforms.ToTensor()])


def guided(dataset, images):
    n = len(dataset)
    positives = np.random.default_rng(0).permutation(n).astype(np.int32)
    pairs = Pairs(anchors=np.arange(n, dtype=np.int32), positives=positives)
    return GuidedDataset(images, crop_pipelines(dataset.transform), [False, True], pairs)


def seconds(loader):
    clock = time.perf_counter if loader.num_workers else time.process_time
    started = clock()
    for _ in loader:
        pass
    return clock() - started


def compare(report, name, dataset, images, options):
    """Adds a row: stock, and guided with these images."""
    stock = DataLoader(dataset, batch_size=256, num_workers=options.workers)
    ours = GuidedLoader(guided(dataset, images), batch_size=256, num_workers=options.workers)
    add(report, name, in_turns(lambda: seconds(stock), lambda: seconds(ours), options.repeats), len(dataset))


def compare_decoders(report, dataset, options):
    """Adds a row: torchvision's decoder, and ours."""
    images, paths = host_images(dataset), [path for path, _ in dataset.samples[:500]]

    def timed(decode, arguments):
        started = time.process_time()
        for argument in arguments:
            decode(argument)
        return time.process_time() - started

    pairs = in_turns(lambda: timed(default_loader, paths), lambda: timed(images.item, range(len(paths))), options.repeats)
    add(report, "a decode alone", pairs, len(paths))


def add(report, name, pairs, count):
    theirs, own = (statistics.median(times) / count for times in zip(*pairs, strict=True))
    ratio = spread([ours / stock for stock, ours in pairs])
    report.add(what=name, stock=1 / theirs, guided=1 / own, ratio=ratio, extra=1e6 * (own - theirs), seconds=pairs)


def write_jpegs(folder, count, size):
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (size // 16, size // 16, 3), dtype=np.uint8)
        file = folder / "images" / f"{index:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(file, quality=90)


COLUMNS = {
    "what": "what",
    "stock": "stock, images / s|,.0f",
    "guided": "guided, images / s|,.0f",
    "ratio": "ratio of the times",
    "extra": "extra us|,.0f",
}


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--folder", type=Path, default=None)
    arguments.add_argument("--images", type=int, default=4000)
    arguments.add_argument("--repeats", type=int, default=9)
    arguments.add_argument("--workers", type=int, default=0)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    report = Report(f"{options.repeats} repeats in turns, {options.workers} workers", COLUMNS)
    memory = np.random.default_rng(0).integers(0, 256, (options.images, 32, 32, 3), dtype=np.uint8)
    for augmentation in (weak, strong):
        dataset = in_memory(memory, two_crops(augmentation(32)))
        compare(report, f"in memory 32, {augmentation.__name__}", dataset, host_images(dataset), options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder
        if folder is None:
            folder = Path(scratch, "images")
            write_jpegs(folder, options.images // 8, 256)
        for augmentation in (weak, strong):
            dataset = HOST.dataset_with_index(ImageFolder)(str(folder), two_crops(augmentation(64)))
            for kind in (None, "memory", "mapped"):
                images = host_images(dataset)
                if kind is not None:
                    keep_decoded(images, kind, str(Path(scratch, "cache")))
                name = f"JPEG folder, {augmentation.__name__}{f', +images={kind}' if kind else ''}"
                compare(report, name, dataset, images, options)
        compare_decoders(report, dataset, options)
    report.end(options.json)


if __name__ == "__main__":
    main()
