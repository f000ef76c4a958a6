"""Real training with pseudo nearest neighbours, on whichever generation of solo-learn is installed."""

from __future__ import annotations

import warnings

import pytest
import torch

from solo_gps.host.activation import activate
from solo_gps.host.detect import detect_host
from solo_gps.host.pretrain import pretrain
from solo_gps.samplers.pnn_methods import PLACES

pytestmark = pytest.mark.host
HOST = detect_host()
ON_106 = HOST.generation == "1.0.6"
only_106 = pytest.mark.skipif(not ON_106, reason="on 1.0.2 pNN acts on the methods that find neighbours by themselves")
METHODS = sorted(PLACES) if ON_106 else ["nnbyol", "nnclr", "nnsiam"]


class Run:
    """The losses of a training, as the optimizer sees them, what was logged, and the model."""

    def __init__(self):
        self.losses, self.logged, self.model = [], {}, None

    def parameters(self):
        return {n: v.detach().clone() for n, v in self.model.state_dict().items() if not n.startswith("pnn")}


@pytest.fixture
def fit():
    def run(cfg, *, stock=False):
        run, original = Run(), HOST.methods[cfg.method]

        class Recorded(original):
            def on_train_batch_end(self, outputs, *args):
                run.losses.append(float(outputs["loss"]))
                super().on_train_batch_end(outputs, *args)

        HOST.methods[cfg.method] = Recorded
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if stock:
                    with HOST.switched_on():
                        run.model = stock_run(cfg)
                else:
                    with activate(cfg):
                        run.model = pretrain(cfg).model
        finally:
            HOST.methods[cfg.method] = original
        run.logged = {k: float(v) for k, v in run.model.trainer.callback_metrics.items()}
        return run

    return run


def stock_run(cfg):
    cfg = HOST.complete(cfg)
    HOST.lightning.seed_everything(cfg.seed)
    model = HOST.build_method(cfg, HOST.methods[cfg.method])
    val_loader = HOST.build_val_loader(cfg)
    loader = HOST.build_train_loader(cfg)
    trainer = HOST.lightning.Trainer(**{**HOST.trainer_kwargs(cfg), "callbacks": [], "logger": False})
    trainer.fit(model, loader, val_loader)
    return model


def neutral(method, **keys):
    size = {} if PLACES[method].kind == "find_nn" else {"queue_size": 20}
    return {"pnn": {"alpha": PLACES[method].neutral_alpha, "beta": 0.0, **size, **keys}}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("method", METHODS)
def test_at_the_neutral_point_it_equals_stock_to_the_last_bit(method, recipe, fit):
    stock = fit(recipe(method, flip=0.5, max_steps=3), stock=True)
    pnn = fit(recipe(method, flip=0.5, max_steps=3, sampler=neutral(method)))
    assert len(stock.losses) == 3
    assert pnn.losses == stock.losses
    assert same(pnn.parameters(), stock.parameters())
