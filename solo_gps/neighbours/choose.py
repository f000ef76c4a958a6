"""Which backend: the one asked for, checked, or the best one here, with the reason in the log at debug level."""

from __future__ import annotations

import logging

from solo_gps.neighbours.backend import SearchBackend, SearchConfig
from solo_gps.neighbours.backends.faiss_here import find_faiss, pick_device

log = logging.getLogger(__name__)

# Multiply-adds of an exact self-join above which auto turns to an approximate search: some ten minutes on two cores or one GPU.
MOST_PRODUCTS = {"cpu": 2e14, "cuda": 2e17}


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
    log.debug("neighbours: backend %s for N=%d, D=%d: %s", name, images, columns, reason)
    backend = known[name](config.with_backend(name))
    if not backend.exact:
        log.info(
            "neighbours: an exact search of %s images would take more than about ten minutes here; %s finds most neighbours "
            "sooner, and how many is measured (search.backend=torch finds all)",
            f"{images:,}",
            name,
        )
    return backend


def _automatic(config: SearchConfig, images: int, columns: int, radius: float | None) -> tuple[str, str]:
    device = pick_device(config.device)
    products = float(images) ** 2 * columns
    if radius is not None:
        return "torch", f"exact on {device}, as every radius search"
    if products <= MOST_PRODUCTS[device]:
        return "torch", f"exact on {device}, {products:.1e} multiply-adds are at most {MOST_PRODUCTS[device]:.0e}"
    large = f"{products:.1e} multiply-adds are more than {MOST_PRODUCTS[device]:.0e}"
    faiss = find_faiss()
    if device == "cuda" and faiss.cagra:
        return "faiss_cagra", f"approximate, {large}"
    if device == "cpu" and faiss.version is not None:
        return "faiss_ivf", f"approximate, {large}"
    mend = "pip install 'solo-gps[cpu]'" if device == "cpu" else "Install a FAISS built with cuVS (conda: faiss-gpu-cuvs)"
    log.warning(
        "neighbours: an exact search of %s images takes more than about ten minutes here, and nothing faster is installed "
        "(%s). %s.",
        f"{images:,}",
        faiss,
        mend,
    )
    return "torch", f"exact on {device}, for want of an approximate backend: {large}"
