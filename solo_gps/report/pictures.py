"""The pictures of an inspection."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from solo_gps.evaluation.advice import percent
from solo_gps.evaluation.neighbourhood import first_columns
from solo_gps.neighbours.filters.graph import in_degree
from solo_gps.report.drawing import DASHES, MARKS, SIZE, Picture, drawn, label, line, short
from solo_gps.report.findings import Findings

MOST_BARS = 25


def pictures(seen: Findings) -> Iterator[Picture]:
    """The pictures of all priors together, then those of each."""
    labelled = {name: numbers for name, numbers in seen.numbers.items() if numbers.labelled}
    if labelled:
        yield _purity(seen)
        yield _classes(seen)
    yield _in_degrees(seen)
    for place, name in enumerate(seen.numbers, start=1):
        yield _distances(seen, name, place)


def _purity(seen: Findings) -> Picture:
    def draw(axes: Any, lines: tuple[str, ...]) -> None:
        for place, (name, numbers) in enumerate(seen.numbers.items()):
            ranks = np.arange(1, len(numbers.by_rank) + 1)
            axes.plot(ranks, 100 * np.array(numbers.by_rank), label=label(name), marker=MARKS[place % 6], **line(place, lines))
        axes.axhline(100 * numbers.chance, color=axes.xaxis.label.get_color(), linewidth=1, linestyle=(0, (1, 3)), label="chance")
        axes.set(xlabel="rank of the neighbour", ylabel="% of the anchor's class", ylim=(0, 102))
        axes.legend()

    told = "; ".join(
        f"{name}: {percent(numbers.by_rank[0])} of the nearest, {percent(numbers.by_rank[-1])} of the {numbers.looked_at}th"
        for name, numbers in seen.numbers.items()
    )
    chance = percent(next(iter(seen.numbers.values())).chance)
    return drawn("purity", "Purity by rank", f"Share of neighbours of the anchor's class. {told}. Chance: {chance}.", draw)


def _classes(seen: Findings) -> Picture:
    first, *_ = seen.numbers.values()
    worst = first.classes[:MOST_BARS]
    labels = [one.label for one in worst]

    def draw(axes: Any, lines: tuple[str, ...]) -> None:
        rows = np.arange(len(labels))
        for place, (name, numbers) in enumerate(seen.numbers.items()):
            accuracy = {one.label: 100 * one.accuracy for one in numbers.classes}
            values = [accuracy[label] for label in labels]
            axes.plot(values, rows, label=label(name), marker=MARKS[place % 6], linestyle="", color=lines[place % 6])
        axes.set_yticks(rows, [short(seen.classes[label]) for label in labels])
        axes.invert_yaxis()
        axes.set(xlabel="% told right", xlim=(-2, 102))
        axes.legend()

    cut = f", the worst {MOST_BARS} of {len(seen.classes):,}" if len(seen.classes) > MOST_BARS else ""
    told = ", ".join(f"{seen.classes[one.label]} {percent(one.accuracy)}" for one in worst[:5])
    words = f"Share of each class that a vote of {first.votes} neighbours tells right{cut}. Worst by {first.name}: {told}."
    return drawn("classes", "Accuracy by class", words, draw, height=max(SIZE[1], 0.24 * len(labels) + 1))


def _in_degrees(seen: Findings) -> Picture:
    first, *_ = seen.numbers.values()
    degrees = {name: in_degree(first_columns(table, first.k)) for name, table in seen.tables.items()}

    def draw(axes: Any, lines: tuple[str, ...]) -> None:
        for place, (name, values) in enumerate(degrees.items()):
            degree, below = np.unique(np.sort(values), return_index=True)
            axes.step(degree, 100 * (1 - below / len(values)), where="pre", label=label(name), **line(place, lines))
        axes.set_yscale("log")
        axes.set_xscale("symlog", linthresh=first.k)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")  # a power of ten would be a formula
        axes.set_xlim(left=0)
        axes.set(xlabel=f"times among the {first.k} nearest of another image", ylabel="% of images, at least so often")
        axes.legend()

    told = "; ".join(
        f"{name}: {percent(numbers.never_in)} never, one {numbers.most_in:,} times" for name, numbers in seen.numbers.items()
    )
    words = f"How often an image is among the {first.k} nearest of another. {told}."
    return drawn("in-degree", "Hubs", words, draw)


def _distances(seen: Findings, name: str, place: int) -> Picture:
    numbers = seen.numbers[name]
    distances = numbers.distances
    kinds = {"two of one class": distances.same, "two of two classes": distances.other}
    shown = kinds if numbers.labelled else {"any two": distances.any}

    def draw(axes: Any, lines: tuple[str, ...]) -> None:
        for number, (kind, counts) in enumerate(shown.items()):
            shares = 100 * np.array(counts) / max(1, sum(counts))
            axes.stairs(
                shares, distances.edges, label=kind, fill=False, linewidth=1.8, color=lines[number], linestyle=DASHES[number]
            )
        if math.isfinite(numbers.nearest):
            axes.axvline(numbers.nearest, color=lines[2], linestyle=":", linewidth=1.8, label="nearest (median)")
        axes.set(xlabel="1 - cosine" if numbers.space == "cosine" else "squared distance", ylabel="% of pairs")
        axes.legend()

    if numbers.labelled:
        told = f"In {percent(distances.closer)} of the cases two images of one class are closer than two of two classes."
    else:
        told = f"Half of the pairs are farther apart than {distances.typical:.3g}."
    words = f"Distances of random pairs by {name}. {told} The median distance to the nearest image is {numbers.nearest:.3g}."
    return drawn(f"distances-{place}", f"Distances: {name}", words, draw)
