"""What solo-learn wrote beside a checkpoint, and the prior that it makes of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from solo_gps.errors import DataError, first_line, printable
from solo_gps.priors.config import IMAGENET_MEAN, IMAGENET_STD

ARGUMENTS = "args.json"
NORMALISATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "stl10": ((0.4914, 0.4823, 0.4466), (0.247, 0.243, 0.261)),
}
"""Mean and standard deviation in the evaluation of solo-learn 1.0.6 (``prepare_transforms`` of
https://github.com/vturrisi/solo-learn/blob/main/solo/data/classification_dataloader.py); other sets have ImageNet's."""

OWN_NETWORKS = ("convnext", "poolformer", "wide_resnet")
"""Networks that neither torchvision nor timm has in the form of solo-learn 1.0.6."""


def checkpoint_file(path: str | os.PathLike[str]) -> Path:
    """Returns the one checkpoint that a path leads to: a file, or a folder with it and its args.json.

    Raises:
        DataError: There is none, or there are several.
    """
    place = Path(path).expanduser()
    if not place.is_dir():
        if not place.is_file():
            raise DataError(f"{printable(path)}: no such checkpoint. Name a .ckpt file, or the folder that holds it.")
        return place
    found = sorted(place.glob("*.ckpt"))
    if len(found) != 1:
        there = ", ".join(printable(file.name) for file in found) or "none"
        raise DataError(f"{printable(path)}: wanted one .ckpt file in this folder, found {len(found)} ({there}). Name the file.")
    return found[0]


def checkpoint_prior(file: Path) -> dict[str, Any]:
    """Returns the ``prior`` node that embeds as solo-learn's own evaluation does: float32, its size, crop and normalisation.

    The size is that of the training's crops: up to 96 pixels the shorter side is scaled to it, beyond that to size / 0.875,
    before a centre crop. This is what main_knn.py does for cifar10, cifar100 and stl10, and for the others with crops of 224.

    Args:
        file: A checkpoint with solo-learn's args.json in its folder: of 1.0.6, of 1.0.2, or of main_linear.py.

    Raises:
        DataError: args.json is missing, damaged, or not solo-learn's.
    """
    says = _Arguments(file)
    name = says.text("backbone.name", "encoder")
    dataset = says.text("data.dataset", "dataset")
    kwargs = says.get("backbone.kwargs", "backbone_args") or {}
    if not isinstance(kwargs, Mapping):
        raise DataError(f"{printable(says.file)}: wanted a group of keys as backbone.kwargs (or backbone_args), got {kwargs!r}.")
    kwargs = dict(kwargs)
    if name.startswith(OWN_NETWORKS):
        raise DataError(
            f"{printable(file)}: {name} is a network of solo-learn's own code, which solo-gps cannot build. Judge it "
            "by solo-learn's main_knn.py."
        )
    if kwargs.get("cifar") and name.startswith("swin"):
        kwargs["window_size"] = 4  # as 1.0.2 does
    cifar = bool(kwargs.pop("cifar", dataset in ("cifar10", "cifar100")))
    mean, std = NORMALISATION.get(dataset, (says.of_crops("mean") or IMAGENET_MEAN, says.of_crops("std") or IMAGENET_STD))
    return {
        "name": "checkpoint",
        "path": str(file),
        "architecture": name,
        "kwargs": kwargs,
        "stem": "small" if cifar and name.startswith("resnet") else "imagenet",
        "image_size": says.of_crops("crop_size") or 224,
        "mean": list(mean),
        "std": list(std),
        "precision": "fp32",
        "space": "cosine",
    }


def untrained_prior(node: Mapping[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Returns the ``prior`` node of the same network with the random weights of ``seed``, looking at images in the same way.

    Args:
        node: What :func:`checkpoint_prior` returned.
        seed: Seed of the weights.
        folder: Where the weights are written.
    """
    import torch

    from solo_gps.priors.parts.architectures import build_network, library_of, with_small_stem
    from solo_gps.runtime.determinism import preserved_generators

    name = node["architecture"]
    with preserved_generators(torch.device("cpu")):
        network = build_network(name, library_of(name, node.get("library", "auto")), node["kwargs"], seed)
        if node["stem"] == "small":
            network = with_small_stem(network)
    file = folder / f"{len(list(folder.iterdir()))}.pth"
    torch.save(network.state_dict(), file)
    return {**node, "path": str(file), "prefix": ""}


class _Arguments:
    """The args.json of a checkpoint: nested as recipes of 1.0.6 are, or flat as those of 1.0.2's own programs."""

    def __init__(self, checkpoint: Path) -> None:
        self.file = checkpoint.parent / ARGUMENTS
        try:
            self.values = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(
                f"{printable(checkpoint)}: no {ARGUMENTS} of solo-learn's beside it, so its network is not known. Put it there, "
                f"or name the network: --prior checkpoint path={printable(checkpoint)} architecture=resnet18 image_size=32."
            ) from error
        except (OSError, ValueError) as error:
            raise DataError(f"{printable(self.file)} cannot be read ({first_line(error)}). Restore it.") from error
        if not isinstance(self.values, Mapping):
            raise DataError(f"{printable(self.file)} holds no group of keys, so it is not solo-learn's. Restore it.")

    def get(self, nested: str, flat: str) -> Any:
        found: Any = self.values
        for key in nested.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return self.values.get(flat) if found is None else found

    def text(self, nested: str, flat: str) -> str:
        found = self.get(nested, flat)
        if not isinstance(found, str):
            raise DataError(f"{printable(self.file)}: wanted {nested} (or {flat}) in it, got {found!r}. It is not solo-learn's.")
        return found

    def of_crops(self, key: str) -> Any:
        """What the first, largest crops have; main_linear.py has a group in their place, 1.0.2 a list for each key."""
        crops = self.values.get("augmentations")
        if isinstance(crops, list) and crops and isinstance(crops[0], Mapping):
            return crops[0].get(key)
        found = self.get(f"data.augmentations.{key}", key)
        return found[0] if key == "crop_size" and isinstance(found, list) and found else found
