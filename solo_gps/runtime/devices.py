"""Which device the recipe's words mean here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from solo_gps.errors import ConfigError

if TYPE_CHECKING:
    import torch


def device_of(name: str, key: str = "prior.device") -> torch.device:
    """Turns a word of the recipe into a device.

    Args:
        name: cpu, cuda, cuda:<n>, or auto: this rank's own GPU, or the CPU where torch sees none.
        key: Where the word stands, for the error.

    Raises:
        ConfigError: There is no such device here.
    """
    import torch

    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        # Each rank that torchrun, Lightning or Slurm starts on a machine has a GPU of its own.
        rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        return torch.device("cuda", int(rank) % torch.cuda.device_count())
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{key}={name!r} is not a device; wanted auto, cpu, cuda or cuda:<n>.") from error
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ConfigError(
            f"{key}={name!r}: this machine has {found} CUDA devices for torch {torch.__version__}. Use auto or cpu."
        )
    return device


def pick_device(name: str) -> str:
    """Type of the device for ``search.device``: ``"cpu"``, or ``"cuda"``, torch's device of the moment; errors as above."""
    return device_of(name, "search.device").type
