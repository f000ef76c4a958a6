"""What a refresh costs: the network being trained embeds every image and neighbours are searched, against an epoch of training.

python benchmarks/refresh.py --images FOLDER [--count 1000] [--method simclr] [--of features]

FOLDER holds one folder of image files for each class. Epochs are trained with a refresh before each. Seconds are CPU seconds
of the main process, all its threads, and so free of other work on the machine; workers that decode images are left out.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness import Report, parser, recipe, spending, spread, subset

from solo_gps.commands.pretrain import pretrain
from solo_gps.guide.pairing import Pairing


def measure(cfg: Any) -> tuple[list[float], float]:
    """CPU seconds of each refresh, and of an epoch without it."""
    refresh, spent = Pairing.refresh_if_due, []

    def timed(self: Pairing, *arguments: Any) -> None:
        with spending() as one:
            refresh(self, *arguments)
        spent.append(one.cpu)

    with patch.object(Pairing, "refresh_if_due", timed), spending() as whole:
        pretrain(cfg)
    return spent, (whole.cpu - sum(spent)) / cfg.max_epochs


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=Path, required=True)
    arguments.add_argument("--count", type=int, default=1000)
    arguments.add_argument("--method", default="simclr")
    arguments.add_argument("--of", default="features")
    arguments.add_argument("--epochs", type=int, default=2)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        train = subset(options.images, Path(folder), options.count)
        kwargs = {"proj_hidden_dim": 256, "proj_output_dim": 128, "temperature": 0.2}
        nodes = {"sampler": {"gps": {}}, "refresh": {"of": options.of, "start": 0, "every": 1, "num_workers": 1}}
        cfg = recipe(options.method, train, kwargs, data={"num_workers": 1}, max_epochs=options.epochs, **nodes)
        spent, epoch = measure(cfg)
    what = f"{options.count:,} images, {options.method}, {cfg.backbone.name} at {cfg.augmentations[0].crop_size} pixels"
    columns = {"epoch": "an epoch, CPU s|.1f", "refresh": "a refresh, CPU s", "share": "refresh / epoch|.2f"}
    report = Report(what, columns)
    report.add(epoch=epoch, refresh=spread(spent, ".1f"), share=spent[-1] / epoch, refreshes=spent)
    report.end(options.json)


if __name__ == "__main__":
    main()
