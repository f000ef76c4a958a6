"""The keys of GPS; no torch, so that a misspelt one costs a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from solo_gps.config import LARGEST_SEED, Keys, check_choice, number
from solo_gps.errors import did_you_mean

CHOICES = ("furthest", "uniform", "nearest", "weighted")
DRAWN = ("uniform", "weighted")
RULES = ("mean", "mean+std", "mean-std")
FIRST = 20
"""Nearest images of which a rule for the radius takes the distances, as the authors' code does."""


@dataclass(frozen=True, kw_only=True)
class GpsConfig(Keys):
    """Keys under ``sampler.gps``."""

    k: int = number(10, least=1)
    """Size of the ball in neighbours, the anchor left out; not used when ``radius`` is given."""
    radius: Any = number(None, above=0)
    """Size of the ball as a distance of the prior space (squared Euclidean, or 1 - cosine), exclusive: tau of the paper. Or a rule for it, from the distances to the 20 nearest images: mean, mean+std, mean-std, or a quantile such as q0.9; what lies just there is inside."""  # noqa: E501
    radius_of: str = "all"
    """With a rule for the radius: one radius from the distances of all images together (the authors' code), or one of each image from its own."""  # noqa: E501
    hops: int = number(1, least=1, most=8)
    """Steps from neighbour to neighbour within which an image is in the ball; the anchor is left out, the nearest search.max_ball are kept."""  # noqa: E501
    mutual: bool = False
    """Only neighbours that have the anchor among their own neighbours too."""
    within: str = "none"
    """Only neighbours in the anchor's own group: clusters (k-means of the embeddings, by FAISS), community (of the graph of neighbours, by igraph), or none."""  # noqa: E501
    clusters: int | None = number(None, least=2)
    """With within=clusters: how many."""
    community: str = "louvain"
    """With within=community: louvain or leiden, both by modularity."""
    choose: str = "furthest"
    """Which image of the ball: furthest (the paper), uniform (drawn anew each epoch, the authors' code), weighted (drawn, the nearer the likelier), or nearest."""  # noqa: E501
    temperature: float | None = number(None, above=0)
    """With choose=weighted: an image at distance d weighs exp(-d / (temperature * m)), m the mean of its ball; null is 1."""
    keep_anchor: bool = False
    """Whether the anchor is one of its own candidates (the authors' default), and keeps its own view where drawn."""
    positives: int = number(1, least=1, most=16)
    """Different images of the ball that an item shows, one a crop in turn, where the recipe shows positives in several crops; a smaller ball shows its images more than once."""  # noqa: E501
    show: str = "second"
    """Crops that show the positive: the second (of W-MSE every large one but the first), large for every large crop but the first, or all but the first, small ones too."""  # noqa: E501
    augmentation: Any = None
    """Pipeline of a crop that shows another image than the anchor: the number of one of the recipe's augmentations (0 is the first, as in the authors' code), none (resized and normalised alone), or null for the crop's own."""  # noqa: E501
    keep_apart: bool = False
    """Whether batches are put together so that no anchor meets its positive's own item in one, where a contrastive loss would push them apart."""  # noqa: E501
    min_share: float = number(0.5, least=0, most=1)
    """A smaller share of images with a positive is a warning with what to change, from 0 to 1; none at all is always an error."""
    on_bad_image: str = "stop"
    """An image that cannot be read during training: stop ends the run, skip shows the item's other image alone, counts it as not guided and names the image at the end."""  # noqa: E501
    seed: int | None = number(None, least=0, most=LARGEST_SEED)
    """Seed of the draws; null takes the recipe's."""

    def __post_init__(self) -> None:
        if isinstance(self.radius, int) and not isinstance(self.radius, bool):
            object.__setattr__(self, "radius", float(self.radius))
        super().__post_init__()
        check_choice("choose", self.choose, CHOICES)
        check_choice("on_bad_image", self.on_bad_image, ("stop", "skip"))
        check_choice("radius_of", self.radius_of, ("all", "image"))
        check_choice("within", self.within, ("none", "clusters", "community"))
        check_choice("community", self.community, ("louvain", "leiden"))
        check_choice("show", self.show, ("second", "large", "all"))
        self._check_radius()
        self._check_augmentation()
        self._check_together()

    def _check_radius(self) -> None:
        if self.radius is None or isinstance(self.radius, float):
            return
        if self.rule not in RULES and self.quantile is None:
            known = f"a distance, {', '.join(RULES)}, or a quantile such as q0.9"
            raise ValueError(f"radius={self.radius!r}: wanted {known}.{did_you_mean(self.radius, [*RULES, 'q0.9'])}")

    def _check_augmentation(self) -> None:
        if self.augmentation in (None, "none"):
            return
        if isinstance(self.augmentation, bool) or not isinstance(self.augmentation, int) or self.augmentation < 0:
            raise ValueError(
                f"augmentation={self.augmentation!r}: wanted the number of one of the recipe's augmentations, none, or null."
            )

    def _check_together(self) -> None:
        """What says nothing beside another key is an error, not a mute key."""
        mute = {
            "radius_of=image": self.radius_of == "image" and self.rule is None and "a rule for the radius, such as radius=mean",
            "mutual=true": self.mutual
            and self.radius is not None
            and self.radius_of == "all"
            and "k, or radius_of=image: within one radius, whoever is near is near both ways",
            "clusters": self.clusters is not None and self.within != "clusters" and "within=clusters",
            "community=leiden": self.community != "louvain" and self.within != "community" and "within=community",
            "temperature": self.temperature is not None and self.choose != "weighted" and "choose=weighted",
            f"positives={self.positives}": self.positives > self.k
            and self.radius is None
            and self.hops == 1
            and f"as many neighbours (k={self.k})",
            "keep_anchor=true": self.keep_anchor
            and self.choose not in DRAWN
            and "choose=uniform or weighted: the anchor is always the nearest of its ball, and never the furthest",
        }
        for key, missing in mute.items():
            if missing:
                raise ValueError(f"{key} says nothing without {missing}. Set it, or leave {key.partition('=')[0]} out.")
        if self.positives > 1 and self.on_bad_image == "skip":
            raise ValueError(
                "on_bad_image=skip: of an item with positives=1 the other image stands in for one that cannot be read. Leave one "
                "of the two keys out."
            )
        if self.within == "clusters" and self.clusters is None:
            raise ValueError("within=clusters wants the number of clusters. Set clusters, for example to the number of classes.")

    @property
    def rule(self) -> str | None:
        """The rule by which the radius follows the distances; ``None`` where it is a number, or not given."""
        return self.radius if isinstance(self.radius, str) else None

    @property
    def quantile(self) -> float | None:
        """The quantile of the rule ``q...``, from 0 to 1; ``None`` for any other."""
        if self.rule is None or not self.rule.startswith("q"):
            return None
        try:
            quantile = float(self.rule[1:])
        except ValueError:
            return None
        return quantile if 0 <= quantile <= 1 else None

    @property
    def size(self) -> str:
        """What sets the size of the ball, for the user."""
        return f"k={self.k}" if self.radius is None else f"radius={self.radius}"
