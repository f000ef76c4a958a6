"""Fixtures of tests that watch real training: the pairs and tables that the plugin announces."""

from __future__ import annotations

import numpy as np
import pytest

from solo_gps import hookimpl, plugins


@pytest.fixture
def drawn():
    """Epoch to positives, as announced."""
    seen = {}

    class Watcher:
        @hookimpl
        def on_epoch_pairs(self, epoch, pairs):
            seen[epoch] = np.array(pairs.positives)

    watcher = Watcher()
    plugins.plugin_manager().register(watcher)
    yield seen
    plugins.plugin_manager().unregister(watcher)


@pytest.fixture
def tables():
    """Tables as they were built, the prior's and the refreshed ones."""
    seen = []

    class Watcher:
        @hookimpl
        def on_table_built(self, sampler, table, labels):
            seen.append((sampler, np.array(table.indices), labels))

    watcher = Watcher()
    plugins.plugin_manager().register(watcher)
    yield seen
    plugins.plugin_manager().unregister(watcher)
