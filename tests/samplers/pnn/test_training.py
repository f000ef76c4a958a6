"""Real training with pseudo nearest neighbours, on whichever generation of solo-learn is installed."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from processes import torchrun
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models.resnet import BasicBlock, ResNet

import solo_gps
from solo_gps.commands.pretrain import pretrain
from solo_gps.errors import ConfigError, DataError, HostError, RefusedMethodError
from solo_gps.guide.switch import activate
from solo_gps.hosts.detect import detect_host
from solo_gps.methods import METHODS as FACTS
from solo_gps.methods import Place
from solo_gps.samplers.pnn.engine import Engine

pytestmark = pytest.mark.host
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


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """A network that takes a tenth of ResNet-18's time; what is compared does not depend on it."""
    if ON_106:
        from solo.methods.base import BaseMethod

        monkeypatch.setitem(BaseMethod._BACKBONES, "resnet18", lambda method, **_: Thin(BasicBlock, [1, 1, 1, 1]))


class Run:
    """The losses of a training, as the optimizer sees them, what was logged, and the model."""

    def __init__(self):
        self.losses, self.steps, self.logged, self.model = [], [], {}, None

    def state(self, *, pnn=False):
        return {n: v.detach().clone() for n, v in self.model.state_dict().items() if pnn or not n.startswith("pnn")}


@pytest.fixture
def fit(monkeypatch):
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


@pytest.mark.parametrize("method", METHODS)
def test_at_the_neutral_point_it_equals_stock_to_the_last_bit(method, recipe, fit):
    assert_neutral(fit, recipe, method, steps=3, max_steps=3)


@pytest.mark.parametrize("method", METHODS)
def test_and_in_bfloat16_with_gradient_accumulation(method, recipe, fit):
    assert_neutral(fit, recipe, method, steps=6, max_steps=3, precision="bf16-mixed", accumulate_grad_batches=2)


def with_small_crops(cfg, count=3):
    small = OmegaConf.merge(cfg.augmentations[0], {"crop_size": 18, "num_crops": count})
    cfg.augmentations = [cfg.augmentations[0], small]
    return cfg


TWO_CROPS_ALONE = ("all4one", "wmse")
MORE_LARGE_CROPS = ("byol", "dino", "mocov3", "simclr", "swav")


@only_106
@pytest.mark.parametrize("method", [method for method in METHODS if method not in TWO_CROPS_ALONE])
def test_and_with_three_small_crops(method, recipe, fit):
    def multicrop(*args, **nodes):
        return with_small_crops(recipe(*args, **nodes))

    assert_neutral(fit, multicrop, method, steps=3, max_steps=3)


@only_106
@pytest.mark.parametrize("method", MORE_LARGE_CROPS)
def test_and_with_three_large_crops(method, recipe, fit):
    assert_neutral(fit, recipe, method, steps=3, max_steps=3, crops=3)


@only_106
@pytest.mark.parametrize("method", [method for method in METHODS if method not in (*MORE_LARGE_CROPS, "wmse")])
def test_the_other_methods_take_two_large_crops_without_solo_gps_too(method, recipe, fit):
    with pytest.raises(ValueError, match="too many values to unpack"):
        fit(recipe(method, max_steps=1, crops=3), stock=True)


@only_106
def test_and_with_swavs_own_queue(recipe, fit):
    kwargs = {"queue_size": 16, "epoch_queue_starts": 0}
    assert_neutral(fit, recipe, "swav", steps=3, max_steps=3, method_kwargs=kwargs)


@only_106
@pytest.mark.parametrize("method", ["vicreg", "swav", "nnclr", "simsiam"])
def test_a_slow_copy_without_a_past_equals_stock_to_the_last_bit(method, recipe, fit):
    """ema=0: the copy is the network, at every step, batch norms included."""
    assert_neutral(fit, recipe, method, steps=3, max_steps=3, pnn=neutral(method, ema=0.0))


