"""The error family for users: every bad input gets one error that says where, what was wanted, what came, and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SoloGpsError(ValueError):
    """Base of every error that a user can cause and mend."""


class ConfigError(SoloGpsError):
    """A key, type or value in the configuration is wrong."""


class UnknownNameError(ConfigError):
    """A sampler, prior, backend, method or recipe of that name does not exist."""

    def __init__(self, kind: str, name: object, known: Iterable[str], hint: str = "") -> None:
        options = sorted(known)
        message = f"unknown {kind} {name!r}; known: {', '.join(options) or 'none'}.{did_you_mean(name, options)}"
        super().__init__(message + (f" {hint}" if hint else ""))


class DataError(SoloGpsError):
    """The images, labels or embeddings are not what was asked for."""


class CacheError(SoloGpsError):
    """A cache folder is damaged, foreign, or cannot be written."""


class HostError(SoloGpsError):
    """solo-learn is missing, of an unsupported generation, or was not reached."""


class RefusedMethodError(SoloGpsError):
    """A solo-learn method that a sampler cannot act on."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns ``" Did you mean 'x'?"`` for the closest known name, or the empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
