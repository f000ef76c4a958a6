"""What a build looks at before its rows count: their numbers, and that nothing changed them meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import ArrayImages

from solo_gps import hookimpl, plugins
from solo_gps.embeddings import build, embed
from solo_gps.errors import CacheError, DataError
from solo_gps.priors.pixels import PixelsEncoder


class OneBad(PixelsEncoder):
    """Pixels, but for the image that is all of one grey."""

    value = float("nan")

    def embed(self, batch):
        rows = super().embed(batch)
        return torch.where((rows == rows[:, :1]).all(dim=1, keepdim=True), torch.tensor(self.value), rows)


@pytest.fixture
def one_bad():
    class Plugin:
        @hookimpl
        def register_encoders(self):
            return {"one_bad": OneBad}

    plugin = Plugin()
    plugins.plugin_manager().register(plugin)
    yield ArrayImages(np.random.default_rng(0).integers(0, 255, (9, 8, 8), np.uint8))
    plugins.plugin_manager().unregister(plugin)


@pytest.mark.parametrize(
    ("value", "keys", "mend"),
    [
        (float("nan"), {}, "It is so in full precision"),
        (float("nan"), {"precision": "bf16"}, "Try prior.precision=fp32"),
        (1e30, {"storage": "float16"}, "Try prior.storage=float32"),
    ],
    ids=["F12-full-precision", "F12-half", "too-large-for-half"],
)
def test_one_row_of_a_block_that_is_not_finite_is_refused_by_its_image(value, keys, mend, one_bad, monkeypatch):
    monkeypatch.setattr(OneBad, "value", value)
    one_bad.pixels[4] = 100
    with pytest.raises(DataError, match=f"the embedding of image 4 is not finite. {mend}"):
        embed(one_bad, {"name": "one_bad", "image_size": 8, **keys})


def test_rows_that_change_between_their_writing_and_the_end_are_refused(digit_images, cache_dir, monkeypatch):
    finish = build._finish

    def damaged(partial, *rest):
        path = Path(partial.folder) / "embeddings.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return finish(partial, *rest)

    monkeypatch.setattr(build, "_finish", damaged)
    with pytest.raises(CacheError, match=r"were changed while building\. Run again"):
        embed(digit_images, {"name": "pixels", "image_size": 8})
    monkeypatch.setattr(build, "_finish", finish)
    assert np.isfinite(embed(digit_images, {"name": "pixels", "image_size": 8}).array).all()
