"""What may happen to the bytes of a file."""

from __future__ import annotations

from hypothesis import strategies as st

damages = st.tuples(
    st.sampled_from(["flip", "cut", "grow", "insert", "overwrite"]), st.floats(0, 1, exclude_max=True), st.integers(0, 255)
)
"""Kind, place as a share of the file, value."""


def damage(data: bytes, kind: str, place: float, value: int) -> bytes:
    """The bytes after a damage."""
    at = int(place * len(data))
    if kind == "flip" and data:
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ max(1, value)]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "grow":
        return data + bytes([value]) * (1 + at)
    if kind == "insert":
        return data[:at] + bytes([value]) + data[at:]
    return bytes([value]) * len(data)  # overwritten
