"""The switch in a Hydra program that knows nothing of solo-gps, and trains nothing: so a guided job of it ends as an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.host
ROOT = Path(__file__).parents[2]
PROGRAM = """
import json
import hydra
from solo.methods import METHODS

@hydra.main(version_base="1.2", config_path="conf", config_name="recipe")
def main(cfg):
    # What a program sees that imports solo-learn and nothing of ours.
    print("JOB", json.dumps([sorted(cfg.get("sampler") or []), METHODS["simclr"].__mro__[1].__module__]))

if __name__ == "__main__":
    main()
"""
PLAIN, GUIDED = "solo.methods.base", "solo_gps.guide.method"


@pytest.fixture
def jobs(tmp_path, digits):
    (tmp_path / "conf").mkdir()
    recipe = (ROOT / "configs" / "recipe" / "simclr_digits.yaml").read_text()
    (tmp_path / "conf" / "recipe.yaml").write_text(recipe.replace("runs/demo/digits/train", str(digits / "train")))
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(*arguments, fails=False):
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, "program.py", *arguments], capture_output=True, text=True, cwd=tmp_path, env=environ
        )
        seen = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("JOB ")]
        guided = [samplers for samplers, module in seen if module == GUIDED]
        assert (done.returncode != 0) == (fails or bool(guided)), done.stdout + done.stderr
        for samplers in guided:
            assert f"the job is over, and {'+'.join(samplers)} never guided a training step" in done.stderr
        return done if fails else seen

    return run


def test_one_job(jobs):
    assert jobs() == [[[], PLAIN]]
    assert jobs("+sampler=gps") == [[["gps"], GUIDED]]


def test_a_sweep_over_something_else(jobs):
    assert jobs("--multirun", "+sampler=gps", "seed=1,2") == [[["gps"], GUIDED]] * 2


def test_a_sweep_over_samplers(jobs):
    """A job that fails does not keep those after it from running."""
    assert jobs("--multirun", "+sampler=none,gps,none") == [[[], PLAIN], [["gps"], GUIDED], [[], PLAIN]]


def test_two_samplers_at_once(jobs):
    assert jobs("+sampler=[gps,sepp]") == [[["gps", "sepp"], GUIDED]]


@pytest.mark.parametrize("group", ["prior=pixels", "search=torch", "refresh=features"])
def test_a_group_that_nothing_would_use_ends_the_program(group, jobs):
    done = jobs(f"+{group}", fails=True)
    assert f"solo-gps: {group.split('=')[0]} without a sampler" in done.stderr
    assert "Traceback" not in done.stderr
    assert "JOB" not in done.stdout


def test_a_swept_group_that_nothing_would_use_ends_the_program(jobs):
    done = jobs("--multirun", "+prior=pixels,pca", fails=True)
    assert "solo-gps: prior without a sampler" in done.stderr
    assert "JOB" not in done.stdout


def test_groups_in_any_order_and_a_plain_run_among_them(jobs):
    groups = ["+search=torch", "+prior=pixels", "+refresh=features", "refresh.every=1"]
    assert jobs(*groups, "+sampler=gps") == jobs("+sampler=gps", *groups) == [[["gps"], GUIDED]]
    assert jobs("--multirun", "+prior=pixels,pca", "+sampler=gps,none") == [[["gps"], GUIDED], [[], PLAIN]] * 2
    assert jobs("--multirun", "+sampler=none,gps", "+prior=pixels") == [[[], PLAIN], [["gps"], GUIDED]]


def test_a_recipe_of_ones_own_may_have_our_name(jobs, tmp_path):
    own = (
        (tmp_path / "conf" / "recipe.yaml").read_text().replace("defaults:\n", "defaults:\n  - sampler: gps\n  - prior: pca\n", 1)
    )
    (tmp_path / "conf" / "solo_gps.yaml").write_text(own)
    assert jobs("+sampler=gps", "+prior=pca") == [[["gps"], GUIDED]]
    assert jobs("--config-name", "solo_gps") == [[["gps"], GUIDED]]
