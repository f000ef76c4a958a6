"""How many devices a recipe asks for, and what follows from it in either generation."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from solo_gps.errors import ConfigError
from solo_gps.hosts.detect import detect_host
from solo_gps.hosts.devices import device_count


@pytest.mark.parametrize(
    ("devices", "count"),
    [(1, 1), (3, 3), ("2", 2), ([0, 3], 2), ("0,", 1), ("0, 2,5", 3), ("auto", 1), (-1, 1), ("-1", 1)],
)
def test_devices_are_counted(devices, count):
    assert device_count(devices, "cpu") == count


@pytest.mark.parametrize("devices", [0, -2, [], "two", "", True, None, 1.5])
def test_devices_that_are_none(devices):
    with pytest.raises(ConfigError, match="devices="):
        device_count(devices, "cpu")


def test_auto_counts_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device_count("auto", "gpu") == 4
    assert device_count(-1, "gpu") == 4
    assert device_count("auto", "cpu") == 1


@pytest.mark.host
@pytest.mark.parametrize(
    ("accelerator", "devices", "count"),
    [
        ("cpu", 1, 1),
        ("cpu", 2, 2),
        ("cpu", "2", 2),
        ("cpu", [0], 1),
        ("cpu", -1, 1),
        ("auto", 2, 2),
        ("gpu", 3, 3),
        ("gpu", [0, 5], 2),
    ],
)
def test_the_rate_is_scaled_by_their_number_and_lightning_gets_what_was_asked(accelerator, devices, count, recipe):
    host = detect_host()
    one = host.complete(recipe(accelerator="cpu", devices=1))
    cfg = host.complete(recipe(accelerator=accelerator, devices=devices))
    assert cfg.optimizer.lr == pytest.approx(count * one.optimizer.lr)
    asked = host.trainer_kwargs(cfg)["devices"]
    assert OmegaConf.create([asked]) == OmegaConf.create([count if accelerator == "cpu" else devices])
