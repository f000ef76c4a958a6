"""The programs of docs/api.md, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def example(name):
    (text,) = re.findall(rf"<!-- example: {name} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(text.splitlines()) <= 60
    return text


def trained(name):
    namespace = {}
    exec(compile(example(name), f"docs/api.md, {name}", "exec"), namespace)
    return namespace["accuracy"]


@pytest.mark.slow
def test_simclr_learns_from_neighbours_alone():
    """Without an augmentation, pairs of an image and itself end at 0.785, and the network before training at 0.74."""
    assert trained("simclr") > 0.87


@pytest.mark.slow
def test_lightly_trains_on_guided_pairs():
    pytest.importorskip("lightly")
    assert trained("lightly") > 0.85
