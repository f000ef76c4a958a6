"""`solo-gps sepp`: choose the thresholds of semantic pairs for a prior."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from solo_gps.commands.cache import add_scale_option, decoding, prior_node
from solo_gps.commands.training_set import add_folder, training_images
from solo_gps.errors import ConfigError
from solo_gps.runtime.files import write_text

if TYPE_CHECKING:
    from solo_gps.interfaces import ImageSet
    from solo_gps.samplers.sepp.sweep import Sweep


def add_sepp_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands to the parser of `solo-gps sepp`."""
    commands = parser.add_subparsers(dest="sepp_command", required=True, metavar="COMMAND")
    sweep = commands.add_parser(
        "sweep",
        help="pairs, images covered and label purity at each threshold, and which two to take",
        epilog="example: solo-gps sepp sweep data/train --prior timm model=vit_small_patch14_dinov2 --fraction 0.1",
    )
    add_folder(sweep)
    add_scale_option(sweep)
    sweep.add_argument(
        "--prior",
        nargs="+",
        default=[],
        metavar=("NAME", "KEY=VALUE"),
        help="the prior and its keys, as after prior. in a recipe; default: the one that needs no download",
    )
    sweep.add_argument("--fraction", type=float, default=1.0, help="share of the images to draw; default: all")
    sweep.add_argument("--images", type=int, default=None, help="number of images to draw, in place of --fraction")
    sweep.add_argument("--seed", type=int, default=5, help="seed of the draw; default: 5, as in a recipe without one")
    sweep.add_argument("--values", type=_numbers, default=None, metavar="C,C,...", help="thresholds as cosines")
    sweep.add_argument("--quantiles", type=_numbers, default=None, metavar="Q,Q,...", help="thresholds as quantiles of all pairs")
    sweep.add_argument("--out", type=Path, default=Path("runs/sepp"), help="folder for table, plot and pictures")
    sweep.add_argument("--no-plot", action="store_true", help="leave the plot out (it needs matplotlib)")
    sweep.set_defaults(run=_sweep)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted numbers such as 0.9,0.95") from error


def _sweep(options: argparse.Namespace) -> int:
    from solo_gps.runtime.console import show_progress_lines
    from solo_gps.runtime.devices import borrowed, pick_device
    from solo_gps.samplers.sepp.sweep import plot_sweep, sweep_table

    show_progress_lines()
    _check(options)
    images = training_images(options, decoding(options))
    device = pick_device("auto")
    with borrowed(device):
        sweep, picture = _measure(options, images, device)
    table = sweep_table(sweep)
    print(table)
    print(
        f"\n{sweep.images:,} images drawn of {len(images):,}; cosines from {sweep.lowest:.4f} to {sweep.highest:.4f}, half of "
        f"them below {sweep.median:.4f}"
    )
    print(f"suggested: sampler.sepp.low={sweep.low} sampler.sepp.high={sweep.high} (about one pair an image)")
    write_text(options.out / "sweep.md", table + "\n")
    write_text(options.out / "sweep.json", json.dumps(asdict(sweep), indent=2))
    print(f"table:   {(options.out / 'sweep.md').absolute()}")
    if not options.no_plot:
        print(f"plot:    {plot_sweep(sweep, options.out / 'sweep.png').absolute()}")
    if picture is not None:
        print(f"picture: {picture} (near-duplicates: pairs above {sweep.high})")
    return 0


def _check(options: argparse.Namespace) -> None:
    for key, numbers, least in (("values", options.values, -1), ("quantiles", options.quantiles, 0)):
        if numbers is not None and not all(least <= number <= 1 for number in numbers):
            raise ConfigError(f"--{key}: wanted numbers from {least} to 1, got {','.join(map(str, numbers))}.")
    if not options.no_plot:
        from importlib.util import find_spec

        if find_spec("matplotlib") is None:
            raise ConfigError("the plot needs matplotlib: pip install 'solo-gps[report]', or leave it out by --no-plot.")


def _measure(options: argparse.Namespace, images: ImageSet, device: str) -> tuple[Sweep, Path | None]:
    """The sweep, and the picture of near-duplicates where there are any."""
    from solo_gps.config import parse
    from solo_gps.embeddings import embed, resolve_prior
    from solo_gps.evaluation.gallery import draw_exhibits
    from solo_gps.runtime.progress import Progress
    from solo_gps.samplers.sepp.config import SeppConfig
    from solo_gps.samplers.sepp.cosines import UnitRows, find_cosine_pairs, sample_cosines
    from solo_gps.samplers.sepp.pairs import draw_images
    from solo_gps.samplers.sepp.sampler import near_duplicates, number_to_draw
    from solo_gps.samplers.sepp.sweep import QUANTILES, VALUES, sweep_thresholds

    config = parse({"fraction": options.fraction, "images": options.images}, SeppConfig, "sepp sweep")
    drawn = draw_images(len(images), number_to_draw(config, len(images)), options.seed)
    prior = prior_node(options.prior)
    resolve_prior(prior, images)
    array = embed(images, prior).array[drawn]
    rows = UnitRows(array, device=device)
    labels = None if images.labels is None else images.labels[drawn]
    values = VALUES if options.values is None else options.values
    quantiles = QUANTILES if options.quantiles is None else options.quantiles
    with Progress("sepp: looking for pairs", rows.number_of_tiles, unit="parts") as progress:
        sweep = sweep_thresholds(
            rows, sample_cosines(array, seed=options.seed), labels, values=values, quantiles=quantiles, progress=progress.update
        )
    # A window of one cosine: all that is wanted of this second pass are the pairs above it.
    found = find_cosine_pairs(rows, sweep.high, sweep.high)
    if not found.above:
        return sweep, None
    exhibit = near_duplicates(drawn[found.examples], found.above, sweep.high, options.out / "near-duplicates.png")
    return sweep, draw_exhibits([exhibit], images)[0]
