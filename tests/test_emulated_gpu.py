"""Search, priors and the cache on GPUs that are emulated: no mix of devices, and no GPU touched but the right one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulated_cuda import GPUS, OnGpu, emulated

import solo_gps
from solo_gps.commands.cli import main as cli
from solo_gps.embeddings import embed
from solo_gps.embeddings.live import LiveNetwork
from solo_gps.embeddings.snapshot import snapshot
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find, search
from solo_gps.neighbours.backends import torch_exact
from solo_gps.neighbours.config import SearchConfig
from solo_gps.priors.base import PriorConfig
from solo_gps.priors.parts.preprocess import normalise
from solo_gps.runtime.devices import LOCAL_RANKS
from solo_gps.samplers import space
from solo_gps.samplers.pnn.measures import MEASURES, Measures
from solo_gps.samplers.pnn.support import SupportSet, combine, nearest_rows, similarity
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
    if prior["name"] == "random":  # its convolutions run in another order of memory there
        np.testing.assert_allclose(there, expected, rtol=1e-5, atol=1e-6)
    else:
        assert cache_files(tmp_path / "gpu") == cache_files(tmp_path / "cpu")


@pytest.mark.parametrize(
    "prior",
    [
        {"name": "patches"},
        {"name": "random", **NETWORK},
        {"name": "timm", "model": "test_resnet.r160_in1k", "pretrained": False, **NETWORK},
        {"name": "vae", "image_size": 8, "epochs": 1},
        {"name": "join", "parts": [{"name": "pixels", "image_size": 8}, {"name": "random", **NETWORK}]},
    ],
    ids=lambda prior: prior["name"],
)
def test_a_found_cache_touches_no_gpu(prior, digit_images, cache_dir):
    """Its fingerprint is that of the weights on the CPU; the same for every GPU, in fp32."""
    keys = {**prior, "precision": "fp32"}
    if prior["name"] == "join":
        keys = {**prior, "parts": [{**part, "precision": "fp32"} for part in prior["parts"]]}
    built = embed(digit_images, {**keys, "device": "cpu"})
    with emulated(4) as gpus:
        found = embed(digit_images, {**keys, "device": "cuda:1"})
        assert gpus.touched == set()
    assert found.fingerprint == built.fingerprint


def cache_files(root):
    """The bytes of every file of a cache but its manifest, which says when it was made."""
    files = [path for path in sorted(root.glob("*/*")) if path.suffix != ".json" and ".locks" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def support_and_measures(device, sphere):
    """What a step of pNN does with its support set, thrice, and what is logged of it."""
    generator = torch.Generator().manual_seed(0)
    support, measures = SupportSet(9, 5, sphere=sphere), Measures()
    support.to(device)
    for step in range(3):
        z = torch.randn(4, 5, generator=generator).to(device)
        images = torch.arange(4 * step, 4 * step + 4).to(device)
        labels, pool = images % 3, support.pool()
        blocked = pool.index[None] == images[:, None] - 4
        rows, valid = nearest_rows(similarity(z, pool.keys, pool.offset), 2, blocked)
        draws = torch.Generator(device).manual_seed(step)
        choice = combine(pool.keys, z, rows, valid, average=step == 2, generator=draws)
        measures.add_choice(z, choice, pool, images=images, labels=labels, step=support.step)
        measures.add_pseudo(z, choice.neighbour)
        measures.add_positives([z, z.flip(0)], {0: choice.neighbour})
        support.push(z, labels, images)
        support.tick()
    return {name: value.cpu().tolist() for name, value in support.state_dict().items()}, measures.read()


@pytest.mark.parametrize("sphere", [True, False])
def test_pnns_support_set_and_measures_are_those_of_the_cpu_and_wait_for_nothing(sphere):
    expected = support_and_measures("cpu", sphere)
    with emulated(2) as gpus:
        found = support_and_measures("cuda:1", sphere)
    assert found == expected
    assert gpus.touched == {1}
    assert set(gpus.waits) <= {"cpu to cuda:1", "cpu()", "tolist"}, "what the test itself brings and reads"
    assert len(expected[1]) == len(MEASURES)


SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}


@pytest.mark.host
@pytest.mark.parametrize(
    ("environment", "devices", "index"),
    [({}, [1], 1), (SLURM, [1], 1), (SLURM, [2, 3], 3), (SLURM, 2, 1), ({**SLURM, "LOCAL_RANK": "0"}, [2, 3], 2)],
)
def test_prior_search_and_refresh_of_a_rank_take_one_gpu(environment, devices, index, recipe, monkeypatch):
    """What a recipe and a launcher say together, part by part, on GPUs that note who touched them."""
    for name in (*LOCAL_RANKS, "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("solo_gps.guide.switch.rehearse", lambda *_: None)  # Lightning would look for the GPUs itself
    parts = {}

    def noting(part, function):
        def noted(*args, **kwargs):
            GPUS.touched = set()
            try:
                return function(*args, **kwargs)
            finally:
                parts[part] = GPUS.touched

        return noted

    monkeypatch.setattr("solo_gps.samplers.space.embed", noting("prior", space.embed))
    monkeypatch.setattr("solo_gps.neighbours.search._search_once", noting("search", search._search_once))
    prior = {"name": "random", "precision": "fp32", **NETWORK}
    cfg = recipe(sampler={"gps": {"k": 3}}, prior=prior, refresh={"every": 1}, accelerator="gpu", devices=devices)
    with emulated(4), solo_gps.activate(cfg) as on:
        on.host.build_train_loader(on.host.complete(cfg))
        assert parts == {"prior": {index}, "search": {index}}
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)).to(f"cuda:{index}")
        config = PriorConfig(name="network", precision="fp32")
        live = LiveNetwork(config, network, device=torch.device("cuda", index), image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
        GPUS.touched = set()
        with snapshot(on.pairing.images, live) as embeddings:
            find(embeddings, cfg.get("search"), k=3)
        assert GPUS.touched == {index}


def test_the_sweep_takes_the_gpu_of_its_process(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with emulated(4) as gpus:
        words = ["sepp", "sweep", str(digits / "train"), "--prior", "pixels", "image_size=8", "precision=fp32", "--no-plot"]
        assert cli([*words, "--out", str(tmp_path)]) == 0
    assert gpus.touched == {2}
