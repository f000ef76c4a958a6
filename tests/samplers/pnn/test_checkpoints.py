"""pNN resumed, from its own checkpoints and from stock's; and its checkpoints in solo-learn's own tools."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from pnn_trainings import HOST, ON_106, PIXELS, Thin, build, neutral, only_106, same
from torch.utils.data import DataLoader
from torchvision.models.resnet import BasicBlock

from solo_gps.guide.switch import activate

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("shallow")]


@pytest.mark.parametrize("method", ["nnclr", *(["simclr", "mocov2plus", "barlow_twins"] if ON_106 else [])])
def test_resumed_at_an_epoch_boundary_it_equals_the_uninterrupted_run(method, recipe, fit, tmp_path):
    keys = {"beta": 0.1, "alpha": 0.9, "alpha_end": 0.2} | ({} if method == "nnclr" else {"queue_size": 28})
    keys |= {"ema": 0.9} if method == "barlow_twins" else {}
    kwargs = {"queue_size": 64} if method == "mocov2plus" else {}
    cfg = recipe(method, max_epochs=2, sampler={"pnn": keys}, method_kwargs=kwargs, momentum={"base_tau": 0.9, "final_tau": 0.9})
    checkpoint = tmp_path / "first-epoch.ckpt"

    def train(cfg, *, resume=None):
        model, loader, kwargs = build(cfg)

        class Save(HOST.lightning.Callback):
            def on_train_epoch_end(self, trainer, _):
                if trainer.current_epoch == 0:
                    trainer.save_checkpoint(checkpoint)

        in_order = DataLoader(loader.dataset, batch_size=loader.batch_size, drop_last=True)
        HOST.lightning.Trainer(**{**kwargs, "callbacks": [Save()]}).fit(model, in_order, ckpt_path=resume)
        return model

    whole = fit(cfg.copy(), train=train)
    resumed = fit(cfg.copy(), train=lambda cfg: train(cfg, resume=checkpoint))
    assert len(whole.losses) == 12
    assert resumed.losses == whole.losses[6:]
    assert same(resumed.state(pnn=True), whole.state(pnn=True))


@only_106
@pytest.mark.parametrize(("method", "ema"), [("simclr", None), ("nnclr", 0.9), ("mocov2plus", None)])
def test_a_stock_checkpoint_loads_with_one_warning(method, ema, recipe, fit, caplog):
    stock = fit(recipe(method, max_steps=2), stock=True).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with activate(recipe(method, seed=8, sampler=neutral(method, ema=ema))) as on:
            wrapped, _, _ = build(on.cfg)
    with caplog.at_level(logging.WARNING, "solo_gps"):
        wrapped.load_state_dict(stock.state_dict())
    (warned,) = [record.message for record in caplog.records if record.name.startswith("solo_gps")]
    assert "the checkpoint was trained without sampler.pnn: the support set starts empty" in warned
    ours = {name: value for name, value in wrapped.state_dict().items() if not name.startswith("pnn")}
    assert same(ours, dict(stock.state_dict()))
    if ema is not None:
        assert same(dict(wrapped.pnn_slow.trunk.state_dict()), dict(stock.backbone.state_dict()))


@pytest.mark.parametrize("keys", [{"k": 2}, {"exclude_same_image": True}, {"space": "prior"}])
def test_after_a_stock_checkpoint_only_rows_of_known_images_are_chosen(keys, recipe, fit):
    """The stock run left its queue half written: ours goes on in the middle, and knows those rows alone."""
    stock = fit(recipe("nnclr", max_steps=1), stock=True).model
    assert int(stock.queue_ptr) == 8

    def train(cfg):
        model, loader, kwargs = build(cfg)
        model.load_state_dict(stock.state_dict())
        HOST.lightning.Trainer(**kwargs).fit(model, loader)
        return model

    steps = fit(recipe("nnclr", max_steps=2, prior=PIXELS, sampler={"pnn": keys}), train=train).steps
    assert all((chosen == -1).all() for chosen in steps[0].chosen.values())
    for chosen in steps[1].chosen.values():
        assert set(chosen.flatten().tolist()) <= set(steps[0].images[0].tolist())


@only_106
@pytest.mark.parametrize(("method", "ema"), [("simclr", 0.9), ("nnclr", 0.9), ("byol", None)])
def test_solo_learns_own_tools_load_our_checkpoints(method, ema, recipe, fit, tmp_path):
    """What main_knn.py and main_linear.py do with a checkpoint."""
    cfg = recipe(method, max_steps=2, sampler={"pnn": {"ema": ema} | ({} if method == "nnclr" else {"queue_size": 20})})
    run = fit(cfg)
    path = tmp_path / "ours.ckpt"
    run.model.trainer.save_checkpoint(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HOST.methods[method].load_from_checkpoint(path, strict=False, cfg=HOST.complete(cfg.copy()))
    images = torch.randn(4, 3, 32, 32)
    run.model.eval()
    model.eval()
    with torch.no_grad():
        for name in ("feats", "z"):
            # The trained model's weights lie in memory channels last: same numbers, another order of sums.
            torch.testing.assert_close(model(images)[name], run.model(images)[name])
    assert same(dict(model.state_dict()), run.state())
    state = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    for key in list(state):
        if "backbone" in key:
            state[key.replace("backbone.", "")] = state[key]
        del state[key]
    backbone = Thin(BasicBlock, [1, 1, 1, 1])
    backbone.fc = torch.nn.Identity()
    assert backbone.load_state_dict(state, strict=False).missing_keys == []
    assert same(dict(backbone.state_dict()), dict(run.model.backbone.state_dict()))
