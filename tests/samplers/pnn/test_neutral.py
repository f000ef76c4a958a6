"""At its neutral point pNN is stock to the last bit, whatever the method, the crops and the ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pnn_trainings import METHODS, assert_neutral, neutral, only_106
from processes import torchrun

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("shallow")]


@pytest.mark.parametrize("method", METHODS)
def test_at_the_neutral_point_it_equals_stock_to_the_last_bit(method, recipe, fit):
    assert_neutral(fit, recipe, method, steps=3, max_steps=3)


@pytest.mark.parametrize("method", METHODS)
def test_and_in_bfloat16_with_gradient_accumulation(method, recipe, fit):
    assert_neutral(fit, recipe, method, steps=6, max_steps=3, precision="bf16-mixed", accumulate_grad_batches=2)


def with_small_crops(cfg, count=3):
    small = OmegaConf.merge(cfg.augmentations[0], {"crop_size": 18, "num_crops": count})
    cfg.augmentations = [cfg.augmentations[0], small]
    return cfg


TWO_CROPS_ALONE = ("all4one", "wmse")
MORE_LARGE_CROPS = ("byol", "dino", "mocov3", "simclr", "swav")


@only_106
@pytest.mark.parametrize("method", [method for method in METHODS if method not in TWO_CROPS_ALONE])
def test_and_with_three_small_crops(method, recipe, fit):
    def multicrop(*args, **nodes):
        return with_small_crops(recipe(*args, **nodes))

    assert_neutral(fit, multicrop, method, steps=3, max_steps=3)


@only_106
@pytest.mark.parametrize("method", MORE_LARGE_CROPS)
def test_and_with_three_large_crops(method, recipe, fit):
    assert_neutral(fit, recipe, method, steps=3, max_steps=3, crops=3)


@only_106
@pytest.mark.parametrize("method", [method for method in METHODS if method not in (*MORE_LARGE_CROPS, "wmse")])
def test_the_other_methods_take_two_large_crops_without_solo_gps_too(method, recipe, fit):
    with pytest.raises(ValueError, match="too many values to unpack"):
        fit(recipe(method, max_steps=1, crops=3), stock=True)


@only_106
def test_and_with_swavs_own_queue(recipe, fit):
    kwargs = {"queue_size": 16, "epoch_queue_starts": 0}
    assert_neutral(fit, recipe, "swav", steps=3, max_steps=3, method_kwargs=kwargs)


@only_106
@pytest.mark.parametrize("method", ["vicreg", "swav", "nnclr", "simsiam"])
def test_a_slow_copy_without_a_past_equals_stock_to_the_last_bit(method, recipe, fit):
    """ema=0: the copy is the network, at every step, batch norms included."""
    assert_neutral(fit, recipe, method, steps=3, max_steps=3, pnn=neutral(method, ema=0.0))


def test_and_on_two_ranks(recipe, tmp_path):
    """One pair of processes trains all methods with stock and with pNN; see two_ranks.py."""
    recipes = []
    for method in METHODS:
        recipes.append(tmp_path / f"{method}.yaml")
        OmegaConf.save(recipe(method, flip=0.5, max_steps=3, devices=2, strategy="ddp"), recipes[-1])
    script = Path(__file__).with_name("two_ranks.py")
    done = torchrun(script, *recipes, cwd=tmp_path, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for rank in (0, 1):
        verdicts = (tmp_path / f"rank-{rank}.txt").read_text().splitlines()
        assert verdicts == [f"{method}: equal, rows agree" for method in METHODS] + ["left with 0 threads of gloo"]
