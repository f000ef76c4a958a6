"""The prior's space as a sampler, or whoever looks at it, is given it."""

from __future__ import annotations

import numpy as np
import pytest
from image_sets import ArrayImages, digits_pixels

from solo_gps.embeddings import embed
from solo_gps.evaluation.inspection import Altered, cropped, flipped
from solo_gps.interfaces import Embeddings
from solo_gps.samplers.space import PriorSpace

PRIORS = {"pixels": {"image_size": 8}, "patches": {"image_size": 16, "centroids": 16}, "pca": {"dimensions": 8, "image_size": 8}}


@pytest.mark.parametrize("name", PRIORS)
def test_unaltered_images_lie_where_they_lay(name, digit_images):
    space = PriorSpace(digit_images, {"name": name, **PRIORS[name]}, None)
    points = space.place(Altered(digit_images, range(0, 120, 7), lambda image: image))
    assert points == pytest.approx(np.asarray(space.embeddings.array[::7]), abs=1e-4)


def test_flipped_pixels_are_the_pixels_of_flipped_images(digit_images):
    prior = {"name": "pixels", "image_size": 8, "batch_size": 5}
    mirrored = embed(ArrayImages(digits_pixels(120)[:, :, ::-1].copy()), prior)
    points = PriorSpace(digit_images, prior, None).place(Altered(digit_images, range(3, 120, 10), flipped))
    assert np.array_equal(points, mirrored.array[3::10])


def test_a_crop_is_the_middle(digit_images):
    image = digit_images.image(0).resize((20, 10))
    assert cropped(image).size == (16, 8)
    assert cropped(image).tobytes() == image.crop((2, 1, 18, 9)).tobytes()


def test_rows_that_were_brought_have_no_place_for_other_images(digit_images, tmp_path):
    rows = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    few = Altered(digit_images, range(5), flipped)
    assert PriorSpace(digit_images, {"name": "array", "path": str(tmp_path / "rows.npy")}, None).place(few) is None
    assert PriorSpace.of(digit_images, Embeddings(array=rows), None).place(few) is None
