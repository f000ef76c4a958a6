"""What guided positives bring on one GPU: full CIFAR-10, ResNet-18, weak augmentation, plain and with GPS, equal epochs.

python benchmarks/gpu_training.py --train cifar10/train --test cifar10/test --out results/

TRAIN and TEST hold one folder of image files for each class. A call trains for --minutes, and ends at an epoch end with what it
has: run it again until it says that all is done. It goes on from the last checkpoint in OUT, and what is finished is not trained
again. The guided run reads images decoded once (images.store=memory); the plain one, without solo-gps, decodes each
epoch anew, so that only accuracies compare, not seconds.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness import Ongoing, in_pieces, knn_percent, parser, recipe

from solo_gps.commands.pretrain import pretrain
from solo_gps.hosts.detect import detect_host

GPS = {"sampler": {"gps": {}}, "images": {"store": "memory"}}
CELLS: dict[str, dict[str, Any]] = {"plain": {}, "gps": GPS}
COLUMNS = {"cell": "training", "epochs": "epochs", "seconds": "seconds of this call|.0f", "knn": "k-NN, %|.1f"}


def cell_recipe(given: Any, cell: str) -> Any:
    """The recipe of a cell, with its checkpoints in the folder of results."""
    nodes = {
        "max_epochs": given.epochs,
        "accelerator": given.accelerator,
        "precision": given.precision,
        "optimizer": {"batch_size": given.batch_size},
        "checkpoint": {"enabled": True, "dir": str(given.out / "checkpoints" / cell), "frequency": 1},
        "auto_resume": {"enabled": True, "max_hours": 24 * 365},
    }
    kwargs = {"proj_hidden_dim": 2048, "proj_output_dim": 128, "temperature": 0.2}
    cfg = recipe("simclr", given.train, kwargs, **nodes, **CELLS[cell])
    cfg.data.num_workers = given.workers
    return cfg


def train_until(report: Ongoing, given: Any, cell: str) -> Any:
    """Trains a cell until it is finished, or until an epoch ends after the minutes of this call."""
    host = detect_host()
    callbacks = type(host).callbacks

    class Until(host.lightning.Callback):  # type: ignore[misc,name-defined]  # the installed generation's
        """Ends a training at the first epoch end after the time: each call brings an epoch at least, whatever its time."""

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = report.over

    def with_until(self: Any, cfg: Any) -> list[Any]:
        return [*callbacks(self, cfg), Until()]

    with patch.object(type(host), "callbacks", with_until):
        return pretrain(cell_recipe(given, cell))


def main() -> None:
    arguments = in_pieces(parser(__doc__))
    arguments.add_argument("--train", type=Path, required=True)
    arguments.add_argument("--test", type=Path, required=True)
    arguments.add_argument("--epochs", type=int, default=40)
    arguments.add_argument("--batch-size", type=int, default=256)
    arguments.add_argument("--workers", type=int, default=12)
    arguments.add_argument("--accelerator", default="gpu")
    arguments.add_argument("--precision", default="bf16-mixed")
    given = arguments.parse_args()
    what = f"CIFAR-10 at {given.train}, ResNet-18, simclr, weak, {given.epochs} epochs"
    report = Ongoing(what, COLUMNS, given, "gpu_training")
    trained = False
    for cell in CELLS:
        row = {**(report.row(cell) or {"cell": cell, "epochs": 0, "knn": None}), "seconds": None}
        if row["epochs"] < given.epochs and not (trained and report.over):  # an epoch a call at the least
            trained = True
            begun = time.monotonic()
            done = train_until(report, given, cell)
            row |= {"epochs": int(done.trainer.current_epoch), "seconds": time.monotonic() - begun}
            if row["epochs"] >= given.epochs:
                row["knn"] = knn_percent(done, given.train, given.test)
        report.add(**row)
    report.done([row["cell"] for row in report.rows if row["knn"] is None])


if __name__ == "__main__":
    main()
