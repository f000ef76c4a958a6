"""solo-learn 1.0.6's own recipes through its unmodified main_pretrain.py: what comes out is what docs/results/recipes.md says."""

from __future__ import annotations

from pathlib import Path

import pytest
import recipes
from programs import CHECKOUT, ROOT

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(not CHECKOUT, reason="SOLO_LEARN_CHECKOUT names no checkout of solo-learn 1.0.6"),
]
ROWS = [line for line in (ROOT / "docs" / "results" / "recipes.md").read_text().splitlines() if line.startswith("| ")][1:]
NAMES = recipes.recipes(Path(CHECKOUT)) if CHECKOUT else []
SAMPLE = {
    "cifar/mae.yaml": "refused",
    "cifar/wmse.yaml": "symmetric crops",
    "cifar-multicrop/swav.yaml": "two kinds of large crops",
    "custom/byol.yaml": "asymmetric crops, a folder of one's own, DALI",
    "imagenet-100-multicrop/simclr.yaml": "small crops",
    "imagenet-100/dino_vit.yaml": "a vision transformer",
}


def test_the_page_has_every_recipe():
    assert [row.split(" | ")[0].removeprefix("| ") for row in ROWS] == NAMES
    assert len(NAMES) == 47
    assert set(SAMPLE) <= set(NAMES)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.full) for name in NAMES])
def test_a_recipe_does_what_the_page_says(name, digits):
    outcome = recipes.run(Path(CHECKOUT), name, digits / "train")
    row = ROWS[NAMES.index(name)]
    assert row.endswith(f" | {outcome.said} |"), outcome.row()
    if recipes.HAS_DALI or outcome.images != "dali":
        assert row == outcome.row()
