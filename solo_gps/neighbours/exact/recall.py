"""Recall of an approximate backend, measured against the exact neighbours of a random sample."""

from __future__ import annotations

import logging

import numpy as np

from solo_gps.neighbours.backend import SearchBackend
from solo_gps.neighbours.exact.nearest import candidate_keys, complete_rows
from solo_gps.neighbours.exact.workspace import Workspace

log = logging.getLogger(__name__)


def reach_recall(work: Workspace, backend: SearchBackend, count: int) -> dict[str, object]:
    """Measures recall, and raises the backend's effort until it is at or above ``recall_floor``.

    Args:
        work: U prepared points, and what measures them.
        backend: Fitted approximate backend; left at the effort that was enough.
        count: Number of points wanted for each row, the row itself included (it is not counted in the recall).

    Returns:
        What was measured, for the manifest: recall, k, sample, settings, and the recall of each effort tried.
    """
    config, total = work.config, len(work.points.exact)
    rows = np.sort(np.random.default_rng(config.seed).permutation(total)[: config.recall_sample])
    asked = min(total, backend.surplus(count))
    exact: np.ndarray | None = None
    tried: list[dict[str, object]] = []
    while True:
        keys = _sample_keys(work, backend, rows, asked, count)
        # The first answers bound the exact search from above, so that it need not sort anything beyond them.
        exact = complete_rows(work, rows, keys) if exact is None else exact
        recall = overlap(keys[:, 1:], exact[:, 1:])
        tried.append({**backend.settings(), "recall": round(recall, 4)})
        log.debug(
            "neighbours: %s %s: recall@%d %.4f on %d images", config.backend, backend.settings(), count - 1, recall, len(rows)
        )
        if recall >= config.recall_floor or not backend.raise_effort():
            break
    if recall < config.recall_floor:
        log.warning(
            "neighbours: at its largest effort %s finds %.1f %% of the true neighbours (of %s random images), below "
            "search.recall_floor=%g. Use an exact backend: search.backend=torch.",
            config.backend,
            100 * recall,
            f"{len(rows):,}",
            config.recall_floor,
        )
    return {"recall": recall, "k": count - 1, "sample": len(rows), "settings": backend.settings(), "tried": tried}


def overlap(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the K true neighbours that were found, another one as near as the last of them included.

    Args:
        found: (S, K) keys, sorted: distance before index, so that keys up to the last true distance are as near as true ones.
        exact: (S, K) keys, sorted.
    """
    if not exact.size:
        return 1.0
    return float((found >> 32 <= exact[:, -1:] >> 32).sum() / exact.size)


def _sample_keys(work: Workspace, backend: SearchBackend, rows: np.ndarray, asked: int, count: int) -> np.ndarray:
    step = backend.rows_per_block(len(work.points.exact), asked)
    blocks = [rows[start : start + step] for start in range(0, len(rows), step)]
    return np.concatenate([candidate_keys(work, backend, block, asked, count)[0] for block in blocks])
