"""The encoder that docs/priors.md writes works as it stands."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from solo_gps.embeddings import embed
from solo_gps.plugins import plugin_manager

PAGE = Path(__file__).parents[2] / "docs" / "priors.md"


def test_the_encoder_of_the_docs_embeds(digit_images: Any) -> None:
    (text,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    module = types.ModuleType("docs_example")
    sys.modules["docs_example"] = module
    exec(compile(text, str(PAGE), "exec"), module.__dict__)
    plugin_manager().register(module)
    try:
        array = embed(digit_images, {"name": "brightness", "grid": 1}).array
        assert embed(digit_images, {"name": "brightness"}).array.shape == (120, 16)
    finally:
        plugin_manager().unregister(module)
        del sys.modules["docs_example"]
    wanted = [np.asarray(digit_images.image(index).resize((32, 32), 2)).mean() / 255 for index in range(120)]
    np.testing.assert_allclose(array[:, 0], wanted, atol=1e-5)
