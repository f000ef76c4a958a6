"""Exact search by blocked matrix products in torch, on CPU or CUDA.

Two things make it fast. The products run in bfloat16 where the machine multiplies that faster than float32 (tensor cores, AMX);
rounding is bounded row by row, so that the result is still proven, not hoped for. And no row of products is sorted:
points are dealt into stripes of 16, only the minimum of each stripe is ranked, and only the best stripes are looked into.
"""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np
import torch

from solo_gps.neighbours.backend import Candidates, SearchBackend
from solo_gps.runtime.arrays import as_tensor
from solo_gps.runtime.devices import computes_bfloat16, pick_device

STRIPE = 16
# Kernels of CUDA are fastest where rows of bfloat16 begin at multiples of 128 bytes, and count in 32 bits below this many.
ALIGNED = 64
MOST_PRODUCTS = 2**31 - 1
# Candidates for each neighbour, with bfloat16 products; the second where the first leaves too many rows unproven.
FACTORS = (1.3, 2.5)
# Completing a row costs one float32 row of products; above this share, more candidates, or float32 for all, cost less.
TOO_MANY_UNPROVEN = 0.05


class TorchExact(SearchBackend):
    """Needs nothing but torch."""

    exact = True

    def fit(self, points: np.ndarray) -> None:
        """Takes the points to the device, in the type that multiplies fastest there."""
        self.device = pick_device(self.config.device)
        self._points = points
        self._factor = FACTORS[0]
        self._operand = self._make_operand(bfloat16_pays(self.device, points.shape[1]))

    def candidates(self, rows: np.ndarray, count: int) -> Candidates:
        """Nearest by bfloat16 or float32 products."""
        at = torch.from_numpy(rows).to(self.device)
        keys, indices = self._operand.nearest(at, count)
        least = self._operand.reach(at, keys).cpu().numpy()
        return Candidates(indices=indices.cpu().numpy(), reach=least[:, -1], least=least)

    def surplus(self, count: int) -> int:
        """bfloat16 needs a gap of about 1 % between the last neighbour and the last candidate to prove a row."""
        return int(self._factor * count) + 8 if isinstance(self._operand, BFloat16Operand) else count + 8

    def observe(self, unproven: float) -> None:
        """Asks for more candidates, then turns to float32 products, when bfloat16 leaves too many rows unproven."""
        if unproven <= TOO_MANY_UNPROVEN or not isinstance(self._operand, BFloat16Operand):
            return
        if self._factor < FACTORS[-1]:
            self._factor = FACTORS[-1]
        else:
            self._operand = self._make_operand(False)

    def rows_per_block(self, points: int, count: int) -> int:
        """One row of products and what is opened of it."""
        row_bytes = self._operand.bytes_per_product * points + 96 * STRIPE * count
        most = 4096 if self.device == "cpu" else min(65536, MOST_PRODUCTS // (points + ALIGNED))
        return max(1, min(most, self.config.budget(self.device) // row_bytes))

    def _make_operand(self, narrow: bool) -> Operand:
        return (BFloat16Operand if narrow else Float32Operand)(as_tensor(self._points), self.device)


class Operand:
    """Points in the form that the products need, and what their rounding costs."""

    bytes_per_product: int

    def __init__(self) -> None:
        self._buffer: torch.Tensor | None = None

    def products(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, U) keys whose order is the order of distances up to rounding."""
        raise NotImplementedError

    def reach(self, rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """(B, C) float32 lower bound of the distance of a point with each of the (B, C) keys, or a larger key."""
        raise NotImplementedError

    def nearest(self, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C) smallest keys in order and their (B, C) int64 points."""
        return smallest(self.products(rows), count)

    def _room(self, rows: int, like: torch.Tensor) -> torch.Tensor:
        """One (rows, U) buffer for all blocks, U the rows of ``like``: fresh pages for each would cost as much as the product."""
        if self._buffer is None or len(self._buffer) < rows:
            self._buffer = like.new_empty((rows, len(like)))
        return self._buffer[:rows]


class Float32Operand(Operand):
    """Plain float32 products."""

    bytes_per_product = 6

    def __init__(self, points: torch.Tensor, device: str = "cpu") -> None:
        super().__init__()
        self.points = points.to(device)
        self.norms = (self.points * self.points).sum(1)

    def products(self, rows: torch.Tensor) -> torch.Tensor:
        """See :class:`Operand`."""
        out = self._room(len(rows), self.points)
        return torch.addmm(self.norms[None, :], self.points[rows], self.points.T, alpha=-2, out=out)

    def reach(self, rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """See :class:`Operand`."""
        norms = self.norms[rows, None]
        # Norms, product and two sums round (|x| + |y|)^2 by at most (D + 8) * 2^-24; doubled for the norms being rounded too.
        error = (self.points.shape[1] + 8) * 2.0**-23 * (norms.sqrt() + self.norms.max().sqrt()) ** 2
        return (keys + norms - error).clamp(min=0).sqrt()


class BFloat16Operand(Operand):
    """bfloat16 products of points with their own squared norms appended, so that a product is a squared distance.

    With b the rounded point and n1 + n2 + n3 its squared norm in three bfloat16 parts,
    [-2b, 1, 1, 1, n1, n2, n3] . [b', n1', n2', n3', 1, 1, 1] = |b - b'|^2. By the triangle inequality the distance of the points
    themselves is at least |b - b'| minus how far each of the two was rounded, which is known exactly.
    """

    bytes_per_product = 3

    def __init__(self, points: torch.Tensor, device: str = "cpu") -> None:
        super().__init__()
        columns = points.shape[1]
        width = -(-(columns + 6) // 32) * 32
        self.right = torch.zeros((-(-len(points) // ALIGNED) * ALIGNED, width), dtype=torch.bfloat16, device=device)
        self.norms = torch.empty(len(points), device=device)
        self.moved = torch.empty(len(points), device=device)
        for start in range(0, len(points), 1 << 14):
            piece = slice(start, start + (1 << 14))
            block = points[piece].to(device)
            rounded = block.bfloat16()
            filled = slice(start, start + len(block))
            self.right[filled, :columns] = rounded
            wide = rounded.float()
            norms = self.norms[piece] = torch.linalg.vector_norm(wide, dim=1).square_()
            # The difference itself is exact in float32; the margin is for its norm.
            self.moved[piece] = torch.linalg.vector_norm(wide.sub_(block), dim=1) * (1 + 2.0**-10)
            for part in range(3):
                self.right[filled, columns + part] = norms.bfloat16()
                norms = norms - norms.bfloat16().float()
        self.right[: len(points), columns + 3 : columns + 6] = 1
        self.columns = columns
        self.width = width

    def products(self, rows: torch.Tensor) -> torch.Tensor:
        """See :class:`Operand`."""
        block, columns = self.right[rows], self.columns
        left = block * -2
        left[:, columns : columns + 3] = 1
        left[:, columns + 3 : columns + 6] = block[:, columns : columns + 3]
        return torch.mm(left, self.right.T, out=self._room(len(rows), self.right))[:, : len(self.norms)]

    def nearest(self, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Compares the bits as integers, which is faster: the order is the same but for keys that rounding made negative.

        Those come first, and whenever one is the last that was kept, :meth:`reach` is 0 and nothing counts as proven.
        """
        bits, indices = smallest(self.products(rows).view(torch.int16), count)
        return bits.view(torch.bfloat16), indices

    def reach(self, rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """See :class:`Operand`."""
        norms = self.norms[rows, None]
        error = (self.width + 8) * 2.0**-23 * (norms.sqrt() + self.norms.max().sqrt()) ** 2
        # The output is rounded to 8 bits: by 2^-9 of itself, or by 2^-8 where the hardware truncates.
        rounded = (keys.float() * (1 - 2.0**-8) - error).clamp(min=0).sqrt()
        return rounded * (1 - 2.0**-20) - (self.moved[rows, None] + self.moved.max()) * (1 + 2.0**-20)


def smallest(keys: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` smallest keys of each row, in order.

    Args:
        keys: (B, U) float32 or int16.
        count: At most U.

    Returns:
        (B, count) keys, smallest first, and (B, count) int64 columns.
    """
    block, total = keys.shape
    stripes = total // STRIPE
    if stripes <= 2 * count:
        return torch.topk(keys, count, dim=1, largest=False)
    dealt = keys[:, : stripes * STRIPE].view(block, STRIPE, stripes)
    # The count smallest keys lie in the count stripes with the smallest minima: each of those holds one at least as small.
    best = torch.topk(dealt.amin(1), count, dim=1, largest=False, sorted=False).indices
    opened = torch.gather(dealt, 2, best[:, None, :].expand(block, STRIPE, count)).view(block, STRIPE * count)
    rest = keys[:, stripes * STRIPE :]
    values, place = torch.topk(torch.cat([opened, rest], 1), count, dim=1, largest=False)
    inside = place < STRIPE * count
    column = torch.gather(best, 1, torch.where(inside, place % count, 0))
    return values, torch.where(inside, (place // count) * stripes + column, place - STRIPE * count + stripes * STRIPE)


@lru_cache(maxsize=8)
def bfloat16_pays(device: str, columns: int) -> bool:
    """Times one product each way (some milliseconds); whether bfloat16 is at least as fast as float32 here."""
    if device != "cpu":
        return computes_bfloat16(torch.device(device))
    generator = torch.Generator().manual_seed(0)
    wide = torch.rand((4096, columns), generator=generator)
    narrow = wide.bfloat16()
    # Turn and turn about, and the best of each: other work on the machine must not decide.
    pairs = [(_seconds(narrow), _seconds(wide)) for _ in range(8)]
    return min(pair[0] for pair in pairs) < min(pair[1] for pair in pairs)


def _seconds(points: torch.Tensor) -> float:
    out = points.new_empty((256, len(points)))
    begun = time.perf_counter()
    torch.mm(points[:256], points.T, out=out)
    return time.perf_counter() - begun
