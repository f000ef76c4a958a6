"""What names a training set on a command line, in the words of a recipe's data keys."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from solo_gps.errors import DataError, UnknownNameError
from solo_gps.hosts.named import dataset_names

if TYPE_CHECKING:
    from solo_gps.hosts.decode import Scaling
    from solo_gps.interfaces import ImageSet


def add_folder(command: argparse.ArgumentParser) -> None:
    """Adds what names a training set, in the words of a recipe's data keys."""
    command.add_argument("folder", help="as data.train_path: class folders, a flat folder, or an H5 file")
    command.add_argument("--flat", action="store_true", help="as data.no_labels=True: one folder of images without classes")
    command.add_argument("--dataset", default=None, help="as data.dataset; default: custom, imagenet for an H5 file")
    command.add_argument("--format", default=None, choices=["image_folder", "h5"], help="as data.format; default: by the ending")


def add_fraction(command: argparse.ArgumentParser) -> None:
    """Adds a share of what :func:`add_folder` names."""
    command.add_argument("--fraction", type=float, default=-1.0, help="as data.fraction; default: all")


def data_node(options: argparse.Namespace) -> dict[str, object]:
    """The recipe's ``data`` node for what :func:`add_folder` took.

    Raises:
        UnknownNameError: There is no data set of that name.
        DataError: The folder or file is not there.
    """
    if options.dataset is not None and options.dataset not in dataset_names():
        raise UnknownNameError("--dataset", options.dataset, dataset_names())
    h5 = options.format == "h5" or (options.format is None and options.folder.endswith((".h5", ".hdf5")))
    if not os.path.exists(options.folder):
        raise DataError(f"{options.folder!r}: no such {'file' if h5 else 'folder of images'}.")
    return {
        "dataset": options.dataset or ("imagenet" if h5 else "custom"),
        "train_path": options.folder,
        "format": "h5" if h5 else "image_folder",
        "no_labels": options.flat,
        "fraction": -1.0,
    }


def training_images(options: argparse.Namespace, decoding: Scaling | None = None, *, fraction: float = -1.0) -> ImageSet:
    """The raw images for what :func:`add_folder` took, as the installed solo-learn will index them.

    Args:
        options: What was typed.
        decoding: What becomes of images with more than 8 bits.
        fraction: What :func:`add_fraction` took.

    Raises:
        DataError: The folder or file is not there, or is not what solo-learn can read.
        HostError: No solo-learn is installed.
    """
    from omegaconf import OmegaConf

    from solo_gps.hosts.data_folder import check_can_read, check_data_folder
    from solo_gps.hosts.detect import detect_host
    from solo_gps.hosts.images import host_images

    if fraction != -1.0 and not 0 < fraction < 1:
        raise DataError(f"--fraction {fraction}: wanted a share between 0 and 1.")
    data, host = {**data_node(options), "fraction": fraction}, detect_host()
    check_can_read(data, host.generation)
    check_data_folder(OmegaConf.create({"data": data}))
    return host_images(host.build_train_set(data, None), decoding)
