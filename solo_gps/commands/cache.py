"""`solo-gps cache`: build, list, show, verify and remove caches of embeddings."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from solo_gps.commands.training_set import add_folder, add_fraction, training_images
from solo_gps.config import parse
from solo_gps.errors import ConfigError, SoloGpsError, first_line, printable
from solo_gps.hosts.decode import Scaling


def add_cache_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands to the parser of `solo-gps cache`."""
    where = "folder of all caches; default: $SOLO_GPS_CACHE or ~/.cache/solo_gps"
    parser.add_argument("--cache-dir", default=None, help=where)
    commands = parser.add_subparsers(dest="cache_command", required=True, metavar="COMMAND")
    build = commands.add_parser(
        "build",
        help="embed the images of a training set, so that training finds them",
        epilog="example: solo-gps cache build data/train --prior timm model=vit_small_patch14_dinov2 --k 10",
    )
    add_folder(build)
    add_fraction(build)
    build.add_argument(
        "--prior",
        nargs="+",
        default=None,
        metavar=("NAME", "KEY=VALUE"),
        help="name of the prior, and its keys as after prior. in a recipe; default: the one that needs no download",
    )
    add_scale_option(build)
    build.add_argument("--k", type=int, default=None, help="also find this many neighbours of every image")
    build.set_defaults(run=_build)
    listed = commands.add_parser(
        "list", help="model, sizes, ages, tables, and where the images lay", epilog="example: solo-gps cache list"
    )
    listed.set_defaults(run=_list)
    for name, run, text in (
        ("show", _show, "what a cache holds: its manifest, its tables, and where its images were last seen"),
        ("verify", _verify, "read every byte and compare it with the manifest"),
        ("remove", _remove, "remove one cache"),
    ):
        command = commands.add_parser(name, help=text, epilog=f"example: solo-gps cache {name} 3f9a")
        command.add_argument("fingerprint", help="the first digits are enough")
        command.set_defaults(run=run)
    for command in commands.choices.values():
        command.add_argument("--cache-dir", default=argparse.SUPPRESS, help=where)  # None would undo one given before


def _build(options: argparse.Namespace) -> int:
    from solo_gps.embeddings import embed, resolve_prior
    from solo_gps.neighbours import find
    from solo_gps.neighbours.config import check_neighbours
    from solo_gps.runtime.console import show_progress_lines
    from solo_gps.runtime.ranks import torchrun_ranks

    show_progress_lines()
    prior = prior_node(options.prior, options.cache_dir)
    resolve_prior(prior)
    images = training_images(options, decoding(options), fraction=options.fraction)
    if options.k is not None:
        check_neighbours(len(images), options.k)
    with torchrun_ranks():  # the search shares its queries among them too
        embeddings = embed(images, prior, together=True)
        if options.k is not None:
            find(embeddings, None, k=options.k)
    print(embeddings.folder)
    return 0


def prior_node(words: Sequence[str] | None, cache_dir: str | None = None) -> dict[str, Any]:
    """The recipe's ``prior`` node from what was typed after ``--prior``: the name, then KEY=VALUE.

    Raises:
        ConfigError: A word is no KEY=VALUE, or a second name was given.
    """
    from solo_gps.priors import DEFAULT_ENCODER

    name, *typed = words or [DEFAULT_ENCODER]
    keys = assignments(typed, "batch_size=64")
    if keys.get("name", name) != name:
        raise ConfigError(f"--prior {name} name={keys['name']}: two priors named. Give the one that you want, after --prior.")
    folder = {} if cache_dir is None else {"cache_dir": cache_dir}
    return {"name": name, **folder, **keys}


def assignments(words: Sequence[str], example: str) -> dict[str, Any]:
    """Returns keys and values from words as they were typed.

    Args:
        words: Each KEY=VALUE, the value as YAML.
        example: One of them, for errors.

    Raises:
        ConfigError: A word is no KEY=VALUE, or its value is no YAML.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    for word in words:
        if "=" not in word:
            raise ConfigError(f"{word!r}: wanted KEY=VALUE, for example {example}.")
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist(list(words)))  # type: ignore[return-value]
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        typed = printable(" ".join(words))
        raise ConfigError(f"{typed}: cannot be read as YAML ({first_line(error)}). Mend it, or rename the file.") from error


def add_scale_option(command: argparse.ArgumentParser) -> None:
    """Adds what becomes of images with more than 8 bits, in the words of the recipe's ``images`` group."""
    command.add_argument(
        "--scale",
        nargs="+",
        default=None,
        metavar=("SCALE", "KEY=VALUE"),
        help="for images of 16 bits or float, as +images= in a recipe: own, type, or fixed low=0 high=4095",
    )


def decoding(options: argparse.Namespace) -> Scaling:
    """Returns what was typed after ``--scale``.

    Raises:
        ConfigError: A word is no KEY=VALUE, or a key or value is wrong.
    """
    scale, *typed = options.scale or [None]
    return parse({"scale": scale, **assignments(typed, "low=0")}, Scaling, "--scale")


@contextmanager
def said_as_options(options: argparse.Namespace) -> Iterator[None]:
    """Names the option ``--scale``, where a command has it, where an error names the recipe's group ``images``."""
    try:
        yield
    except SoloGpsError as error:
        if not hasattr(options, "scale"):
            raise
        text = re.sub(r"\+images=fixed images\.low=(\S+) images\.high=(\S+[^.])", r"--scale fixed low=\1 high=\2", str(error))
        error.args = (re.sub(r"\+images=(\w+)", r"--scale \1", text),)
        raise


def _list(options: argparse.Namespace) -> int:
    from solo_gps.embeddings import list_caches
    from solo_gps.embeddings.store import cache_root

    rows = [("fingerprint", "status", "prior", "model", "images", "D", "type", "tables", "size", "age", "last used", "images in")]
    rows += [
        (
            info.fingerprint[:12],
            info.status,
            info.prior or "-",
            info.model or "-",
            "-" if info.images is None else f"{info.images:,}",
            "-" if info.dimensions is None else str(info.dimensions),
            info.dtype or "-",
            str(len(info.tables)),
            f"{info.size / 2**20:,.1f} MiB",
            _span(info.age),
            _span(info.idle),
            printable(info.place or "-"),
        )
        for info in list_caches(options.cache_dir)
    ]
    if len(rows) == 1:
        print(f"no caches in {cache_root(options.cache_dir)}")
        return 0
    print_rows(rows)
    return 0


def _show(options: argparse.Namespace) -> int:
    from solo_gps.embeddings import show

    print(json.dumps(show(options.fingerprint, options.cache_dir), indent=2, default=str))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from solo_gps.embeddings import verify

    problems = verify(options.fingerprint, options.cache_dir)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(problems)} problems" if problems else "whole: every byte is as written")
    return 1 if problems else 0


def _remove(options: argparse.Namespace) -> int:
    from solo_gps.embeddings import remove

    info = remove(options.fingerprint, options.cache_dir)
    print(f"removed {info.folder} ({info.size / 2**20:,.1f} MiB)")
    return 0


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of cells in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
