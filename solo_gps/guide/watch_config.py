"""What a run shows of its pairs: the keys under ``watch``, checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass

from solo_gps.config import Keys, number, parse
from solo_gps.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class WatchConfig(Keys):
    """Keys under ``watch``; they change nothing of what is trained."""

    every: int = number(10, least=0)
    """Epochs from one picture of anchors beside their positives to the next, in TensorBoard and W&B, the first epoch's included; 0 for none."""  # noqa: E501
    rows: int = number(8, least=1, most=64)
    """Anchors in a picture."""
    report: bool = True
    """Whether a page about the run is written beside its receipt when it ends."""


def parse_watch(node: object) -> WatchConfig:
    """Checks the recipe's ``watch`` node; the defaults without one.

    Raises:
        ConfigError: A key, type or value is wrong.
    """
    if isinstance(node, str):
        raise ConfigError(f"watch={node!r}: wanted a group such as {{every: 5}}; on a command line type +watch=pictures.")
    return parse({} if node is None else node, WatchConfig, "watch")
