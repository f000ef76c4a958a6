"""Where pNN acts in each method of solo-learn: one line a method.

Read in https://github.com/vturrisi/solo-learn/tree/main/solo/methods; docs/pnn.md shows the same table to users.
"""

from __future__ import annotations

from dataclasses import dataclass

OWN_QUEUE_METHODS = ("nnclr", "nnsiam", "nnbyol", "all4one")
QUEUE_OF_NEGATIVES = ("mocov2plus", "ressl")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a method's loss takes its positive target from.

    Attributes:
        kind: ``"target"`` (entries that are only targets are replaced), ``"mirror"`` (the same list is anchor and target: one
            pass of the loss for each replaced view), ``"find_nn"`` (the method's own neighbours are replaced), ``"assign"``
            (SwAV's codes) or ``"head"`` (DINO's bottleneck).
        entry: Name of the list in the dict that the base class hands to the method's step.
        sphere: The loss compares directions alone; else lengths matter, and neighbours are the nearest by Euclidean distance.
        views: Large views whose target is replaced; ``None`` for all.
        has_momentum: The method has a momentum network of its own.
        two_crops: The method's step takes exactly two crops, or this place is only known for two.
    """

    kind: str
    entry: str = "z"
    sphere: bool = True
    views: tuple[int, ...] | None = None
    has_momentum: bool = False
    two_crops: bool = False

    @property
    def neutral_alpha(self) -> float:
        """The alpha that, with beta = 0, leaves the method as it is."""
        return 0.0 if self.kind == "find_nn" else 1.0


PLACES: dict[str, Place] = {
    "simclr": Place(kind="mirror"),
    "barlow_twins": Place(kind="mirror", sphere=False),
    "vicreg": Place(kind="mirror", sphere=False),
    "vibcreg": Place(kind="mirror", sphere=False),
    "simsiam": Place(kind="target"),
    "byol": Place(kind="target", entry="momentum_z", has_momentum=True),
    "mocov3": Place(kind="target", entry="momentum_k", has_momentum=True),
    "mocov2plus": Place(kind="target", entry="momentum_z", has_momentum=True),
    "ressl": Place(kind="target", entry="momentum_z", views=(1,), has_momentum=True),
    "wmse": Place(kind="target", sphere=False, views=(1,), two_crops=True),
    "swav": Place(kind="assign"),
    "dino": Place(kind="head", entry="pnn_bottleneck", has_momentum=True),
    "nnclr": Place(kind="find_nn", sphere=False),
    "nnsiam": Place(kind="find_nn", sphere=False),
    "nnbyol": Place(kind="find_nn", entry="momentum_z", sphere=False, has_momentum=True),
    "all4one": Place(kind="find_nn", entry="momentum_z", sphere=False, has_momentum=True),
}
# find_nn: not brought to the anchor's length, because the method itself takes the queue's rows as they are.

REFUSALS = {
    "supcon": "its positives are known to be right by their labels; a neighbour could only be a worse one",
    "deepclusterv2": "its targets are cluster numbers looked up by image, not embeddings that a neighbour could replace",
    "mae": "it reconstructs the pixels of one crop, so there is no positive to replace",
}
