"""All pairs of points whose cosine lies in a window: float32 products tile by tile, and one float64 formula for what is kept.

A pair belongs to a window by its cosine computed in float64 and rounded to float32, so that the result does not depend on device,
tile size or threads; the products only decide which pairs are looked at, with a margin for their rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from solo_gps.errors import DataError
from solo_gps.runtime.arrays import as_tensor, chunks
from solo_gps.runtime.determinism import true_float32

_LARGEST_SIDE = 4096  # larger tiles multiply no faster
_BYTES_PER_PRODUCT = 12  # the product, the masks, and the temporaries of comparisons


@dataclass(frozen=True, kw_only=True)
class CosinePairs:
    """The pairs of a window, sorted by (first, second), and what was seen on the way.

    Attributes:
        first: (P,) int32 row, the smaller of the two.
        second: (P,) int32 row.
        cosines: (P,) float32.
        above: Number of pairs above the window.
        examples: (E, 2) int32 rows of the pairs above the window with the largest cosines, those first.
        example_cosines: (E,) float32.
        lowest: Smallest cosine of all pairs.
        highest: Largest cosine of all pairs.
    """

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    cosines: NDArray[np.float32]
    above: int
    examples: NDArray[np.int32]
    example_cosines: NDArray[np.float32]
    lowest: float
    highest: float


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Products of some rows with some columns; every unordered pair of rows appears in exactly one tile of a pass.

    Attributes:
        row: First row.
        column: First column.
        products: (R, C) float32 cosines up to rounding; -inf where the pair is counted elsewhere, or is a row with itself.
    """

    row: int
    column: int
    products: torch.Tensor


