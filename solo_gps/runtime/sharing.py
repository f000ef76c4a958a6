"""Query blocks shared among the ranks of torch.distributed; without it, one rank that has everything."""

from __future__ import annotations

import numpy as np


def size(distributed: bool = True) -> int:
    """Number of ranks."""
    group = _group() if distributed else None
    return group.get_world_size() if group else 1


def rank(distributed: bool = True) -> int:
    """Number of this rank."""
    group = _group() if distributed else None
    return group.get_rank() if group else 0


def share_of(total: int, distributed: bool = True) -> range:
    """Consecutive rows of this rank; shares differ by at most one row."""
    number, of = rank(distributed), size(distributed)
    return range(total * number // of, total * (number + 1) // of)


def gather_rows(rows: np.ndarray, total: int, distributed: bool = True) -> np.ndarray:
    """Puts the shares of all ranks together.

    Args:
        rows: (share, C) int64 of this rank.
        total: Rows of all ranks.
        distributed: Whether the work was shared.

    Returns:
        (total, C) int64, the same on every rank.
    """
    group = _group() if distributed else None
    if group is None or group.get_world_size() == 1:
        return rows
    import torch

    of = group.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if group.get_backend() == "nccl" else torch.device("cpu")
    longest = -(-total // of)
    padded = torch.zeros((longest, rows.shape[1]), dtype=torch.int64, device=device)
    padded[: len(rows)] = torch.from_numpy(rows).to(device)
    parts = [torch.empty_like(padded) for _ in range(of)]
    group.all_gather(parts, padded)
    lengths = [total * (number + 1) // of - total * number // of for number in range(of)]
    return torch.cat([part[:length].cpu() for part, length in zip(parts, lengths, strict=True)]).numpy()


def gather_ragged(values: np.ndarray, distributed: bool = True) -> np.ndarray:
    """Puts the (P,) int64 values of all ranks one after the other; P may differ."""
    of = size(distributed)
    if of == 1:
        return values
    lengths = gather_rows(np.array([[len(values)]]), of)[:, 0]
    padded = np.zeros((int(lengths.max()), 1), np.int64)
    padded[: len(values), 0] = values
    parts = gather_rows(padded, of * len(padded)).reshape(of, -1)
    return np.concatenate([part[:length] for part, length in zip(parts, lengths, strict=True)])


def largest(value: int, distributed: bool = True) -> int:
    """Returns the largest of the ranks' values, on every rank."""
    return int(gather_rows(np.array([[value]]), size(distributed), distributed).max())


def first_says(answer: bool) -> bool:
    """Returns rank 0's answer on every rank."""
    answers = [answer]
    group = _group()
    assert group is not None
    group.broadcast_object_list(answers, src=0)
    return answers[0]


def wait() -> None:
    """Waits until every rank is here."""
    group = _group()
    assert group is not None
    group.barrier()


def _group():  # type: ignore[no-untyped-def]
    """torch.distributed when it is initialised, else ``None``."""
    import torch.distributed as dist

    return dist if dist.is_available() and dist.is_initialized() else None
