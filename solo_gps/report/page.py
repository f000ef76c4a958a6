"""An inspection as one HTML page that needs nothing else: no network, no script, any width, light and dark, on paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from solo_gps.errors import ConfigError
from solo_gps.evaluation.advice import percent
from solo_gps.evaluation.inspection import USUAL
from solo_gps.evaluation.neighbourhood import first_columns
from solo_gps.interfaces import ImageSet, NeighbourTable, name_of
from solo_gps.neighbours.filters.graph import in_degree
from solo_gps.report.findings import Findings
from solo_gps.report.summary import number, ranking, table
from solo_gps.runtime.files import check_can_write, write_text
from solo_gps.samplers.gps.config import CHOICES
from solo_gps.version import __version__

if TYPE_CHECKING:
    from solo_gps.report.drawing import Picture

TEMPLATE = "page.html.jinja"
PAGE = "report.html"
THUMBNAIL = 96
"""Pixels of the longer side; smaller images stay as they are."""
QUALITY = 70
POSITIVES = 10
"""Shown beside an anchor."""
ROWS, ALL_ROWS = 5, 20
"""Anchors of one kind that a prior is shown by, and of all priors together: so the page stays below 10 MB."""
SEED = 5


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image of the gallery.

    Attributes:
        source: A data URI.
        words: What it is, for who cannot see it.
        caption: Its class, or its number.
        right: Whether it has its anchor's class; ``None`` where that is not known.
    """

    source: str
    words: str
    caption: str
    right: bool | None


@dataclass(frozen=True, kw_only=True)
class Section:
    """Anchors of one kind.

    Attributes:
        title: Which they are.
        rows: Each anchor, and its positives, nearest first.
    """

    title: str
    rows: list[tuple[Shown, list[Shown]]]


def check_can_draw(mend: str) -> None:
    """Raises :class:`ConfigError` where a library is missing that the page needs; ``mend`` says how to go without."""
    if missing := missing_for_pages():
        raise ConfigError(f"the page needs {missing}: pip install 'solo-gps[report]', or {mend}.")


def missing_for_pages() -> str | None:
    """The first library that pages and pictures need and that is not installed."""
    return next((library for library in ("matplotlib", "jinja2") if find_spec(library) is None), None)


def write_page(seen: Findings, folder: Path, *, place: str, command: str) -> Path:
    """Writes the page, and its pictures as files of their own.

    Args:
        seen: The inspection.
        folder: Folder to write to; it is made.
        place: What the images are called in the title.
        command: What to type to see the same; empty where that is not known.

    Returns:
        The page.

    Raises:
        ConfigError: A library is missing.
        SoloGpsError: An image of the gallery cannot be read.
    """
    check_can_draw("take the numbers alone")
    check_can_write(folder, "folder")
    from solo_gps.report.pictures import pictures

    drawn = list(pictures(seen))
    page = rendered(
        TEMPLATE,
        seen=seen,
        place=place,
        command=command,
        rows=table(seen),
        ranked=ranking(seen),
        choices=CHOICES,
        pictures=drawn,
        galleries={name: gallery(seen, name) for name in seen.numbers},
        chance=min(1.0, USUAL / (len(seen.images) - 1)),
        positives=POSITIVES,
    )
    return save(page, drawn, folder)


def rendered(template: str, **values: Any) -> str:
    """A page from one of the templates beside this file.

    Args:
        template: Its name.
        **values: What it shows.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, number=number, uri=partial(_uri, "image/svg+xml"), whole=_whole)
    return environment.get_template(template).render(version=__version__, **values)


def save(page: str, drawn: Sequence[Picture], folder: Path) -> Path:
    """Writes a page, and its pictures as files of their own; returns the page's file."""
    save_pictures(drawn, folder)
    write_text(folder / PAGE, page.encode("utf-8", "backslashreplace").decode())  # a name may be no UTF-8
    return folder / PAGE


