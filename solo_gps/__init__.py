"""solo-gps: guided positives for self-supervised learning, as a plugin for solo-learn.

Importing this package stays cheap: torch, Hydra and solo-learn are imported only by the parts that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["GuidedPairs", "SoloGpsError", "__version__", "activate", "evaluate", "hookimpl", "inspect", "positives"]

if TYPE_CHECKING:
    from solo_gps.api.evaluate import evaluate
    from solo_gps.api.inspect import inspect
    from solo_gps.api.pairs import GuidedPairs
    from solo_gps.api.positives import positives
    from solo_gps.errors import SoloGpsError
    from solo_gps.guide.switch import activate
    from solo_gps.hookspecs import hookimpl
    from solo_gps.version import __version__

_LAZY = {
    "GuidedPairs": "solo_gps.api.pairs",
    "evaluate": "solo_gps.api.evaluate",
    "inspect": "solo_gps.api.inspect",
    "positives": "solo_gps.api.positives",
    "activate": "solo_gps.guide.switch",
    "hookimpl": "solo_gps.hookspecs",
    "SoloGpsError": "solo_gps.errors",
    "__version__": "solo_gps.version",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'solo_gps' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
