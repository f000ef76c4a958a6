"""The positives of N images: what a caller asks, checked as a recipe is, and the neighbours found for it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_gps.api.images import checked_labels, image_set
from solo_gps.api.priors import as_arguments, is_array, prior_node, space_of
from solo_gps.config import LARGEST_WHOLE, parse
from solo_gps.embeddings.resolve import parse_prior
from solo_gps.errors import ConfigError, DataError, our_part
from solo_gps.evaluation.metrics import pair_purity, table_purity
from solo_gps.guide.check import DEFAULT_SEED
from solo_gps.guide.pairing import build_table, plain_pairs
from solo_gps.hosts.decode import Scaling
from solo_gps.interfaces import ImageSet, NeighbourTable, Pairs
from solo_gps.neighbours.choose import resolve_search
from solo_gps.samplers.gps.config import GpsConfig
from solo_gps.samplers.gps.sampler import Gps

NOT_HERE = {
    "augmentation": "GuidedPairs takes two transforms: transform=(of the anchor, of the positive)",
    "positives": "an item of GuidedPairs has two views, the second of its positive",
    "show": "an item of GuidedPairs shows the positive in its second view",
    "keep_apart": "the order of the items is your DataLoader's",
}
"""Keys of ``sampler.gps`` that speak of solo-learn's crops and batches."""


class Positives:
    """Which image stands in for which. Made by :func:`positives`.

    Attributes:
        images: The N raw images.
        table: The neighbours of every image, nearest first.
        config: The keys that acted, with their defaults.
        brought: What the caller brought as images.
    """

    def __init__(self, brought: Any, images: ImageSet, sampler: Gps, table: NeighbourTable) -> None:
        self.images, self.table, self.config = images, table, sampler.config
        self.brought, self._sampler = brought, sampler

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,) int64 classes, -1 where unknown; ``None`` without any."""
        return self.images.labels

    def pairs(self, epoch: int = 0) -> Pairs:
        """Returns the pairs of an epoch: a pure function of the images, the keys, the seed and the epoch.

        Args:
            epoch: Number of the epoch, from 0.

        Returns:
            N pairs: each image as an anchor, in order, with its positive; itself where it has no neighbour.

        Raises:
            ConfigError: ``epoch`` is no whole number from 0.
        """
        try:
            number = operator.index(epoch)
        except TypeError:
            number = -1
        if not 0 <= number <= LARGEST_WHOLE:
            raise ConfigError(f"epoch={epoch!r}: wanted a whole number from 0 to {LARGEST_WHOLE}.")
        return self._sampler.pairs(plain_pairs(len(self)), number)

    def purity(self, epoch: int | None = None, *, labels: Any = None) -> float:
        """Returns the share of neighbours with their anchor's label, from 0 to 1; ``nan`` where none has a known one.

        An image without a neighbour does not count.

        Args:
            epoch: Of the positives that this epoch draws; ``None``: of all neighbours in the table.
            labels: (N,) classes, -1 where unknown; ``None`` takes those of the images.

        Raises:
            DataError: There are no labels.
        """
        known = self.labels if labels is None else checked_labels(labels, len(self))
        if known is None:
            raise DataError("labels: these images have none, so that no purity is known. Give purity(labels=...).")
        if epoch is None:
            return table_purity(self.table, known)
        pairs = self.pairs(epoch)
        return pair_purity(pairs.anchors, pairs.positives, known)[1]


def positives(
    images: Any,
    *,
    prior: Any = None,
    labels: Any = None,
    same_label: bool = False,
    search: Mapping[str, Any] | None = None,
    decode: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Positives:
    """Finds, for each of N images, the images that may stand in for it as a positive: GPS-SSL, arXiv 2401.01990.

    Everything is checked as in a recipe, before any long work; in an error ``prior.x`` is the key ``x`` of the argument
    ``prior``. Embeddings and neighbours are kept in the cache and found again; the pairs are those of a recipe with the same
    images, keys and seed. In a training of several processes every process calls this.

    Args:
        images: A path to class folders or to a flat folder of images; an array of (N, H, W) or (N, H, W, 3) uint8; a list of
            pictures (PIL) or of such arrays; or a dataset whose items are pictures or tuples that end in ``(picture, target)``.
        prior: The space in which neighbours are looked for: the name of a prior (docs/priors.md), a mapping of its ``name`` and
            keys, an (N, D) array of embeddings of your own (compared by squared distance), or
            :class:`solo_gps.interfaces.Embeddings`; ``None`` takes the default, ``patches``.
        labels: (N,) classes, -1 where unknown, of images that have none of their own.
        same_label: Positives must have the anchor's label.
        search: Keys of the node ``search`` (docs/neighbours.md).
        decode: Keys of the node ``images`` (docs/data.md), for images of more than 8 bits.
        **keys: Keys of ``sampler.gps`` (docs/gps.md): ``k``, ``radius``, ``choose``, ``seed`` and the others.

    Returns:
        Table, pairs and purity.

    Raises:
        ConfigError: A key, type or value is wrong.
        DataError: The images, labels or embeddings are not what was wanted, no image has a neighbour, or nearly all lie at one
            point of the space.
        CacheError: The cache is damaged or cannot be written.
    """
    with as_arguments(), our_part("finding positives"):
        sampler = Gps(_keys(keys), seed=DEFAULT_SEED)
        sampler.check_search(resolve_search(search))
        decoding = parse({} if decode is None else decode, Scaling, "decode")
        node = None if is_array(prior) else prior_node(prior)
        if not is_array(prior):
            sampler.check_prior(parse_prior(node))
        found = image_set(images, labels=labels, decoding=decoding)
        sampler.check(len(found))
        if same_label and found.labels is None:
            raise DataError(
                "labels: same_label=True needs them, and these images have none. Give labels=, one whole number an image."
            )
        space = space_of(prior, found, search)
        table = build_table("gps", sampler, space, same_label=same_label)
        assert table is not None, "gps has a table"
        return Positives(images, found, sampler, table)


def _keys(keys: Mapping[str, Any]) -> GpsConfig:
    for key, instead in NOT_HERE.items():
        if key in keys:
            raise ConfigError(f"{key}: a key of solo-learn's recipes; here {instead}.")
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in keys.items()}
    return parse(plain, GpsConfig, "sampler.gps")
