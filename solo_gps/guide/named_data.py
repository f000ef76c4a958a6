"""A data set of ours in a program of solo-learn's: known while the job runs, guided or plain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from solo_gps.guide.programs import standing_in
from solo_gps.hosts.detect import Host
from solo_gps.hosts.named import check_named, complete_named, named_dataset


@contextmanager
def named_data(recipe: DictConfig, host: Host, program: Any = None) -> Iterator[None]:
    """While in it, the host trains on the named data set of a recipe; nothing is done for its own sets.

    The recipe's crops are given the set's mean and standard deviation where they have none.

    Args:
        recipe: The whole recipe.
        host: The installed solo-learn.
        program: The function that will train, which may have the host's functions among its names.

    Raises:
        ConfigError: The set cannot be read as the recipe says.
        DataError: No folder is named.
    """
    name = OmegaConf.select(recipe, "data.dataset", throw_on_missing=False)
    found = named_dataset(name)
    if found is None:
        yield
        return
    check_named(recipe.data)
    complete_named(recipe, found)
    with host.knows(name, found, recipe.data) as stand_ins, standing_in(program, stand_ins):
        yield
