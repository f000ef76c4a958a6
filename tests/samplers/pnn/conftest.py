"""Fixtures of the trainings with pseudo nearest neighbours."""

from __future__ import annotations

import warnings

import pytest
from pnn_trainings import HOST, ON_106, Run, Thin, trained
from torchvision.models.resnet import BasicBlock

from solo_gps.commands.pretrain import pretrain
from solo_gps.guide.switch import activate
from solo_gps.samplers.pnn.engine import Engine


@pytest.fixture
def shallow(monkeypatch):
    """A network that takes a tenth of ResNet-18's time; what is compared does not depend on it."""
    if ON_106:
        from solo.methods.base import BaseMethod

        monkeypatch.setitem(BaseMethod._BACKBONES, "resnet18", lambda method, **_: Thin(BasicBlock, [1, 1, 1, 1]))


@pytest.fixture
def fit(monkeypatch, shallow):
    """Trains a recipe, by solo-gps or by the host's own functions alone, and records it."""

    def run(cfg, *, stock=False, train=None):
        record, original = Run(), HOST.methods[cfg.method]

        class Recorded(original):
            def on_train_batch_end(self, outputs, *args):
                record.losses.append(float(outputs["loss"]))
                super().on_train_batch_end(outputs, *args)

        end_step = Engine.end_step
        monkeypatch.setattr(Engine, "end_step", lambda self, step: (record.steps.append(step), end_step(self, step)))
        HOST.methods[cfg.method] = Recorded
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if stock:
                    with HOST.switched_on():
                        record.model = (train or trained)(cfg)
                else:
                    with activate(cfg):
                        record.model = train(cfg) if train else pretrain(cfg).model
        finally:
            HOST.methods[cfg.method] = original
            monkeypatch.setattr(Engine, "end_step", end_step)
        record.logged = {key: float(value) for key, value in record.model.trainer.callback_metrics.items()}
        return record

    return run
