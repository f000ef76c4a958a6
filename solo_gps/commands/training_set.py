"""What names a training set on a command line, in the words of a recipe's data keys."""

from __future__ import annotations

import argparse
import os

from solo_gps.errors import DataError


def add_folder(command: argparse.ArgumentParser) -> None:
    """Adds what names a training set, in the words of a recipe's data keys."""
    command.add_argument("folder", help="as data.train_path: class folders, a flat folder, or an H5 file")
    command.add_argument("--flat", action="store_true", help="as data.no_labels=True: one folder of images without classes")
    command.add_argument("--dataset", default=None, help="as data.dataset; default: custom, imagenet for an H5 file")
    command.add_argument("--format", default=None, choices=["image_folder", "h5"], help="as data.format; default: by the ending")


def data_node(options: argparse.Namespace) -> dict[str, object]:
    """The recipe's ``data`` node for what :func:`add_folder` took.

    Raises:
        DataError: The folder or file is not there.
    """
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
