"""Fixtures of tests that watch real training: the pairs and tables that the plugin announces."""

from __future__ import annotations

import numpy as np
import pytest

from solo_gps import hookimpl, plugins
from solo_gps.samplers.gps import Gps


class Itself(Gps):
    """All that GPS does, balls found and positives drawn, only to show the anchor itself."""

    def pairs(self, pairs, epoch):
        assert (super().pairs(pairs, epoch).positives != pairs.anchors).all()
        return pairs


@pytest.fixture
def itself():
    """Makes `sampler: {itself: {}}` known: switched on, with nothing to guide."""

    class Plugin:
        @hookimpl
        def register_samplers(self):
            return {"itself": Itself}

    plugin = Plugin()
    plugins.plugin_manager().register(plugin)
    yield
    plugins.plugin_manager().unregister(plugin)


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
