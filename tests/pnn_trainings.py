"""Trainings with pseudo nearest neighbours: a network that is quick, what each run leaves, and how two are compared."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.resnet import ResNet

from solo_gps.hosts.detect import detect_host
from solo_gps.methods import METHODS as FACTS
from solo_gps.methods import Place

HOST = detect_host()
PLACES = {name: facts.pnn for name, facts in FACTS.items() if isinstance(facts.pnn, Place)}
ON_106 = HOST.generation == "1.0.6"
only_106 = pytest.mark.skipif(not ON_106, reason="on 1.0.2 pNN acts on the methods that find neighbours by themselves")
METHODS = sorted(PLACES) if ON_106 else ["nnbyol", "nnclr", "nnsiam"]
PIXELS = {"name": "pixels", "image_size": 8}  # that of the digits: nothing is resized


class Thin(ResNet):
    """torchvision's ResNet with one block a stage and an eighth of the channels."""

    def _make_layer(self, block, planes, *args, **kwargs):
        return super()._make_layer(block, planes // 8, *args, **kwargs)


class Run:
    """The losses of a training, as the optimizer sees them, what was logged, and the model."""

    def __init__(self):
        self.losses, self.steps, self.logged, self.model = [], [], {}, None

    def state(self, *, pnn=False):
        return {n: v.detach().clone() for n, v in self.model.state_dict().items() if pnn or not n.startswith("pnn")}


def build(cfg):
    """Model, loader and trainer, as main_pretrain.py makes them."""
    cfg = HOST.complete(cfg)
    HOST.lightning.seed_everything(cfg.seed)
    model = HOST.build_method(cfg, HOST.methods[cfg.method])
    loader = HOST.build_train_loader(cfg)
    return model, loader, {**HOST.trainer_kwargs(cfg), "callbacks": [], "logger": False}


def trained(cfg):
    model, loader, kwargs = build(cfg)
    HOST.lightning.Trainer(**kwargs).fit(model, loader)
    return model


def neutral(method, **keys):
    size = {} if PLACES[method].own_queue else {"queue_size": 20}
    return {"pnn": {"alpha": PLACES[method].neutral_alpha, "beta": 0.0, **size, **keys}}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def apart(a, b):
    """What two runs differ in, in words; empty when they are equal to the last bit."""
    one, other = a.state(), b.state()
    unequal = [n for n in one if n in other and not torch.equal(one[n], other[n])]
    largest = {n: float((one[n].double() - other[n].double()).abs().max()) for n in unequal}
    losses = [(step, x, y) for step, (x, y) in enumerate(zip(a.losses, b.losses, strict=True)) if x != y]
    said = {"losses": losses, "in one alone": sorted(one.keys() ^ other.keys()), "unequal": largest}
    return {name: value for name, value in said.items() if value}


def assert_neutral(fit, recipe, method, *, steps, pnn=None, **nodes):
    stock = fit(recipe(method, flip=0.5, **nodes), stock=True)
    ours = fit(recipe(method, flip=0.5, sampler=pnn or neutral(method), **nodes))
    assert len(stock.losses) == steps
    if apart(ours, stock):
        again = fit(recipe(method, flip=0.5, **nodes), stock=True)
        pytest.fail(f"pNN against stock: {apart(ours, stock)}\nstock against stock: {apart(again, stock) or 'equal'}")
