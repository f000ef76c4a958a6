"""The compatibility table of docs/status.md: an environment for each row, a chosen part of the suite in it.

Takes hours the first time; each environment is removed before the next is made.

python tests/compatibility.py --folder /tmp/compatibility --solo-learn path/to/solo-learn-1.0.6
python tests/compatibility.py --folder /tmp/compatibility --solo-learn path/to/solo-learn-1.0.6 --rows 2 5
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = [
    "tests/test_install.py",
    "tests/embeddings/test_service.py",
    "tests/embeddings/test_digests.py",
    "tests/neighbours/test_find.py",
    "tests/priors/test_networks.py",
    "tests/samplers/test_gps.py",
    "tests/guide/test_training.py",
    "tests/guide/test_refresh.py",
    "tests/hosts/test_main_pretrain.py",
]
NEW = ["torch==2.15.0", "torchvision==0.29.2", "numpy==2.4.6", "timm==1.0.31"]
OLD = ["torch==2.1.2", "torchvision==0.16.2", "numpy==1.24.4", "timm==0.9.16"]
OLDEST = ["torch==2.0.1", "torchvision==0.15.2", "numpy==1.24.4", "timm==0.9.16"]
HOST_106 = ["einops", "scipy", "wandb", "h5py", "setuptools<81"]
HOST_102 = ["pytorch-lightning==1.9.5", "lightning-bolts==0.7.0", "einops", "scipy", "setuptools<81"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        host: Generation of solo-learn.
        packages: What is installed before it.
    """

    host: str
    packages: list[str]

    def __str__(self) -> str:
        shown = [word.replace("==", " ") for word in self.packages if "==" in word]
        return f"| {self.host} | {', '.join(shown)} |"


ROWS = [
    Row("1.0.6", ["lightning==2.1.4", "torchmetrics==0.11.4", *NEW, *HOST_106]),
    Row("1.0.6", ["lightning==2.5.6", "torchmetrics==0.11.4", *NEW, *HOST_106]),
    Row("1.0.6", ["lightning==2.6.6", "torchmetrics==0.11.4", *NEW, *HOST_106]),
    Row("1.0.6", ["lightning==2.1.4", "torchmetrics==0.11.4", *OLDEST, *HOST_106]),
    Row("1.0.6", ["lightning==2.5.6", "torchmetrics==0.11.4", *OLD, *HOST_106]),
    Row("1.0.6", ["lightning==2.6.6", "torchmetrics==0.11.4", *OLD, *HOST_106]),
    Row("1.0.2", [*NEW, *HOST_102]),
    Row("1.0.2", [*OLDEST, *HOST_102]),
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=Path, required=True, help="where environments are made, some 7 GB at a time")
    arguments.add_argument("--solo-learn", required=True, help="a checkout of solo-learn 1.0.6, or what pip takes for it")
    arguments.add_argument("--rows", type=int, nargs="*", default=None, help="rows to run, from 0; default: all")
    options = arguments.parse_args()
    print("| solo-learn | with | result |\n|---|---|---|", flush=True)
    for number, row in enumerate(ROWS):
        if options.rows is None or number in options.rows:
            print(f"{row} {run(row, options.folder / f'row-{number}', options.solo_learn)} |", flush=True)


def run(row: Row, folder: Path, solo_learn: str) -> str:
    """Makes the row's environment, runs the tests in it, and returns what became of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "constraint.txt").write_text("setuptools<81\n")
    python = folder / "venv" / "bin" / "python"
    host = ["--no-deps", solo_learn] if row.host == "1.0.6" else ["--no-deps", "solo-learn==1.0.2"]
    steps = [
        [sys.executable, "-m", "venv", folder / "venv"],
        [python, "-m", "pip", "install", "-q", *row.packages],
        [python, "-m", "pip", "install", "-q", *host],
        [python, "-m", "pip", "install", "-q", *row.packages, "-e", f"{ROOT}[cpu,report,dev]"],
    ]
    environment = {**os.environ, "PIP_CONSTRAINT": str(folder / "constraint.txt"), "OMP_NUM_THREADS": "1"}
    if row.host == "1.0.6" and Path(solo_learn).is_dir():
        environment["SOLO_LEARN_CHECKOUT"] = solo_learn
    log = folder / "log.txt"
    try:
        with log.open("w") as file:
            for step in steps:
                subprocess.run([str(word) for word in step], env=environment, stdout=file, stderr=file, check=True)
            command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "worksteal", *TESTS]
            subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False)
    except subprocess.CalledProcessError:
        errors = [line for line in log.read_text().splitlines() if line.startswith("ERROR")]
        return f"cannot be installed: {(errors or ['see its log'])[0].removeprefix('ERROR: ')}"
    finally:
        shutil.rmtree(folder / "venv", ignore_errors=True)
    return log.read_text().strip().splitlines()[-1].strip("= ")


if __name__ == "__main__":
    main()
