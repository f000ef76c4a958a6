"""Search, priors and the cache on GPUs that are emulated: no mix of devices, and no GPU touched but the right one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulated_cuda import OnGpu, emulated

import solo_gps
from solo_gps.embeddings import embed
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find
from solo_gps.neighbours.backends import torch_exact
from solo_gps.neighbours.config import SearchConfig
from solo_gps.priors.parts.preprocess import normalise
from solo_gps.samplers.sepp.config import Window
from solo_gps.samplers.sepp.search import search_pairs


def test_the_emulation_refuses_what_a_gpu_refuses():
    with emulated(2) as gpus:
        one, other = torch.ones(3, device="cuda:0"), torch.ones(3).to("cuda:1")
        assert isinstance(one + one, OnGpu)
        assert (one + one).cpu().tolist() == [2, 2, 2]
        assert gpus.touched == {0, 1}
        assert gpus.waits == ["cpu to cuda:1", "cpu()"]
        assert (one.sum().item(), torch.ones(3).to("cuda:0", non_blocking=True).device.index) == (3, 0)
        assert gpus.waits[2:] == ["item"]
        for mixed in (lambda: one + other, lambda: one + torch.ones(3), lambda: torch.cat([one, other])):
            with pytest.raises(RuntimeError, match="tensors on"):
                mixed()
        with pytest.raises(TypeError, match=r"Use Tensor.cpu\(\) first"):
            one.numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, device="cuda:0", generator=torch.Generator())


@pytest.mark.parametrize("capability", [(9, 0), (7, 0)], ids=["bf16", "fp32"])
@pytest.mark.parametrize("space", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("asked", [{"k": 7}, {"radius": 0.25}], ids=["k", "radius"])
def test_tables_are_those_of_the_cpu_and_touch_one_gpu(asked, dtype, space, capability):
    rows = np.random.default_rng(0).normal(size=(900, 24)).astype(dtype)
    rows[5] = rows[9]
    if "radius" in asked and space == "euclidean":
        asked = {"radius": 14.0}
    embeddings = Embeddings(array=rows, space=space)
    expected = find(embeddings, {"device": "cpu"}, **asked)
    with emulated(4, capability=capability) as gpus:
        found = find(embeddings, {"device": "cuda:2", "gpu_memory_mib": 16}, **asked)
    assert gpus.touched == {2}
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)


def test_points_between_two_multiples_of_the_aligned_width_have_one_table():
    rows = np.random.default_rng(0).normal(size=(130, 6)).astype(np.float32)
    for images in (2, 3, 63, 64, 65, 127, 128, 129, 130):
        expected = find(rows[:images], {"device": "cpu"}, k=images - 1)
        with emulated(1):
            found = find(rows[:images], {"device": "cuda:0"}, k=images - 1)
        np.testing.assert_array_equal(found.indices, expected.indices)


def test_one_product_has_fewer_numbers_than_32_bits_count(monkeypatch):
    monkeypatch.setattr(torch_exact, "MOST_PRODUCTS", 1000)
    rows = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    expected = find(rows, {"device": "cpu"}, k=4)
    asked, nearest = [], torch_exact.BFloat16Operand.nearest
    monkeypatch.setattr(
        torch_exact.BFloat16Operand, "nearest", lambda self, at, count: asked.append(len(at)) or nearest(self, at, count)
    )
    with emulated(1):
        found = find(rows, {"device": "cuda:0"}, k=4)
    assert set(asked) == {1000 // (300 + 64)}
    np.testing.assert_array_equal(found.indices, expected.indices)


@pytest.mark.host
@pytest.mark.parametrize("method", ["simclr", "nnclr"])
def test_a_batch_is_described_without_a_wait_for_the_gpu(method, recipe):
    """Of its step on a GPU, nothing is asked that the CPU knew; what crops show is the same as on the CPU."""
    cfg = recipe(method, sampler={"gps": {"k": 3}}, prior={"name": "pixels", "image_size": 8})
    with solo_gps.activate(cfg) as on:
        full = on.host.complete(cfg)
        model = on.host.build_method(full, on.host.methods[method]).train()
        batch = next(iter(on.host.build_train_loader(full)))
        items, *_ = model.on_after_batch_transfer(model.on_before_batch_transfer(batch, 0), 0)
        expected = model.shown_crops
        with emulated(2) as gpus:
            before = model.on_before_batch_transfer(batch, 0)
            there = [before[0].to("cuda:1"), [crop.to("cuda:1") for crop in before[1]], before[2].to("cuda:1")]
            gpus.waits.clear()
            indices, _, classes = model.on_after_batch_transfer(there, 0)
            assert gpus.waits == []
            assert {tensor.device.index for tensor in (indices, classes, *model.shown_crops.images)} == {1}
            assert indices.cpu().tolist() == items.tolist()
            for ours, wanted in ((model.shown_crops.images, expected.images), (model.shown_crops.targets, expected.targets)):
                assert [one.cpu().tolist() for one in ours] == [one.tolist() for one in wanted]


def test_normalising_waits_for_no_gpu_after_its_first_batch():
    batch = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.1, 0.2, 0.31), (0.4, 0.5, 0.61)
    by_hand = (batch.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with emulated(1) as gpus:
        there = batch.to("cuda:0")
        for _ in range(2):
            gpus.waits.clear()
            assert torch.equal(normalise(there, mean, std).cpu(), by_hand)
        assert gpus.waits == ["cpu()"]


def test_sepps_search_is_on_its_gpu_and_gives_its_memory_back(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    window = Window(low=0.2, high=0.9)
    expected = search_pairs(Embeddings(array=rows), window, SearchConfig(device="cpu"), images=60, seed=0)
    given = []
    with emulated(4) as gpus:
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(torch.cuda.current_device()))
        found = search_pairs(Embeddings(array=rows), window, SearchConfig(device="cuda:2"), images=60, seed=0)
    assert (gpus.touched, len(given)) == ({2}, 1)
    for one in ("first", "second", "cosines"):
        np.testing.assert_array_equal(getattr(found, one), getattr(expected, one))


NETWORK = {"image_size": 32, "batch_size": 8}


@pytest.mark.parametrize(
    "prior",
    [
        {"name": "patches"},
        {"name": "pixels", "image_size": 8},
        {"name": "pca", "image_size": 8},
        {"name": "random", **NETWORK},
        {"name": "timm", "model": "test_resnet.r160_in1k", "pretrained": False, **NETWORK},
        {"name": "pixels", "image_size": 8, "augmentation": "crop", "draws": 2},
        {"name": "join", "parts": [{"name": "pixels", "image_size": 8}, {"name": "patches"}]},
    ],
    ids=lambda prior: prior["name"],
)
def test_priors_stay_on_their_gpu_and_give_the_cpus_embeddings(prior, digit_images, tmp_path):
    keys = {**prior, "precision": "fp32"}
    if prior["name"] == "join":
        keys = {**prior, "parts": [{**part, "precision": "fp32"} for part in prior["parts"]]}
    expected = np.array(embed(digit_images, {**keys, "cache_dir": str(tmp_path / "cpu"), "device": "cpu"}).array)
    with emulated(4) as gpus:
        there = embed(digit_images, {**keys, "cache_dir": str(tmp_path / "gpu"), "device": "cuda:1"}).array
    assert gpus.touched <= {1}
    assert gpus.touched or prior["name"] == "join", "the emulation was used"
    np.testing.assert_allclose(there, expected, rtol=1e-5, atol=1e-6)
