"""Off is stock, to the last bit: one job and joblib's, without a word of ours and with `+sampler=none`."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from programs import CHECKOUT, check_guided

pytestmark = pytest.mark.host
# Hydra hands a config straight to the function, with no plugin of anybody in sight.
STOCK = """
import sys
from omegaconf import OmegaConf
{module} = __import__("{module}")
cfg = OmegaConf.load(sys.argv[1])
del cfg["hydra"]
{module}.main(cfg)
assert "solo_gps.hydra_switch" not in sys.modules
"""


def weights(folder):
    (file,) = folder.rglob("*.ckpt")
    return torch.load(file, map_location="cpu", weights_only=True)["state_dict"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def stock(programs):
    """The weights that stock leaves, of a recipe that keeps a checkpoint in `checkpoint.dir`."""
    programs.text = programs.text.replace("enabled: false\n  dir", "enabled: true\n  dir", 1)
    programs.recipe(programs.text)
    module = "main_pretrain" if CHECKOUT else "program"
    recipe = programs.folder / "conf" / "recipe.yaml"
    done = subprocess.run(
        [sys.executable, "-c", STOCK.format(module=module), str(recipe)],
        cwd=programs.place("main"),
        env=programs.environ(programs.watch()),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return weights(programs.folder / "trained")


def test_off_is_stock(stock, programs):
    joblib = ["--multirun", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    runs = {"plain": [], "none": ["+sampler=none"]}
    for name, overrides in runs.items():
        programs.run("main", *overrides, f"checkpoint.dir={programs.folder}/{name}")
        assert same(weights(programs.folder / name), stock), name
    folders = ",".join(f"{programs.folder}/joblib{number}" for number in (0, 1))
    for name, overrides in runs.items():
        steps, _ = programs.run("main", *joblib, *overrides, f"checkpoint.dir={folders.replace('joblib', f'joblib-{name}-')}")
        check_guided(steps.all, "none", programs.images, expected=4)
        for number in (0, 1):
            assert same(weights(programs.folder / f"joblib-{name}-{number}"), stock), f"{name}, joblib"


def test_the_comparison_would_see_guidance(stock, programs):
    programs.run("main", "+sampler=gps", f"checkpoint.dir={programs.folder}/gps")
    assert not same(weights(programs.folder / "gps"), stock)
