"""Which backend is chosen, what is said about it, configuration files, and what an import costs."""

from __future__ import annotations

import builtins
import dataclasses
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from config_keys import composed
from omegaconf import OmegaConf

from solo_gps.errors import ConfigError, UnknownNameError
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find, register_search_backends
from solo_gps.neighbours.backend import Candidates, SearchBackend
from solo_gps.neighbours.backends import faiss_exact, faiss_here
from solo_gps.neighbours.backends.faiss_here import Faiss, faiss_missing
from solo_gps.neighbours.choose import choose_backend, resolve_search
from solo_gps.neighbours.config import SearchConfig
from solo_gps.neighbours.exact.duplicates import duplicate_report, group_duplicates
from solo_gps.plugins import registered

ABSENT = Faiss(version=None, package="another build", gpus=0, cagra=False, reason="No module named 'faiss'")


def embeddings(images=50):
    array = np.random.default_rng(0).standard_normal((images, 4)).astype(np.float32)
    return Embeddings(array=array, fingerprint="f", folder=None, space="euclidean")


@pytest.fixture
def without_faiss(monkeypatch):
    for module in ("backends.faiss_here", "choose"):
        monkeypatch.setattr(f"solo_gps.neighbours.{module}.installed_faiss", lambda: ABSENT)


@pytest.fixture
def with_faiss(monkeypatch):
    there = Faiss(version="1.14.3", package="faiss-cpu", gpus=0, cagra=False, reason="")
    for module in ("backends.faiss_here", "choose"):
        monkeypatch.setattr(f"solo_gps.neighbours.{module}.installed_faiss", lambda: there)


def choose(images, columns, radius=None, **keys):
    return choose_backend(SearchConfig(device="cpu", **keys), images=images, columns=columns, radius=radius)


def test_small_sets_are_exact(caplog, with_faiss):
    with caplog.at_level(logging.DEBUG, "solo_gps"):
        assert choose(50_000, 512).config.backend == "torch"
    (record,) = caplog.records
    assert record.levelname == "DEBUG"
    wanted = "neighbours: backend torch for N=50000, D=512: exact on cpu, 1.3e+12 multiply-adds are at most 2e+14"
    assert record.message == wanted


def test_large_sets_are_approximate_on_a_cpu(caplog, with_faiss):
    with caplog.at_level(logging.DEBUG, "solo_gps"):
        assert choose(1_281_167, 768).config.backend == "faiss_ivf"
    numbers, words = caplog.records
    assert "approximate, 1.3e+15 multiply-adds are more than 2e+14" in numbers.message
    assert (numbers.levelname, words.levelname) == ("DEBUG", "INFO")
    assert words.message == (
        "neighbours: an exact search of 1,281,167 images would take more than about ten minutes here; faiss_ivf finds most "
        "neighbours sooner, and how many is measured (search.backend=torch finds all)"
    )
    assert choose(1_281_167, 768, radius=1.0).exact


def test_a_fallback_is_a_warning_with_the_reason(caplog, without_faiss):
    with caplog.at_level(logging.WARNING, "solo_gps"):
        assert choose(1_281_167, 768).config.backend == "torch"
    assert "No module named 'faiss'" in caplog.text
    assert "pip install 'solo-gps[cpu]'" in caplog.text


def test_on_a_gpu_exact_reaches_further(monkeypatch, with_faiss):
    monkeypatch.setattr("solo_gps.neighbours.choose.pick_device", lambda wanted: "cuda")
    assert choose(1_281_167, 768).config.backend == "torch"
    cuvs = Faiss(version="1.14.3", package="faiss-gpu-cuvs", gpus=1, cagra=True, reason="")
    monkeypatch.setattr("solo_gps.neighbours.choose.installed_faiss", lambda: cuvs)
    assert choose(100_000_000, 768).config.backend == "faiss_cagra"


