"""Fingerprint of embeddings: equal fingerprints mean equal data, encoder, weights, preprocessing and code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solo_gps.priors.base import Encoder

LENGTH = 32
"""Hex digits of a fingerprint: 128 bits."""


def data_digest(content: Iterable[bytes]) -> str:
    """SHA-256 of the images' content in order, each entry with its length, in hex."""
    digest = hashlib.sha256()
    count = 0
    for entry in content:
        digest.update(len(entry).to_bytes(8, "little"))
        digest.update(entry)
        count += 1
    digest.update(count.to_bytes(8, "little"))
    return digest.hexdigest()


def describe(encoder: Encoder, data: str) -> dict[str, Any]:
    """Everything that the embeddings depend on, as JSON values; the encoder by its registered name, since code may move.

    Args:
        encoder: A loaded encoder.
        data: Digest of the images.
    """
    return {
        "data": data,
        "encoder": encoder.config.name,
        "encoder_version": encoder.version,
        "identity": encoder.identity(),
    }


def fingerprint(description: Mapping[str, Any]) -> str:
    """The fingerprint of what :func:`describe` returned: 32 hex digits."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
