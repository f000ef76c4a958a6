"""How many devices a recipe asks for, and which."""

from __future__ import annotations

from omegaconf import DictConfig, ListConfig

from solo_gps.errors import ConfigError


def rank_count(recipe: DictConfig) -> int:
    """Number of processes that a recipe trains with: its devices on all of its nodes."""
    devices = recipe.get("devices")
    return device_count(1 if devices is None else devices, recipe.get("accelerator")) * int(recipe.get("num_nodes") or 1)


def device_count(devices: object, accelerator: str | None) -> int:
    """Number of devices of one node that a recipe's ``devices`` asks for: a number, a list of ids, or either as a string.

    Raises:
        ConfigError: ``devices`` is none of these, or asks for none.
    """
    if isinstance(devices, str):
        devices = devices.strip()
        if "," in devices:
            devices = [part for part in devices.split(",") if part.strip()]
        elif devices.lstrip("-").isdigit():
            devices = int(devices)
    if devices in ("auto", -1):
        count = _cuda_devices() or 1 if accelerator != "cpu" else 1
    elif isinstance(devices, int) and not isinstance(devices, bool):
        count = devices
    else:
        count = len(devices) if isinstance(devices, (list, tuple, ListConfig)) else 0
    if count < 1:
        raise ConfigError(f"devices={devices!r}: wanted a number of devices, a list of ids such as [0,1], or 'auto'.")
    return count


def gpus_asked(recipe: DictConfig) -> list[int]:
    """Numbers of the GPUs that a recipe's ``devices`` names; none where it only says how many, or trains elsewhere."""
    devices = recipe.get("devices")
    if recipe.get("accelerator") not in ("gpu", "cuda", "auto", None):
        return []
    if isinstance(devices, str) and "," in devices:  # as Lightning reads it
        devices = [part for part in devices.split(",") if part.strip()]
    if not isinstance(devices, (list, tuple, ListConfig)):
        return []
    numbers = [str(number).strip() for number in devices]
    return [int(number) for number in numbers] if all(map(str.isdecimal, numbers)) else []


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()
