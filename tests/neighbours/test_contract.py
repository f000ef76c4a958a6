"""One contract for every search backend, against a naive reference in float64."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find
from solo_gps.neighbours.backends.faiss_here import installed_faiss
from solo_gps.neighbours.backends.torch_exact import BFloat16Operand, Float32Operand, TorchExact, smallest
from solo_gps.neighbours.config import SearchConfig
from solo_gps.neighbours.exact.points import points_of
from solo_gps.neighbours.exact.rerank import HostDistances

GPU = installed_faiss().gpus > 0
FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.differing_executors])


def points(array, space="euclidean"):
    return Embeddings(array=array, fingerprint="f", folder=None, space=space)


def naive(array, k, space="euclidean"):
    """All distances in float64, sorted by (float32 distance, index)."""
    wide = array.astype(np.float64)
    if space == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    squared = ((wide[:, None] - wide[None]) ** 2).sum(-1) * (0.5 if space == "cosine" else 1.0)
    squared = squared.astype(np.float32)
    np.fill_diagonal(squared, -1)
    everyone = np.broadcast_to(np.arange(len(array)), squared.shape)
    order = np.lexsort((everyone, squared), axis=1)[:, 1 : k + 1]
    return order, np.take_along_axis(squared, order, axis=1)


def assert_same_up_to_rounding(table, array, k, space="euclidean"):
    """Equal distances up to float32 rounding, and each neighbour really at the distance that the table says."""
    _, distances = naive(array, k, space)
    scale = max(float(distances.max()), 1e-30)
    np.testing.assert_allclose(table.distances, distances, rtol=2e-6, atol=3e-7 * scale)
    assert all(len(set(row)) == k for row in table.indices.tolist())
    assert not (table.indices == np.arange(len(array))[:, None]).any()
    wide = array.astype(np.float64)
    if space == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    claimed = ((wide[:, None] - wide[table.indices]) ** 2).sum(-1) * (0.5 if space == "cosine" else 1.0)
    np.testing.assert_allclose(table.distances, claimed, rtol=2e-6, atol=3e-7 * scale)


class ExactContract:
    backend: str
    search: ClassVar[dict] = {}

    def find(self, array, space="euclidean", **request):
        return find(points(array, space), {"backend": self.backend, **self.search}, **request)

    @pytest.mark.parametrize("space", ["euclidean", "cosine"])
    @pytest.mark.parametrize(("images", "columns", "k"), [(2, 1, 1), (30, 1, 29), (120, 3, 7), (257, 64, 20), (40, 5, 39)])
    def test_random_points(self, images, columns, k, space):
        array = np.random.default_rng(images).standard_normal((images, columns)).astype(np.float32)
        assert_same_up_to_rounding(self.find(array, space, k=k), array, k, space)

    @FEW
    @given(
        st.integers(2, 60),
        st.integers(1, 4),
        st.integers(1, 4),
        st.integers(0, 2**32 - 1),
    )
    def test_integers_with_duplicates_and_ties_equal_the_reference_exactly(self, images, columns, values, seed):
        rng = np.random.default_rng(seed)
        array = rng.integers(0, values + 1, (images, columns)).astype(np.float32)
        k = int(rng.integers(1, images))
        table = self.find(array, k=k)
        indices, distances = naive(array, k)
        assert table.indices.tolist() == indices.tolist()
        assert table.distances.tolist() == distances.tolist()

    @FEW
    @given(st.integers(2, 50), st.integers(1, 3), st.integers(0, 2**32 - 1))
    def test_balls_of_integers_equal_the_reference_exactly(self, images, columns, seed):
        array = np.random.default_rng(seed).integers(0, 4, (images, columns)).astype(np.float32)
        table = self.find(array, radius=2.0)
        indices, distances = naive(array, images - 1)
        for row, near, distance in zip(table.indices, indices, distances, strict=True):
            inside = near[distance < 2.0].tolist()
            assert row.tolist() == inside + [-1] * (len(row) - len(inside))
        assert np.isinf(table.distances[table.indices < 0]).all()
        assert (table.distances[table.indices >= 0] < 2).all()

    def test_real_images_with_ties_equal_the_reference_exactly(self):
        array = load_digits().data[:600].astype(np.float32)
        table = self.find(array, k=60)
        indices, distances = naive(array, 60)
        assert table.indices.tolist() == indices.tolist()
        assert table.distances.tolist() == distances.tolist()

    def test_constant_vectors(self):
        table = self.find(np.full((50, 7), 3.25, np.float32), k=3)
        assert table.indices[:5].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]
        assert not table.distances.any()

    def test_many_duplicates_of_few_vectors(self):
        rng = np.random.default_rng(5)
        array = rng.standard_normal((4, 6)).astype(np.float32)[rng.integers(0, 4, 300)]
        array[7, 0] = -0.0
        array[9] = array[7]
        array[9, 0] = 0.0
        table = self.find(array, k=150)
        wide = array.astype(np.float64)
        everyone = np.arange(300)
        for i in (0, 7, 9, 299):
            exact = HostDistances(array)(np.full(1, i), everyone[None])[0]
            order = np.lexsort((everyone, exact))
            assert table.indices[i].tolist() == order[order != i][:150].tolist()
        assert np.allclose(((wide[0] - wide[table.indices[0]]) ** 2).sum(1), table.distances[0], rtol=1e-5)

    @pytest.mark.parametrize("norm", [1e-12, 1e6, 1e15, 1e18])
    def test_norms_far_from_one(self, norm):
        array = (np.random.default_rng(1).standard_normal((80, 9)) * norm).astype(np.float32)
        assert_same_up_to_rounding(self.find(array, k=10), array, 10)

    def test_far_from_the_origin(self):
        """Products alone would lose every digit: |x|^2 is 10^10 times the distances."""
        array = (1e5 + np.random.default_rng(2).standard_normal((300, 8))).astype(np.float32)
        assert_same_up_to_rounding(self.find(array, k=10), array, 10)

    def test_one_outlier_of_huge_norm(self):
        array = np.random.default_rng(3).standard_normal((200, 8)).astype(np.float32)
        array[17] *= 1e7
        table = self.find(array, k=10)
        keep = np.arange(200) != 17
        ours, reference = table.distances[keep], naive(array, 10)[1][keep]
        np.testing.assert_allclose(ours, reference, rtol=2e-6)

    @pytest.mark.parametrize("space", ["euclidean", "cosine"])
    def test_float16(self, space):
        array = np.random.default_rng(4).standard_normal((150, 20)).astype(np.float16)
        assert_same_up_to_rounding(self.find(array, space, k=12), array.astype(np.float32), 12, space)
        again = self.find(array.astype(np.float32), space, k=12)
        assert again.indices.tolist() == self.find(array, space, k=12).indices.tolist()

    def test_not_contiguous_and_read_only(self):
        wide = np.random.default_rng(6).standard_normal((90, 40)).astype(np.float32)
        array = wide[::-1, ::3]
        array.flags.writeable = False
        expected = self.find(np.ascontiguousarray(array), k=9)
        assert self.find(array, k=9).indices.tolist() == expected.indices.tolist()
        assert self.find(np.asfortranarray(array), k=9).indices.tolist() == expected.indices.tolist()

    def test_block_size_changes_nothing(self, monkeypatch):
        array = np.random.default_rng(7).standard_normal((700, 24)).astype(np.float32)
        whole = self.find(array, k=15)
        balls = self.find(array, radius=20.0)
        monkeypatch.setattr("solo_gps.neighbours.backends.torch_exact.TorchExact.rows_per_block", lambda *_: 13)
        monkeypatch.setattr("solo_gps.neighbours.backends.faiss_exact.FaissFlat.rows_per_block", lambda *_: 13)
        monkeypatch.setattr("solo_gps.neighbours.exact.near_points._TILE_COLUMNS", 37)
        monkeypatch.setattr("solo_gps.neighbours.exact.rerank._HOST_BLOCK", 64)
        blocks = self.find(array, k=15)
        assert blocks.indices.tolist() == whole.indices.tolist()
        assert blocks.distances.tobytes() == whole.distances.tobytes()
        assert self.find(array, radius=20.0).indices.tolist() == balls.indices.tolist()


class TestTorch(ExactContract):
    backend = "torch"


class TestTorchBfloat16(ExactContract):
    """The narrow products must never change a table, wherever they are chosen."""

    backend = "torch"

    @pytest.fixture(autouse=True)
    def _narrow(self, monkeypatch):
        monkeypatch.setattr("solo_gps.neighbours.backends.torch_exact.bfloat16_pays", lambda *_: True)


class TestTorchFloat32(ExactContract):
    backend = "torch"

    @pytest.fixture(autouse=True)
    def _wide(self, monkeypatch):
        monkeypatch.setattr("solo_gps.neighbours.backends.torch_exact.bfloat16_pays", lambda *_: False)


@pytest.mark.skipif(installed_faiss().version is None, reason="FAISS is not installed")
class TestFaiss(ExactContract):
    backend = "faiss"


@pytest.mark.skipif(not GPU, reason="needs a FAISS for CUDA and a GPU")
class TestFaissGpu(ExactContract):
    backend = "faiss_gpu"


@pytest.mark.skipif(not GPU, reason="needs a FAISS for CUDA and a GPU")
class TestFaissGpuFloat16(ExactContract):
    backend = "faiss_gpu"
    search: ClassVar[dict] = {"float16": True}


@pytest.mark.parametrize("space", ["euclidean", "cosine"])
def test_all_exact_backends_agree_to_the_last_bit(space, monkeypatch):
    rng = np.random.default_rng(8)
    array = rng.standard_normal((1500, 10)) @ rng.standard_normal((10, 96)) + rng.standard_normal((1500, 96)) / 4
    array = array.astype(np.float32)
    tables = [find(points(array, space), {"backend": "faiss"}, k=40)] if installed_faiss().version else []
    for narrow in (True, False):
        monkeypatch.setattr("solo_gps.neighbours.backends.torch_exact.bfloat16_pays", lambda *_, narrow=narrow: narrow)
        tables.append(find(points(array, space), {"backend": "torch"}, k=40))
    for table in tables[1:]:
        assert table.indices.tobytes() == tables[0].indices.tobytes()
        assert table.distances.tobytes() == tables[0].distances.tobytes()


@pytest.mark.parametrize("operand", [BFloat16Operand, Float32Operand])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_reach_is_a_lower_bound(operand, offset):
    import torch

    array = np.random.default_rng(9).standard_normal((400, 33)).astype(np.float32) + np.float32(offset)
    prepared = points_of(points(array)).search
    rows = torch.arange(400)
    narrow = operand(torch.from_numpy(prepared))
    least = narrow.reach(rows, narrow.products(rows)).numpy()
    wide = prepared.astype(np.float64)
    true = np.sqrt(((wide[:, None] - wide[None]) ** 2).sum(-1))
    assert (least <= true).all()
    assert (true - least)[true > 0.2].max() < 0.05


def test_unproven_rows_are_completed_and_bfloat16_is_given_up(monkeypatch):
    """Points on a fine grid: bfloat16 cannot tell neighbours apart, so every row needs the completion."""
    array = (np.arange(3000, dtype=np.float32) / 3000)[:, None]
    monkeypatch.setattr("solo_gps.neighbours.backends.torch_exact.bfloat16_pays", lambda *_: True)
    seen = []
    observe = TorchExact.observe
    monkeypatch.setattr(TorchExact, "observe", lambda self, share: (seen.append(share), observe(self, share)))
    monkeypatch.setattr(TorchExact, "rows_per_block", lambda *_: 1000)
    table = find(points(array), {"backend": "torch"}, k=4)
    inner = table.indices[2:-2]
    assert (np.sort(inner, axis=1) == np.arange(2, 2998)[:, None] + [-2, -1, 1, 2]).all()
    assert seen[0] > 0.5
    assert seen[-1] < seen[0]


def test_smallest_equals_a_sort():
    import torch

    keys = torch.from_numpy(np.random.default_rng(10).standard_normal((20, 1003)).astype(np.float32))
    for count in (1, 7, 30, 31, 500, 1003):
        values, columns = smallest(keys, count)
        assert values.tolist() == keys.sort(dim=1).values[:, :count].tolist()
        assert torch.gather(keys, 1, columns).tolist() == values.tolist()


@pytest.mark.parametrize("columns", [1, 2, 3, 15, 16, 17, 31, 100, 513])
def test_formula_is_the_squared_distance(columns):
    array = np.random.default_rng(columns).standard_normal((50, columns)).astype(np.float32)
    rows, others = np.arange(50), np.tile(np.arange(50), (50, 1))
    true = ((array[:, None].astype(np.float64) - array[None]) ** 2).sum(-1)
    np.testing.assert_allclose(HostDistances(array)(rows, others), true, rtol=1e-6)


def test_memory_budget_sets_the_block():
    backend = TorchExact(SearchConfig(memory_mib=64))
    backend.fit(np.random.default_rng(11).standard_normal((5000, 16)).astype(np.float32) / 100)
    rows = backend.rows_per_block(1_000_000, 100)
    assert 1 <= rows <= (64 << 20) / (2 * 1_000_000)
