"""Which backend: the one asked for, checked, or the best one here, with the reason in one log line."""

from __future__ import annotations

import logging

from solo_gps.neighbours.base import SearchBackend, SearchConfig
from solo_gps.neighbours.device import find_faiss, pick_device

log = logging.getLogger(__name__)

# Multiply-adds of an exact self-join above which auto turns to an approximate search on a CPU: about 10 minutes on two cores.
MOST_PRODUCTS = 2e14


def choose_backend(config: SearchConfig, *, images: int, columns: int, radius: float | None) -> SearchBackend:
    """Returns the backend, not fitted yet.

    Args:
        config: The node ``search``, resolved.
        images: N.
        columns: D.
        radius: The radius asked for; approximate backends are never chosen for one.
    """
    from solo_gps.plugins import registered

    known = registered("register_search_backends")
    if config.backend != "auto":
        return known[config.backend](config)
    name, reason = _automatic(config, images, columns, radius)
    log.info("neighbours: backend %s for N=%d, D=%d: %s.", name, images, columns, reason)
    return known[name](config.with_backend(name))


def _automatic(config: SearchConfig, images: int, columns: int, radius: float | None) -> tuple[str, str]:
    device = pick_device(config.device)
    if device == "cuda":
        return "torch", "exact on the GPU"
    products = float(images) ** 2 * columns
    if radius is not None or products <= MOST_PRODUCTS:
        return "torch", "exact on the CPU, below the bound for an approximate search"
    if find_faiss().version is None:
        log.warning(
            "neighbours: %s; the search stays exact and will be slow. pip install 'solo-gps[cpu]'", find_faiss()
        )
        return "torch", "exact on the CPU, because FAISS is not there"
    return "faiss_ivf", f"{products:.1e} multiply-adds are too many for an exact search on the CPU"
