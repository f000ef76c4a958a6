"""The support set of pNN: a first-in-first-out queue of keys that knows whose they are, and how neighbours are chosen in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from solo_gps.errors import SoloGpsError
from solo_gps.runtime.ranks import training_ranks

NOBODY = -1


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The Q rows among which neighbours are looked for.

    Attributes:
        keys: (Q, D) embeddings.
        label: (Q,) int64 class, -1 where unknown.
        index: (Q,) int64 image index, -1 where the row shows none.
        born: (Q,) int64 number of the step in which the row was written.
        offset: (Q,) added to the products of queries and keys, or ``None``; see :func:`similarity`.
    """

    keys: Tensor
    label: Tensor
    index: Tensor
    born: Tensor
    offset: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The neighbours that were chosen for B anchors.

    Attributes:
        neighbour: (B, D), or (B, K, D) where the host takes K, the neighbour; the anchor itself where nothing was found.
        rows: (B, K) int64 rows of the queue that it was made of.
        valid: (B, K) bool, which of them are real.
    """

    neighbour: Tensor
    rows: Tensor
    valid: Tensor


class RowRecord(nn.Module):
    """Which image each row of a queue of Q keys shows, and when it came; written in step with the queue itself.

    Attributes:
        index: (Q,) int64 image index, -1 where the row was never written.
        born: (Q,) int64 number of the step in which the row was written.
        steps: () int64 number of steps so far.
    """

    index: Tensor
    born: Tensor
    steps: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("index", torch.full((size,), NOBODY, dtype=torch.long))
        self.register_buffer("born", torch.zeros(size, dtype=torch.long))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        # Numbers kept beside the buffers, so that no step waits for the device to read them.
        self.step = 0
        self.filled = 0

    def write(self, pointer: int, index: Tensor) -> None:
        """Notes that the images ``index`` (n,) were written from row ``pointer`` on, round the ring."""
        for rows, part in ring_slices(pointer, len(index), self.size):
            self.index[rows] = index[part]
            self.born[rows] = self.step
        self.filled = min(self.size, self.filled + len(index))

    def tick(self) -> None:
        """Counts a step."""
        self.step += 1
        self.steps.fill_(self.step)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state.get(f"{prefix}index")
        if saved is not None and len(saved) != self.size:
            raise SoloGpsError(
                f"the checkpoint's support set of sampler.pnn has {len(saved)} rows, this run's {self.size}. Set "
                f"sampler.pnn.queue_size={len(saved)} (nnclr, nnbyol, nnsiam, all4one: method_kwargs.queue_size)."
            )
        super()._load_from_state_dict(state, prefix, *args)
        self.step = int(self.steps)
        self.filled = int((self.index != NOBODY).sum())


class SupportSet(RowRecord):
    """A ring of the last Q keys, with label and image of each; only rows that were written are searched.

    Args:
        size: Number of rows Q.
        dimension: Length D of a key.
        sphere: Keys are compared by direction (cosine); else by Euclidean distance.

    Attributes:
        z: (Q, D) float32 keys, of unit length when ``sphere``.
        label: (Q,) int64 class, -1 where unknown.
        offset: (Q,) float32 what is added to ``query . row``: ``-|row|^2 / 2`` for Euclidean distance, else 0.
        pointer: () int64 row that is written next.
    """

    z: Tensor
    label: Tensor
    offset: Tensor
    pointer: Tensor

    def __init__(self, size: int, dimension: int, *, sphere: bool) -> None:
        super().__init__(size)
        self.sphere = sphere
        self.register_buffer("z", torch.zeros(size, dimension))
        self.register_buffer("label", torch.full((size,), -1, dtype=torch.long))
        self.register_buffer("offset", torch.zeros(size), persistent=False)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self._next = 0

    @torch.no_grad()
    def push(self, z: Tensor, label: Tensor, index: Tensor) -> None:
        """Writes the keys of all ranks: (B, D) keys, (B,) labels and (B,) image indices of this one."""
        z, label, index = gather_rows(z.detach().float()), gather_rows(label), gather_rows(index)
        if self.sphere:
            z = nn.functional.normalize(z, dim=1)
        for rows, part in ring_slices(self._next, len(z), self.size):
            self.z[rows] = z[part]
            self.label[rows] = label[part]
            self.offset[rows] = self._offset(z[part])
        self.write(self._next, index)
        self._next = (self._next + len(z)) % self.size
        self.pointer.fill_(self._next)

    def pool(self) -> Pool:
        """Returns the rows written so far."""
        rows = slice(self.filled)
        offset = None if self.sphere else self.offset[rows]
        return Pool(keys=self.z[rows], label=self.label[rows], index=self.index[rows], born=self.born[rows], offset=offset)

    def _offset(self, z: Tensor) -> Tensor | float:
        return 0.0 if self.sphere else euclidean_offset(z)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state, prefix, *args)
        self._next = int(self.pointer)
        self.offset[:] = self._offset(self.z)


def ring_slices(pointer: int, count: int, size: int) -> list[tuple[slice, slice]]:
    """Splits the writing of ``count`` new rows into a ring: pairs of (rows of the ring, rows of the new), the last ones kept."""
    skip = max(0, count - size)
    start = (pointer + skip) % size
    first = min(size - start, count - skip)
    pieces = [(slice(start, start + first), slice(skip, skip + first))]
    if skip + first < count:
        pieces.append((slice(0, count - skip - first), slice(skip + first, count)))
    return pieces


def similarity(query: Tensor, rows: Tensor, offset: Tensor | None) -> Tensor:
    """Returns the (B, Q) similarity of (B, D) queries with (Q, D) rows; the largest is the nearest.

    By cosine without an ``offset`` (rows of unit length; the length of a query does not change its order), by Euclidean distance
    with the (Q,) :func:`euclidean_offset` of the rows.
    """
    return query @ rows.T if offset is None else torch.addmm(offset, query, rows.T)


def euclidean_offset(rows: Tensor) -> Tensor:
    """Returns (Q,) ``-|row|^2 / 2``: added to ``query . row`` it orders the rows by their distance to the query."""
    return rows.square().sum(dim=1) / -2


def nearest_rows(scores: Tensor, k: int, blocked: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns (B, K) rows, nearest first, and (B, K) which are real; K is ``k`` or the number of rows, if that is less.

    Args:
        scores: (B, Q) similarity; overwritten where blocked.
        k: Number of neighbours.
        blocked: (B, Q) bool, rows that an anchor may not choose.
    """
    if scores.shape[1] == 0:
        empty = torch.zeros(len(scores), 1, dtype=torch.long, device=scores.device)
        return empty, torch.zeros_like(empty, dtype=torch.bool)
    if blocked is not None:
        scores = scores.masked_fill_(blocked, -torch.inf)
    if k == 1:
        best, rows = scores.max(dim=1, keepdim=True)
    else:
        best, rows = scores.topk(min(k, scores.shape[1]), dim=1)
    valid = torch.ones_like(rows, dtype=torch.bool) if blocked is None else best > -torch.inf
    return rows, valid


