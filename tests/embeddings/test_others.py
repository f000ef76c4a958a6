"""A test set in the space of a training set: by what the prior learned there, and by nothing of its own."""

from __future__ import annotations

import numpy as np
import pytest
from image_sets import ArrayImages, digits_pixels

from solo_gps.embeddings import embed, list_caches
from solo_gps.embeddings.others import embed_others, has_views
from solo_gps.errors import CacheError

SMALL = {"image_size": 8, "dimensions": 4}
LEARNED = [
    {"name": "pca", **SMALL},
    {"name": "patches", **SMALL, "patch_size": 3, "centroids": 8, "regions": 2},
    {"name": "vae", **SMALL, "width": 4, "epochs": 1},
]
NAMES = [prior["name"] for prior in LEARNED]


@pytest.fixture
def sets():
    pixels = digits_pixels(90)
    return ArrayImages(pixels[:60]), ArrayImages(pixels[60:])


@pytest.mark.parametrize("prior", LEARNED, ids=NAMES)
def test_training_images_among_the_others_have_their_own_rows(prior, sets, cache_dir):
    train, test = sets
    mixed = ArrayImages(np.concatenate([test.pixels, train.pixels[10:20]]))
    found = embed_others(mixed, prior, train)
    wanted = embed(train, prior).array[10:20]
    assert np.abs(found[30:] - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert len(list_caches()) == 1  # nothing was learned from the others
    assert not np.allclose(found[:30], embed(test, prior).array, rtol=1e-2)


def test_a_prior_that_learns_nothing_is_cached(sets, cache_dir):
    train, test = sets
    found = embed_others(test, {"name": "pixels", "image_size": 8}, train)
    assert np.array_equal(found, embed(test, {"name": "pixels", "image_size": 8}).array)
    assert len(list_caches()) == 1


def test_a_join_of_both_kinds_is_its_parts_at_length_1(sets, cache_dir):
    train, test = sets
    parts = [{"name": "pca", **SMALL, "weight": 2}, {"name": "pixels", "image_size": 4}]
    pca, pixels = (embed_others(test, {k: v for k, v in part.items() if k != "weight"}, train) for part in parts)
    wanted = [weight * rows / np.linalg.norm(rows, axis=1, keepdims=True) for weight, rows in ((2, pca), (1, pixels))]
    found = embed_others(test, {"name": "join", "parts": parts}, train)
    assert found == pytest.approx(np.concatenate(wanted, axis=1), abs=1e-6)
    views = embed_others(test, {"name": "join", "parts": parts}, train, views=2, seed=1)
    assert views.shape == (2, 30, found.shape[1])
    assert not np.allclose(views[0], views[1])


def test_views_do_not_depend_on_batches_or_workers_and_differ_by_their_seed(sets, cache_dir):
    train, test = sets
    prior = {"name": "pca", **SMALL}
    first = embed_others(test, prior, train, views=2, seed=1)
    again = embed_others(test, {**prior, "batch_size": 7, "num_workers": 2}, train, views=2, seed=1)
    assert again == pytest.approx(first, abs=1e-5)
    assert not np.allclose(embed_others(test, prior, train, views=2, seed=2), first)


def test_what_was_learned_is_refused_when_it_is_damaged(sets, cache_dir):
    train, test = sets
    folder = embed(train, LEARNED[0]).folder
    state = folder / "encoder.safetensors"
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    with pytest.raises(CacheError, match=r"encoder\.safetensors is damaged"):
        embed_others(test, LEARNED[0], train)


def test_only_what_looks_at_images_has_views(tmp_path, sets):
    np.save(tmp_path / "rows.npy", np.ones((60, 2), np.float32))
    array = {"name": "array", "path": str(tmp_path / "rows.npy")}
    assert has_views({"name": "join", "parts": ["pixels", "pca"]})
    assert not has_views(array)
    assert not has_views({"name": "join", "parts": ["pixels", array]})
