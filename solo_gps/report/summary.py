"""An inspection in lines, for a terminal; and the table that the page has too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from solo_gps.evaluation.advice import percent
from solo_gps.evaluation.inspection import PriorNumbers
from solo_gps.report.findings import Findings

WORST = 5
"""Classes that the terminal shows; the page has all."""


def summary(place: str, seen: Findings) -> Iterator[str]:
    """The lines of the terminal."""
    classes = f", {len(seen.classes):,} classes" if seen.classes else ", no labels to judge by"
    yield f"{place}: {len(seen.images):,} images{classes}"
    yield ""
    yield from aligned(table(seen))
    if ranked := ranking(seen):
        yield ""
        yield ranked
    for name, advice in seen.advice.items():
        yield ""
        yield f"{name}: {advice.verdict}. {advice.reason}"
        for suggestion in advice.suggestions:
            yield f"  {suggestion.keys or '(no key)'}"
            yield f"      {suggestion.reason}"
        worst = seen.numbers[name].classes[:WORST]
        if worst:
            told = ", ".join(f"{seen.classes[one.label]} {percent(one.accuracy)}" for one in worst)
            yield f"  worst told of {len(seen.classes):,} classes: {told}"
    for (one, other), share in seen.agreement.items():
        chance = min(1.0, 10 / (len(seen.images) - 1))
        yield f"\n{one} and {other} share {percent(share)} of their nearest neighbours ({percent(chance)} by chance)"


def ranking(seen: Findings) -> str:
    """Which prior knows the most, in a sentence; empty for one prior, or without labels."""
    if len(seen.ranking) < 2:
        return ""
    (best, most), *rest = seen.ranking
    others = ", ".join(f"{name} {known:.2f}" for name, known in rest)
    return f"{best} knows the most of these classes: {most:.2f} of the way from chance to perfect; {others}."


def table(seen: Findings) -> list[list[str]]:
    """What each prior says, a column each; rows that no prior fills are left out."""
    columns = list(seen.numbers.values())
    rows = [[what, *(show(numbers) for numbers in columns)] for what, show in _rows(columns[0])]
    return [["", *seen.numbers], *(row for row in rows if set(row[1:]) != {"-"})]


def _rows(first: PriorNumbers) -> Iterator[tuple[str, Callable[[PriorNumbers], str]]]:
    k = first.k
    yield "dimensions, space", lambda one: f"{one.dimensions:,}, {one.space}"
    yield f"purity of the {k} nearest", lambda one: percent(one.usual.purity["uniform"])
    yield "  of the nearest", lambda one: percent(one.by_k[0].purity["nearest"])
    yield "  of the furthest of them", lambda one: percent(one.usual.purity["furthest"])
    yield "  by chance", lambda one: percent(one.chance)
    yield f"accuracy of {first.votes} votes", lambda one: percent(one.accuracy)
    yield "one class closer than two", lambda one: percent(one.distances.closer)
    yield "nearest nearer than random", lambda one: percent(one.nearness)
    yield "hubness (skewness)", lambda one: number(one.hubness)
    yield "largest in-degree", lambda one: f"{one.most_in:,}"
    yield "nobody's neighbour", lambda one: percent(one.never_in)
    yield "mutual neighbours", lambda one: percent(one.mutual)
    yield "images with a copy", lambda one: f"{one.copies:,}"
    yield "images with a near copy", lambda one: percent(one.near_copies)
    yield "intrinsic dimension", lambda one: number(one.dimension)
    yield "effective rank", lambda one: number(one.rank)
    yield "itself when flipped", lambda one: percent(one.flip)
    yield "itself when cropped", lambda one: percent(one.crop)


def number(value: float) -> str:
    """A number with one digit; one that is not known is a dash."""
    return "-" if math.isnan(value) else f"{value:.1f}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()
