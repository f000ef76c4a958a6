"""Every method of the installed solo-learn has its line, and what the lines say is what is done."""

from __future__ import annotations

import pytest

from solo_gps.hosts.detect import detect_host, method_names
from solo_gps.methods import METHODS, NOT_METHODS, Method, Place, crops_from_positive, facts_of
from solo_gps.plugins import registered

pytestmark = pytest.mark.host


def test_every_method_of_the_host_has_its_line():
    assert set(detect_host().methods) - set(NOT_METHODS) <= set(METHODS)
    assert set(method_names()) == set(detect_host().methods), "read from the source, without importing it"


def test_a_method_that_somebody_added_has_the_defaults():
    assert facts_of("mine") == Method()
    gps, pnn = (registered("register_samplers")[name] for name in ("gps", "pnn"))
    assert gps.refusal("mine") is None, "most methods take a positive in the second large crop"
    assert "does not know" in pnn.refusal("mine")


@pytest.mark.parametrize("method", METHODS)
def test_each_line_is_followed(method):
    facts, samplers = facts_of(method), registered("register_samplers")
    assert samplers["gps"].refusal(method) == samplers["sepp"].refusal(method) == (facts.refusal or None)
    assert samplers["pnn"].refusal(method) == (None if isinstance(facts.pnn, Place) else facts.pnn)
    shown = crops_from_positive(method, 5, 3)
    assert shown == [False, True, facts.positive_crops == "later", False, False]


def test_the_lines_that_differ_from_most():
    assert [name for name, facts in METHODS.items() if facts.refusal] == ["mae"]
    assert [name for name, facts in METHODS.items() if facts.positive_crops == "later"] == ["wmse"]
    assert [name for name, facts in METHODS.items() if facts.remembers_items] == ["deepclusterv2"]
    assert [name for name, facts in METHODS.items() if facts.label_mask] == ["supcon"]
    assert [name for name, facts in METHODS.items() if facts.refuses_small] == ["all4one"]
