"""`solo-gps prior`: what there is, ours and plugins', with every key and its default."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from solo_gps import hookimpl, plugins
from solo_gps.commands.cli import main
from solo_gps.config import described, number
from solo_gps.plugins import registered
from solo_gps.priors.base import Encoder
from solo_gps.priors.config import PriorConfig


@dataclass(frozen=True, kw_only=True)
class GreyConfig(PriorConfig):
    name: str = "grey"
    """Registered name of the encoder."""
    levels: int = number(7, least=1)
    """Shades of grey
    that are told apart."""
    unsaid: float = 0.5


class GreyEncoder(Encoder):
    """Shades of grey. With a second sentence.

    And more.
    """

    config_class = GreyConfig
    trained = True


@pytest.fixture
def grey():
    class Plugin:
        @hookimpl
        def register_encoders(self):
            return {"grey": GreyEncoder}

    plugin = Plugin()
    plugins.plugin_manager().register(plugin)
    yield
    plugins.plugin_manager().unregister(plugin)


def test_every_prior_is_listed_with_what_it_costs(grey, capsys):
    assert main(["prior", "list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    told = {line.split()[0]: re.split(r"\s{2,}", line) for line in lines}
    assert sorted(told) == sorted(registered("register_encoders"))
    assert re.split(r"\s{2,}", head) == ["prior", "learns from your images", "what it is", "what it costs"]
    assert told["grey"] == ["grey", "yes", "Shades of grey. With a second sentence.", "not stated"]
    assert told["pixels"][1] == "no"
    assert [name for name, line in told.items() if line[3] == "not stated"] == ["grey"]


def test_keys_of_a_plugins_prior_are_shown_with_default_and_meaning(grey, capsys):
    assert main(["prior", "show", "grey"]) == 0
    shown = capsys.readouterr().out
    assert "And more." in shown
    assert "learns from your images: yes" in shown
    assert "  levels=7 (int)\n      Shades of grey that are told apart.\n" in shown
    assert "  unsaid=0.5 (float)\n" in shown
    assert "  batch_size=256 (int)\n      Images of one forward pass" in shown
    assert "name=" not in shown


@pytest.mark.parametrize("name", sorted(registered("register_encoders")))
def test_every_key_of_ours_is_shown_and_has_a_sentence(name, capsys):
    assert main(["prior", "show", name]) == 0
    shown = capsys.readouterr().out
    keys = [key for key in described(registered("register_encoders")[name].config_class) if key.name != "name"]
    assert re.findall(r"^  (\w+)=", shown, re.MULTILINE) == [key.name for key in keys]
    assert all(key.sentence for key in keys)


def test_the_cost_is_measured_on_images_of_ones_own(digits, capsys, own_cache):
    assert main(["prior", "show", "pixels", "image_size=4", "--time", str(digits / "train")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"measured here: 48 images in \d+\.\d s, reading, learning and loading included; 48 dimensions", last)
    assert not own_cache.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pixles"], "unknown prior 'pixles'; .*Did you mean 'pixels'"),
        (["pixels", "image_size=4"], "image_size=4: keys say nothing here without --time FOLDER"),
        (["pixels", "image_sise=4", "--time", "{digits}"], "Did you mean 'image_size'"),
        (["pixels", "--time", "nowhere"], "'nowhere': no such folder"),
    ],
)
def test_a_mistake_is_one_line(words, says, digits, capsys):
    assert main(["prior", "show", *(word.format(digits=digits / "train") for word in words)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(says, line)
