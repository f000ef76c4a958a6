"""`solo-gps evaluate`: checkpoints beside their priors and an untrained network."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from solo_gps.commands.cache import add_scale_option, assignments, decoding, prior_node


def add_evaluate(command: argparse.ArgumentParser) -> None:
    """Adds the options to the parser of `solo-gps evaluate`."""
    command.add_argument("checkpoints", nargs="*", metavar="CKPT", help="a .ckpt file, or its folder; args.json lies beside it")
    command.add_argument("--train", default=None, metavar="FOLDER", help="class folders of the images that vote and teach")
    command.add_argument("--test", required=True, metavar="FOLDER", help="class folders of the images that are judged")
    command.add_argument(
        "--prior",
        action="append",
        nargs="+",
        default=[],
        metavar=("NAME", "KEY=VALUE"),
        help="a prior to judge alone, with its keys; may be given several times",
    )
    command.add_argument(
        "--keys", nargs="+", default=[], metavar="KEY=VALUE", help="keys of prior=checkpoint for every checkpoint: image_size=224"
    )
    command.add_argument("--metrics", nargs="+", default=None, help="knn, linear, retrieval, geometry; default: all")
    command.add_argument("--k", type=int, default=None, help="votes of k-NN; default: 20")
    command.add_argument("--temperature", type=float, default=None, help="of solo-learn's k-NN; default: 0.07")
    command.add_argument("--recall", type=int, nargs="+", default=None, metavar="K", help="default: 1 5 10")
    command.add_argument("--seed", type=int, default=None, help="of the untrained network and of views; default: 0")
    command.add_argument("--device", default=None, help="auto, cpu, cuda or cuda:<n>; default: auto")
    add_scale_option(command)
    command.add_argument("--csv", type=Path, default=None, metavar="FILE", help="also write the table as CSV")
    command.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="also write the table and what was asked as JSON"
    )
    command.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from solo_gps.api.evaluate import judge
    from solo_gps.runtime.console import show_progress_lines
    from solo_gps.runtime.files import check_can_be_file, write_text

    show_progress_lines()
    for name in ("csv", "json"):
        if (file := getattr(options, name)) is not None:
            check_can_be_file(file, f"--{name}")
    asked = {name: getattr(options, name) for name in ("metrics", "k", "temperature", "recall", "seed", "device")}
    result = judge(
        options.checkpoints,
        train=options.train,
        test=options.test,
        priors=[prior_node(words) for words in options.prior],
        keys=assignments(options.keys, "image_size=224"),
        decode=asdict(decoding(options)),
        **{name: value for name, value in asked.items() if value is not None},
    )
    print(result.as_text())
    if options.csv is not None:
        write_text(options.csv, result.as_csv())
    if options.json is not None:
        write_text(options.json, json.dumps(result.as_json(), indent=1) + "\n")
    return 0