def combine(keys: Tensor, z: Tensor, rows: Tensor, valid: Tensor, *, average: bool, generator: torch.Generator) -> Choice:
    """Makes one neighbour of the K nearest: their mean, or one drawn uniformly.

    Args:
        keys: (Q, D) all keys.
        z: (B, D) anchors, returned where nothing is valid.
        rows: (B, K) rows, the valid ones first.
        valid: (B, K) bool.
        average: Mean of the valid rows; else one of them is drawn.
        generator: Source of the draw, on the device of ``z``; not used when K is 1.
    """
    if len(keys) == 0:
        return Choice(neighbour=z, rows=rows, valid=valid)
    if rows.shape[1] > 1 and not average:
        draws = torch.rand(len(rows), 1, generator=generator, device=rows.device)
        column = (draws * valid.sum(dim=1, keepdim=True)).long()
        rows, valid = rows.gather(1, column), valid.gather(1, column)
    if rows.shape[1] == 1:
        neighbour = keys[rows[:, 0]]
    else:
        weight = valid.to(keys.dtype).unsqueeze(2)
        neighbour = (keys[rows] * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
    found = valid.any(dim=1, keepdim=True)
    return Choice(neighbour=torch.where(found, neighbour, z.to(neighbour.dtype)), rows=rows, valid=valid)


def gather_rows(x: Tensor) -> Tensor:
    """Returns the rows of all ranks, in the order of the ranks, without gradient."""
    return training_ranks().gather_rows(x)
