"""`solo-gps data`: what solo-learn makes of a folder of images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from solo_gps.commands.data_check import add_check
from solo_gps.commands.training_set import add_folder, add_fraction, training_images
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
    add_fraction(order)
    order.add_argument("--output", type=Path, default=None, help="file to write; default: standard output")
    order.set_defaults(run=_order)


def _order(options: argparse.Namespace) -> int:
    from solo_gps.interfaces import StoredImages
    from solo_gps.runtime.files import whole_file

    images = training_images(options, fraction=options.fraction)
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
