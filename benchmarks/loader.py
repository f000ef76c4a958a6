"""DataLoader throughput, guided against plain: in-memory images, and JPEG folders where the extra cost is one decode.

    python benchmarks/loader.py                      # in-memory images and JPEG files that it writes itself
    python benchmarks/loader.py --folder data/train  # your own class folders

Each pair of loaders runs in turn, several times; the table gives medians. Without workers, the time is the process's CPU time,
which other programs on the machine disturb little; with workers, it is the wall's.
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
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from solo_gps.guide.dataset import GuidedDataset, GuidedLoader, crop_pipelines
from solo_gps.hosts.images import HostImages, host_images
from solo_gps.interfaces import Pairs


class Crops:
    """The host's form of a transform: pipelines, each with a number of crops."""

    def __init__(self, transform, num_crops):
        self.transform, self.num_crops = transform, num_crops
        self.transforms = [self]

    def __call__(self, image):
        return [self.transform(image) for _ in range(self.num_crops)]


class InMemory(Dataset):
    """CIFAR's form: an array of decoded images."""

    def __init__(self, images, transform):
        self.data, self.transform = images, transform

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image = Image.fromarray(self.data[index])
        return index, image if self.transform is None else self.transform(image), 0


class IndexedFolder(ImageFolder):
    def __getitem__(self, index):
        return (index, *super().__getitem__(index))


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


def decode_seconds(images, count):
    started = time.process_time()
    for index in range(count):
        images.image(index).load()
    return (time.process_time() - started) / count


def compare(report, name, dataset, images, repeats, workers):
    plain = DataLoader(dataset, batch_size=256, num_workers=workers)
    ours = GuidedLoader(guided(dataset, images), batch_size=256, num_workers=workers)
    pairs = in_turns(lambda: seconds(plain), lambda: seconds(ours), repeats)
    n = len(dataset)
    theirs, own = (statistics.median(times) / n for times in zip(*pairs, strict=True))
    decode = decode_seconds(images, min(n, 1000)) / max(1, workers)
    ratio = spread([guided / plain for plain, guided in pairs])
    report.add(
        what=name, plain=1 / theirs, guided=1 / own, ratio=ratio, extra=1e6 * (own - theirs), decode=1e6 * decode, seconds=pairs
    )


def write_jpegs(folder, count, size):
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (size // 16, size // 16, 3), dtype=np.uint8)
        file = folder / "images" / f"{index:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(file, quality=90)


COLUMNS = {
    "what": "what",
    "plain": "plain, images / s|,.0f",
    "guided": "guided, images / s|,.0f",
    "ratio": "ratio of the times",
    "extra": "extra us|,.0f",
    "decode": "decode us|,.0f",
}


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--folder", type=Path, default=None)
    arguments.add_argument("--images", type=int, default=4000)
    arguments.add_argument("--repeats", type=int, default=7)
    arguments.add_argument("--workers", type=int, default=0)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    report = Report(f"{options.repeats} repeats in turns, {options.workers} workers", COLUMNS)
    memory = np.random.default_rng(0).integers(0, 256, (options.images, 32, 32, 3), dtype=np.uint8)
    for augmentation in (weak, strong):
        dataset = InMemory(memory, Crops(augmentation(32), 2))
        images = HostImages(dataset, None, [str(row) for row in range(len(dataset))], lambda row: b"")
        compare(report, f"in memory 32, {augmentation.__name__}", dataset, images, options.repeats, options.workers)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder
        if folder is None:
            folder = Path(scratch)
            write_jpegs(folder, options.images // 8, 256)
        for augmentation in (weak, strong):
            dataset = IndexedFolder(folder, Crops(augmentation(64), 2))
            name = f"JPEG folder, {augmentation.__name__}"
            compare(report, name, dataset, host_images(dataset), options.repeats, options.workers)
    report.end(options.json)


if __name__ == "__main__":
    main()
