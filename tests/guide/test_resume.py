"""A run resumed from a checkpoint draws the pairs that the uninterrupted run drew."""

from __future__ import annotations

import pytest

from solo_gps import hookimpl, plugins

pytestmark = pytest.mark.host


@pytest.fixture
def drawn():
    seen = []

    class Watcher:
        @hookimpl
        def on_epoch_pairs(self, epoch, pairs):
            seen.append((epoch, pairs.positives.tolist()))

    watcher = Watcher()
    plugins.plugin_manager().register(watcher)
    yield seen
    plugins.plugin_manager().unregister(watcher)


def test_the_pairs_go_on_where_the_run_stopped(recipe, train, drawn, tmp_path):
    from solo_gps.hosts.detect import detect_host

    def run(epochs, resume=None):
        cfg = recipe(
            max_epochs=epochs,
            sampler={"gps": {"k": 8, "choose": "uniform"}},
            prior={"name": "pixels"},
            checkpoint={"enabled": True, "dir": str(tmp_path / "trained"), "frequency": 1, "keep_prev": True},
            resume_from_checkpoint=resume,
        )
        train(cfg)

    run(3)
    whole = list(drawn)
    assert [epoch for epoch, _ in whole] == [0, 1, 2]
    assert len({tuple(positives) for _, positives in whole}) == 3
    checkpoints = sorted(path for path in (tmp_path / "trained").rglob("*.ckpt") if "ep=0" in path.name)
    if not checkpoints:
        checkpoints = sorted((tmp_path / "trained").rglob("*.ckpt"))[:1]
    assert checkpoints, f"no checkpoint of solo-learn {detect_host().generation}"
    drawn.clear()
    (metrics,) = (tmp_path / "trained").rglob("metrics.csv")
    before = metrics.read_text()
    run(3, resume=str(checkpoints[0]))
    assert drawn == whole[1:]
    assert metrics.read_text() == before
    assert len(list((tmp_path / "trained").rglob("metrics.csv"))) == 2, "the resumed run's metrics stand beside the first's"