@pytest.mark.parametrize(
    ("backend", "extra"), [("faiss", "cpu"), ("faiss_ivf", "cpu"), ("faiss_hnsw", "cpu"), ("faiss_gpu", "gpu")]
)
def test_a_backend_that_is_not_installed_names_its_extra(backend, extra, without_faiss):
    with pytest.raises(ConfigError, match=rf"search.backend={backend}: .*pip install 'solo-gps\[{extra}\]'"):
        find(embeddings(), {"backend": backend}, k=3)


def test_faiss_without_gpu_or_cagra_is_named(monkeypatch):
    monkeypatch.setattr(
        faiss_here, "installed_faiss", lambda: Faiss(version="1.9", package="faiss-cpu", gpus=0, cagra=False, reason="")
    )
    assert "Uninstall faiss-cpu" in faiss_missing(gpu=True)
    monkeypatch.setattr(
        faiss_here, "installed_faiss", lambda: Faiss(version="1.14", package="faiss-gpu", gpus=2, cagra=False, reason="")
    )
    assert faiss_missing(gpu=True) is None
    assert "cuVS" in faiss_missing(gpu=True, cagra=True)
    both = Faiss(version="1.14", package="faiss-cpu and faiss-gpu", gpus=2, cagra=False, reason="")
    monkeypatch.setattr(faiss_here, "installed_faiss", lambda: both)
    assert "overwrite each other" in faiss_missing()


def test_cuda_without_a_gpu():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"search.device='cuda': this machine has 0 CUDA devices"):
        resolve_search({"device": "cuda"})


def test_resolve_checks_names():
    assert resolve_search(None) == SearchConfig()
    assert resolve_search(OmegaConf.create({"backend": "torch"})).backend == "torch"
    with pytest.raises(UnknownNameError, match="Did you mean 'torch'"):
        resolve_search({"backend": "torhc"})
    with pytest.raises(ConfigError, match="solo-gps doctor"):
        resolve_search("torch")


def test_a_third_party_backend_is_found_and_held_to_its_promise(monkeypatch):
    class Farthest(SearchBackend):
        """Returns the worst candidates with an honest reach: the core must complete every row."""

        def fit(self, points):
            self.points = points

        def candidates(self, rows, count):
            distances = np.linalg.norm(self.points[rows, None] - self.points[None], axis=2)
            worst = np.argsort(-distances, axis=1)[:, :count]
            return Candidates(indices=worst, reach=np.zeros(len(rows)))

    class Careless(Farthest):
        """Leaves out one of the nearest, and says so by its reach: rows look whole that are not."""

        def candidates(self, rows, count):
            distances = np.linalg.norm(self.points[rows, None] - self.points[None], axis=2)
            order = np.argsort(distances, axis=1)
            left_out = np.take_along_axis(distances, order[:, 3:4], axis=1)[:, 0]
            return Candidates(indices=np.delete(order, 3, axis=1)[:, :count], reach=left_out * (1 - 1e-6))

    known = {**registered("register_search_backends"), "farthest": Farthest, "careless": Careless}
    for module in ("plugins", "neighbours.choose"):
        monkeypatch.setattr(f"solo_gps.{module}.registered", lambda hook: known)
    for name in ("farthest", "careless"):
        ours = find(embeddings(), {"backend": name}, k=5)
        assert ours.indices.tolist() == find(embeddings(), {"backend": "torch"}, k=5).indices.tolist(), name


@pytest.mark.parametrize("name", [*register_search_backends(), "auto"])
def test_config_file_lists_every_key_with_the_default(name):
    node = composed(f"+search={name}")["search"]
    assert node == {**dataclasses.asdict(SearchConfig()), "backend": name}


def test_every_field_is_explained():
    source = Path(sys.modules[SearchConfig.__module__].__file__).read_text()
    lines = source.splitlines()
    for field in dataclasses.fields(SearchConfig):
        number = next(n for n, line in enumerate(lines) if line.startswith(f"    {field.name}:"))
        assert lines[number + 1].startswith('    """'), field.name


