"""Checks of a recipe against what it is to train on."""

from __future__ import annotations

import pytest
import torch
from config_keys import composed, defaults
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, DistributedSampler

from solo_gps.errors import ConfigError, DataError
from solo_gps.guide.check import read_recipe
from solo_gps.hosts.data_folder import check_batch
from solo_gps.priors.base import PriorConfig


def batches_of_rank(images, batch_size, ranks):
    """As Lightning and the hosts load: a distributed sampler in a loader that drops incomplete batches."""
    data = torch.arange(images)
    sampler = DistributedSampler(data, num_replicas=ranks, rank=ranks - 1)
    return len(DataLoader(data, batch_size, sampler=sampler, drop_last=True))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 6, 7, 12])
@pytest.mark.parametrize("images", [1, 11, 12, 13, 80])
def test_refused_is_what_would_load_no_batch_and_the_mend_loads_one(images, batch_size, ranks):
    recipe = OmegaConf.create({"devices": ranks, "accelerator": "cpu"})
    if batches_of_rank(images, batch_size, ranks):
        check_batch(recipe, images, batch_size)
        return
    with pytest.raises(DataError) as error:
        check_batch(recipe, images, batch_size)
    mended = int(str(error.value).split("at most ")[1].rstrip("."))
    check_batch(recipe, images, mended)
    assert batches_of_rank(images, mended, ranks) == 1


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({}, r"the training set has 80 images, but optimizer\.batch_size=128: .* at most 80\."),
        ({"devices": [0]}, r"80 images, but"),
        ({"devices": "2"}, r"80 images, 40 for each of 2 devices, but .* at most 40\."),
        ({"devices": [0, 1], "num_nodes": 2}, r"20 for each of 4 devices"),
        ({"devices": 2, "use_distributed_sampler": False}, r"80 images, but"),
    ],
)
def test_the_message_counts_devices_and_nodes(recipe, message):
    with pytest.raises(DataError, match=message):
        check_batch(OmegaConf.create(recipe), 80, 128)


def test_an_empty_set_is_told_where_to_look():
    with pytest.raises(DataError, match=r"0 images.*Check data\.train_path and data\.fraction"):
        check_batch(OmegaConf.create({}), 0, 8)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("+prior=keys/shared", r"prior\.name: wanted the name of an encoder"),
        ("+prior=keys/trained", r"prior\.name: wanted the name of an encoder"),
        ("+search=keys/shared", r"search\.backend: Missing mandatory value"),
        ("+refresh=keys/shared", r"refresh\.of: Missing mandatory value"),
    ],
)
def test_keys_that_options_share_are_no_option_themselves(typed, message):
    recipe = OmegaConf.create(composed("+sampler=gps", typed))
    with pytest.raises(ConfigError, match=message):
        read_recipe(recipe)


def test_a_prior_of_a_strangers_own_takes_the_shared_keys_in(tmp_path):
    (tmp_path / "prior").mkdir()
    own = "defaults:\n  - keys/shared@_here_\n  - _self_\nname: small\ngrid: 4\nspace: cosine\n"
    (tmp_path / "prior" / "small.yaml").write_text(own)
    recipe = composed("+prior=small", "prior.draws=3", folder=tmp_path)
    assert recipe["prior"] == {**defaults(PriorConfig), "name": "small", "grid": 4, "space": "cosine", "draws": 3}
