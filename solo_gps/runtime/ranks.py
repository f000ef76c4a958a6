"""The processes that work together: this one alone, those that train together, or those that torchrun started."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from solo_gps.errors import ConfigError

if dist.is_available() and not dist.is_initialized():
    # DistributedDataParallel imports it, and its functions keep the group that there is at that moment for ever: before any.
    import torch.distributed.nn

PATIENCE = timedelta(days=7)
"""How long a rank waits for the others: a large model may take days."""


class Ranks:
    """This process among ``world`` ones.

    Args:
        rank: Number of this process, from 0.
        world: Number of processes.
        group: Process group (gloo) of all of them, ``None`` when alone.
    """

    def __init__(self, rank: int = 0, world: int = 1, group: Any = None) -> None:
        self.rank, self.world, self._group = rank, world, group

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, value: Any, error: BaseException | None = None) -> Any:
        """Returns rank 0's ``value`` in every rank; all ranks must call it.

        Args:
            value: Plain values (numbers, strings, lists); read from rank 0.
            error: What went wrong in rank 0, raised there again; the other ranks then raise :class:`ConfigError`.
        """
        if self.world == 1:
            if error is not None:
                raise error
            return value
        box = [(value, None if error is None else str(error))]
        dist.broadcast_object_list(box, src=0, group=self._group)
        if error is not None:
            raise error
        value, message = box[0]
        if message is not None:
            raise ConfigError(f"rank 0 failed: {message}")
        return value

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the (B, ...) rows of all ranks one after the other, without gradient; B is the same in all of them."""
        if self.world == 1:
            return rows
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.world)]
        dist.all_gather(parts, rows.contiguous(), group=self._group)
        return torch.cat(parts)

    def gather_numbers(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the (P, ...) int64 numbers of all ranks one after the other; P may differ."""
        if self.world == 1:
            return numbers
        lengths = self.gather(len(numbers))
        nccl = dist.get_backend(self._group) == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        padded = torch.zeros((max(1, *lengths), *numbers.shape[1:]), dtype=torch.int64, device=device)
        padded[: len(numbers)] = torch.from_numpy(numbers)
        parts = self.gather_rows(padded).cpu().split(len(padded))
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)]).numpy()

    def share_of(self, total: int) -> range:
        """Consecutive ones of ``total`` rows, for this rank; shares differ by at most one row."""
        return range(total * self.rank // self.world, total * (self.rank + 1) // self.world)

    def all_agree(self, error: BaseException | None = None) -> None:
        """Waits for every rank; when one brings an error, every rank raises."""
        messages = self.gather(None if error is None else str(error))
        if error is not None:
            raise error
        failed = [f"rank {rank}: {message}" for rank, message in enumerate(messages) if message is not None]
        if failed:
            raise ConfigError("another rank failed: " + "; ".join(failed))

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Has every rank raise when one does in the block: else the others would wait for it in the next collective."""
        try:
            yield
        except Exception as error:
            self.all_agree(error)
            raise
        self.all_agree()


def training_ranks(distributed: bool = True) -> Ranks:
    """The ranks that train together, in torch.distributed's own group; this process alone without it, or if not wanted."""
    if not (distributed and dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)


def leave_at_exit() -> None:
    """Has this process leave the group that it trained in when it ends (gloo's; Lightning leaves that of NCCL).

    Else a thread of gloo that has yet to free its last exchange asks for the interpreter while that ends, and the process aborts
    after all is done: "terminate called without an active exception".
    """
    if training_ranks().world > 1 and dist.get_backend() == "gloo":
        _register_leave()


@cache
def _register_leave() -> None:
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        gc.collect()  # what still holds the group keeps its threads alive
        dist.destroy_process_group()


def under_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


@contextmanager
def torchrun_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun started, joined by gloo while the context lasts; this process alone without torchrun."""
    if not under_torchrun():
        yield Ranks()
        return
    own = not dist.is_initialized()
    if own:
        dist.init_process_group("gloo", timeout=PATIENCE)
    group = dist.group.WORLD if own else dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), group)
    finally:
        dist.destroy_process_group(None if own else group)
