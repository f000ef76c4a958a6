"""From a stored image to 8-bit RGB: as solo-learn decodes it, but never by losing its values without being told how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from solo_gps.config import LARGEST_REAL, Keys, check_choice
from solo_gps.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from PIL.Image import Image

SCALES = ("own", "type", "fixed")
STORES = ("memory", "mapped")
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of one channel with more than 8 bits. solo-learn's ``convert("RGB")`` cuts them off at 0 and 255."""


class LostValuesError(DataError):
    """An image of more than 8 bits, and nothing says how its values become 8-bit ones. The message goes after the file's name."""


@dataclass(frozen=True, kw_only=True)
class Scaling(Keys):
    """What becomes of images with more than 8 bits."""

    scale: str | None = None
    """What becomes black and white in images of 16 bits or float: each image's ``own`` least and largest value, ``type`` (0 and 65535; of float 0 and 1), or ``fixed`` (low and high). null reads what fits 8 bits, and refuses the rest."""  # noqa: E501
    low: float | None = None
    """With ``scale=fixed``: the value that becomes black, as do those below it."""
    high: float | None = None
    """With ``scale=fixed``: the value that becomes white, as do those above it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None:
            check_choice("scale", self.scale, SCALES)
        given = [value for value in (self.low, self.high) if value is not None]
        if self.scale != "fixed" and given:
            raise ValueError("low and high belong to scale=fixed. Set it, or leave them out.")
        if self.scale == "fixed" and not (len(given) == 2 and given[0] < given[1]):
            raise ValueError(f"scale=fixed wants two numbers low < high, got low={self.low} and high={self.high}.")

    def identity(self) -> dict[str, Any]:
        """What makes other pixels of the same stored bytes; empty where they are solo-learn's."""
        return {} if self.scale is None else {"images": {"scale": self.scale, "low": self.low, "high": self.high}}


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(Scaling):
    """Keys under ``images``."""

    store: str | None = None
    """Decode each image once, and keep its pixels: in `memory` while the run lasts, or `mapped` from files beside the prior's cache, for every run. null decodes anew each time an image is shown."""  # noqa: E501

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.store is not None:
            check_choice("store", self.store, STORES)


def decoded(image: Image, config: Scaling) -> Image:
    """Returns an opened image as RGB of 8 bits.

    Args:
        image: As Pillow opened it.
        config: How values of more than 8 bits are scaled.

    Raises:
        LostValuesError: They would be lost.
    """
    if image.mode not in DEEP:
        return image.convert("RGB")
    import numpy as np

    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())  # nan where one is
    if not math.isfinite(high - low):
        raise LostValuesError("has values that are not finite. Mend or remove it.")
    if config.scale is None:
        if fits_8_bits(values):
            return image.convert("RGB")
        key = "+images" if getattr(config, "store", None) is None else "images.scale"  # a group is typed once
        raise LostValuesError(
            f"has values from {low:g} to {high:g} (mode {image.mode}), which solo-learn cuts off at 0 and 255. Say what becomes "
            f"black and white: {', or '.join(_offers(key, image.mode, low, high))}."
        )
    return _scaled(values, *_ends(image.mode, config, low, high))


def fits_8_bits(values: np.ndarray) -> bool:
    """Whether ``convert("RGB")`` keeps (H, W) values as they are: whole numbers from 0 to 255, and no float image of 0 and 1."""
    import numpy as np

    if values.min() < 0 or values.max() > 255:
        return False
    return values.dtype.kind != "f" or (bool((values == np.rint(values)).all()) and values.max() != 1)


def _offers(key: str, mode: str, low: float, high: float) -> Iterator[str]:
    """What may be set for an image with such values."""
    yield f"{key}=own (each image's own least and largest)"
    if low >= 0 and high <= _white(mode):
        yield f"{key}=type (0 and {_white(mode)})"
    white = high if high > low else low + 1
    if -LARGEST_REAL <= low < white <= LARGEST_REAL:
        yield f"{key}=fixed images.low={low!r} images.high={white!r}"


def _white(mode: str) -> int:
    return 1 if mode == "F" else 65535


def _ends(mode: str, config: Scaling, low: float, high: float) -> tuple[float, float]:
    if config.scale == "own":
        return low, high
    if config.low is not None and config.high is not None:
        return config.low, config.high
    white = _white(mode)
    if low < 0 or high > white:
        raise LostValuesError(
            f"has values from {low:g} to {high:g} (mode {mode}), but images.scale=type takes 0 for black and {white} for white. "
            "Set images.scale=own or fixed."
        )
    return 0.0, float(white)


def _scaled(values: np.ndarray, low: float, high: float) -> Image:
    import numpy as np
    from PIL import Image

    share = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    grey = np.rint(share.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
