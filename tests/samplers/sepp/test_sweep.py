from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from solo_gps.commands import cli
from solo_gps.samplers.sepp.cosines import UnitRows, sample_cosines
from solo_gps.samplers.sepp.sweep import Sweep, plot_sweep, sweep_table, sweep_thresholds

# Cosines: 0-1 and 1-2 24/25 = 0.96, 0-2 527/625 = 0.8432, 3-4 1 (copies), 3-5 and 4-5 0.8; all others 0.
DIRECTIONS = np.array([[1, 0, 0, 0], [24, 7, 0, 0], [527, 336, 0, 0], [0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 4, 3]], np.float32)
LABELS = np.array([0, 0, 1, 2, 2, -1])


def swept(array, labels, **options):
    return sweep_thresholds(UnitRows(array), sample_cosines(array), labels, **options)


def at(sweep, cosine):
    (row,) = [row for row in sweep.thresholds if row.cosine == cosine and row.quantile is None]
    return row.pairs, row.covered, row.purity, row.band_purity


def test_counts_cover_and_purity_by_hand():
    sweep = swept(DIRECTIONS, LABELS, values=(0.5, 0.82, 0.9, 0.99), quantiles=())
    # Of 0-1, 0-2, 1-2, 3-4, 3-5, 4-5 the last two have an unknown class; 0-1 and 3-4 are of one class.
    assert at(sweep, 0.5) == (6, 1.0, 0.5, None)
    assert at(sweep, 0.82) == (4, 5 / 6, 0.5, 0.0)
    assert at(sweep, 0.9)[:3] == (3, 5 / 6, pytest.approx(2 / 3))
    assert at(sweep, 0.99)[:3] == (1, 2 / 6, 1.0)
    assert sweep.lowest == pytest.approx(0, abs=1e-6)
    assert sweep.highest == pytest.approx(1)
    assert sweep.images == 6
    assert sweep.median == pytest.approx(0, abs=1e-6)


def test_without_labels_there_is_no_purity():
    assert at(swept(DIRECTIONS, None, values=(0.5,), quantiles=()), 0.5) == (6, 1.0, None, None)


def test_quantiles_are_those_of_all_pairs():
    # 15 pairs, ascending: the 13th and 14th are 0.96, the last is 1.
    sweep = swept(DIRECTIONS, LABELS, values=(), quantiles=(13 / 14,))
    (row,) = [row for row in sweep.thresholds if row.quantile is not None]
    assert row.cosine == pytest.approx(0.96)


@pytest.mark.parametrize("side", [7, 64, 4096])
def test_agrees_with_the_naive_counts_for_any_tile(side, monkeypatch):
    monkeypatch.setattr("solo_gps.samplers.sepp.cosines._LARGEST_SIDE", side)
    monkeypatch.setattr("solo_gps.samplers.sepp.sweep._PRODUCTS_AT_ONCE", 500)
    rng = np.random.default_rng(4)
    array = rng.normal(size=(90, 4)).astype(np.float32)
    labels = rng.integers(-1, 3, 90)
    sweep = swept(array, labels, values=(0.0, 0.3, 0.6, 0.9, 0.99), quantiles=(0.999,))
    unit = array / np.linalg.norm(array.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    i, j = np.triu_indices(90, 1)
    assert len(sweep.thresholds) == 8
    bounds = [row.cosine for row in sweep.thresholds] + [np.inf]
    for row, following in zip(sweep.thresholds, bounds[1:], strict=True):
        at_least = cosines[i, j] >= row.cosine
        known = (labels[i] >= 0) & (labels[j] >= 0)
        band = at_least & (cosines[i, j] < following)
        if abs(cosines[i, j] - row.cosine).min() > 1e-6:  # else rounding may decide
            assert row.pairs == at_least.sum()
            assert row.covered == len({*i[at_least], *j[at_least]}) / 90
        for mask, purity in ((at_least, row.purity), (band, row.band_purity)):
            if abs(cosines[i, j][:, None] - np.array([row.cosine, min(following, 2)])).min() > 1e-6 and (mask & known).any():
                assert purity == pytest.approx((labels[i] == labels[j])[mask & known].mean())
    assert sweep.lowest == pytest.approx(cosines[i, j].min(), abs=1e-6)
    assert sweep.highest == pytest.approx(cosines[i, j].max(), abs=1e-6)


def test_the_table_marks_the_suggestion_and_ends_where_pairs_do():
    text = sweep_table(swept(DIRECTIONS, LABELS, values=(-0.5, 0.9, 1.0, 1.0001, 1.1), quantiles=()))
    assert "(suggested low)" in text
    assert "(suggested high)" in text
    assert "| 0.9000 | - | 3 | 83.3 % | 66.7 % |" in text
    assert text.count("| 0 | 0.0 % |") == 1


def test_the_plot_is_a_picture_and_nothing_is_left_half_written(tmp_path):
    pytest.importorskip("matplotlib")
    path = plot_sweep(swept(DIRECTIONS, LABELS), tmp_path / "new" / "sweep.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
    assert [file.name for file in path.parent.iterdir()] == ["sweep.png"]


def test_the_command_writes_table_plot_and_picture(digits, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    arguments = ["sepp", "sweep", str(digits / "train"), "--prior", "pixels", "space=cosine", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "48 images drawn of 48" in out
    assert "suggested: sampler.sepp.low=0." in out
    data = json.loads((tmp_path / "sweep.json").read_text())
    assert Sweep(**data).images == 48
    assert data["thresholds"][0]["pairs"] > 0
    assert (tmp_path / "sweep.md").read_text().splitlines()[0].startswith("| cosine at least |")
    assert sorted(file.suffix for file in tmp_path.iterdir() if file.is_file()) == [".json", ".md", ".png", ".png"]


def test_a_folder_without_classes_and_a_share_of_its_images(digits, tmp_path, capsys):
    arguments = ["sepp", "sweep", str(digits / "train" / "0"), "--flat", "--prior", "pixels", "--images", "9", "--no-plot"]
    assert cli.main([*arguments, "--values", "0.2,0.4", "--quantiles", "0.5", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "9 images drawn of 12" in out
    assert "| 0.4000 | - | " in out
    assert not (tmp_path / "sweep.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such folder"),
        (["{digits}/train/0"], "has no class folders"),
        (["{digits}/train", "--prior", "pixel"], "Did you mean 'pixels'"),
        (["{digits}/train", "--prior", "pixels", "sise=3"], "prior.sise: no such key"),
        (["{digits}/train", "--prior", "pixels", "sise"], "wanted KEY=VALUE"),
        (["{digits}/train", "--fraction", "2"], "fraction=2.0 must be above 0 and at most 1"),
        (["{digits}/train", "--prior", "pixels", "--images", "100"], "asks for 100 images, but the training set has 48"),
        (["{digits}/train", "--values", "2"], "--values: wanted numbers from -1 to 1"),
        (["{digits}/train", "--quantiles", "-1"], "--quantiles: wanted numbers from 0 to 1"),
    ],
)
def test_bad_input_is_one_line(arguments, message, digits, capsys, own_cache):
    arguments = [argument.format(digits=digits) for argument in arguments]
    assert cli.main(["sepp", "sweep", *arguments, "--no-plot"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert not list(own_cache.rglob("*.npy"))


def test_the_command_is_found_without_importing_torch():
    code = "import sys; from solo_gps.commands import cli; cli._parser(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
