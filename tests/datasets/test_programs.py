"""Named data sets in whole programs: `solo-gps pretrain`, and solo-learn's own unmodified main_pretrain.py where there is one."""

from __future__ import annotations

import os

import pytest
from named_data import TRAIN, WRITERS
from omegaconf import OmegaConf
from programs import CHECKOUT, Programs

pytestmark = pytest.mark.host


@pytest.fixture
def programs(tmp_path, digits, recipe):
    cfg = recipe(max_epochs=1, name="named", performance={"disable_channel_last": True})
    cfg.checkpoint.enabled = True
    cfg.checkpoint.dir = str(tmp_path / "trained")
    text = f"{OmegaConf.to_yaml(cfg)}hydra:\n  run: {{dir: {tmp_path}/run}}\n  sweep: {{dir: {tmp_path}/sweep}}\n"
    return Programs(tmp_path, digits / "train", text)


CASES = [
    ("fgvc_aircraft", "main", ("+sampler=gps", "+prior=pixels", "sampler.gps.k=3")),
    ("pathmnist", "main", ()),
    ("pathmnist", "main", ("+sampler=none",)),
    ("tiny_imagenet", "pretrain", ("+sampler=gps", "+prior=pixels", "sampler.gps.k=3")),
    ("pcam", "pretrain", ()),
]


@pytest.mark.parametrize(("name", "program", "sampler"), CASES)
def test_a_program_trains_on_a_named_set_guided_and_plain(name, program, sampler, tmp_path, programs):
    if program == "main" and not CHECKOUT:
        pytest.skip("SOLO_LEARN_CHECKOUT names no checkout of solo-learn 1.0.6")
    root = tmp_path / "root"
    WRITERS[name](root)
    # Photos are not square: the whole of each, scaled to a square.
    square = ["augmentations.0.rrc.enabled=True"] if name == "fgvc_aircraft" else []
    keys = [f"data.dataset={name}", f"data.train_path={root}", f"data.val_path={root}", *square]
    steps, _ = programs.run(program, *keys, *sampler)
    assert len(steps.all) == TRAIN // 8
    guided = ["solo_gps.guide.method" in step["modules"].tolist() for step in steps.all]
    assert guided == [bool(sampler) and sampler[0] == "+sampler=gps"] * len(guided)
    (arguments,) = (tmp_path / "trained").rglob("args.json")
    cfg = OmegaConf.load(arguments)
    assert cfg.data.dataset == name
    assert len(cfg.augmentations[0].mean) == 3


def test_a_set_that_cannot_be_fetched_ends_a_plain_program_with_one_line(tmp_path, programs):
    keys = ["data.dataset=hotel_id", f"data.train_path={tmp_path / 'nowhere'}"]
    _, said = programs.run("main" if CHECKOUT else "pretrain", *keys, fails=True)
    (line,) = [line for line in said.splitlines() if line.startswith("solo-gps: ")]
    assert "hotel_id is not there" in line
    assert "Kaggle" in line
    assert "Traceback" not in said
    assert not os.path.exists(tmp_path / "trained")
