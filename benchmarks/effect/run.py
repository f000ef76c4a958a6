"""The effect suite: images, priors of known quality, then every row by `solo-gps compare`, and the table.

    python benchmarks/effect/run.py --data /path/to/cifar10 [hydra/launcher=joblib hydra.launcher.n_jobs=2]
    python benchmarks/effect/run.py --data /path/to/cifar10 --sweep benchmarks/effect/long.yaml

``--data`` holds train/<class>/* and test/<class>/* of CIFAR-10 as image files, in CIFAR-10's order. The first 500 and the first
200 of each class are taken. Finished cells are small files in docs/results/effect and are not trained again; `solo-gps compare
--table docs/results/effect` makes the table from them anywhere. Run it at the top of the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from solo_gps.runtime.files import whole_file

OUT = Path("runs/effect")
COUNTS = {"train": 500, "test": 200}
DIGEST = "03e37048b589a80a9a23bac73d76d17dce155e7666aac84c9ca613807b996843"
SEED = 0
SUPERVISED_EPOCHS = 20


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, required=True, help="folder with train/<class> and test/<class>")
    asked.add_argument("--sweep", type=Path, default=Path(__file__).with_name("short.yaml"))
    asked.add_argument("overrides", nargs="*", help="for solo-gps compare, for example hydra/launcher=joblib")
    options = asked.parse_args()
    os.environ.setdefault("SOLO_GPS_CACHE", str(OUT / "cache"))
    take_images(options.data)
    labels = np.repeat(np.arange(10), COUNTS["train"])
    random = np.random.default_rng(SEED)
    # A little noise, or all images of a class were one point.
    keep_array("labels.npy", (np.eye(10)[labels] + 0.05 * random.normal(size=(len(labels), 10))).astype(np.float32))
    keep_array("noise.npy", random.normal(size=(len(labels), 64)).astype(np.float32))
    if not (OUT / "supervised.pth").exists():
        supervise(OUT / "supervised.pth")
    command = [sys.executable, "-m", "solo_gps", "compare", str(options.sweep), *options.overrides]
    raise SystemExit(subprocess.run(command, check=False).returncode)


def take_images(data: Path) -> None:
    """Copies the images, and checks that they are those of the records."""
    digest = hashlib.sha256()
    for split, count in COUNTS.items():
        for folder in sorted(path for path in (data / split).iterdir() if path.is_dir()):
            target = OUT / "images" / split / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.iterdir())[:count]:
                if not (target / file.name).exists():
                    shutil.copyfile(file, target / file.name)
                digest.update(f"{split}/{folder.name}/{file.name}".encode() + (target / file.name).read_bytes())
    if digest.hexdigest() != DIGEST:
        raise SystemExit(
            f"{data}: other images than those of the records in docs/results (digest {digest.hexdigest()}, wanted {DIGEST}), "
            f"whose figures would stand in one table. Name CIFAR-10 as those JPEG files, and remove {OUT / 'images'}."
        )


def keep_array(name: str, rows: np.ndarray) -> None:
    if not (OUT / name).exists():
        with whole_file(OUT / name) as unfinished, unfinished.open("wb") as file:
            np.save(file, rows)


def supervise(file: Path) -> None:
    """Trains the same network with the labels of the same images (flips, cross-entropy), for a prior that knows the classes."""
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    from torchvision.models import resnet18

    torch.manual_seed(SEED)
    normal = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    views = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor(), normal])
    loader = torch.utils.data.DataLoader(
        ImageFolder(OUT / "images" / "train", views), batch_size=128, shuffle=True, drop_last=True
    )
    network = resnet18(num_classes=10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=SUPERVISED_EPOCHS * len(loader))
    for epoch in range(SUPERVISED_EPOCHS):
        right = 0
        for images, labels in loader:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(images).float()
            torch.nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            plan.step()
            right += int((logits.argmax(1) == labels).sum())
        print(
            f"supervised: epoch {epoch + 1} of {SUPERVISED_EPOCHS}, {right / (len(loader) * 128):.1%} right in training",
            flush=True,
        )
    with whole_file(file) as unfinished:
        torch.save(network.state_dict(), unfinished)


if __name__ == "__main__":
    main()
