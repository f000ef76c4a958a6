"""Real training with pseudo nearest neighbours, on whichever generation of solo-learn is installed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from pnn_trainings import HOST, METHODS, ON_106, PIXELS, PLACES, build, only_106, same, trained
from torchvision.datasets import ImageFolder

import solo_gps
from solo_gps.errors import ConfigError, DataError, HostError, RefusedMethodError
from solo_gps.guide.switch import activate

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("shallow")]


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
