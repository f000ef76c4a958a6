"""Samplers: which image is the positive. The built-ins register here, like any plugin's."""

from __future__ import annotations

from solo_gps.hookspecs import hookimpl


@hookimpl
def register_samplers() -> dict[str, str]:
    """Registers the built-in samplers."""
    return {
        "gps": "solo_gps.samplers.gps.sampler:Gps",
        "pnn": "solo_gps.samplers.pnn.sampler:Pnn",
        "sepp": "solo_gps.samplers.sepp.sampler:Sepp",
    }
