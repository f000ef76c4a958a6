"""Embeddings of the training set in the prior space: built once, found again by what they hold, shared by every process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["embed", "list_caches", "remove", "resolve_prior", "show", "verify"]

if TYPE_CHECKING:
    from solo_gps.embeddings.manage import list_caches, remove, show, verify
    from solo_gps.embeddings.resolve import resolve_prior
    from solo_gps.embeddings.service import embed

_LAZY = {
    "embed": "solo_gps.embeddings.service",
    "list_caches": "solo_gps.embeddings.manage",
    "remove": "solo_gps.embeddings.manage",
    "resolve_prior": "solo_gps.embeddings.resolve",
    "show": "solo_gps.embeddings.manage",
    "verify": "solo_gps.embeddings.manage",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'solo_gps.embeddings' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
