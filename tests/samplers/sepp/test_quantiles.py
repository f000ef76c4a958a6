"""Thresholds by quantile: the pair at a quantile belongs to the window, however its product was rounded."""

from __future__ import annotations

import numpy as np
import pytest

from solo_gps.interfaces import Embeddings
from solo_gps.neighbours.config import SearchConfig
from solo_gps.samplers.sepp.config import Window
from solo_gps.samplers.sepp.search import search_pairs


@pytest.mark.parametrize("images", [2, 3, 20])
def test_d1_the_most_alike_pair_is_within_quantile_1(images):
    for seed in range(100):
        array = np.random.default_rng(seed).normal(size=(images, 48)).astype(np.float32)
        unit = array / np.linalg.norm(array.astype(np.float64), axis=1, keepdims=True)
        cosines = np.triu(unit @ unit.T, 1) - 2 * np.tril(np.ones((images, images)))
        best = np.unravel_index(cosines.argmax(), cosines.shape)
        window = Window(low=0.9, high=0.9, low_quantile=0.95, high_quantile=1.0)
        found = search_pairs(
            Embeddings(array=array, fingerprint="f", folder=None, space="cosine"), window, SearchConfig(), images=images, seed=0
        )
        assert tuple(best) in set(zip(found.first.tolist(), found.second.tolist(), strict=True)), f"seed {seed}"
        assert found.near_duplicates == 0
