"""`solo-gps data`: what solo-learn makes of a folder of images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from solo_gps.commands.data_check import add_check
from solo_gps.commands.training_set import add_folder, data_node
from solo_gps.errors import DataError


def add_data_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands to the parser of `solo-gps data`."""
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    add_check(commands)
    add_order(commands)


def add_order(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `solo-gps data order`."""
    order = commands.add_parser(
        "order",
        help="the names of the images, in the order in which solo-learn indexes them",
        description="Row i of brought embeddings (+prior=array) belongs to line i, or to the same name in prior.names.",
        epilog="example: solo-gps data order data/train --flat > order.txt",
    )
    add_folder(order)
    order.add_argument("--fraction", type=float, default=-1.0, help="as data.fraction")
    order.add_argument("--output", type=Path, default=None, help="file to write; default: standard output")
    order.set_defaults(run=_order)


def _order(options: argparse.Namespace) -> int:
    from omegaconf import OmegaConf

    from solo_gps.hosts.data_folder import check_data_folder
    from solo_gps.hosts.detect import detect_host
    from solo_gps.hosts.images import host_images
    from solo_gps.interfaces import StoredImages
    from solo_gps.runtime.files import whole_file

    data = data_node(options)
    if options.fraction != -1.0 and not 0 < options.fraction < 1:
        raise DataError(f"--fraction {options.fraction}: wanted a share between 0 and 1.")
    check_data_folder(OmegaConf.create({"data": data}))
    images = host_images(detect_host().build_train_set({**data, "fraction": options.fraction}, None))
    names = images.names if isinstance(images, StoredImages) else [str(index) for index in range(len(images))]
    broken = next((name for name in names if "\n" in name or "\r" in name), None)
    if broken is not None:
        raise DataError(f"{broken!r}: a name with a line break cannot stand in a list of lines. Rename the file.")
    text = "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")
    if options.output is None:
        sys.stdout.buffer.write(text)
    else:
        with whole_file(options.output) as unfinished:
            unfinished.write_bytes(text)
    return 0
