"""What priors say of a set of images: the numbers of each, and what they share."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Transpose

from solo_gps.errors import DataError, printable
from solo_gps.evaluation import neighbourhood as look
from solo_gps.evaluation.metrics import table_change
from solo_gps.interfaces import ImageSet, NeighbourTable, StoredImages
from solo_gps.neighbours.choose import choose_backend
from solo_gps.neighbours.exact.duplicates import duplicate_report, group_duplicates
from solo_gps.neighbours.filters.graph import hubness, in_degree
from solo_gps.runtime.progress import Progress
from solo_gps.samplers.space import PriorSpace

log = logging.getLogger(__name__)

LOOKED_AT = 50
"""Nearest images of each image that are looked at, where there are so many."""
LADDER = (1, 2, 5, 10, 20, 50)
USUAL = 10
"""Neighbours of the graph whose hubs and mutual edges are counted: the default k."""
VOTES = 20
ALTERED = 500
"""Images, evenly spaced, that are flipped and cropped, and whose neighbours are looked up in the other space."""
CROP = 0.8
"""Of each side: what a crop keeps, in the middle."""
NEAR_COPY = 0.01
"""Of the distance to the k-th nearest, and of the typical distance: images closer than this are near copies."""
FEWEST = 4


@dataclass(frozen=True, kw_only=True)
class PriorNumbers:
    """What a prior says of N images; a number that cannot be known is ``nan``.

    Attributes:
        name: The prior, for the user.
        images: N.
        dimensions: D.
        space: ``"euclidean"`` or ``"cosine"``.
        k: Neighbours of the graph that ``hubness``, ``most_in``, ``never_in`` and ``mutual`` speak of.
        looked_at: K, the neighbours of each image that were looked at.
        by_rank: (K,) share of the neighbours of each rank with the anchor's label.
        by_k: The k nearest as positives, for several k.
        by_radius: Balls of several radii.
        accepted: A radius that the search accepts, and its ball; ``None`` where no radius is looked for.
        distances: Distances of drawn pairs.
        nearest: Median distance to the nearest other image.
        chance: Share of all pairs that have one label.
        votes: Votes of ``accuracy``.
        accuracy: Of a vote of the nearest others.
        classes: Each class, worst first.
        other_space: Purity of the k nearest of a sample in this space and in the other one, by name.
        hubness: Skewness of the in-degrees.
        most_in: The largest in-degree.
        never_in: Share of the images that are nobody's neighbour.
        mutual: Share of mutual neighbours.
        copies: Images with an exact copy.
        copy_groups: Groups of such images.
        near_copies: Share of images with another one closer than :data:`NEAR_COPY` times the typical distance, and than that of
            the distance to the k-th nearest, unless that is as near (in few dimensions all images are near).
        dimension: Intrinsic dimension.
        rank: Effective rank.
        flip: Share of images that are still nearest to themselves, mirrored.
        crop: The same, cropped.
    """

    name: str
    images: int
    dimensions: int
    space: str
    k: int
    looked_at: int
    by_rank: list[float]
    by_k: list[look.Ball]
    by_radius: list[look.RadiusBall]
    accepted: look.RadiusBall | None
    distances: look.Distances
    nearest: float
    chance: float
    votes: int
    accuracy: float
    classes: list[look.OfClass]
    other_space: dict[str, float]
    hubness: float
    most_in: int
    never_in: float
    mutual: float
    copies: int
    copy_groups: int
    near_copies: float
    dimension: float
    rank: float
    flip: float
    crop: float

    @property
    def labelled(self) -> bool:
        """Whether labels say how pure the neighbours are."""
        return not math.isnan(self.chance)

    @property
    def usual(self) -> look.Ball:
        """The ball of the k nearest."""
        return next(ball for ball in self.by_k if ball.k == self.k)

    @property
    def nearness(self) -> float:
        """How much nearer than two images drawn at random the nearest is, in lengths: 0 for no nearer, 1 for a copy."""
        return 1 - math.sqrt(max(self.nearest, 0) / self.distances.typical) if self.distances.typical > 0 else math.nan


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """A prior's numbers, and the neighbours that they are of."""

    numbers: PriorNumbers
    table: NeighbourTable


def check_enough(images: ImageSet) -> None:
    """Raises :class:`DataError` where there are too few images to say anything of."""
    if len(images) < FEWEST:
        raise DataError(f"inspect: {len(images)} images; wanted {FEWEST} or more.")


def telling_labels(images: ImageSet) -> NDArray[np.int64] | None:
    """The labels, where at least two classes and two images of one are known; else they say nothing of neighbours."""
    labels = images.labels
    return labels if labels is not None and 0 < look.chance_purity(labels) < 1 else None


def inspect_space(name: str, space: PriorSpace, labels: NDArray[np.int64] | None, *, seed: int) -> Inspected:
    """Looks at images in a space.

    Args:
        name: Of the prior, for the user.
        space: N raw images in its space.
        labels: (N,) classes, -1 where unknown, or ``None``.
        seed: Seed of what is drawn.

    Raises:
        DataError: The space is not what was wanted.
    """
    images, embeddings = len(space.images), space.embeddings
    width = min(LOOKED_AT, images - 1)
    table = space.neighbours(k=width)
    with Progress(f"inspecting {name}", 4, unit="parts") as progress:
        k = min(USUAL, width)
        first = look.first_columns(table, k)
        nearest = np.asarray(table.distances[:, 0])
        found = nearest[np.isfinite(nearest)]
        by_k = look.balls_by_k(table, labels, sorted({*(rung for rung in LADDER if rung <= width), k}))
        reaches = [np.nextafter(np.float32(ball.distance), np.float32(np.inf)) for ball in by_k if ball.distance > 0]
        progress.update(1)
        distances = look.distances_of_pairs(embeddings, labels, seed)
        votes = min(VOTES, max(1, width // 4))  # of most others a vote only counts which class is larger without the image
        accuracy, classes = (math.nan, []) if labels is None else look.leave_one_out(table, labels, votes)
        progress.update(1)
        degrees, copies = in_degree(first), duplicate_report(group_duplicates(np.asarray(embeddings.array)))
        sample = range(0, images, -(-images // ALTERED))
        stays = {how: _stays(space, sample, alter) for how, alter in (("flip", flipped), ("crop", cropped))}
        progress.update(1)
        numbers = PriorNumbers(
            name=name,
            images=images,
            dimensions=embeddings.array.shape[1],
            space=embeddings.space,
            k=k,
            looked_at=width,
            by_rank=[] if labels is None else look.purity_by_rank(table, labels).tolist(),
            by_k=by_k,
            by_radius=look.balls_by_radius(table, labels, sorted(set(map(float, reaches)))),
            accepted=_accepted(space, table, labels),
            distances=distances,
            nearest=float(np.median(found)) if len(found) else math.nan,
            chance=math.nan if labels is None else look.chance_purity(labels),
            votes=votes,
            accuracy=accuracy,
            classes=classes,
            other_space=_in_both_spaces(space, labels, sample, k),
            hubness=hubness(first),
            most_in=int(degrees.max()),
            never_in=float((degrees == 0).mean()),
            mutual=look.mutual_share(first),
            copies=copies.images,
            copy_groups=copies.groups,
            near_copies=float(_is_near_copy(table, k, distances.typical).mean()),
            dimension=look.intrinsic_dimension(table, min(VOTES, width)),
            rank=look.effective_rank(embeddings.array),
            flip=stays["flip"],
            crop=stays["crop"],
        )
        progress.update(1)
    return Inspected(numbers=numbers, table=table)


def _is_near_copy(table: NeighbourTable, k: int, typical: float) -> NDArray[np.bool_]:
    nearest, last = np.asarray(table.distances[:, 0]), np.asarray(table.distances[:, k - 1])
    alone = nearest < NEAR_COPY * last
    of_many = last < NEAR_COPY * typical  # more than k copies of one image, as frames of a film are
    return (nearest == 0) | ((nearest < NEAR_COPY * typical) & (alone | of_many))


def flipped(image: Image) -> Image:
    """The image mirrored, left for right."""
    return image.transpose(Transpose.FLIP_LEFT_RIGHT)


def cropped(image: Image) -> Image:
    """The middle of an image, :data:`CROP` of each side."""
    width, height = (max(1, round(CROP * side)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


class Altered:
    """Some of N images, each changed when it is read.

    Args:
        images: The N raw images.
        rows: Which of them.
        alter: From an RGB image to another.
    """

    labels = None

    def __init__(self, images: ImageSet, rows: range, alter: Callable[[Image], Image]) -> None:
        self._images, self._rows, self._alter = images, rows, alter

    def __len__(self) -> int:
        return len(self._rows)

    def image(self, index: int) -> Image:
        """The changed image of the row ``index``."""
        return self._alter(self._images.image(self._rows[index]))

    def content(self) -> Iterator[bytes]:
        """The pixels of every changed image, with its size."""
        for index in range(len(self)):
            image = self.image(index)
            yield f"{image.size}".encode() + image.tobytes()


def _stays(space: PriorSpace, rows: range, alter: Callable[[Image], Image]) -> float:
    points = space.place(Altered(space.images, rows, alter))
    return math.nan if points is None else look.share_still_nearest(space.embeddings, points, rows)


def _accepted(space: PriorSpace, table: NeighbourTable, labels: NDArray[np.int64] | None) -> look.RadiusBall | None:
    """The radius that the library advises; an approximate search knows none, and priors that agree have no distance in common."""
    embeddings = space.embeddings
    size, columns = embeddings.array.shape
    if embeddings.parts or not choose_backend(space.search_config, images=size, columns=columns, radius=None).exact:
        return None
    radius = space.advise(share=0.5).radius
    return None if radius is None else look.balls_by_radius(table, labels, [radius])[0]


def _in_both_spaces(space: PriorSpace, labels: NDArray[np.int64] | None, rows: range, k: int) -> dict[str, float]:
    if labels is None or space.embeddings.parts:
        return {}
    purity = partial(look.purity_of_nearest, labels=labels, rows=rows, k=k)
    return {name: purity(dataclasses.replace(space.embeddings, space=name)) for name in ("euclidean", "cosine")}


def agreement(tables: Mapping[str, NeighbourTable], k: int = USUAL) -> dict[tuple[str, str], float]:
    """Share of the k nearest that two priors have in common, for each two of them; k / (N - 1) is that of chance."""
    first = {name: look.first_columns(table, k) for name, table in tables.items()}
    return {
        (one, other): table_change(first[one], first[other], None).get("kept", math.nan) for one, other in combinations(first, 2)
    }


def class_names(images: ImageSet) -> dict[int, str]:
    """A name for each known class: that of its folder, where all images of the class lie in one; else its number."""
    labels = images.labels
    if labels is None:
        return {}
    names = images.names if isinstance(images, StoredImages) else None
    found = {}
    for label in np.unique(labels[labels >= 0]).tolist():
        folders = (
            {names[row].rpartition("/")[0].partition("/")[0] for row in np.flatnonzero(labels == label).tolist()}
            if names
            else set()
        )
        found[label] = printable(folders.pop()) if len(folders) == 1 and "" not in folders else f"class {label}"
    return found


def plain(value: Any) -> Any:
    """Numbers as JSON has them: ``nan`` and infinity are ``None``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): plain(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(below) for below in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
