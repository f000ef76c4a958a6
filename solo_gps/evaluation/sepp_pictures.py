"""Pictures that samplers ask for: drawn once, and their place logged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from solo_gps.evaluation.gallery import gallery
from solo_gps.interfaces import ImageSet
from solo_gps.samplers.base import Exhibit

log = logging.getLogger(__name__)


def draw_exhibits(exhibits: Sequence[Exhibit], images: ImageSet) -> list[Path]:
    """Writes each exhibit as a PNG (see :func:`solo_gps.evaluation.gallery.gallery`) and logs its path.

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
