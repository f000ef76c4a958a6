"""Throughput of DALI's loader on a CPU, guided against solo-learn's own: what the second image of an item costs.

    python benchmarks/dali.py                      # JPEG files that it writes itself
    python benchmarks/dali.py --folder data/train  # your own class folders

Both loaders run in turns, several times, each an epoch; the times are the process's CPU time, of all threads. solo-learn's own
asks for a GPU even where ``dali.device=cpu``: here it is told that there is none.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from harness import STRONG, Report, in_turns, parser, spread
from omegaconf import OmegaConf
from PIL import Image

import solo_gps
from solo_gps.hosts.dali import data_module
from solo_gps.hosts.detect import detect_host

REST = {key: {"prob": 0.0} for key in ("gaussian_blur", "solarization", "equalization")}


def write_jpegs(folder, count, size):
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (size // 16, size // 16, 3), dtype=np.uint8)
        file = folder / str(index % 10) / f"{index:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(file, quality=90)


def recipe(folder, crop, batch):
    return OmegaConf.create(
        {
            "name": "loader",
            "method": "simclr",
            "seed": 5,
            "backbone": {"name": "resnet18"},
            "method_kwargs": {"proj_hidden_dim": 8, "proj_output_dim": 8, "temperature": 0.2},
            "augmentations": [{**STRONG, **REST, "horizontal_flip": {"prob": 0.5}, "crop_size": crop, "num_crops": 2}],
            "data": {"dataset": "custom", "train_path": str(folder), "val_path": None, "format": "dali", "num_workers": 1},
            "dali": {"device": "cpu"},
            "optimizer": {"name": "sgd", "batch_size": batch, "lr": 0.1, "classifier_lr": 0.1, "weight_decay": 0},
            "scheduler": {"name": "none"},
            "max_epochs": 1,
            "accelerator": "cpu",
            "devices": 1,
            "sampler": {"gps": {"k": 1}},
            "prior": {"name": "pixels", "image_size": 8},
        }
    )


def loader(cfg, guided):
    """The loader of a recipe, as a trainer of one process would get it."""
    import solo.data.dali_dataloader as host

    cfg = detect_host().complete(cfg)
    build = host.PretrainPipelineBuilder.pipeline
    module = data_module(cfg, None)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(global_rank=0, local_rank=0, world_size=1, strategy=strategy)
    if guided:
        module.setup("fit")
    else:
        without = lambda self, **asked: build(self, **{**asked, "device_id": None})  # noqa: E731
        with patch.object(host.PretrainPipelineBuilder, "pipeline", without):
            module.setup("fit")
    return module.train_dataloader()


def seconds(batches):
    started, number = time.process_time(), 0
    for _ in batches:
        number += 1
    return (time.process_time() - started) / number


COLUMNS = {
    "what": "what",
    "plain": "solo-learn, CPU ms an image|.2f",
    "guided": "guided, CPU ms an image|.2f",
    "ratio": "ratio of the times",
}


def compare(report, what, folder, crop, batch, repeats):
    with solo_gps.activate(recipe(folder, crop, batch)):
        ours = loader(recipe(folder, crop, batch), guided=True)
        seconds(ours)
    theirs = loader(recipe(folder, crop, batch), guided=False)
    seconds(theirs)
    pairs = in_turns(lambda: seconds(theirs), lambda: seconds(ours), repeats)
    plain, guided = (1000 * statistics.median(times) / batch for times in zip(*pairs, strict=True))
    report.add(what=what, plain=plain, guided=guided, ratio=spread([own / their for their, own in pairs]), seconds=pairs)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--folder", type=Path, default=None)
    arguments.add_argument("--images", type=int, default=512)
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    report = Report(f"{options.repeats} repeats in turns, one thread of DALI's", COLUMNS)
    with tempfile.TemporaryDirectory() as scratch:
        for size, crop in ((32, 32), (400, 224)) if options.folder is None else ((0, 224),):
            folder = options.folder or Path(scratch) / str(size)
            if options.folder is None:
                write_jpegs(folder, options.images, size)
            compare(report, f"JPEG folder {size or ''}, crops of {crop}", folder, crop, 32, options.repeats)
    report.end(options.json)


if __name__ == "__main__":
    main()
