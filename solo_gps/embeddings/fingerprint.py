"""Fingerprint of embeddings: equal fingerprints mean equal data, encoder, weights, preprocessing and code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solo_gps.interfaces import ImageSet
    from solo_gps.priors.base import Encoder

LENGTH = 32
"""Hex digits of a fingerprint: 128 bits."""


def describe(encoder: Encoder, images: ImageSet) -> dict[str, Any]:
    """All but the images' stored bytes that the embeddings depend on, as JSON values.

    The encoder stands by its registered name, since code may move.

    Args:
        encoder: A loaded encoder.
        images: Raw images; what they say of their decoding counts, as ``identity``, where the encoder reads them.
    """
    return {
        "encoder": encoder.config.name,
        "encoder_version": encoder.version,
        "identity": encoder.identity(),
        **(getattr(images, "identity", {}) if encoder.reads_images else {}),
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
