"""The page about the effect says what its records say."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from PIL import Image

from solo_gps.comparison.records import read_records
from solo_gps.comparison.sweep import read_sweep
from solo_gps.comparison.table import lines, points
from solo_gps.evaluation.advice import LITTLE, knowledge

ROOT = Path(__file__).parents[1]
EFFECT = ROOT / "benchmarks" / "effect"
sys.path.insert(0, str(EFFECT))

import page  # noqa: E402 - scripts beside the sweep files
import run  # noqa: E402


def test_its_tables_are_those_of_the_records():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.renewed(text) == text, "python benchmarks/effect/page.py writes them anew"


@pytest.mark.parametrize(("folder", "sweep"), page.SWEEPS.items())
def test_every_record_is_of_a_cell_that_the_sweep_still_asks_for(folder, sweep):
    records = ROOT / "docs" / "results" / folder
    cells = {cell.name: cell for cell in read_sweep(EFFECT / f"{sweep}.yaml").cells}
    for file in records.glob("*.json"):
        cell = cells[file.stem]
        assert '"/' not in file.read_text(), f"{file}: a path of one machine"
        (record,) = [one for one in read_records(records) if (one.row, one.seed) == (cell.row, cell.seed)]
        assert record.key == cell.key, file


def test_priors_of_which_inspect_says_little_do_not_gain_and_the_others_do():
    """By k-NN, beyond the deviation over three seeds. Weak views alone: beside strong ones, twelve epochs tell nothing yet."""
    table = lines(read_records(ROOT / "docs" / "results" / "effect"))
    # Refreshed positives are of two spaces in turn, and tell of neither.
    guided = [
        line for line in table if line.row.startswith("simclr, weak, GPS") and line.baseline and "refreshed" not in line.row
    ]
    purity = {line.row: mean(line.purity) for line in guided}
    gains = {line.row: given for line in guided if len(given := line.gains("knn_weighted")) >= 3}
    # Of the default prior there are several balls; inspect judges a prior by its ten nearest, drawn from.
    of_default = {row for row in gains if " by " not in row}
    prior = {row: "simclr, weak, GPS uniform of 10" if row in of_default else row for row in gains}
    assert len(gains) >= 11
    assert len(of_default) >= 6
    known = {row: knowledge(purity[prior[row]], chance=0.1) for row in gains}
    assert {row for row, given in gains.items() if mean(given) > stdev(given)} == {row for row in gains if known[row] >= LITTLE}


def test_noise_does_not_gain_labels_are_the_top_and_one_row_is_above_strong_views_and_its_own_prior():
    """Three seeds each. The last by retrieval: the prior alone is far above all that twelve epochs train, by k-NN."""
    table = {line.row: line for line in lines(read_records(ROOT / "docs" / "results" / "effect"))}

    def of_row(row, figure):
        values = table[row].of(figure)
        assert len(values) == (1 if row.startswith("prior") else 3), row
        return mean(values)

    trained = [row for row, line in table.items() if row.startswith("simclr") and len(line.of("map")) == 3]
    assert of_row("simclr, weak, GPS by noise", "knn_weighted") < of_row("simclr, weak, plain", "knn_weighted")
    taught = "simclr, weak, GPS by supervised"  # its prior has learned the same labels: as good by k-NN
    for figure, others in {"knn_weighted": {*trained} - {taught}, "map": trained}.items():
        assert max(others, key=lambda row: of_row(row, figure)) == "simclr, weak, GPS by labels"
    for views in ("weak", "crop"):
        for figure in ("knn_weighted", "linear", "map", "recall@1", "recall@5", "recall@10"):
            assert mean(table[f"simclr, {views}, GPS uniform of 3"].gains(figure)) > 0, "what inspect says of mild views"
    beside_strong = table["simclr, strong, GPS uniform of 3"]
    for figure, gains in {"map": True, "linear": True, "knn_weighted": False}.items():
        assert (sum(beside_strong.gains(figure)) > 0) == gains, "what inspect says of strong views"
    long = {
        line.row: dict(points(line, "knn_weighted")) for line in lines(read_records(ROOT / "docs" / "results" / "effect-long"))
    }
    for after in (21, 31, 41):
        guided, plain = (long[f"strong, {row}"][after] for row in ("GPS uniform of 3", "plain"))
        assert len(guided) == 3
        assert all(one > other for one, other in zip(guided, plain, strict=True)), "and of longer runs beside them"
    best = of_row("simclr, weak, GPS uniform of 3", "map")
    assert best > of_row("simclr, strong, plain", "map")
    assert best > of_row("prior patches", "map")


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """CIFAR-10's files with five images of each class, and torchvision told of their sums."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    targets = random.permutation(np.repeat(np.arange(10), 5)).tolist()
    images = random.integers(0, 256, (50, 3, 32, 32), dtype=np.uint8)

    def written(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    batch = {"data": images.reshape(50, -1), "labels": targets}
    monkeypatch.setattr(CIFAR10, "train_list", [list(written("data_batch_1", batch))])
    monkeypatch.setattr(CIFAR10, "test_list", [list(written("test_batch", batch))])
    name, md5 = written("batches.meta", {"label_names": sorted(f"class {number}" for number in range(10))})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    monkeypatch.setattr(run, "COUNTS", {"train": 3, "test": 2})
    return tmp_path, images.transpose(0, 2, 3, 1), np.array(targets)


def test_it_takes_the_first_of_each_class_of_torchvisions_files(cifar10):
    folder, images, targets = cifar10
    taken = dict(run.images_of(folder))
    assert len(taken) == 10 * (3 + 2)
    for split, count in run.COUNTS.items():
        for label in range(10):
            for number, index in enumerate(np.flatnonzero(targets == label)[:count]):
                jpeg = io.BytesIO()
                Image.fromarray(images[index]).save(jpeg, "JPEG", quality=75, subsampling="4:2:0")
                assert taken[f"{split}/class {label}/{number:04d}.jpg"] == jpeg.getvalue()


def test_the_same_images_as_files_are_the_same(cifar10, tmp_path):
    taken = list(run.images_of(cifar10[0]))
    for place, content in taken:
        (tmp_path / "files" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / place).write_bytes(content)
    assert run.digest_of(list(run.images_of(tmp_path / "files"))) == run.digest_of(taken)


@pytest.mark.parametrize("name", ["short", "long"])
def test_other_images_share_nothing_with_the_records(name, tmp_path, monkeypatch):
    sweep = EFFECT / f"{name}.yaml"
    monkeypatch.chdir(tmp_path)
    assert run.at_home(sweep, run.DIGEST) == (sweep, Path("runs/effect"))
    own, out = run.at_home(sweep, "0123456789")
    asked, theirs = read_sweep(own), read_sweep(sweep)
    assert out == Path("runs/effect-01234567")
    for path in (asked.out, asked.records, asked.judge.train, asked.judge.test):
        assert str(path).startswith("runs/effect-01234567")
    assert [(cell.row, cell.seed) for cell in asked.cells] == [(cell.row, cell.seed) for cell in theirs.cells]
    assert not {cell.key for cell in asked.cells if not cell.alone} & {cell.key for cell in theirs.cells}
    for cell in asked.cells:
        words = " ".join(cell.overrides)
        assert words.count("runs/effect") == words.count("runs/effect-01234567")
        assert cell.alone or "data.train_path=runs/effect-01234567/images/train" in cell.overrides
