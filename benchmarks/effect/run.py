"""The effect suite: images, priors of known quality, then every row by `solo-gps compare`, and the table.

    python benchmarks/effect/run.py --data /path/to/cifar10 [hydra/launcher=joblib hydra.launcher.n_jobs=2]
    python benchmarks/effect/run.py --data /path/to/cifar10 --sweep benchmarks/effect/long.yaml

``--data`` is CIFAR-10 as torchvision keeps it (``--download`` fetches it there), or as image files, train/<class>/* and
test/<class>/*, in CIFAR-10's order. The first 500 and the first 200 of each class are taken, as JPEG files of Pillow's usual
quality. Finished cells are small files in docs/results/effect and are not trained again; `solo-gps compare --table
docs/results/effect --out FOLDER` makes the table from them anywhere. Images that differ from those of the records in one byte
have a folder of their own below runs, with records and a table of their own. Run it at the top of the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from solo_gps.runtime.files import whole_file

RUNS = "runs/effect"
"""Of the images of the records; the sweep files name it."""
COUNTS = {"train": 500, "test": 200}
DIGEST = "03e37048b589a80a9a23bac73d76d17dce155e7666aac84c9ca613807b996843"
SEED = 0
SUPERVISED_EPOCHS = 20


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument(
        "--data", type=Path, required=True, help="CIFAR-10: torchvision's folder, or train/<class> and test/<class>"
    )
    asked.add_argument("--download", action="store_true", help="have torchvision fetch CIFAR-10 into --data")
    asked.add_argument("--sweep", type=Path, default=Path(__file__).with_name("short.yaml"))
    asked.add_argument("overrides", nargs="*", help="for solo-gps compare, for example hydra/launcher=joblib")
    options = asked.parse_args()
    images = list(images_of(options.data, download=options.download))
    sweep, out = at_home(options.sweep, digest_of(images))
    os.environ.setdefault("SOLO_GPS_CACHE", str(out / "cache"))
    for place, content in images:
        file = out / "images" / place
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    labels = np.repeat(np.arange(10), COUNTS["train"])
    random = np.random.default_rng(SEED)
    # A little noise, or all images of a class were one point.
    keep_array(out / "labels.npy", (np.eye(10)[labels] + 0.05 * random.normal(size=(len(labels), 10))).astype(np.float32))
    keep_array(out / "noise.npy", random.normal(size=(len(labels), 64)).astype(np.float32))
    if not (out / "supervised.pth").exists():
        supervise(out / "images" / "train", out / "supervised.pth")
    command = [sys.executable, "-m", "solo_gps", "compare", str(sweep), *options.overrides]
    raise SystemExit(subprocess.run(command, check=False).returncode)


def images_of(data: Path, *, download: bool = False) -> Iterator[tuple[str, bytes]]:
    """The first images of each class, as split/class/file and the bytes of a JPEG file."""
    if not download and (data / "train").is_dir():
        for split, count in COUNTS.items():
            for folder in sorted(path for path in (data / split).iterdir() if path.is_dir()):
                for file in sorted(folder.iterdir())[:count]:
                    yield f"{split}/{folder.name}/{file.name}", file.read_bytes()
        return
    from torchvision.datasets import CIFAR10

    for split, count in COUNTS.items():
        dataset = CIFAR10(str(data), train=split == "train", download=download)
        for label, name in enumerate(dataset.classes):
            for number, index in enumerate(np.flatnonzero(np.array(dataset.targets) == label)[:count]):
                file = io.BytesIO()
                Image.fromarray(dataset.data[index]).save(file, "JPEG")
                yield f"{split}/{name}/{number:04d}.jpg", file.getvalue()


def digest_of(images: list[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for place, content in images:
        digest.update(place.encode() + content)
    return digest.hexdigest()


def at_home(sweep: Path, digest: str) -> tuple[Path, Path]:
    """The sweep file for images, and the folder of what is made of them; others than those of the records share neither."""
    if digest == DIGEST:
        return sweep, Path(RUNS)
    out = f"{RUNS}-{digest[:8]}"
    print(f"other images than those of docs/results: their records and table are below {out}", flush=True)
    keys = yaml.safe_load(sweep.read_text(encoding="utf-8").replace(RUNS, out))
    keys |= {"records": f"{keys['out']}/records", "config_path": str(Path(__file__).parent.resolve())}
    keys["overrides"] = [*keys.get("overrides", []), f"data.train_path={out}/images/train"]
    own = Path(out, sweep.name)
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(yaml.safe_dump(keys, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return own, Path(out)


def keep_array(path: Path, rows: np.ndarray) -> None:
    if not path.exists():
        with whole_file(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, rows)


def supervise(images: Path, file: Path) -> None:
    """Trains the same network with the labels of the same images (flips, cross-entropy), for a prior that knows the classes."""
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    from torchvision.models import resnet18

    torch.manual_seed(SEED)
    normal = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    views = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor(), normal])
    loader = torch.utils.data.DataLoader(ImageFolder(images, views), batch_size=128, shuffle=True, drop_last=True)
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
