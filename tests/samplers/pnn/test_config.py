from __future__ import annotations

import pytest
from config_keys import composed, defaults

from solo_gps.config import parse
from solo_gps.errors import ConfigError
from solo_gps.methods import METHODS, Place
from solo_gps.plugins import registered
from solo_gps.samplers.pnn.config import PnnConfig
from solo_gps.samplers.pnn.sampler import Pnn


def test_the_yaml_group_lists_every_key_with_its_default():
    assert composed("+sampler=pnn")["sampler"]["pnn"] == defaults(PnnConfig)


def test_the_yaml_groups_of_gps_and_pnn_merge():
    assert list(composed("+sampler=[gps,pnn]")["sampler"]) == ["gps", "pnn"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"alhpa": 1}, r"sampler.pnn.alhpa: no such key.*Did you mean 'alpha'\?"),
        ({"alpha": 1.1}, r"sampler.pnn: alpha=1.1 must be from 0 to 1"),
        ({"alpha": float("nan")}, r"alpha=nan must be from 0 to 1"),
        ({"alpha_end": -0.1}, r"alpha_end=-0.1 must be from 0 to 1"),
        ({"ema": 2}, r"ema=2.0 must be from 0 to 1"),
        ({"beta": -1}, r"beta=-1.0 must be from 0 to 100"),
        ({"k": 0}, r"k=0 must be at least 1"),
        ({"queue_size": 0}, r"queue_size=0 must be at least 1"),
        ({"schedule_epochs": 0}, r"schedule_epochs=0 must be at least 1"),
        ({"schedule": "cosin"}, r"schedule='cosin' is not one of.*Did you mean 'cosine'\?"),
        ({"combine": "mean"}, r"combine='mean' is not one of draw, average"),
        ({"space": "priors"}, r"Did you mean 'prior'\?"),
        ({"own_queue": "masked"}, r"Did you mean 'mask'\?"),
        ({"seed": -1}, r"sampler.pnn: seed=-1 must be from 0 to 4294967295"),
        ({"k": "many"}, r"sampler.pnn.k: Value 'many'"),
    ],
)
def test_a_wrong_key_is_one_clear_error(keys, message):
    with pytest.raises(ConfigError, match=message):
        parse(keys, PnnConfig, "sampler.pnn")


def test_it_is_registered():
    assert registered("register_samplers")["pnn"] is Pnn


def test_methods_without_a_replaceable_positive_are_refused():
    assert not any(Pnn.refusal(name) for name, facts in METHODS.items() if isinstance(facts.pnn, Place))
    assert "labels" in Pnn.refusal("supcon")
    assert "cluster" in Pnn.refusal("deepclusterv2")
    assert "pixels" in Pnn.refusal("mae")
    assert "does not know" in Pnn.refusal("linear")


def test_the_recipes_seed_is_used_unless_there_is_one_of_its_own():
    assert Pnn(PnnConfig(), seed=7).seed == 7
    assert Pnn(PnnConfig(seed=3), seed=7).seed == 3
