"""Which device the recipe's words mean here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from solo_gps.errors import ConfigError

if TYPE_CHECKING:
    import torch

LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Where launchers tell a process its number on its machine; torchrun's and Lightning's own says most."""
_of_run: list[int] = []


@contextmanager
def gpus_of_run(indices: Sequence[int]) -> Iterator[None]:
    """Within the block, the processes of this machine take these GPUs, in their order, and no others; all where none is named."""
    before = _of_run[:]
    _of_run[:] = indices
    try:
        yield
    finally:
        _of_run[:] = before


def device_of(name: str, key: str = "prior.device") -> torch.device:
    """Turns a word of the recipe into a device.

    Args:
        name: cpu; cuda:<n>; cuda: this rank's own GPU; or auto: the same, or the CPU where torch sees none.
        key: Where the word stands, for the error.

    Raises:
        ConfigError: There is no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{key}={name!r} is not a device; wanted auto, cpu, cuda or cuda:<n>.") from error
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ConfigError(
            f"{key}={name!r}: this machine has {found} CUDA devices for torch {torch.__version__}. Use auto or cpu."
        )
    return torch.device("cuda", _own_gpu(found)) if device.type == "cuda" and device.index is None else device


def _own_gpu(found: int) -> int:
    """Number of this rank's GPU, of those that torch sees: each rank that is started on a machine has one of its own."""
    rank = int(next((os.environ[name] for name in LOCAL_RANKS if os.environ.get(name)), "0"))
    if not _of_run:
        return rank % found
    index = _of_run[rank % len(_of_run)]
    if index >= found:
        raise ConfigError(f"devices={_of_run}: this machine has {found} CUDA devices, from 0 to {found - 1}.")
    return index


def pick_device(name: str) -> str:
    """Device for ``search.device``: ``"cpu"``, or ``"cuda:<n>"``; errors as above."""
    return str(device_of(name, "search.device"))


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16; older ones than Ampere only emulate it, slowly."""
    import torch

    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


@contextmanager
def borrowed(device: torch.device | str) -> Iterator[None]:
    """As :func:`current`; what was computed with in the block is given back to the GPU after it."""
    try:
        with current(device):
            yield
    finally:
        give_back(device)


def give_back(device: torch.device | str) -> None:
    """Gives back to a GPU what is not used any more there: training needs it."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def current(device: torch.device | str) -> Iterator[None]:
    """Within the block, what asks CUDA for no device by number is on this one; nothing where it is the CPU."""
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield
