"""What is known of solo-learn's methods: one line a method, and the only place that a new one needs.

Read in https://github.com/vturrisi/solo-learn/tree/main/solo/methods; docs/pnn.md shows where pNN acts to users.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a method's loss takes its positive target from, for pNN.

    Attributes:
        kind: ``"target"`` (entries that are only targets are replaced), ``"mirror"`` (the same list is anchor and target: one
            pass of the loss for each replaced view), ``"find_nn"`` (the method's own neighbours are replaced), ``"assign"``
            (SwAV's codes) or ``"head"`` (DINO's bottleneck).
        entry: Name of the list in the dict that the base class hands to the method's step.
        sphere: The loss compares directions alone; else lengths matter, and neighbours are the nearest by Euclidean distance.
        views: Large views whose target is replaced; ``None`` for all.
        has_momentum: The method has a momentum network of its own.
        two_crops: The method's step takes exactly two crops, or this place is only known for two.
        repels_queue: The method's own queue holds negatives, the neighbour among them.
    """

    kind: str
    entry: str = "z"
    sphere: bool = True
    views: tuple[int, ...] | None = None
    has_momentum: bool = False
    two_crops: bool = False
    repels_queue: bool = False

    @property
    def neutral_alpha(self) -> float:
        """The alpha that, with beta = 0, leaves the method as it is."""
        return 0.0 if self.own_queue else 1.0

    @property
    def own_queue(self) -> bool:
        """Whether the method looks for neighbours by itself, in a queue of its own."""
        return self.kind == "find_nn"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One of solo-learn's methods; the defaults are right for most.

    Attributes:
        refusal: Why no image can be its positive; empty where one can.
        positive_crops: Large crops that show the positive: ``"second"``, or ``"later"`` for every one but the first. The first
            must stay with the anchor where a queue is filled from it (nnclr, nnsiam, nnbyol, all4one) or where it is the
            student's (ressl); of W-MSE's, the later are the targets. Small crops stay with the anchor.
        remembers_items: Its memory has a slot for each item of the loader, not for each image.
        unpacks_two: Its step unpacks two large crops, and fails on more.
        refuses_small: And it unpacks what small crops add to, and fails on them.
        label_mask: Images of one label are each other's positives, by a mask: no other image may be one.
        pnn: Where pNN acts, or why it cannot.
    """

    refusal: str = ""
    positive_crops: str = "second"
    remembers_items: bool = False
    unpacks_two: bool = False
    refuses_small: bool = False
    label_mask: bool = False
    pnn: Place | str = "pNN does not know where its loss takes the positive from"


_PIXELS = "it reconstructs the pixels of one crop, so there is no positive view"
_RIGHT = "its positives are known to be right by their labels; a neighbour could only be a worse one"
_CLUSTERS = "its targets are cluster numbers looked up by image, not embeddings that a neighbour could replace"
METHODS: dict[str, Method] = {
    # pNN, find_nn: not brought to the anchor's length, because the method itself takes the queue's rows as they are.
    "all4one": Method(
        unpacks_two=True,
        refuses_small=True,
        pnn=Place(kind="find_nn", entry="momentum_z", sphere=False, has_momentum=True),
    ),
    "barlow_twins": Method(unpacks_two=True, pnn=Place(kind="mirror", sphere=False)),
    "byol": Method(pnn=Place(kind="target", entry="momentum_z", has_momentum=True)),
    "deepclusterv2": Method(remembers_items=True, pnn=_CLUSTERS),
    "dino": Method(pnn=Place(kind="head", entry="pnn_bottleneck", has_momentum=True)),
    "mae": Method(refusal=_PIXELS, pnn=_PIXELS),
    "mocov2plus": Method(unpacks_two=True, pnn=Place(kind="target", entry="momentum_z", has_momentum=True, repels_queue=True)),
    "mocov3": Method(pnn=Place(kind="target", entry="momentum_k", has_momentum=True)),
    "nnbyol": Method(unpacks_two=True, pnn=Place(kind="find_nn", entry="momentum_z", sphere=False, has_momentum=True)),
    "nnclr": Method(unpacks_two=True, pnn=Place(kind="find_nn", sphere=False)),
    "nnsiam": Method(unpacks_two=True, pnn=Place(kind="find_nn", sphere=False)),
    "ressl": Method(
        unpacks_two=True, pnn=Place(kind="target", entry="momentum_z", views=(1,), has_momentum=True, repels_queue=True)
    ),
    "simclr": Method(pnn=Place(kind="mirror")),
    "simsiam": Method(unpacks_two=True, pnn=Place(kind="target")),
    "supcon": Method(label_mask=True, pnn=_RIGHT),
    "swav": Method(pnn=Place(kind="assign")),
    "vibcreg": Method(unpacks_two=True, pnn=Place(kind="mirror", sphere=False)),
    "vicreg": Method(unpacks_two=True, pnn=Place(kind="mirror", sphere=False)),
    "wmse": Method(positive_crops="later", pnn=Place(kind="target", sphere=False, views=(1,), two_crops=True)),
}
NOT_METHODS = ("base", "linear")
"""Entries of the host's registry that are no pretraining method."""


def facts_of(method: str) -> Method:
    """Returns what is known of a method; of one that somebody else added to the host, the defaults."""
    return METHODS.get(method, Method())


def crops_from_positive(method: str, num_crops: int, num_large_crops: int, show: str = "second", positives: int = 1) -> list[int]:
    """Returns, for each crop, which of its item's positives it shows, from 1; 0 for the anchor.

    The first always shows the anchor (:class:`Method`).

    Args:
        method: Name of the solo-learn method.
        num_crops: Number of all crops.
        num_large_crops: Number of large crops, which come first.
        show: ``"second"``, or what the method needs; ``"large"`` crops, or ``"all"``.
        positives: How many an item has; crops show them in turn.
    """
    if show == "second" and facts_of(method).positive_crops == "later":
        show = "large"
    last = {"second": min(2, num_large_crops), "large": num_large_crops, "all": num_crops}[show]
    return [1 + (crop - 1) % positives if 1 <= crop < last else 0 for crop in range(num_crops)]
