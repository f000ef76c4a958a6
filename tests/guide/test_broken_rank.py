"""Two ranks (gloo): what one fails at ends both soon, and is said, in whatever phase it comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from processes import torchrun

pytestmark = pytest.mark.host


@pytest.mark.parametrize("phase", ["embedding", "search", "refresh", "first batch"])
def test_an_exception_of_one_rank_ends_both_soon(phase, recipe, tmp_path):
    nodes = {"refresh": {"start": 0, "every": 1}} if phase == "refresh" else {"prior": {"name": "pixels", "image_size": 8}}
    cfg = recipe(sampler={"gps": {"k": 3}}, max_epochs=2, devices=2, strategy="ddp", **nodes)
    OmegaConf.save(cfg, tmp_path / "recipe.yaml")
    done = torchrun(Path(__file__).with_name("broken_rank.py"), phase, "recipe.yaml", cwd=tmp_path, timeout=400)
    printed = done.stdout + done.stderr
    assert done.returncode == 1, printed[-3000:]
    assert "by hand, in rank 1" in printed
    assert (tmp_path / "raised").exists()
