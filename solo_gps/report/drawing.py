"""Drawing: SVG pictures for paper and for a dark screen, each with the words for who cannot see it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

THEMES = {
    "light": {
        "ground": "#ffffff",
        "ink": "#1b1f24",
        "grid": "#c9ced6",
        "lines": ("#0b62a4", "#b3470b", "#1c7a4f", "#7a3fa0", "#8a6d00", "#a3245e"),
    },
    "dark": {
        "ground": "#14171a",
        "ink": "#e8eaed",
        "grid": "#4a5058",
        "lines": ("#6db3f2", "#f2a36b", "#6fd3a0", "#c79df0", "#e0c65a", "#f08bb8"),
    },
}
"""Six colours, told apart by their lightness too; lines differ by dashes and marks besides."""
DASHES = ("-", "--", "-.", ":")
MARKS = "os^Dvx"
SIZE = (6.0, 3.7)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture.

    Attributes:
        name: Of its file, without the ending.
        title: Line above it.
        words: What it shows, for who cannot see it.
        light: SVG text for a light ground.
        dark: SVG text for a dark ground.
    """

    name: str
    title: str
    words: str
    light: str
    dark: str


Draw = Callable[[Any, tuple[str, ...]], None]  # Any: matplotlib's Axes


def line(place: int, lines: tuple[str, ...]) -> Mapping[str, Any]:
    """Colour, dash and size of the line of what stands at a place."""
    return {"color": lines[place % 6], "linestyle": DASHES[place % 4], "linewidth": 1.6, "markersize": 4}


CREATOR = "solo-gps"
"""What each picture says of who drew it: a page that is written again takes away those that it no longer shows."""


def label(name: str) -> str:
    """A name in a legend, which takes no more room than the picture has; matplotlib leaves out what begins with ``_``."""
    text = name if len(name) <= 32 else f"{name[:15]}…{name[-16:]}"
    return f" {text}" if text.startswith("_") else text


def short(name: str) -> str:
    """A name beside an axis."""
    return name if len(name) <= 24 else f"{name[:23]}…"


def drawn(name: str, title: str, words: str, draw: Draw, height: float = SIZE[1]) -> Picture:
    """A picture in both themes.

    Args:
        name: Of its file, without the ending.
        title: Line above it.
        words: What it shows, for who cannot see it.
        draw: Draws on matplotlib's axes with the theme's six colours.
        height: In inches.
    """
    return Picture(name=name, title=title, words=words, **{theme: _svg(theme, draw, height) for theme in THEMES})


def _svg(theme: str, draw: Draw, height: float) -> str:
    look: Any = THEMES[theme]
    text = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings = {
        **dict.fromkeys(text, look["ink"]),
        "grid.color": look["grid"],
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.facecolor": look["ground"],
        "legend.edgecolor": "none",
        "font.size": 11,
        "svg.fonttype": "none",  # whoever looks has fonts of their own, for class names of any script
        "svg.hashsalt": "solo-gps",  # the same picture has the same bytes
        "text.parse_math": False,  # a class may be called $x$
    }
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # missing here, where text is only measured
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(alpha=0.6)
        draw(axes, look["lines"])
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": CREATOR})
    return file.getvalue()
