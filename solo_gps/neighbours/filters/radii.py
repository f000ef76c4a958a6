"""Radii that follow the data, and tables cut at a radius. Pure functions of a table."""

from __future__ import annotations

import numpy as np

from solo_gps.config import check_choice
from solo_gps.errors import ConfigError
from solo_gps.interfaces import NeighbourTable
from solo_gps.neighbours.filters.graph import keep_edges

RULES = ("mean", "mean+std", "mean-std")
_STEPS = {"mean": 0.0, "mean+std": 1.0, "mean-std": -1.0}


def adaptive_radius(table: NeighbourTable, rule: str, first: int = 20) -> np.ndarray:
    """Radius of each image from the distances to its own first neighbours .

    Not the threshold of GPS-SSL's own code, which is one number for all images: :func:`shared_radius`.

    Args:
        table: Neighbours of N images; padding is left out.
        rule: ``mean``, ``mean+std`` or ``mean-std`` of the distances to the first neighbours (population standard deviation).
        first: How many neighbours to look at; fewer where the row or the table has fewer.

    Returns:
        (N,) float64 radii in the units of the table, not below 0; 0 where a row is empty.

    Raises:
        ConfigError: The rule is unknown, or ``first`` is below 1.
    """
    _check_rule(rule, first)
    near = np.asarray(table.distances[:, :first], np.float64)
    there = np.isfinite(near)
    count = np.maximum(there.sum(axis=1), 1)
    mean = np.where(there, near, 0).sum(axis=1) / count
    variance = np.square(np.where(there, near - mean[:, None], 0)).sum(axis=1) / count
    return np.maximum(mean + _STEPS[rule] * np.sqrt(variance), 0.0)


def shared_radius(table: NeighbourTable, rule: str, first: int = 20) -> float:
    """One radius for all images, as the adaptive thresholds of GPS-SSL's own code: ``mean(D[:, 1:21])``, plus or minus their std.

    The authors keep what is at most so far away; :func:`cut_table` keeps what is closer, so pass ``numpy.nextafter`` of it.

    Args:
        table: Neighbours of N images, by the distance that the radius is to be in; padding is left out.
        rule: ``mean``, ``mean+std`` or ``mean-std`` of all N x ``first`` distances together (population standard deviation).
        first: How many neighbours of each image to look at.

    Returns:
        The radius, not below 0; 0.0 for a table without neighbours.

    Raises:
        ConfigError: The rule is unknown, or ``first`` is below 1.
    """
    _check_rule(rule, first)
    near = np.asarray(table.distances[:, :first], np.float64)
    near = near[np.isfinite(near)]
    return max(0.0, float(near.mean() + _STEPS[rule] * near.std())) if near.size else 0.0


def _check_rule(rule: str, first: int) -> None:
    try:
        check_choice("rule", rule, RULES)
    except ValueError as error:
        raise ConfigError(f"adaptive radius: {error}") from error
    if first < 1:
        raise ConfigError(f"adaptive radius: first={first} must be at least 1.")


def quantile_radius(table: NeighbourTable, quantile: float, first: int = 20) -> float:
    """One radius for all images: a quantile of all distances to the first neighbours.

    Args:
        table: Neighbours of N images; padding is left out.
        quantile: Between 0 and 1.
        first: How many neighbours of each image to look at.

    Returns:
        The radius, in the units of the table; 0.0 for a table without neighbours.

    Raises:
        ConfigError: ``quantile`` or ``first`` is out of range.
    """
    if not 0 <= quantile <= 1 or first < 1:
        raise ConfigError(f"quantile radius: wanted 0 <= quantile <= 1 and first >= 1, got {quantile} and {first}.")
    near = np.asarray(table.distances[:, :first])
    near = near[np.isfinite(near)]
    return float(np.quantile(near, quantile)) if near.size else 0.0


def cut_table(table: NeighbourTable, radius: float | np.ndarray) -> NeighbourTable:
    """Keeps the neighbours strictly closer than a radius.

    Args:
        table: Neighbours of N images.
        radius: One radius, or (N,) radii, in the units of the table.

    Returns:
        Table of the same images, as wide as its longest row (at least 1); rows that lose neighbours are padded.
    """
    return keep_edges(table, table.distances < np.asarray(radius, np.float64).reshape(-1, 1))
