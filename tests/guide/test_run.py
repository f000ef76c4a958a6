"""Switching on, switching off, and what is refused before any work."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from omegaconf import OmegaConf

import solo_gps
from solo_gps.commands.pretrain import pretrain
from solo_gps.errors import ConfigError, DataError, HostError, RefusedMethodError, UnexpectedError, UnknownNameError
from solo_gps.guide.switch import current_run
from solo_gps.hosts.detect import detect_host

pytestmark = pytest.mark.host
HOST = detect_host()
GPS = {"gps": {"k": 3}}
PIXELS = {"name": "pixels"}


def footprint():
    return {
        "methods": dict(HOST.methods),
        "loader": vars(HOST.loader_module).copy(),
        "classes": {name: dict(vars(cls)) for name, cls in HOST.methods.items()},
    }


def test_switching_off_restores_solo_learn_exactly(recipe):
    before = footprint()
    with solo_gps.activate(recipe(sampler=GPS, prior=PIXELS)) as activation:
        assert current_run() is activation
        assert HOST.methods["simclr"] is not before["methods"]["simclr"]
        assert HOST.loader_module.DataLoader is not before["loader"]["DataLoader"]
    assert footprint() == before
    assert current_run() is None


def test_an_error_inside_restores_solo_learn_too(recipe):
    before = footprint()
    with pytest.raises(ZeroDivisionError), solo_gps.activate(recipe(sampler=GPS, prior=PIXELS)):
        raise ZeroDivisionError
    assert footprint() == before


def test_no_sampler_touches_no_registry(recipe):
    before = footprint()["methods"], HOST.loader_module.DataLoader
    with solo_gps.activate(recipe(sampler={})):
        assert (dict(HOST.methods), HOST.loader_module.DataLoader) == before


def test_a_plain_dict_will_do(recipe):
    with solo_gps.activate(OmegaConf.to_container(recipe(sampler=GPS, prior=PIXELS))) as activation:
        assert list(activation.samplers) == ["gps"]


def test_switching_on_twice_is_refused(recipe):
    first, second = solo_gps.activate(recipe(sampler=GPS)), solo_gps.activate(recipe(sampler=GPS))
    with first, pytest.raises(HostError, match="switched on already"), second:
        pass


def test_the_guided_class_keeps_the_names_of_the_hosts(recipe):
    original = HOST.methods["simclr"]
    with solo_gps.activate(recipe(sampler=GPS)):
        guided = HOST.methods["simclr"]
    assert issubclass(guided, original)
    assert (guided.__name__, guided.__module__, guided.__doc__) == (original.__name__, original.__module__, original.__doc__)


@pytest.mark.parametrize(
    ("nodes", "error", "message"),
    [
        ({"sampler": {"gsp": {}}}, UnknownNameError, r"unknown sampler 'gsp'.*Did you mean 'gps'\?"),
        ({"sampler": "gps"}, ConfigError, r"write `sampler: \{gps: \{\}\}`.*Hydra did not find"),
        ({"sampler": ["gps"]}, ConfigError, r"sampler: wanted a group"),
        ({"sampler": {"gps": {"kk": 1}}}, ConfigError, r"sampler\.gps\.kk: no such key.*Did you mean 'k'\?"),
        ({"sampler": {"gps": {"k": "x"}}}, ConfigError, r"sampler\.gps\.k: .*'x'"),
        ({"sampler": GPS, "method": "simlcr"}, UnknownNameError, r"unknown method 'simlcr'.*Did you mean 'simclr'\?"),
        ({"sampler": GPS, "method": "linear"}, UnknownNameError, r"unknown method 'linear'"),
        ({"sampler": GPS, "prior": {"name": "tim"}}, UnknownNameError, r"unknown .*'tim'.*Did you mean 'timm'\?"),
        ({"sampler": GPS, "prior": {"name": "pixels", "sise": 8}}, ConfigError, r"prior\.sise: no such key"),
        ({"sampler": GPS, "search": {"backend": "fais"}}, UnknownNameError, r"unknown .*'fais'.*Did you mean 'faiss'\?"),
        ({"sampler": GPS, "search": {"bakend": "faiss"}}, ConfigError, r"search\.bakend: no such key"),
        ({"prior": PIXELS}, ConfigError, r"prior without a sampler: .*Add \+sampler=gps"),
        ({"search": {"backend": "torch"}}, ConfigError, r"search without a sampler"),
        ({"prior": PIXELS, "refresh": {"every": 1}}, ConfigError, r"prior and refresh without a sampler"),
        ({"sampler": GPS, "data": {"train_path": "nowhere/at/all"}}, DataError, r"no such folder"),
        ({"sampler": GPS, "data": {"train_path": 2024}}, ConfigError, r"data\.train_path=2024: wanted a text"),
        ({"sampler": GPS, "data": {"fraction": "abc"}}, ConfigError, r"data\.fraction: Value 'abc'.* could not be converted"),
        ({"sampler": GPS, "data": {"num_workers": -1}}, ConfigError, r"data: num_workers=-1 must be from 0 to"),
        (
            {"sampler": GPS, "optimizer": {"batch_size": "abc"}},
            ConfigError,
            r"optimizer\.batch_size: Value 'abc'.* could not be converted",
        ),
        ({"sampler": GPS, "augmentations": []}, ConfigError, r"augmentations=\[\]: wanted a list"),
        ({"sampler": GPS, "name": "a{b}", "checkpoint": {"enabled": True}}, ConfigError, r"name='a\{b\}'.*takes braces"),
        ({"sampler": GPS, "resume_from_checkpoint": "no.ckpt"}, ConfigError, r"resume_from_checkpoint='no\.ckpt': no such file"),
        ({"sampler": GPS, "data": {"val_path": "${nope}"}}, ConfigError, r"data\.val_path: .*nope"),
    ],
)
def test_bad_input_is_one_clear_error_before_any_work(nodes, error, message, recipe, own_cache):
    before = footprint()
    with pytest.raises(error, match=message), solo_gps.activate(recipe(**nodes)):
        raise AssertionError("must not be switched on")
    assert footprint() == before
    assert not own_cache.exists()


def test_data_that_is_no_group_is_refused(recipe):
    cfg = recipe(sampler=GPS)
    cfg.data = "foo"
    with pytest.raises(ConfigError, match="data='foo': wanted a group of keys"), solo_gps.activate(cfg):
        pass


@pytest.mark.skipif(HOST.generation == "1.0.2", reason="methods of 1.0.2 take no recipe")
@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("sampler.gps.k", 4, "sampler or seed"),
        ("seed", 8, "sampler or seed"),
        ("prior.name", "pca", "prior"),
        ("method", "byol", "method"),
    ],
)
def test_a_key_that_the_program_changes_later_is_an_error(key, value, named, recipe):
    cfg = recipe(sampler=GPS, prior=PIXELS)
    with solo_gps.activate(cfg):
        completed = HOST.complete(cfg)
        guided = HOST.methods["simclr"]
        OmegaConf.update(completed, key, value)
        with pytest.raises(ConfigError, match=f"the program changed {named} of its recipe"):
            guided(completed)


def test_those_who_watch_cannot_write(recipe):
    from solo_gps import hookimpl, plugins

    class Writer:
        @hookimpl
        def on_epoch_pairs(self, pairs):
            pairs.positives[:] = pairs.anchors

        @hookimpl
        def on_table_built(self, table):
            with pytest.raises(ValueError, match="read-only"):
                table.indices[:] = 0

    writer, cfg = Writer(), recipe(sampler=GPS, prior=PIXELS)
    plugins.plugin_manager().register(writer)
    try:
        with solo_gps.activate(cfg), pytest.raises(UnexpectedError, match="read-only"):
            iter(HOST.build_train_loader(HOST.complete(cfg)))
    finally:
        plugins.plugin_manager().unregister(writer)


def test_a_wrapper_that_hides_the_guided_set_is_refused_at_once(recipe):
    from solo_gps import hookimpl, plugins

    class Hides:
        @hookimpl
        def wrap_dataset(self, dataset):
            return list(range(len(dataset)))

    plugin, cfg = Hides(), recipe(sampler=GPS, prior=PIXELS)
    plugins.plugin_manager().register(plugin)
    try:
        with solo_gps.activate(cfg), pytest.raises(HostError, match="has no attribute 'dataset'"):
            HOST.build_train_loader(HOST.complete(cfg))
    finally:
        plugins.plugin_manager().unregister(plugin)


@pytest.mark.filterwarnings("ignore")
def test_a_training_of_which_nothing_was_guided_is_an_error_at_its_end(itself, recipe):
    cfg = recipe(sampler={"itself": {"k": 3}}, prior=PIXELS, max_steps=2)
    with solo_gps.activate(cfg) as activation:
        pretrain(cfg)
        with pytest.raises(HostError, match="not one of its 16 items"):
            activation.check_trained()


def fit_late(cfg, *, every=0, save=None, resume=None):
    """Trains on loaders that a data module makes when the trainer asks, as often as it asks."""
    with solo_gps.activate(cfg) as run:
        completed = HOST.complete(cfg)

        class Late(HOST.lightning.LightningDataModule):
            def train_dataloader(self):
                return HOST.build_train_loader(completed)

        model = HOST.build_method(completed, HOST.methods["simclr"])
        asked = {**HOST.trainer_kwargs(completed), "callbacks": [], "logger": False}
        trainer = HOST.lightning.Trainer(**{**asked, "reload_dataloaders_every_n_epochs": every})
        trainer.fit(model, datamodule=Late(), ckpt_path=resume)
        run.check_trained(cfg)
        if save is not None:
            trainer.save_checkpoint(save)
        return run


@pytest.mark.filterwarnings("ignore")
def test_what_the_recipe_says_at_the_end_must_be_what_acted(recipe):
    cfg = recipe(sampler=GPS, prior=PIXELS, max_steps=2)
    run = fit_late(cfg)
    with pytest.raises(ConfigError, match="the program changed sampler or seed"):
        run.check_trained(OmegaConf.merge(cfg, {"sampler": {"gps": {"k": 5}}}))
    del cfg.sampler
    run.check_trained(cfg)


@pytest.mark.filterwarnings("ignore")
def test_a_loader_that_a_data_module_makes_late_is_guided(recipe):
    assert fit_late(recipe(sampler=GPS, prior=PIXELS, max_steps=2)).receipt.counts["guided"] == 16


@pytest.mark.filterwarnings("ignore")
def test_loaders_made_anew_go_on_with_the_tables_that_there_are(recipe, tables):
    nodes = {"sampler": GPS, "prior": PIXELS, "refresh": {"every": 2}}
    run = fit_late(recipe(max_epochs=4, **nodes), every=1)
    assert run.receipt.counts["guided"] == 4 * 48
    gc.collect()
    assert sum(known() is not None for known in run.fit._shown) <= 1, "sets of earlier epochs are let go"
    assert len(tables) == 2, "the prior's, and one refresh before epoch 2"


@pytest.mark.filterwarnings("ignore")
def test_a_late_loader_takes_back_what_its_checkpoint_brings(recipe, tables, tmp_path):
    nodes = {"sampler": GPS, "prior": PIXELS, "refresh": {"every": 2}}
    first = fit_late(recipe(max_epochs=3, **nodes), save=tmp_path / "last.ckpt")
    tables.clear()
    run = fit_late(recipe(max_epochs=4, **nodes), resume=str(tmp_path / "last.ckpt"))
    assert run.receipt.counts["items"] == first.receipt.counts["items"] + 48
    assert run.pairing.refreshed_epoch == 2
    assert len(tables) == 1, "the prior's; the refreshed one came from the checkpoint"


@pytest.mark.filterwarnings("ignore")
def test_of_two_loaders_over_the_same_images_either_may_be_trained_on(recipe):
    for which in (0, 1):
        cfg = recipe(sampler=GPS, prior=PIXELS, max_steps=2)
        with solo_gps.activate(cfg) as run:
            completed = HOST.complete(cfg)
            loaders = [HOST.build_train_loader(completed) for _ in range(2)]
            model = HOST.build_method(completed, HOST.methods["simclr"])
            trainer = HOST.lightning.Trainer(**{**HOST.trainer_kwargs(completed), "callbacks": [], "logger": False})
            trainer.fit(model, loaders[which])
            assert run.dataset is loaders[which].dataset
            assert run.receipt.counts["guided"] == 16


@pytest.mark.skipif(HOST.generation == "1.0.2", reason="on 1.0.2 pNN needs a method that finds neighbours by itself")
@pytest.mark.filterwarnings("ignore")
def test_images_in_another_order_than_the_priors_rows_are_an_error(recipe):
    from torch.utils.data import DataLoader, Subset

    cfg = recipe(sampler={"pnn": {"space": "prior", "queue_size": 16}}, prior=PIXELS)
    with solo_gps.activate(cfg):
        completed = HOST.complete(cfg)
        model, loader = HOST.build_method(completed, HOST.methods["simclr"]), HOST.build_train_loader(completed)
        trainer = HOST.lightning.Trainer(**{**HOST.trainer_kwargs(completed), "callbacks": [], "logger": False})
        with pytest.raises(HostError, match="another loader than the guided one"):
            trainer.fit(model, DataLoader(Subset(loader.dataset, range(47, -1, -1)), batch_size=8))


def test_crops_that_the_recipe_does_not_say_are_an_error(recipe):
    cfg = recipe("wmse", sampler=GPS, prior=PIXELS)
    with solo_gps.activate(cfg):
        completed = HOST.complete(recipe("wmse", crops=4))
        with pytest.raises(HostError, match="makes 4 crops of an image, the recipe's augmentations say 2"):
            HOST.build_train_loader(completed)


def test_no_sampler_by_name_is_a_plain_run_whatever_the_prior(recipe):
    before = footprint()
    with solo_gps.activate(recipe(sampler={}, prior=PIXELS, search={"backend": "torch"})) as activation:
        assert not activation.guides_images
    assert footprint() == before


@pytest.mark.skipif("mae" not in HOST.methods, reason="mae came with solo-learn 1.0.6")
def test_mae_is_refused(recipe):
    with (
        pytest.raises(RefusedMethodError, match="'gps' cannot act on method 'mae'"),
        solo_gps.activate(recipe("mae", sampler=GPS)),
    ):
        pass


@pytest.mark.parametrize(
    ("folders", "no_labels", "message"),
    [
        ([], False, "is empty"),
        (["a", "b"], False, "class folder 'a' is empty"),
        (["only.png"], False, "has no class folders"),
    ],
)
def test_an_empty_folder_is_refused(folders, no_labels, message, recipe, tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    for name in folders:
        (root / name).touch() if "." in name else (root / name).mkdir()
    data = {"train_path": str(root), "no_labels": no_labels}
    with pytest.raises(DataError, match=message), solo_gps.activate(recipe(sampler=GPS, data=data)):
        pass


def load(cfg):
    with solo_gps.activate(cfg):
        return HOST.build_train_loader(HOST.complete(cfg))


@pytest.mark.parametrize("sampler", [{}, GPS, {"sepp": {}}, {"pnn": {}}, {"pnn": {"space": "prior"}}])
def test_a_set_without_a_whole_batch_is_refused_before_the_prior_is_built(sampler, recipe, own_cache):
    method = "simclr" if "pnn" not in sampler or HOST.generation == "1.0.6" else "nnclr"
    cfg = recipe(method, sampler=sampler, prior=PIXELS, batch_size=32, method_kwargs={"queue_size": 192})
    cfg.devices = 2
    with pytest.raises(DataError, match=r"48 images, 24 for each of 2 devices, but optimizer\.batch_size=32.*at most 24\."):
        load(cfg)
    assert not own_cache.exists()
    cfg.optimizer.batch_size = 24
    if "sepp" not in sampler:  # whose own keys do not fit these images
        load(cfg)


@pytest.mark.parametrize("k", [48, 100])
def test_k_not_below_the_number_of_images_is_refused(k, recipe):
    with pytest.raises(DataError, match=rf"k={k}.*48"):
        load(recipe(sampler={"gps": {"k": k}}, prior=PIXELS))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((47, 3), np.float32), "48"),
        (np.full((48, 3), np.nan, np.float32), "finite"),
        (np.array([[object()]] * 48), "pickle|object"),
    ],
)
def test_a_wrong_array_is_refused_and_leaves_nothing_behind(array, message, recipe, tmp_path, own_cache):
    file = tmp_path / "embeddings.npy"
    np.save(file, array, allow_pickle=array.dtype == object)
    with pytest.raises((DataError, ConfigError), match=message):
        load(recipe(sampler=GPS, prior={"name": "array", "path": str(file)}))
    assert not [path for path in own_cache.rglob("*.npy")]


@pytest.mark.filterwarnings("ignore")
def test_training_on_a_loader_that_was_never_guided_is_an_error(recipe):
    from torch.utils.data import DataLoader

    cfg = recipe(sampler=GPS, prior=PIXELS)
    loader = HOST.build_train_loader(HOST.complete(recipe()))
    assert type(loader) is DataLoader
    with solo_gps.activate(cfg):
        cfg = HOST.complete(cfg)
        model = HOST.build_method(cfg, HOST.methods["simclr"])
        trainer = HOST.lightning.Trainer(**{**HOST.trainer_kwargs(cfg), "callbacks": [], "logger": False})
        with pytest.raises(HostError, match="never guided"):
            trainer.fit(model, loader)


@pytest.mark.filterwarnings("ignore")  # the hosts warn of today's libraries
def test_training_on_another_loader_than_the_guided_one_is_an_error(recipe):
    plain = HOST.build_train_loader(HOST.complete(recipe()))
    cfg = recipe(sampler=GPS, prior=PIXELS)
    with solo_gps.activate(cfg):
        cfg = HOST.complete(cfg)
        model = HOST.build_method(cfg, HOST.methods["simclr"])
        HOST.build_train_loader(cfg)
        trainer = HOST.lightning.Trainer(**{**HOST.trainer_kwargs(cfg), "callbacks": [], "logger": False})
        with pytest.raises(HostError, match="another loader than the guided one"):
            trainer.fit(model, plain)


def refused(recipe, make, loader, message):
    cfg = recipe(sampler=GPS, prior=PIXELS)
    with solo_gps.activate(cfg):
        cfg = HOST.complete(cfg)
        model, guided = HOST.build_method(cfg, make(HOST.methods["simclr"])), HOST.build_train_loader(cfg)
        trainer = HOST.lightning.Trainer(**{**HOST.trainer_kwargs(cfg), "callbacks": [], "logger": False})
        with pytest.raises(HostError, match=message):
            trainer.fit(model, guided if loader is None else loader)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("plain_loader", [False, True])
@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (("configure_callbacks", lambda self: []), "without the callback that guides it"),
        (("on_after_batch_transfer", lambda self, batch, dataloader_idx: batch), "another loader|never went through"),
    ],
)
def test_a_subclass_that_leaves_our_hooks_out_is_an_error(hook, message, plain_loader, recipe):
    loader = HOST.build_train_loader(HOST.complete(recipe())) if plain_loader else None
    refused(recipe, lambda cls: type("Mine", (cls,), dict([hook])), loader, message)


@pytest.mark.filterwarnings("ignore")
def test_a_step_by_hand_is_an_error(recipe):
    cfg = recipe(sampler=GPS, prior=PIXELS)
    with solo_gps.activate(cfg):
        cfg = HOST.complete(cfg)
        model, loader = HOST.build_method(cfg, HOST.methods["simclr"]), HOST.build_train_loader(cfg)
        with pytest.raises(HostError, match="never went through its on_after_batch_transfer"):
            model.training_step(next(iter(loader)), 0)


def test_a_second_training_set_is_an_error_and_the_same_one_is_none(recipe, tmp_path, digits):
    (tmp_path / "other").symlink_to(digits / "val")
    cfg, other = recipe(sampler=GPS, prior=PIXELS), recipe(data={"train_path": str(tmp_path / "other")})
    with solo_gps.activate(cfg):
        HOST.build_train_loader(HOST.complete(cfg))
        HOST.build_train_loader(HOST.complete(recipe()))
        with pytest.raises(HostError, match="second training set"):
            HOST.build_train_loader(HOST.complete(other))


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn", "ddp_notebook_find_unused_parameters_false"])
def test_strategies_that_train_in_copies_are_refused(strategy, recipe):
    with pytest.raises(ConfigError, match="Use strategy=ddp"), solo_gps.activate(recipe(sampler=GPS, strategy=strategy)):
        pass


def test_a_notebook_with_several_devices_is_refused_where_lightning_would_fork(recipe, monkeypatch):
    cfg = recipe(sampler=GPS, prior=PIXELS, devices=2, strategy="auto")
    monkeypatch.setattr("sys.ps1", ">>> ", raising=False)
    with (
        pytest.raises(ConfigError, match=r"strategy=auto with 2 devices in a notebook.*Train by a script"),
        solo_gps.activate(cfg),
    ):
        pass
    cfg.devices = 1
    with solo_gps.activate(cfg):
        assert current_run() is not None


@pytest.mark.parametrize(("name", "tagged"), [(None, "simclr-gps_k=3-pixels"), (2024, "2024-gps_k=3-pixels")])
def test_any_name_is_tagged(name, tagged, recipe):
    cfg = recipe(sampler=GPS, prior=PIXELS)
    cfg.name = name
    with solo_gps.activate(cfg) as activation:
        activation.record_in(cfg)
    assert cfg.name == tagged


def test_the_runs_name_says_which_samplers_act(recipe):
    cfg = recipe(sampler=GPS, prior=PIXELS)
    with solo_gps.activate(cfg) as activation:
        cfg = HOST.complete(cfg)
        activation.record_in(cfg)
        HOST.build_method(cfg, HOST.methods["simclr"])
    assert cfg.name == "simclr-test-gps_k=3-pixels"


@pytest.mark.skipif(HOST.generation != "1.0.6", reason="1.0.2 builds methods from keyword arguments")
def test_a_method_built_by_main_pretrain_tags_the_runs_name(recipe):
    with solo_gps.activate(recipe(sampler=GPS, prior=PIXELS)):
        cfg = HOST.complete(recipe(sampler=GPS, prior=PIXELS))
        HOST.build_method(cfg, HOST.methods["simclr"])
    assert cfg.name == "simclr-test-gps_k=3-pixels"
