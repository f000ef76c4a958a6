"""Which device each part of a run takes, by what the recipe and the launcher say; no GPU is touched."""

from __future__ import annotations

import os

import pytest
import torch
from omegaconf import OmegaConf

import solo_gps
from solo_gps.errors import ConfigError
from solo_gps.hosts.devices import gpus_asked
from solo_gps.neighbours.choose import resolve_search
from solo_gps.priors.pixels import PixelsEncoder as Pixels
from solo_gps.runtime.devices import LOCAL_RANKS, computes_bfloat16, device_of, gpus_of_run, pick_device

SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}


@pytest.fixture
def four_gpus(monkeypatch):
    for name in (*LOCAL_RANKS, "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    return monkeypatch


@pytest.mark.parametrize(
    ("devices", "environment", "index"),
    [
        ([], {}, 0),
        ([], {"LOCAL_RANK": "2"}, 2),
        ([], SLURM, 1),
        ([], {**SLURM, "LOCAL_RANK": "3"}, 3),
        ([], {"OMPI_COMM_WORLD_LOCAL_RANK": "2"}, 2),
        ([3], {}, 3),
        ([2, 3], {"LOCAL_RANK": "1"}, 3),
        ([2, 3], SLURM, 3),
        ([1], SLURM, 1),
    ],
)
def test_prior_and_search_take_the_gpu_of_their_rank(devices, environment, index, four_gpus):
    for name, value in environment.items():
        four_gpus.setenv(name, value)
    with gpus_of_run(devices):
        for word in ("auto", "cuda"):
            assert device_of(word) == torch.device("cuda", index)
            assert pick_device(word) == f"cuda:{index}"
        assert pick_device("cuda:2") == "cuda:2"
        assert pick_device("cpu") == "cpu"
        assert resolve_search({"device": "cuda:3"}).device == "cuda:3"
    assert device_of("cuda:0") == torch.device("cuda", 0)


def test_a_gpu_that_is_not_there_is_one_error(four_gpus):
    with gpus_of_run([5]), pytest.raises(ConfigError, match=r"devices=\[5\]: this machine has 4 CUDA devices, from 0 to 3"):
        device_of("auto")
    with pytest.raises(ConfigError, match=r"search\.device='cuda:4': this machine has 4 CUDA devices"):
        resolve_search({"device": "cuda:4"})
    with pytest.raises(ConfigError, match="device='cuda:x' is not one of auto, cpu, cuda"):
        resolve_search({"device": "cuda:x"})


@pytest.mark.parametrize(
    ("devices", "accelerator", "asked"),
    [
        ([1], "gpu", [1]),
        ("2,3", "gpu", [2, 3]),
        ("1,", "cuda", [1]),
        ([0, 2], "auto", [0, 2]),
        (2, "gpu", []),
        ("2", "gpu", []),
        ("auto", "gpu", []),
        ([1], "cpu", []),
        (["a"], "gpu", []),
    ],
)
def test_the_recipe_names_gpus_by_a_list_alone(devices, accelerator, asked):
    assert gpus_asked(OmegaConf.create({"devices": devices, "accelerator": accelerator})) == asked


@pytest.mark.host
def test_a_guided_run_takes_the_gpus_of_its_recipe(recipe, four_gpus):
    """A run that was given GPU 1 embeds and searches there, and afterwards nothing is left of it."""
    four_gpus.setattr("solo_gps.guide.switch.rehearse", lambda *_: None)  # Lightning would look for the GPUs itself
    cfg = recipe(sampler={"gps": {"k": 3}}, prior={"name": "pixels", "image_size": 8}, accelerator="gpu", devices=[1])
    with solo_gps.activate(cfg):
        assert device_of("auto") == torch.device("cuda", 1)
        assert pick_device("auto") == "cuda:1"
    assert device_of("auto") == torch.device("cuda", 0)


@pytest.mark.host
def test_a_deterministic_run_says_so_before_its_first_product(recipe, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    nodes = {"sampler": {"gps": {"k": 3}}, "prior": {"name": "pixels", "image_size": 8}}
    with solo_gps.activate(recipe(**nodes)):
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with solo_gps.activate(recipe(**nodes, deterministic=True)):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    del os.environ["CUBLAS_WORKSPACE_CONFIG"]


@pytest.mark.parametrize(("capability", "precision"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp32")])
def test_bfloat16_is_for_those_that_compute_in_it(capability, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    prior = Pixels(Pixels.config_class(name="pixels", precision="auto"))
    prior.device = torch.device("cuda:1")
    assert prior.precision == precision
    assert not computes_bfloat16(torch.device("cpu"))
