"""The command `solo-gps`: pretrain, demo, compare, evaluate, cache, inspect, prior, sepp, data, doctor."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from solo_gps.commands.cache import add_cache_commands, said_as_options
from solo_gps.commands.compare import add_compare
from solo_gps.commands.data import add_data_commands
from solo_gps.commands.evaluate import add_evaluate
from solo_gps.commands.inspect import add_inspect_options
from solo_gps.commands.prior import add_prior_commands
from solo_gps.commands.sepp import add_sepp_commands
from solo_gps.errors import SoloGpsError, our_part
from solo_gps.version import __version__

PRETRAIN_HELP = """\
solo-gps pretrain [--config-path FOLDER] --config-name RECIPE [+sampler=NAME] [KEY=VALUE ...]

Trains a recipe (YAML of solo-learn 1.0.6) with the installed solo-learn of either generation.

  --config-path FOLDER   where the recipe is; default: the recipes that come with solo-gps
  --config-name RECIPE   its name without .yaml
  --list [WORD ...]      the recipes that come with solo-gps: paper, row, data, size; with words, those that have them all
  other arguments        go to Hydra: +sampler=gps, +prior=timm, max_epochs=10, --cfg job, --multirun, ...

examples:
  solo-gps pretrain --config-name simclr_digits data.train_path=runs/demo/digits/train +sampler=gps sampler.gps.k=5
  solo-gps pretrain --list byol pathmnist
  solo-gps pretrain --config-name gps/cifar10/simclr_weak data.train_path=datasets
  solo-gps pretrain --config-path scripts/pretrain/cifar --config-name simclr wandb.enabled=False +sampler=gps
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; a user's error is one line on stderr and exit code 1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a name that is not UTF-8 is printed as it is on the disk
    try:
        if arguments[:1] == ["pretrain"]:
            return _pretrain(arguments[1:])
        options = _options(arguments)
        run: Callable[[argparse.Namespace], int] = options.run
        with said_as_options(options), our_part(f"running {' '.join(arguments[:2])}"):
            return run(options)
    except SoloGpsError as error:
        print(f"solo-gps: {error}", file=sys.stderr)
        return 1


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    options, more = parser.parse_known_args(arguments, argparse.Namespace(typed=arguments))
    # Overrides that stand behind an option, which argparse does not count among those before it.
    taken = [word for word in more if hasattr(options, "overrides") and not word.startswith("-")]
    if len(taken) < len(more):
        parser.error(f"unrecognized arguments: {' '.join(word for word in more if word not in taken)}")
    if taken:
        options.overrides += taken
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="solo-gps",
        description="Guided positives for self-supervised learning with solo-learn.",
        epilog="example: solo-gps demo --out runs/demo",
    )
    parser.add_argument("--version", action="version", version=f"solo-gps {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "pretrain", help="train a recipe with either generation of solo-learn", add_help=False, usage=PRETRAIN_HELP
    )
    demo = commands.add_parser(
        "demo",
        help="digits, with and without guided positives, in minutes",
        epilog="example: solo-gps demo --out runs/demo --epochs 10",
    )
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for images, cache and results")
    demo.add_argument("--epochs", type=int, default=None, help="epochs of each run; default: the recipe's")
    demo.set_defaults(run=_demo)
    compare = commands.add_parser(
        "compare",
        help="many trainings, seed by seed, and one table",
        epilog="example: solo-gps compare sweep.yaml hydra/launcher=joblib hydra.launcher.n_jobs=2",
    )
    add_compare(compare)
    evaluate = commands.add_parser(
        "evaluate",
        help="judge checkpoints beside priors alone and an untrained network",
        epilog="example: solo-gps evaluate trained_models/simclr/1a2b3c --train data/train --test data/val --prior patches",
    )
    add_evaluate(evaluate)
    cache = commands.add_parser(
        "cache", help="build, list, show, verify and remove caches of embeddings", epilog="example: solo-gps cache list"
    )
    add_cache_commands(cache)
    inspect = commands.add_parser(
        "inspect",
        help="what a prior knows of your images, before any training",
        epilog="example: solo-gps inspect data/train --prior patches --prior timm model=vit_small_patch14_dinov2",
    )
    add_inspect_options(inspect)
    prior = commands.add_parser(
        "prior", help="the priors that there are, their keys, and what each costs", epilog="example: solo-gps prior list"
    )
    add_prior_commands(prior)
    sepp = commands.add_parser(
        "sepp", help="choose the thresholds of semantic pairs for a prior", epilog="example: solo-gps sepp sweep data/train"
    )
    add_sepp_commands(sepp)
    data = commands.add_parser(
        "data", help="what solo-learn makes of a folder of images", epilog="example: solo-gps data order data/train"
    )
    add_data_commands(data)
    doctor = commands.add_parser(
        "doctor", help="what is installed, and whether the switch works", epilog="example: solo-gps doctor"
    )
    doctor.set_defaults(run=_doctor)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from solo_gps.commands.demo import run_demo

    run_demo(options.out, epochs=options.epochs)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from solo_gps.commands.doctor import diagnose

    lines, healthy = diagnose()
    print("\n".join(lines))
    return 0 if healthy else 1


def _pretrain(arguments: list[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(PRETRAIN_HELP)
        return 0
    from solo_gps.commands.recipes import place_of, recipe_folder, recipe_table

    if "--list" in arguments:
        rows = [("recipe", "paper", "row", "data", "size"), *recipe_table([word for word in arguments if word != "--list"])]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        return 0
    arguments, folder, name = _absolute_config_path(arguments)
    if folder is None and name is not None:
        place, name = place_of(name)
        arguments = ["--config-path", str(place), "--config-name", name, *arguments[2:]]
    elif folder is None:
        arguments = ["--config-path", str(recipe_folder()), *arguments]
    from solo_gps.commands.program import run_program

    run_program(arguments)
    return 0


def _absolute_config_path(arguments: Sequence[str]) -> tuple[list[str], str | None, str | None]:
    """Makes --config-path relative to the working folder (Hydra takes it relative to the program's file)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn")
    known, rest = parser.parse_known_args(list(arguments))
    if known.config_name:
        rest = ["--config-name", known.config_name, *rest]
    if known.config_path:
        path = known.config_path
        path = path if "://" in path else str(Path(path).resolve())
        rest = ["--config-path", path, *rest]
    return rest, known.config_path, known.config_name
