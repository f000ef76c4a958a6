"""Whose table guides a training: the prior's at its start, a checkpoint's where it resumes, never another training's."""

from __future__ import annotations

import contextlib
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nearest_by_hand import assert_agree, nearest_by_hand

import solo_gps
from solo_gps.errors import DataError
from solo_gps.guide.pairing import Pairing
from solo_gps.hosts.detect import detect_host

pytestmark = pytest.mark.host
HOST = detect_host()
PIXELS = {"name": "pixels", "image_size": 8}
NEAREST = {"gps": {"k": 1}}


@pytest.fixture
def fit_in_steps(recipe, tmp_path):
    """A function of a recipe: all that a program does before trainer.fit, and a trainer that keeps each epoch's checkpoint."""

    class Keep(HOST.lightning.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.save_checkpoint(tmp_path / f"epoch-{trainer.current_epoch}.ckpt")

    @contextlib.contextmanager
    def switched_on(**nodes):
        cfg = recipe(**{"max_epochs": 3, "sampler": NEAREST, "prior": PIXELS, "refresh": {"every": 1}} | nodes)
        with warnings.catch_warnings(), solo_gps.activate(cfg) as on:
            warnings.simplefilter("ignore")
            full = HOST.complete(cfg)
            HOST.lightning.seed_everything(full.seed)
            model = HOST.build_method(full, HOST.methods["simclr"])
            loader = HOST.build_train_loader(full)
            keys = {**HOST.trainer_kwargs(full), "logger": False}
            yield SimpleNamespace(
                on=on,
                cfg=full,
                model=model,
                loader=loader,
                trainer=lambda: HOST.lightning.Trainer(**{**keys, "callbacks": [Keep()]}),
            )

    return switched_on


@pytest.mark.parametrize("stop", [2, 3])
def test_resuming_between_refreshes_equals_the_uninterrupted_run(stop, recipe, drawn, tmp_path):
    """With the images in order: Lightning does not restore the generator that shuffles them."""
    refresh = {"every": 2, "start": 1}
    checkpoint = tmp_path / "stopped.ckpt"

    class Save(HOST.lightning.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == stop - 1 and not checkpoint.exists():
                trainer.save_checkpoint(checkpoint)

    def run(resume=None):
        cfg = recipe(max_epochs=4, sampler={"gps": {"k": 4, "choose": "uniform"}}, prior=PIXELS, refresh=refresh)
        with warnings.catch_warnings(), solo_gps.activate(cfg):
            warnings.simplefilter("ignore")
            full = HOST.complete(cfg)
            HOST.lightning.seed_everything(full.seed)
            model = HOST.build_method(full, HOST.methods["simclr"])
            made = HOST.build_train_loader(full)
            in_order = type(made)(made.dataset, batch_size=8, drop_last=True)
            trainer = HOST.lightning.Trainer(**{**HOST.trainer_kwargs(full), "callbacks": [Save()], "logger": False})
            trainer.fit(model, in_order, ckpt_path=resume)
        return model.state_dict()

    whole, pairs = run(), dict(drawn)
    assert torch.load(checkpoint, weights_only=False)["solo_gps"]["refresh"]["refreshed_epoch"] == 1
    drawn.clear()
    rest = run(resume=str(checkpoint))
    assert sorted(drawn) == list(range(stop, 4))
    assert all((drawn[epoch] == pairs[epoch]).all() for epoch in drawn)
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


def test_a_second_training_begins_with_the_prior_again(fit_in_steps, drawn, tables):
    """Also where the trainer, or the model, is another one."""
    with fit_in_steps() as run:
        run.trainer().fit(run.model, run.loader)
        first = dict(drawn)
        drawn.clear()
        run.trainer().fit(run.model, run.loader)
        assert (drawn[0] == first[0]).all()
        assert (drawn[1] != first[1]).any(), "the table of the first training's epoch 1 was used again"
        drawn.clear()
        other = HOST.build_method(run.cfg, HOST.methods["simclr"])
        assert run.on.pairing.refreshed_epoch is None
        run.trainer().fit(other, run.loader)
        assert (drawn[0] == first[0]).all()
        assert not np.array_equal(drawn[1], drawn[2])
    kinds = ["prior" if np.array_equal(table, tables[0][1]) else "network" for _, table, _ in tables]
    assert kinds == ["prior", "network", "network"] * 3


def test_the_trained_model_is_looked_at_not_the_last_that_was_built(fit_in_steps, drawn, digits):
    with fit_in_steps(max_epochs=1, refresh={"start": 0}, prior=None) as run:
        wanted, margin = nearest_by_hand(run.model, digits, "features", "cosine")
        HOST.build_method(run.cfg, HOST.methods["simclr"])
        run.trainer().fit(run.model, run.loader)
        assert_agree(drawn[0], (wanted, margin))


def test_weights_loaded_for_anything_but_resuming_change_no_pair(fit_in_steps, tmp_path, digits):
    with fit_in_steps() as run:
        run.trainer().fit(run.model, run.loader)
    with fit_in_steps(data={"val_path": str(digits / "train")}) as run:
        table = np.array(run.on.pairing.tables["gps"].indices)
        run.model.on_load_checkpoint(torch.load(tmp_path / "epoch-2.ckpt", weights_only=False))
        run.trainer().validate(run.model, HOST.build_val_loader(run.cfg), ckpt_path=tmp_path / "epoch-2.ckpt", verbose=False)
        assert run.on.pairing.refreshed_epoch is None
        assert (run.on.pairing.tables["gps"].indices == table).all()


def test_a_finished_run_that_is_resumed_looks_at_nothing_more(fit_in_steps, tables, tmp_path):
    with fit_in_steps(max_epochs=2) as run:
        run.trainer().fit(run.model, run.loader)
        finished = tmp_path / "finished.ckpt"
        run.model.trainer.save_checkpoint(finished)
    tables.clear()
    with fit_in_steps(max_epochs=2) as run:
        run.trainer().fit(run.model, run.loader, ckpt_path=finished)
    assert len(tables) == 1, "the prior's alone"


def test_a_training_that_failed_is_over(fit_in_steps, tmp_path):
    class Fail(HOST.lightning.Callback):
        def on_train_batch_start(self, *arguments):
            raise RuntimeError("power cut")

    with fit_in_steps() as run:
        run.trainer().fit(run.model, run.loader)
    with fit_in_steps() as run:
        trainer = run.trainer()
        trainer.callbacks.append(Fail())
        with pytest.raises(RuntimeError, match="power cut"):
            trainer.fit(run.model, run.loader)
        run.model.on_load_checkpoint(torch.load(tmp_path / "epoch-2.ckpt", weights_only=False))
        assert run.on.pairing.refreshed_epoch is None


def test_a_trainer_that_fits_twice_has_one_callback(fit_in_steps):
    with fit_in_steps(max_epochs=1, refresh={"start": 0}, prior=None) as run:
        trainer = run.trainer()
        trainer.fit(run.model, run.loader)
        trainer.fit_loop.max_epochs = 2
        trainer.fit(run.model, run.loader)
        assert [type(callback).__name__ for callback in trainer.callbacks].count("GuidedPositives") == 1


@pytest.mark.parametrize(
    ("nodes", "warned"),
    [
        ({"sampler": {"gps": {"k": 2}}}, "found with other keys of sampler.gps"),
        ({"refresh": {"every": 1, "of": "projections"}}, "found with other refresh.of or refresh.space"),
        ({"data": {"fraction": 0.5}}, "found with other training images"),
        ({"images": {"scale": "type"}}, "found with other images.* or first crop"),
        ({"refresh": None}, "this one is guided by its prior"),
    ],
)
def test_neighbours_that_this_run_would_not_have_found_are_not_taken_over(
    nodes, warned, fit_in_steps, drawn, tables, tmp_path, caplog
):
    if "data" in nodes and HOST.generation == "1.0.2":
        pytest.skip("data.fraction came with solo-learn 1.0.6")
    with fit_in_steps() as run:
        run.trainer().fit(run.model, run.loader)
    drawn.clear()
    tables.clear()
    caplog.set_level("WARNING")
    with fit_in_steps(**nodes) as run:
        run.trainer().fit(run.model, run.loader, ckpt_path=tmp_path / "epoch-1.ckpt")
    assert [record.message for record in caplog.records if warned in record.message]
    assert sorted(drawn) == [2]
    assert len(tables) == (1 if nodes.get("refresh", "") is None else 2)
    assert np.isin(drawn[2], tables[-1][1]).all()
    assert (drawn[2][:, None] == tables[-1][1]).any(axis=1).all()


def test_keys_that_change_no_neighbour_take_the_checkpoints_over(fit_in_steps, drawn, caplog, tmp_path):
    with fit_in_steps() as run:
        run.trainer().fit(run.model, run.loader)
    expected = drawn[2].copy()
    drawn.clear()
    caplog.set_level("WARNING")
    harmless = {"on_bad_image": "skip", "min_share": 0.01}
    with fit_in_steps(sampler={"gps": {**NEAREST["gps"], **harmless}}, images={"store": "memory"}) as run:
        run.trainer().fit(run.model, run.loader, ckpt_path=tmp_path / "epoch-1.ckpt")
    assert "found with other" not in caplog.text
    assert "guided by other" not in caplog.text
    assert (drawn[2] == expected).all()


def test_b3_neighbours_confined_by_other_labels_are_not_taken_over(fit_in_steps, monkeypatch, caplog):
    with fit_in_steps() as run:
        run.trainer().fit(run.model, run.loader)
        pairing = run.on.pairing
        monkeypatch.setattr(Pairing, "_same_label", True)
        state = pairing.state()
        caplog.set_level("WARNING")
        pairing.load_state(state)
        assert "found with other" not in caplog.text
        monkeypatch.setattr(Pairing, "labels", pairing.labels[::-1].copy())
        pairing.load_state(state)
        assert "found with other labels as a mask" in caplog.text


def test_a_stock_checkpoint_or_an_earlier_one_brings_nothing(fit_in_steps, drawn, tables, tmp_path, caplog):
    with fit_in_steps(refresh=None) as run:
        run.trainer().fit(run.model, run.loader)
    drawn.clear()
    tables.clear()
    with fit_in_steps() as run:
        run.trainer().fit(run.model, run.loader, ckpt_path=tmp_path / "epoch-0.ckpt")
    assert sorted(drawn) == [1, 2]
    assert len(tables) == 3
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING" and "solo_gps" in record.name]
    assert [line.partition(":")[0].split("steps were ")[1] for line in warnings] == [
        "guided by other samplers, keys, seed, embeddings or refreshes"
    ]


@pytest.mark.parametrize("resume", [False, True])
def test_an_error_of_the_first_refresh_is_the_one_that_is_shown(resume, fit_in_steps, tmp_path, monkeypatch):
    """Lightning 2 makes the first iterator where it cannot bear an error."""
    if resume:
        with fit_in_steps(refresh=None, max_epochs=2) as run:
            run.trainer().fit(run.model, run.loader)
    with fit_in_steps(refresh={"start": 0, "every": 1}, prior=None) as run:
        refreshed = run.on.pairing.refresh_if_due

        def broken(*arguments):
            monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_: torch.full((8, 4), float("nan")))
            try:
                refreshed(*arguments)
            finally:
                monkeypatch.undo()

        run.on.pairing.refresh_if_due = broken
        with pytest.raises(DataError, match="not finite; the training has diverged"):
            run.trainer().fit(run.model, run.loader, ckpt_path=tmp_path / "epoch-1.ckpt" if resume else None)
