"""Fingerprint of embeddings: equal fingerprints mean equal data, encoder, weights, preprocessing and code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solo_gps.priors.base import Encoder

LENGTH = 32
"""Hex digits of a fingerprint: 128 bits."""


def describe(encoder: Encoder) -> dict[str, Any]:
    """All but the images that the embeddings depend on, as JSON values; the encoder by its registered name, since code may move.

    Args:
        encoder: A loaded encoder.
    """
    return {
        "encoder": encoder.config.name,
        "encoder_version": encoder.version,
        "identity": encoder.identity(),
    }


def fingerprint(description: Mapping[str, Any], data: str | None) -> str:
    """Returns 32 hex digits.

    Args:
        description: What :func:`describe` returned.
        data: Digest of the images, ``None`` where the embeddings do not depend on them.
    """
    description = {**description, "data": data}
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
