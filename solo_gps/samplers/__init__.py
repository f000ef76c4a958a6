"""Samplers: which image is the positive. The built-ins register here, like any plugin's."""

from __future__ import annotations

from solo_gps.hookspecs import hookimpl


@hookimpl
def register_samplers() -> dict[str, type]:
    """Registers the built-in samplers."""
    from solo_gps.samplers.gps import Gps
    from solo_gps.samplers.pnn.sampler import Pnn
    from solo_gps.samplers.sepp.sampler import Sepp

    return {"gps": Gps, "pnn": Pnn, "sepp": Sepp}