def save_pictures(drawn: Sequence[Picture], folder: Path) -> list[Path]:
    """Writes pictures for a light ground, in place of those that were drawn there before; returns their files."""
    from solo_gps.report.drawing import CREATOR

    for file in folder.glob("*.svg"):
        if f"<dc:title>{CREATOR}</dc:title>" in file.read_text("utf-8", "replace"):
            file.unlink()
    for picture in drawn:
        write_text(folder / f"{picture.name}.svg", picture.light)
    return [folder / f"{picture.name}.svg" for picture in drawn]


def gallery(seen: Findings, name: str) -> list[Section]:
    """Anchors of a prior with their nearest: some at random, the worst, the best, and the hubs."""
    count = max(1, min(ROWS, ALL_ROWS // len(seen.numbers)))
    show = lru_cache(maxsize=None)(partial(_thumbnail, seen.images))
    table = seen.tables[name]
    return [
        Section(title=title, rows=[_row(seen, table, int(anchor), show) for anchor in anchors])
        for title, anchors in chosen(seen, name, count)
        if len(anchors)
    ]


def chosen(seen: Findings, name: str, count: int) -> list[tuple[str, NDArray[np.int64]]]:
    """Which anchors are shown: by purity of their nearest where there are labels, else by how far the nearest is."""
    table, numbers = first_columns(seen.tables[name], USUAL), seen.numbers[name]
    order = np.random.default_rng(SEED).permutation(len(seen.images))  # the same for each prior; and ties by lot
    indices = np.asarray(table.indices)[order]
    if numbers.labelled:
        labels = np.asarray(seen.images.labels)
        judged = (indices >= 0) & (labels[indices] >= 0) & (labels[order] >= 0)[:, None]
        score = np.where(judged, labels[indices] == labels[order][:, None], 0).sum(axis=1) / np.maximum(judged.sum(axis=1), 1)
        able = judged.any(axis=1)
        kinds = (f"Worst: the fewest of the anchor's class among the {numbers.k} nearest", "Best: the most of the anchor's class")
    else:
        score = -np.asarray(table.distances[:, 0])[order]
        able = np.isfinite(score)
        kinds = ("Loneliest: the nearest is farthest away", "Closest: the nearest is nearest")
    ranked = order[able][np.argsort(score[able], kind="stable")]
    hubs = order[np.argsort(-in_degree(table)[order], kind="stable")]
    return [
        ("At random", order[:count]),
        (kinds[0], ranked[:count]),
        (kinds[1], ranked[::-1][:count]),
        (f"Hubs: most often among the {numbers.k} nearest of others", hubs[:count]),
    ]


def _row(seen: Findings, table: NeighbourTable, anchor: int, show: Any) -> tuple[Shown, list[Shown]]:
    neighbours = [int(index) for index in table.indices[anchor, :POSITIVES] if index >= 0]
    return _shown(seen, anchor, None, show), [_shown(seen, index, anchor, show) for index in neighbours]


def _shown(seen: Findings, index: int, anchor: int | None, show: Any) -> Shown:
    labels = seen.images.labels if seen.classes else None
    label, right = -1 if labels is None else int(labels[index]), None
    if labels is not None and anchor is not None and label >= 0 and labels[anchor] >= 0:
        right = bool(label == labels[anchor])
    caption = seen.classes.get(label, f"no. {index}")
    told = {None: "", True: ", the anchor's class", False: ", another class than the anchor's"}[right]
    role = "anchor" if anchor is None else "positive"
    named = f", {caption}" if label >= 0 else ""
    return Shown(source=show(index), words=f"{role}: {name_of(seen.images, index)}{named}{told}", caption=caption, right=right)


def _thumbnail(images: ImageSet, index: int) -> str:
    image = images.image(index).convert("RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=QUALITY)
    return _uri("image/jpeg", file.getvalue())


def _whole(text: str) -> str:
    """The text, with no line break between a number and its sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _uri(kind: str, content: bytes | str) -> str:
    data = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
