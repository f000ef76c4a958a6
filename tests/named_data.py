"""The papers' data sets as they lie on a disk: few and small images, the true names, lists and annotations."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN, HELD_OUT = 24, 8


@dataclass
class Written:
    """What was written below a root.

    Attributes:
        classes: Number of classes.
        train: For each image that is trained on, its pixels and its class.
        held_out: The same, for each that is held out.
        files: Some files of the part that is trained on.
    """

    classes: int
    train: list[tuple[np.ndarray, int]] = field(default_factory=list)
    held_out: list[tuple[np.ndarray, int]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def pixels(number: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 of large blocks, which JPEG keeps nearly as they are; another image for each number."""
    blocks = np.random.default_rng(number).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return blocks.repeat(-(-height // 2), axis=0).repeat(-(-width // 2), axis=1)[:height, :width]


def save(file: Path, array: np.ndarray) -> np.ndarray:
    """Writes an image by its ending, and returns what a reader sees of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def fgvc_aircraft(root: Path) -> Written:
    """Four of the 100 variants, whose names have blanks and slashes as the true ones have."""
    data, names = root / "fgvc-aircraft-2013b" / "data", ["707-320", "Boeing 717", "F/A-18", "A380"]
    written = Written(classes=100)
    for split, part, count in (("trainval", written.train, TRAIN), ("test", written.held_out, HELD_OUT)):
        lines = []
        for number in range(count):
            file = data / "images" / f"{(number * 7919 + len(split)) % 9973:07d}.jpg"
            part.append((save(file, pixels(len(part) + 100 * len(split), 48, 64)), number % len(names)))
            lines.append(f"{file.stem} {names[number % len(names)]}\n")
            written.files += [file] if split == "trainval" else []
        (data / f"images_variant_{split}.txt").write_text("".join(lines))
    (data / "variants.txt").write_text("".join(f"{name}\n" for name in names))
    return written


def pcam(root: Path) -> Written:
    import h5py

    written = Written(classes=2)
    (root / "pcam").mkdir(parents=True)
    for split, part, count in (("train", written.train, TRAIN), ("test", written.held_out, HELD_OUT)):
        images = np.stack([pixels(number + 100 * len(split), 96, 96) for number in range(count)])
        labels = np.arange(count, dtype=np.uint8) % 2
        part += list(zip(images, labels.tolist(), strict=True))
        for name, key, values in (("x", "x", images), ("y", "y", labels.reshape(-1, 1, 1, 1))):
            file = root / "pcam" / f"camelyonpatch_level_2_split_{split}_{name}.h5"
            with h5py.File(file, "w") as opened:
                opened[key] = values
            written.files += [file] if split == "train" else []
    return written


def tiny_imagenet(root: Path) -> Written:
    """Four of the 200 classes, listed in another order than that of their numbers."""
    folder, wnids = root / "tiny-imagenet-200", ["n02124075", "n01443537", "n04067472", "n01641577"]
    (folder / "val").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    written = Written(classes=200)
    for number, wnid in enumerate(sorted(wnids)):
        lines = []
        for image in range(TRAIN // 4):
            file = folder / "train" / wnid / "images" / f"{wnid}_{image}.JPEG"
            written.train.append((save(file, pixels(100 * number + image, 64, 64)), number))
            written.files.append(file)
            lines.append(f"{file.name}\t0\t10\t63\t58\n")
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(lines))
    lines = []
    for image in range(HELD_OUT):
        wnid, file = wnids[image % 4], folder / "val" / "images" / f"val_{image}.JPEG"
        written.held_out.append((save(file, pixels(900 + image, 64, 64)), sorted(wnids).index(wnid)))
        lines.append(f"{file.name}\t{wnid}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return written


def voc(root: Path, year: str) -> Written:
    """Photos of two objects and a difficult one each; a box of 1, 1, 20, 30 is the 20 x 30 pixels in the upper left corner."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    written, number = Written(classes=20), 0
    train, held_out = ("trainval", "test") if year == "2007" else ("train", "val")
    for split, part, count in ((train, written.train, TRAIN // 2), (held_out, written.held_out, HELD_OUT // 2)):
        names = []
        for _ in range(count):
            number += 1
            name = f"{number:06d}" if year == "2007" else f"2008_{number:06d}"
            photo = save(folder / "JPEGImages" / f"{name}.jpg", pixels(number, 64, 96))
            objects = [("dog", (1, 1, 20, 30), 0), ("person", (49, 11, 96, 64), 0), ("cat", (5, 5, 9, 9), 1)]
            (folder / "Annotations" / f"{name}.xml").write_text(_annotation(name, objects))
            part += [(photo[0:30, 0:20], 11), (photo[10:64, 48:96], 14)]
            names.append(name)
            written.files += [folder / "JPEGImages" / f"{name}.jpg"] if part is written.train else []
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return written


def _annotation(name: str, objects: list[tuple[str, tuple[int, int, int, int], int]]) -> str:
    parts = [
        f"<object><name>{of_class}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for of_class, box, difficult in objects
    ]
    size = "<size><width>96</width><height>64</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC</folder><filename>{name}.jpg</filename>{size}{''.join(parts)}</annotation>"


def hotel_id(root: Path) -> Written:
    """Four hotels to train on; two of them, and one more, to search by and in."""
    written, hotels = Written(classes=4), ["10018", "11131", "2", "53586"]
    for number, hotel in enumerate(hotels):
        for photo in range(TRAIN // 4):
            file = root / "train" / hotel / f"{photo:04x}.jpg"
            written.train.append((save(file, pixels(100 * number + photo, 48, 36)), number))
            written.files.append(file)
    for part in ("query", "gallery"):
        for number, hotel in ((1, "11131"), (3, "53586"), (None, "60181")):
            for photo in range(HELD_OUT // 2):
                seen = save(root / part / hotel / f"{part}{photo}.jpg", pixels(1000 + 10 * int(hotel) + photo, 48, 36))
                written.held_out += [(seen, number)] if part == "query" and number is not None else []
    return written


def medmnist(root: Path, name: str, classes: int, *, grey: bool = False, findings: int = 1) -> Written:
    side = name.partition("_")[2]
    written, arrays = Written(classes=classes), {}
    root.mkdir(parents=True, exist_ok=True)
    for split, part, count in (("train", written.train, TRAIN), ("val", [], 4), ("test", written.held_out, HELD_OUT)):
        images = np.stack([pixels(number + 100 * len(split), int(side or 28), int(side or 28)) for number in range(count)])
        images = images[..., 0] if grey else images
        labels = (np.arange(count)[:, None] + np.arange(findings)) % max(classes, 2)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels.astype(np.uint8)}
        shown = images[..., None].repeat(3, axis=-1) if grey else images
        part += [(image, int(label[0]) if findings == 1 else -1) for image, label in zip(shown, labels, strict=True)]
    np.savez(root / f"{name}.npz", **arrays)
    written.files.append(root / f"{name}.npz")
    return written


WRITERS: dict[str, Callable[[Path], Written]] = {
    "fgvc_aircraft": fgvc_aircraft,
    "pcam": pcam,
    "tiny_imagenet": tiny_imagenet,
    "voc2007": lambda root: voc(root, "2007"),
    "voc2012": lambda root: voc(root, "2012"),
    "hotel_id": hotel_id,
    "pathmnist": lambda root: medmnist(root, "pathmnist", 9),
    "tissuemnist_64": lambda root: medmnist(root, "tissuemnist_64", 8, grey=True),
    "bloodmnist": lambda root: medmnist(root, "bloodmnist", 8),
    "chestmnist": lambda root: medmnist(root, "chestmnist", 1, grey=True, findings=14),
}


# ---- solo-learn's own sets, in torchvision's layouts; its checksums are those of the true files, so a test sets them aside ----


def cifar(root: Path, classes: int) -> Written:
    """Batches of CIFAR-10, or the two files of CIFAR-100."""
    names = [f"data_batch_{number}" for number in range(1, 6)] if classes == 10 else ["train"]
    folder, key = (
        root / f"cifar-{classes}-{'batches-py' if classes == 10 else 'python'}",
        "labels" if classes == 10 else "fine_labels",
    )
    folder.mkdir(parents=True)
    written, number = Written(classes=classes), 0
    for name in [*names, "test_batch" if classes == 10 else "test"]:
        part, count = (written.held_out, HELD_OUT) if name.startswith("test") else (written.train, 30 // len(names))
        images = np.stack([pixels(number := number + 1, 32, 32) for _ in range(count)])
        labels = [image % 4 for image in range(count)]
        rows = images.transpose(0, 3, 1, 2).reshape(count, -1)
        (folder / name).write_bytes(pickle.dumps({"data": rows, key: labels}))
        part += list(zip(images, labels, strict=True))
    meta, label_names = ("batches.meta", "label_names") if classes == 10 else ("meta", "fine_label_names")
    (folder / meta).write_bytes(pickle.dumps({label_names: [str(label) for label in range(classes)]}))
    return written


def stl10(root: Path) -> Written:
    """Images by columns, classes from 1, and the unlabelled ones."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    written = Written(classes=10)
    (folder / "class_names.txt").write_text("\n".join(map(str, range(10))))
    for name, part, count in (
        ("train", written.train, TRAIN // 2),
        ("unlabeled", written.train, TRAIN // 2),
        ("test", written.held_out, 8),
    ):
        images = np.stack([pixels(number + 100 * len(name), 96, 96) for number in range(count)])
        images.transpose(0, 3, 2, 1).tofile(folder / f"{name}_X.bin")
        labels = np.arange(count) % 4
        if name != "unlabeled":
            (labels + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")
        part += list(zip(images, (labels if name != "unlabeled" else labels * 0 - 1).tolist(), strict=True))
    return written


def imagenet(root: Path) -> Written:
    """Class folders of photos of several sizes."""
    written = Written(classes=1000)
    for split, part, count in (("train", written.train, TRAIN), ("val", written.held_out, HELD_OUT)):
        for number in range(count):
            file = root / split / f"n{number % 4:08d}" / f"{number}.JPEG"
            part.append((save(file, pixels(number + len(split) * 100, 60 + number, 80)), number % 4))
    return written


OWN_WRITERS: dict[str, Callable[[Path], Written]] = {
    "cifar10": lambda root: cifar(root, 10),
    "cifar100": lambda root: cifar(root, 100),
    "stl10": stl10,
    "imagenet": imagenet,
    "tissuemnist": lambda root: medmnist(root, "tissuemnist", 8, grey=True),
}