def test_and_on_two_ranks(recipe, tmp_path):
    """One pair of processes trains all methods with stock and with pNN; see pnn_two_ranks.py."""
    recipes = []
    for method in METHODS:
        recipes.append(tmp_path / f"{method}.yaml")
        OmegaConf.save(recipe(method, flip=0.5, max_steps=3, devices=2, strategy="ddp"), recipes[-1])
    script = Path(__file__).with_name("two_ranks.py")
    done = torchrun(script, *recipes, cwd=tmp_path, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for rank in (0, 1):
        verdicts = (tmp_path / f"rank-{rank}.txt").read_text().splitlines()
        assert verdicts == [f"{method}: equal, rows agree" for method in METHODS] + ["left with 0 threads of gloo"]


@pytest.mark.parametrize("method", METHODS)
def test_away_from_the_neutral_point_every_method_trains(method, recipe, fit):
    size = {} if PLACES[method].own_queue else {"queue_size": 20}
    kwargs = {"queue_size": 40} if method in ("mocov2plus", "ressl") else {}
    cfg = recipe(method, flip=0.5, max_steps=4, sampler={"pnn": {"exclude_same_image": True, **size}}, method_kwargs=kwargs)
    run = fit(cfg)
    assert np.isfinite(run.losses).all()
    expected = 1 if PLACES[method].views else 2
    assert [len(step.pseudo) for step in run.steps] == [expected] * 4
    for step in run.steps[1:]:
        assert not any(torch.equal(made, step.keys[view]) for view, made in step.pseudo.items())


def test_the_same_seed_gives_the_same_run_and_noise_of_its_own(recipe, fit):
    cfg = recipe("nnclr", flip=0.5, max_epochs=2, sampler={"pnn": {"beta": 0.3}})
    first, second = fit(cfg.copy()), fit(cfg.copy())
    assert first.losses == second.losses
    assert same(first.state(pnn=True), second.state(pnn=True))
    cfg.sampler.pnn.seed = 99
    other = fit(cfg.copy())
    assert other.losses != first.losses
    # The noise takes nothing from torch's own generator: the images of the second epoch come in the same order.
    assert [s.images[0].tolist() for s in other.steps] == [s.images[0].tolist() for s in first.steps]


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


@only_106
def test_the_slow_copy_is_the_moving_average_of_the_network(recipe, fit):
    weights = []

    def train(cfg):
        model, loader, kwargs = build(cfg)
        weights.append(model.projector[0].weight.detach().clone())

        class Watch(HOST.lightning.Callback):
            def on_train_batch_end(self, *args):
                weights.append(model.projector[0].weight.detach().clone())

        HOST.lightning.Trainer(**{**kwargs, "callbacks": [Watch()]}).fit(model, loader)
        return model

    run = fit(recipe("simclr", max_steps=3, sampler={"pnn": {"ema": 0.7, "queue_size": 24}}), train=train)
    slow = weights[0]
    for weight in weights[1:]:
        slow = 0.7 * slow + 0.3 * weight
    torch.testing.assert_close(run.model.pnn_slow.projector[0].weight, slow)
    assert not torch.equal(run.model.pnn_slow.projector[0].weight, run.model.projector[0].weight)
    keys = [step.slow_keys[0] for step in run.steps]
    rows = torch.nn.functional.normalize(torch.cat(keys), dim=1)
    torch.testing.assert_close(run.model.pnn.rows.z, rows)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("method", ["nnclr", *(["byol"] if ON_106 else [])])
def test_the_logged_measures_are_those_of_the_chosen_neighbours(method, exclude, recipe, fit, digits):
    size = {} if method == "nnclr" else {"queue_size": 64}
    kwargs = {"queue_size": 64} if method == "nnclr" else {}
    cfg = recipe(method, max_epochs=3, sampler={"pnn": {"exclude_same_image": exclude, **size}}, method_kwargs=kwargs)
    cfg.optimizer.lr = 1e-5  # so slow that an image is nearest to itself an epoch ago
    run = fit(cfg)
    labels = np.array(ImageFolder(digits / "train").targets)
    right, same_image = [], []
    for step in run.steps[12:]:
        for chosen in step.chosen.values():
            found = chosen[:, 0] >= 0
            images, neighbours = step.images[0][found].numpy(), chosen[found, 0].numpy()
            right += (labels[images] == labels[neighbours]).tolist()
            same_image += (images == neighbours).tolist()
    assert len(run.steps) == 18
    assert run.logged["pnn_purity"] == pytest.approx(np.mean(right))
    assert run.logged["pnn_same_image"] == pytest.approx(np.mean(same_image))
    assert np.any(same_image) != exclude
    assert 1 <= run.logged["pnn_age"] <= 8
    assert run.logged["pnn_distance"] > 0
    assert -1 <= run.logged["pnn_positive_similarity"] <= 1
    assert 0 < run.logged["pnn_anchor_similarity"] <= 1.000001
    assert (run.logged["pnn_alpha"], run.logged["pnn_beta"]) == pytest.approx((0.05, 0.1))


def test_alpha_follows_its_schedule(recipe, fit):
    cfg = recipe("nnclr", max_epochs=3, sampler={"pnn": {"alpha": 1.0, "alpha_end": 0.0, "schedule_epochs": 2, "beta": 0.0}})
    run = fit(cfg)
    at = [run.steps[6 * epoch + 5] for epoch in range(3)]
    torch.testing.assert_close(at[0].pseudo[0], at[0].keys[0])
    assert not torch.allclose(at[1].pseudo[0], at[1].keys[0])
    assert run.logged["pnn_alpha"] == 0.0


@pytest.mark.parametrize("method", ["nnclr", *(["simclr"] if ON_106 else [])])
def test_neighbours_chosen_in_the_prior_space_are_nearest_there(method, recipe, fit, digits):
    size = {} if method == "nnclr" else {"queue_size": 32}
    kwargs = {"queue_size": 32} if method == "nnclr" else {}
    cfg = recipe(method, max_epochs=2, prior=PIXELS, sampler={"pnn": {"space": "prior", **size}}, method_kwargs=kwargs)
    run = fit(cfg)
    raw = np.stack([np.asarray(image, dtype=np.float64).ravel() for image, _ in ImageFolder(digits / "train")])
    distance = ((raw[:, None] - raw[None]) ** 2).sum(-1)
    for number, step in enumerate(run.steps[1:], start=1):
        held = [i for before in run.steps[max(0, number - 4) : number] for i in before.images[0].tolist()]
        for image, chosen in zip(step.images[0].tolist(), step.chosen[0][:, 0].tolist(), strict=True):
            others = [i for i in held if i != image]
            assert distance[image, chosen] == min(distance[image, i] for i in others)
    assert run.logged["pnn_same_image"] == 0


@only_106
def test_gps_and_pnn_combine(recipe, fit, digits):
    """View 2 shows the table's positive: its own image, not the anchor's, is the one that its neighbours may not be."""
    keys = {"exclude_same_image": True, "queue_size": 40}
    run = fit(recipe("byol", max_epochs=2, prior=PIXELS, sampler={"gps": {"k": 1}, "pnn": keys}))
    raw = np.stack([np.asarray(image, dtype=np.float64).ravel() for image, _ in ImageFolder(digits / "train")])
    distance = ((raw[:, None] - raw[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    positive, labels = distance.argmin(1), np.array(ImageFolder(digits / "train").targets)
    for step in run.steps:
        assert step.images[1].tolist() == positive[step.images[0]].tolist()
        assert step.labels[1].tolist() == labels[step.images[1]].tolist()
        assert not any((step.chosen[view][:, 0] == step.images[view]).any() for view in step.chosen)
    assert run.logged["guided_share"] == 1
    assert run.logged["pnn_purity"] > 0
    held = run.model.pnn.rows.pool()
    assert held.label.tolist() == labels[held.index].tolist()


@only_106
@pytest.mark.parametrize(("method", "views"), [("ressl", [1]), ("mocov2plus", [0, 1])])
def test_with_gps_the_methods_own_queue_hides_the_images_that_its_rows_show(method, views, recipe, fit, monkeypatch):
    """ReSSL enqueues view 2 alone, MoCo v2+ both: a guided view's row shows the positive, not the anchor."""
    from solo_gps.samplers.pnn.kinds import QueueOfNegatives

    left, hide = [], QueueOfNegatives._pnn_hide

    def spy(model, images):
        hide(model, images)
        left.append(model._buffers["queue"].clone())

    monkeypatch.setattr(QueueOfNegatives, "_pnn_hide", spy)
    sampler = {"gps": {"k": 1}, "pnn": {"queue_size": 40}}
    run = fit(recipe(method, max_epochs=2, prior=PIXELS, sampler=sampler, method_kwargs={"queue_size": 96}))
    assert len(left) == len(run.steps) - 1 == 11  # nothing to hide in the first step
    hidden = 0
    for number, (step, queue) in enumerate(zip(run.steps[1:], left, strict=True), start=1):
        neighbours = {image for chosen in step.chosen.values() for image in chosen.flatten().tolist()}
        rows = [(before, item) for before in run.steps[:number] for item in range(8)]
        seen = [row for row in rows if not neighbours & {int(row[0].images[view][row[1]]) for view in views}]
        hidden += len(rows) - len(seen)
        for view in views:
            kept = queue if method == "ressl" else queue[view].T
            assert torch.equal(kept[: len(seen)], torch.stack([before.keys[view][item] for before, item in seen]))
            assert len(kept) == 96 - len(rows) + len(seen)
    assert hidden


def test_sepp_and_pnn_combine(recipe, fit, digits):
    """The appended items carry their anchor's image and label into the queue."""
    sampler = {"sepp": {"fraction": 1.0, "low": 0.9, "high": 1.0}, "pnn": {}}
    run = fit(recipe("nnclr", max_epochs=1, prior=PIXELS, sampler=sampler))
    labels = np.array(ImageFolder(digits / "train").targets)
    assert len(run.steps) > 6
    for step in run.steps:
        assert step.labels[0].tolist() == labels[step.images[0]].tolist()


def test_a_method_that_goes_round_its_base_is_an_error(recipe, monkeypatch):
    method = "simclr" if ON_106 else "nnclr"
    monkeypatch.setattr(HOST.methods[method], "training_step", lambda self, batch, batch_idx: self(batch[1][0])["feats"].sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(HostError, match="never reached the loss"), activate(recipe(method, sampler={"pnn": {}})) as on:
            trained(on.cfg)


@pytest.mark.parametrize(
    ("method", "keys", "nodes", "error", "message"),
    [
        *[
            (m, {}, {}, RefusedMethodError, f"'pnn' cannot act on method '{m}'")
            for m in ("deepclusterv2", *(["supcon", "mae"] if ON_106 else []))
        ],
        ("nnclr", {"queue_size": 8}, {}, ConfigError, r"sampler\.pnn\.queue_size=8: nnclr searches its own queue"),
        ("nnbyol", {"ema": 0.9}, {}, ConfigError, r"sampler\.pnn\.ema" if ON_106 else "needs solo-learn 1.0.6"),
        *(
            [
                ("byol", {"ema": 0.9}, {}, ConfigError, "has a momentum network of its own"),
                ("wmse", {}, {"crops": 3}, ConfigError, "wmse it takes two crops, got 3"),
                ("all4one", {"k": 2}, {}, ConfigError, "takes the 5 nearest of its own queue"),
                ("all4one", {"space": "prior"}, {}, ConfigError, "takes the 5 nearest of its own queue"),
            ]
            if ON_106
            else [
                (m, {}, {}, RefusedMethodError, "install solo-learn 1.0.6")
                for m in sorted(set(HOST.methods) & {name for name, place in PLACES.items() if not place.own_queue})
            ]
        ),
        ("nnclr", {"alpha": 2}, {}, ConfigError, r"alpha=2\.0 must be from 0 to 1"),
    ],
)
def test_what_cannot_be_is_one_clear_error_before_any_work(method, keys, nodes, error, message, recipe):
    before = dict(HOST.methods)
    with pytest.raises(error, match=message), solo_gps.activate(recipe(method, sampler={"pnn": keys}, **nodes)):
        raise AssertionError("must not be switched on")
    assert dict(HOST.methods) == before


@only_106
def test_a_queue_of_nothing_but_the_neighbours_images_is_an_error(recipe, fit):
    model = fit(recipe("mocov2plus", max_steps=1, sampler={"pnn": {"queue_size": 16}}, method_kwargs={"queue_size": 8})).model
    with pytest.raises(DataError, match=r"all 8 rows .* Set method_kwargs\.queue_size well above the batch size"):
        model._pnn_hide(model.pnn_record[0].index.clone())
