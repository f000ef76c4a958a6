"""Methods, ways of storing images and samplers, from the pixels: what comes out is what docs/results/matrix.md says."""

from __future__ import annotations

import matrix
import pytest
from programs import ROOT

from solo_gps.guide.dataset import GuidedDataset
from solo_gps.hosts.detect import detect_host

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore")]
SAID = matrix.read((ROOT / "docs" / "results" / "matrix.md").read_text(), detect_host().generation)
METHODS, FORMATS, SAMPLERS = matrix.methods(), matrix.formats(), list(matrix.SAMPLERS)


def is_sample(method, images, sampler):
    """Each method once, and as a whole every way of storing images with every sampler."""
    number = METHODS.index(method)
    return images == FORMATS[number % len(FORMATS)] and sampler == SAMPLERS[number // len(FORMATS) % len(SAMPLERS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("one-coloured images")


def test_the_page_has_every_cell():
    assert set(SAID) == {(method, images, sampler) for method in METHODS for images in matrix.FORMATS for sampler in SAMPLERS}


@pytest.mark.parametrize(
    ("method", "images", "sampler"),
    [
        pytest.param(method, images, sampler, marks=[] if is_sample(method, images, sampler) else pytest.mark.full)
        for method in METHODS
        for images in FORMATS
        for sampler in SAMPLERS
    ],
)
def test_each_crop_shows_what_the_pairs_say(method, images, sampler, folder):
    assert matrix.train(method, images, sampler, folder) == SAID[method, images, sampler]


@pytest.mark.parametrize("sampler", ["gps", "sepp"])
@pytest.mark.parametrize("damage", ["another item", "another positive"])
def test_a_crop_that_shows_another_image_would_be_found(sampler, damage, folder, monkeypatch):
    item_of, images_of = GuidedDataset.__getitem__, GuidedDataset._images
    if damage == "another item":
        monkeypatch.setattr(GuidedDataset, "__getitem__", lambda self, item: (item, *item_of(self, (item + 1) % len(self))[1:]))
    else:
        monkeypatch.setattr(GuidedDataset, "_images", lambda self, item, one, two: images_of(self, item, one, (two + 1) % 48))
    with pytest.raises(AssertionError):
        matrix.train("simclr", "image_folder", sampler, folder)
