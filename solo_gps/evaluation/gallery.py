"""A picture of anchors beside their positives, for those who would rather look than read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from solo_gps.interfaces import Exhibit, ImageSet
from solo_gps.runtime.files import whole_file

log = logging.getLogger(__name__)

TILE = 64
MARGIN = 6
SAME, OTHER, NEUTRAL = (34, 139, 87), (200, 60, 50), (120, 120, 120)


def gallery(
    images: ImageSet,
    anchors: Sequence[int],
    positives: NDArray[np.integer],
    path: Path,
    *,
    title: str = "anchor | positives",
) -> Path:
    """Writes a PNG of :func:`draw_gallery`, in a folder that is made, and returns its path."""
    with whole_file(path) as unfinished:
        draw_gallery(images, anchors, positives, title=title).save(unfinished, format="PNG")
    return path


def draw_gallery(
    images: ImageSet, anchors: Sequence[int], positives: NDArray[np.integer], *, title: str = "anchor | positives"
) -> Image.Image:
    """Draws one row an anchor: first the anchor, then its positives.

    A positive's frame is green when it has the anchor's label, red and crossed at a corner when it has another, grey when a
    label is unknown.

    Args:
        images: The N raw images.
        anchors: R image indices.
        positives: (R, P) image indices, -1 for none.
        title: Line above the rows.
    """
    rows, columns = positives.shape
    cell = TILE + 2 * MARGIN
    sheet = Image.new("RGB", ((columns + 1) * cell + MARGIN, rows * cell + 22), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 5), title, fill="black")
    for row, anchor in enumerate(anchors):
        _tile(sheet, draw, images, int(anchor), (0, row), (0, 0, 0))
        for column, positive in enumerate(positives[row]):
            if positive >= 0:
                _tile(sheet, draw, images, int(positive), (column + 1, row), _frame(images, anchor, positive))
    return sheet


def draw_exhibits(exhibits: Sequence[Exhibit], images: ImageSet) -> list[Path]:
    """Writes each exhibit as a PNG (see :func:`gallery`) and logs its path.

    Args:
        exhibits: What a sampler found worth looking at.
        images: The N raw images.

    Returns:
        The paths, absolute.
    """
    paths = []
    for exhibit in exhibits:
        path = gallery(images, exhibit.anchors.tolist(), exhibit.positives, exhibit.path.absolute(), title=exhibit.title)
        log.info("picture: %s (%s)", path, exhibit.title)
        paths.append(path)
    return paths


def _tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    images: ImageSet,
    index: int,
    place: tuple[int, int],
    colour: tuple[int, int, int],
) -> None:
    cell = TILE + 2 * MARGIN
    gap = MARGIN if place[0] == 0 else 2 * MARGIN
    left, top = place[0] * cell + gap, place[1] * cell + 22 + MARGIN
    tile = images.image(index).convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST)
    draw.rectangle((left - 3, top - 3, left + TILE + 2, top + TILE + 2), fill=colour)
    sheet.paste(tile, (left, top))
    if colour == OTHER:  # for those who do not tell the colours apart
        right = left + TILE
        draw.rectangle((right - 13, top, right, top + 13), fill=colour)
        draw.line((right - 10, top + 3, right - 3, top + 10), fill="white", width=2)
        draw.line((right - 3, top + 3, right - 10, top + 10), fill="white", width=2)


def _frame(images: ImageSet, anchor: int, positive: int) -> tuple[int, int, int]:
    labels = images.labels
    if labels is None or labels[anchor] < 0 or labels[positive] < 0:
        return NEUTRAL
    return SAME if labels[anchor] == labels[positive] else OTHER
