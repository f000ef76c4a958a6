"""Fixtures of tests that watch real training: the pairs and tables that the plugin announces, and whole programs."""

from __future__ import annotations

import numpy as np
import pytest
from omegaconf import OmegaConf
from programs import Programs

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


@pytest.fixture
def programs(tmp_path, digits, recipe):
    """Programs in processes of their own, on the digits, with a recipe of two steps."""
    cfg = recipe("nnclr", max_steps=2, batch_size=16, performance={"disable_channel_last": True})
    cfg.checkpoint.dir = str(tmp_path / "trained")
    text = f"{OmegaConf.to_yaml(cfg)}hydra:\n  run: {{dir: {tmp_path}/run}}\n  sweep: {{dir: {tmp_path}/sweep}}\n"
    return Programs(tmp_path, digits / "train", text)
