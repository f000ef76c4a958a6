"""`solo-gps inspect`: what priors know of a training set, before any training."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from solo_gps.commands.cache import add_scale_option, decoding, prior_node
from solo_gps.commands.training_set import add_folder, add_fraction, training_images
from solo_gps.errors import ConfigError


def add_inspect_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `solo-gps inspect`."""
    add_folder(command)
    add_fraction(command)
    command.add_argument(
        "--prior",
        nargs="+",
        action="append",
        default=None,
        metavar=("NAME", "KEY=VALUE"),
        help="a prior and its keys, as after prior. in a recipe; again for another; default: the one that needs no download",
    )
    add_scale_option(command)
    command.add_argument("--cache-dir", default=None, help="folder of all caches; default: $SOLO_GPS_CACHE or ~/.cache/solo_gps")
    command.add_argument("--out", type=Path, default=Path("runs/inspect"), help="folder for the page and its pictures")
    command.add_argument("--no-page", action="store_true", help="leave the page out (it needs matplotlib and jinja2)")
    command.add_argument("--json", type=Path, default=None, help="file for all numbers")
    command.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from solo_gps.api.inspect import inspect_priors, name_of_prior
    from solo_gps.embeddings import resolve_prior
    from solo_gps.report.page import check_can_draw
    from solo_gps.report.summary import summary
    from solo_gps.runtime.console import show_progress_lines
    from solo_gps.runtime.files import check_can_be_file, check_can_write, write_text

    show_progress_lines()
    if not options.no_page:
        check_can_draw("leave it out by --no-page")
        check_can_write(options.out, "--out")
    if options.json is not None:
        check_can_be_file(options.json, "--json")
    nodes = [prior_node(words, options.cache_dir) for words in options.prior or [None]]
    names = [name_of_prior(node) for node in nodes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--prior {twice}: is there twice. Leave one out, or give it other keys.")
    for node in nodes:
        resolve_prior(node)
    images = training_images(options, decoding(options), fraction=options.fraction)
    seen = inspect_priors(images, dict(zip(names, nodes, strict=True)))
    print("\n".join(summary(options.folder, seen)))
    if options.json is not None:
        write_text(options.json, json.dumps(seen.as_json(), indent=1, allow_nan=False) + "\n")
    if not options.no_page:
        page = seen.save(options.out, place=options.folder, command=shlex.join(["solo-gps", *options.typed]))
        print(f"\npage: {page.absolute()}")
    return 0