class UnitRows:
    """K points of unit length, for products, beside the points as given, for exact cosines.

    Args:
        array: (K, D) float32 or float16, finite; kept, not copied.
        device: ``"cpu"`` or ``"cuda"``.
        memory_mib: Bound of the working memory of a pass, besides the points and their unit copy.

    Raises:
        DataError: Fewer than two rows, a value that is not finite, or a row of zeros.
    """

    def __init__(self, array: np.ndarray, *, device: str = "cpu", memory_mib: int = 512) -> None:
        if array.ndim != 2 or len(array) < 2 or array.shape[1] == 0:
            raise DataError(f"cosines of pairs: wanted at least 2 images with an embedding each, got an array {array.shape}.")
        self.array = array
        self._norms, unit = _normalise(array)
        self._unit = as_tensor(unit, device)
        self._device = device
        self._side = int(max(1, min(_LARGEST_SIDE, ((memory_mib << 20) / _BYTES_PER_PRODUCT) ** 0.5)))
        # Rounding of the unit rows and of a float32 sum of D products of unit rows.
        self.margin = (array.shape[1] + 8) * 2.0**-23

    def __len__(self) -> int:
        return len(self.array)

    def tiles(self, progress: Callable[[int], object] = lambda done: None) -> Iterator[Tile]:
        """Yields the upper triangle, tile by tile; a tile is valid until the next one is asked for.

        Args:
            progress: Called with the number of tiles done, 1, after each.
        """
        buffer: torch.Tensor | None = None
        for row, column in self._corners():
            rows, columns = self._unit[row : row + self._side], self._unit[column : column + self._side]
            buffer, products = _product(rows, columns, buffer)
            if row == column:
                products.masked_fill_(_not_above_diagonal(products), float("-inf"))
            yield Tile(row=row, column=column, products=products)
            progress(1)

    @property
    def number_of_tiles(self) -> int:
        """Tiles of one pass."""
        return sum(1 for _ in self._corners())

    def cosines(self, first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.float32]:
        """(P,) float32 cosines of pairs of rows: computed in float64 from the points as given, rounded once."""
        out = np.empty(len(first), np.float32)
        step = max(1, (2 << 20) // self.array.shape[1])
        for start in range(0, len(first), step):
            i, j = first[start : start + step], second[start : start + step]
            dots = np.einsum("pd,pd->p", self.array[i].astype(np.float64), self.array[j].astype(np.float64))
            out[start : start + step] = dots / (self._norms[i] * self._norms[j])
        return out

    def _corners(self) -> Iterator[tuple[int, int]]:
        for row in range(0, len(self.array), self._side):
            for column in range(row, len(self.array), self._side):
                yield row, column


def find_cosine_pairs(
    rows: UnitRows,
    low: float,
    high: float,
    *,
    max_pairs: int = 10_000_000,
    examples: int = 64,
    progress: Callable[[int], object] = lambda done: None,
) -> CosinePairs:
    """Finds all pairs with ``low <= cos <= high`` (thresholds rounded to float32), and counts those above.

    Time is that of K^2 D / 2 multiply-adds; memory is that of the points, one tile and the pairs found.

    Args:
        rows: K points.
        low: Lower threshold, inclusive.
        high: Upper threshold, inclusive.
        max_pairs: Most pairs that may be found.
        examples: Most pairs above the window to return.
        progress: Called after each tile.

    Raises:
        DataError: More than ``max_pairs`` pairs lie in the window.
    """
    collected = _Collector(rows, np.float32(low), np.float32(high), max_pairs, examples)
    for tile in rows.tiles(progress):
        collected.take(tile)
    return collected.result()


def sample_cosines(array: np.ndarray, *, images: int = 4096, seed: int = 0) -> NDArray[np.float32]:
    """Returns the sorted cosines of all pairs among at most ``images`` points, drawn with ``seed``.

    Args:
        array: (K, D) points; only those drawn are read.
        images: Most points to draw. All pairs of 4,096 points are 8.4 million cosines.
        seed: Seed of the draw.

    Returns:
        (P,) float32, ascending; up to the rounding of a float32 product.
    """
    if len(array) > images:
        array = array[np.sort(np.random.default_rng(seed).choice(len(array), images, replace=False))]
    found = [tile.products[torch.isfinite(tile.products)].cpu() for tile in UnitRows(array).tiles()]
    return np.sort(torch.cat(found).numpy())


class _Collector:
    """Keeps what :func:`find_cosine_pairs` returns while tiles go by."""

    def __init__(self, rows: UnitRows, low: np.float32, high: np.float32, max_pairs: int, examples: int) -> None:
        self._rows, self._low, self._high = rows, low, high
        self._max_pairs, self._most_examples = max_pairs, examples
        self._found = [(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))]
        self._number = self._above = 0
        self._lowest, self._highest = np.inf, -np.inf
        self._examples = np.empty((0, 2), np.int64)
        self._example_cosines = np.empty(0, np.float32)

    def take(self, tile: Tile) -> None:
        """Adds the pairs of one tile."""
        finite = tile.products if tile.row != tile.column else tile.products[torch.isfinite(tile.products)]
        if not finite.numel():
            return
        least, most = (float(value) for value in torch.aminmax(finite))
        self._lowest, self._highest = min(self._lowest, least), max(self._highest, most)
        margin = self._rows.margin
        if most >= self._low - margin:
            near = tile.products >= float(self._low) - margin
            if most > self._high + margin:
                near &= tile.products <= float(self._high) + margin
                self._count_above(tile, float(self._high) + margin, most)
            self._judge(tile, near)

    def _count_above(self, tile: Tile, bound: float, most: float) -> None:
        """Pairs that are above the window whatever the rounding."""
        number = int((tile.products > bound).count_nonzero())
        self._above += number
        full = len(self._examples) == self._most_examples
        kept = min(number, self._most_examples)
        if kept and not (full and most <= self._example_cosines[-1]):
            flat = torch.topk(tile.products.reshape(-1), kept).indices.cpu().numpy()
            width = tile.products.shape[1]
            self._remember(flat // width + tile.row, flat % width + tile.column)

    def _judge(self, tile: Tile, near: torch.Tensor) -> None:
        """Pairs that may be in the window: the exact cosine decides."""
        number = int(near.count_nonzero())
        if self._number + number > self._max_pairs + 1000:
            self._refuse(self._number + number)
        i, j = (axis.cpu().numpy() for axis in torch.nonzero(near, as_tuple=True))
        i, j = i + tile.row, j + tile.column
        cosines = self._rows.cosines(i, j)
        inside, above = (cosines >= self._low) & (cosines <= self._high), cosines > self._high
        self._number += int(inside.sum())
        if self._number > self._max_pairs:
            self._refuse(self._number)
        self._above += int(above.sum())
        self._found.append((i[inside].astype(np.int32), j[inside].astype(np.int32), cosines[inside]))
        self._remember(i[above], j[above])

    def _remember(self, i: np.ndarray, j: np.ndarray) -> None:
        cosines = np.concatenate([self._example_cosines, self._rows.cosines(i, j)])
        pairs = np.concatenate([self._examples, np.stack([i, j], axis=1)])
        order = np.lexsort((pairs[:, 1], pairs[:, 0], -cosines))[: self._most_examples]
        self._examples, self._example_cosines = pairs[order], cosines[order]

    def _refuse(self, number: int) -> None:
        raise DataError(
            f"pairs with a cosine from {self._low:g} to {self._high:g}: more than max_pairs={self._max_pairs:,} (at least "
            f"{number:,}; the largest cosine so far is {self._highest:.4f}). Raise `low`, narrow the window, draw fewer "
            "images, or raise max_pairs (16 bytes a pair)."
        )

    def result(self) -> CosinePairs:
        """Everything, sorted by (first, second)."""
        first, second, cosines = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        order = np.lexsort((second, first))
        return CosinePairs(
            first=first[order],
            second=second[order],
            cosines=cosines[order],
            above=self._above,
            examples=self._examples.astype(np.int32),
            example_cosines=self._example_cosines,
            lowest=float(self._lowest),
            highest=float(self._highest),
        )


def _normalise(array: np.ndarray) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """(K,) norms and (K, D) unit rows."""
    norms, unit = np.empty(len(array)), np.empty(array.shape, np.float32)
    for start, block in chunks(array):
        wide = block.astype(np.float64)
        some = np.sqrt(np.square(wide).sum(axis=1))
        if not np.isfinite(some).all():
            row = start + int(np.argmin(np.isfinite(some)))
            raise DataError(f"cosines of pairs: the embedding in row {row} is not finite. Mend the encoder, or drop the image.")
        if not some.all():
            row = start + int(np.argmin(some))
            raise DataError(
                f"cosines of pairs: the embedding in row {row} is a zero vector, which has no direction. Mend the encoder, "
                "or drop the image."
            )
        norms[start : start + len(block)] = some
        unit[start : start + len(block)] = wide / some[:, None]
    return norms, unit


def _product(rows: torch.Tensor, columns: torch.Tensor, buffer: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The buffer, made if there is none, and the (R, C) products in it."""
    if buffer is None:
        buffer = torch.empty(len(rows) * len(columns), dtype=torch.float32, device=rows.device)
    products = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
    with true_float32():  # the margin holds for float32 products
        torch.mm(rows, columns.T, out=products)
    return buffer, products


def _not_above_diagonal(products: torch.Tensor) -> torch.Tensor:
    return torch.ones(products.shape, dtype=torch.bool, device=products.device).tril_()
