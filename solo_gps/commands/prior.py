"""`solo-gps prior`: the priors that there are, plugins' too, their keys, and what each costs."""

from __future__ import annotations

import argparse
import inspect
import tempfile
import textwrap
import time
from typing import Any

from solo_gps.commands.cache import print_rows, prior_node
from solo_gps.config import described
from solo_gps.errors import ConfigError

TIMED = 1000
WIDTH = 120


def add_prior_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands to the parser of `solo-gps prior`."""
    commands = parser.add_subparsers(dest="prior_command", required=True, metavar="COMMAND")
    listed = commands.add_parser("list", help="what there is, and what it costs", epilog="example: solo-gps prior list")
    listed.set_defaults(run=_list)
    show = commands.add_parser(
        "show", help="what a prior is, its keys and their defaults", epilog="example: solo-gps prior show pca --time data/train"
    )
    show.add_argument("prior", nargs="+", metavar="NAME", help="its name; with --time, its keys as KEY=VALUE may follow")
    show.add_argument(
        "--time", default=None, metavar="FOLDER", help=f"also embed up to {TIMED:,} images of a folder, and say how long"
    )
    show.set_defaults(run=_show)


def _list(options: argparse.Namespace) -> int:
    from solo_gps.plugins import registered

    rows = [("prior", "learns from your images", "what it is", "what it costs")]
    for name, encoder in sorted(registered("register_encoders").items()):
        rows.append((name, "yes" if encoder.trained else "no", _first_line(encoder), encoder.cost))
    print_rows(rows)
    return 0


def _show(options: argparse.Namespace) -> int:
    from solo_gps.plugins import lookup

    name, *assignments = options.prior
    if assignments and options.time is None:
        raise ConfigError(f"{' '.join(assignments)}: keys say nothing here without --time FOLDER. Leave them out.")
    encoder = lookup("register_encoders", "prior", name)
    print(f"{name}: {inspect.getdoc(encoder) or 'no description'}\n")
    print(f"learns from your images: {'yes' if encoder.trained else 'no'}")
    print(f"cost: {encoder.cost}\n\nkeys, as prior.KEY=VALUE:")
    for key in described(encoder.config_class):
        if key.name != "name":
            print(f"  {key.name}={key.default} ({key.type})")
            print(textwrap.fill(key.sentence, WIDTH, initial_indent="      ", subsequent_indent="      "))
    if options.time is not None:
        print(f"\nmeasured here: {_measured(prior_node(options.prior), options.time)}")
    return 0


def _measured(node: dict[str, Any], folder: str) -> str:
    """Seconds and dimensions of real images, with a cache of its own."""
    from solo_gps.api.images import image_set, some_of
    from solo_gps.embeddings import embed

    images = some_of(image_set(folder), TIMED)
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        dimensions = embed(images, {**node, "cache_dir": cache}).array.shape[1]
        seconds = time.perf_counter() - started
    return f"{len(images):,} images in {seconds:.1f} s, reading, learning and loading included; {dimensions:,} dimensions"


def _first_line(encoder: type) -> str:
    return (inspect.getdoc(encoder) or "no description").splitlines()[0]
