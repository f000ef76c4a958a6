"""What an inspection found, and the forms in which it is told."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from solo_gps.evaluation.advice import Advice, advise, known_of
from solo_gps.evaluation.inspection import (
    USUAL,
    Inspected,
    PriorNumbers,
    agreement,
    class_names,
    plain,
    telling_labels,
)
from solo_gps.interfaces import ImageSet, NeighbourTable
from solo_gps.version import __version__


class Findings:
    """What priors know of N images. The base of what :func:`solo_gps.inspect` returns.

    Attributes:
        images: The N raw images.
        classes: A name for each known class; empty where labels say nothing.
        numbers: What each prior says of the images, by its name.
        tables: The neighbours that the numbers are of, by the prior's name.
        agreement: Share of the 10 nearest that two priors have in common, by their names; (10 / (N - 1) is that of chance).
    """

    def __init__(self, images: ImageSet, seen: list[Inspected], words: Mapping[str, str]) -> None:
        self.images, self._words = images, words
        self.classes = {} if telling_labels(images) is None else class_names(images)
        self.numbers: dict[str, PriorNumbers] = {one.numbers.name: one.numbers for one in seen}
        self.tables: dict[str, NeighbourTable] = {one.numbers.name: one.table for one in seen}
        self.agreement = agreement(self.tables)

    @cached_property
    def advice(self) -> dict[str, Advice]:
        """What each prior is worth for these images, and what to do with it, by its name."""
        return {name: advise(numbers, self._words[name]) for name, numbers in self.numbers.items()}

    @property
    def ranking(self) -> list[tuple[str, float]]:
        """The priors by what they know of the classes (0 at chance, 1 perfect), the best first; empty without labels."""
        known = [(name, known_of(numbers)) for name, numbers in self.numbers.items() if numbers.labelled]
        return sorted(known, key=lambda one: -one[1])

    def as_json(self) -> dict[str, Any]:
        """Plain values, for machines; a number that cannot be known is ``None``."""
        return {
            "solo_gps": __version__,
            "images": len(self.images),
            "classes": {str(label): name for label, name in self.classes.items()},
            "priors": [{**plain(self.numbers[name]), "advice": plain(self.advice[name])} for name in self.numbers],
            "agreement": {
                "k": min(USUAL, len(self.images) - 1),
                "chance": min(1.0, USUAL / (len(self.images) - 1)),
                "shared": [{"priors": list(two), "share": plain(share)} for two, share in self.agreement.items()],
            },
        }
