"""Search, priors and the cache on GPUs that are emulated: no mix of devices, and no GPU touched but the right one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulated_cuda import OnGpu, emulated

from solo_gps.embeddings import embed
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find


def test_the_emulation_refuses_what_a_gpu_refuses():
    with emulated(2) as gpus:
        one, other = torch.ones(3, device="cuda:0"), torch.ones(3).to("cuda:1")
        assert isinstance(one + one, OnGpu)
        assert (one + one).cpu().tolist() == [2, 2, 2]
        assert gpus.touched == {0, 1}
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