def test_registering_imports_nothing_heavy():
    code = (
        "import sys, solo_gps.neighbours as n; n.register_search_backends(); "
        "print([m for m in ('torch', 'faiss', 'scipy', 'sklearn', 'igraph') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_duplicates_are_reported(caplog):
    array = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)
    array[[5, 9, 30]] = array[2]
    array[11] = array[10]
    report = duplicate_report(group_duplicates(array))
    assert (report.images, report.groups, report.largest) == (6, 2, 4)
    assert report.examples == ((2, 5, 9, 30), (10, 11))
    with caplog.at_level(logging.WARNING, "solo_gps"):
        find(Embeddings(array=array, fingerprint="f", folder=None, space="euclidean"), k=2)
    assert "6 images in 2 groups of exact duplicates (largest 4)" in caplog.text
    assert str(duplicate_report(group_duplicates(array[:2]))) == "no exact duplicates"


def test_groups_of_duplicates_against_unique():
    rng = np.random.default_rng(2)
    for dtype in (np.float32, np.float16):
        array = rng.integers(-1, 2, (5000, 5)).astype(dtype)
        groups = group_duplicates(array)
        _, first, inverse = np.unique(array, axis=0, return_index=True, return_inverse=True)
        assert groups.first.tolist() == sorted(first.tolist())
        assert (first[inverse.reshape(-1)] == groups.first[groups.group_of]).all()


class Gpus:
    """FAISS for two GPUs, as far as FaissGpu asks it; there is none where tests run."""

    StandardGpuResources = GpuMultipleClonerOptions = SimpleNamespace

    def __init__(self):
        self.asked = []

    def IndexFlatL2(self, columns):
        return columns

    def index_cpu_to_all_gpus(self, flat, co, ngpu):
        self.asked.append(("all", ngpu))
        return SimpleNamespace(add=lambda points: None)

    def index_cpu_to_gpu(self, resources, device, flat, options):
        self.asked.append(("one", device))
        return SimpleNamespace(add=lambda points: None)


@pytest.mark.parametrize(("world", "asked"), [(1, ("all", -1)), (2, ("one", 1))])
def test_each_of_several_ranks_has_the_points_on_its_own_gpu_alone(world, asked, monkeypatch):
    faiss = Gpus()
    monkeypatch.setattr(faiss_exact, "load_faiss", lambda: faiss)
    monkeypatch.setattr(faiss_exact, "pick_device", lambda name: "cuda:1")
    monkeypatch.setattr(faiss_exact, "training_ranks", lambda distributed: SimpleNamespace(world=world))
    backend = faiss_exact.FaissGpu(SearchConfig(backend="faiss_gpu"))
    backend.fit(np.eye(4, dtype=np.float32))
    assert faiss.asked == [asked]
    assert backend.device == "cuda:1"


@pytest.mark.parametrize("problem", [RuntimeError("libcublas.so.12 not found"), ImportError("none"), OSError("libgomp")])
def test_a_faiss_that_cannot_be_loaded_is_a_missing_one(problem, monkeypatch):
    """faiss-gpu without the libraries of CUDA raises RuntimeError."""
    load = builtins.__import__

    def refused(name, *args, **kwargs):
        if name == "faiss":
            raise problem
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refused)
    found = faiss_here.installed_faiss.__wrapped__()
    assert (found.version, found.reason) == (None, str(problem))


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    """FAISS itself would abort the process."""
    found = SimpleNamespace(version="1.15", package="faiss-gpu", gpus=2, cagra=False)
    monkeypatch.setattr(faiss_exact, "faiss_missing", lambda gpu: None)
    monkeypatch.setattr(faiss_exact, "installed_faiss", lambda: found)
    assert faiss_exact.FaissGpu.missing(SearchConfig(gpus=2)) is None
    assert "search.gpus=3, but FAISS sees 2 GPUs" in faiss_exact.FaissGpu.missing(SearchConfig(gpus=3))
