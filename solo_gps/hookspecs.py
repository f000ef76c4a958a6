"""The hooks of solo-gps: what a plugin may add, wrap or watch.

A plugin is a module or object with functions marked by :data:`hookimpl`, named by an entry point of the group ``solo_gps``.
Every hook is documented, with an example, in docs/plugins.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import numpy as np
    from torch.utils.data import Dataset

    from solo_gps.interfaces import ImageSet, NamedDataset, NeighbourTable, Pairs

PROJECT = "solo_gps"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_samplers() -> Mapping[str, type | str]:
    """Adds samplers.

    Returns:
        Name, as typed in ``+sampler=<name>``, to a class derived from :class:`solo_gps.samplers.base.Sampler` (the class, not
        an instance), or to where it is, ``"package.module:Class"``: it is then imported when it is used.
    """
    raise NotImplementedError


@hookspec
def register_encoders() -> Mapping[str, type | str]:
    """Adds prior encoders.

    Returns:
        Name, as typed in ``+prior=<name>``, to a class derived from :class:`solo_gps.priors.base.Encoder` (the class, not an
        instance), or to where it is, as in :func:`register_samplers`.
    """
    raise NotImplementedError


@hookspec
def register_search_backends() -> Mapping[str, type | str]:
    """Adds neighbour search backends.

    Returns:
        Name, as typed in ``search.backend=<name>``, to a class derived from
        :class:`solo_gps.neighbours.backend.SearchBackend` (the class, not an instance), or to where it is, as in
        :func:`register_samplers`.
    """
    raise NotImplementedError


@hookspec
def register_datasets() -> Mapping[str, Callable[[Any], ImageSet]]:
    """Adds readers of dataset classes that solo-gps does not know.

    Returns:
        Class name of a dataset (``type(dataset).__qualname__`` anywhere in its MRO) to a function from the dataset, as the host
        built it and with its transform still set, to its raw images.
    """
    raise NotImplementedError


@hookspec
def register_named_datasets() -> Mapping[str, NamedDataset | str]:
    """Adds data sets beside solo-learn's own.

    Returns:
        Name, as typed in ``data.dataset=<name>``, to a :class:`solo_gps.interfaces.NamedDataset`, or to where it is, as in
        :func:`register_samplers`.
    """
    raise NotImplementedError


@hookspec
def wrap_dataset(dataset: Dataset, cfg: Mapping[str, Any]) -> Dataset | None:
    """Wraps the training set after every sampler has acted on it.

    Args:
        dataset: The guided training set; its items are ``(index, crops, target)``. Not the host's own dataset.
        cfg: The whole recipe, read-only.

    Returns:
        A dataset with the same item contract, or ``None`` to leave it as it is. Wrappers of several plugins nest in call order.
    """
    raise NotImplementedError


@hookspec
def wrap_method(method: type, cfg: Mapping[str, Any]) -> type | None:
    """Wraps the method class after every sampler has acted on it.

    Args:
        method: A subclass of the host's method class; not an instance. In a training step, its ``shown_crops`` are the
            :class:`solo_gps.interfaces.ShownCrops` of the batch.
        cfg: The whole recipe, read-only.

    Returns:
        A subclass of ``method``, or ``None`` to leave it as it is.
    """
    raise NotImplementedError


@hookspec
def on_table_built(sampler: str, table: NeighbourTable, labels: np.ndarray | None) -> None:
    """Called in the main process of each rank when a sampler has its neighbour table: before training, and after each refresh.

    Args:
        sampler: Name of the sampler.
        table: Neighbours of all N images; read-only.
        labels: (N,) int64 or ``None``.
    """
    raise NotImplementedError


@hookspec
def on_epoch_pairs(epoch: int, pairs: Pairs, labels: np.ndarray | None) -> None:
    """Called in the main process of each rank when the pairs of an epoch have been drawn, before its first batch.

    Args:
        epoch: Number of the epoch, from 0; the trainer's own number when resumed.
        pairs: Anchors and positives of the M items; read-only. Not batches: the loader shuffles them.
        labels: (N,) int64 or ``None``.
    """
    raise NotImplementedError
