"""The plugin manager: every hook is specified, documented and reached; a misspelt one fails loudly."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pluggy
import pytest

from solo_gps import hookimpl, hookspecs, plugins
from solo_gps.errors import ConfigError, HostError, UnknownNameError

HOOKS = [name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")]
DOCS = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text()


@pytest.fixture
def manager():
    manager = plugins.plugin_manager()
    before = set(manager.get_plugins())
    yield manager
    for plugin in set(manager.get_plugins()) - before:
        manager.unregister(plugin)


def test_there_are_hooks():
    assert {"register_samplers", "wrap_dataset", "wrap_method", "on_table_built", "on_epoch_pairs"} <= set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_exact_signature(hook):
    names = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"### {hook}({names})" in DOCS


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_typed(hook):
    signature = inspect.signature(getattr(hookspecs, hook))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())


def test_the_built_ins_are_ordinary_plugins(manager):
    assert {name for name, _ in manager.list_name_plugin()} >= set(plugins.BUILTIN_PLUGINS)


def test_a_misspelt_hook_is_found():
    class Misspelt:
        @hookimpl
        def register_sampler(self):
            return {}

    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(Misspelt())
    with pytest.raises(pluggy.PluginValidationError, match="register_sampler"):
        manager.check_pending()


def test_two_plugins_of_one_name_are_refused(manager):
    class Other:
        @hookimpl
        def register_samplers(self):
            return {"gps": int}

    manager.register(Other())
    with pytest.raises(ConfigError, match="two plugins register 'gps'"):
        plugins.registered("register_samplers")


def test_a_dotted_name_is_imported_on_use_and_not_before(manager):
    class Named:
        @hookimpl
        def register_samplers(self):
            return {"class": int, "named": "fractions:Fraction", "gone": "fractions:Gone", "nowhere": "no_such_module:Thing"}

    manager.register(Named(), name="theirs")
    known = plugins.registered("register_samplers")
    assert {"class", "named", "gone", "nowhere", "gps"} <= set(known)
    assert known["class"] is int
    assert known["named"] is plugins.lookup("register_samplers", "sampler", "named") is Fraction
    for name, reason in (("gone", "AttributeError"), ("nowhere", "ModuleNotFoundError: No module named 'no_such_module'")):
        with pytest.raises(ConfigError, match=f"plugin 'theirs' registers '{name}' by register_samplers as '.*{reason}"):
            plugins.lookup("register_samplers", "sampler", name)


@pytest.mark.parametrize("hook", ["register_samplers", "register_encoders", "register_search_backends"])
def test_every_built_in_resolves(hook):
    assert all(isinstance(value, type) for value in plugins.registered(hook).values())


BROKEN = [
    ("1 / 0", "ZeroDivisionError: division by zero"),
    ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    (
        "from solo_gps import hookimpl\n@hookimpl\ndef register_sampler(): ...",
        "PluginValidationError: unknown hook 'register_sampler'",
    ),
]


@pytest.mark.parametrize(("code", "reason"), BROKEN)
def test_a_broken_plugin_is_named_with_the_mend(code, reason, tmp_path):
    (tmp_path / "broken_module.py").write_text(code)
    package = tmp_path / "broken_package-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-package\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[solo_gps]\nbreaks = broken_module\n")
    program = (
        "from solo_gps import plugins\ntry:\n    plugins.plugin_manager()\nexcept ValueError as error:\n    print(repr(error))"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ)
    assert done.stdout.startswith("ConfigError("), done.stderr
    assert f"plugin 'breaks' of the package broken-package cannot be loaded: {reason}" in done.stdout
    assert "pip uninstall broken-package" in done.stdout


def test_lookup_suggests_the_closest_name():
    with pytest.raises(UnknownNameError, match=r"unknown sampler 'gsp'.*Did you mean 'gps'\?"):
        plugins.lookup("register_samplers", "sampler", "gsp")


@pytest.mark.host
def test_wrap_and_watch_hooks_are_reached_in_training(manager, recipe, train):
    from torch.utils.data import Dataset

    seen = {"tables": [], "epochs": [], "items": 0, "steps": 0}

    class Counted(Dataset):
        def __init__(self, dataset):
            self.dataset = dataset

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, item):
            seen["items"] += 1
            return self.dataset[item]

    class Watcher:
        @hookimpl
        def wrap_dataset(self, dataset, cfg):
            assert cfg.method == "simclr"
            return Counted(dataset)

        @hookimpl
        def wrap_method(self, method, cfg):
            class Watched(method):
                def training_step(self, batch, batch_idx):
                    seen["steps"] += 1
                    return super().training_step(batch, batch_idx)

            return Watched

        @hookimpl
        def on_table_built(self, sampler, table, labels):
            seen["tables"].append((sampler, table.indices.shape, len(labels)))

        @hookimpl
        def on_epoch_pairs(self, epoch, pairs, labels):
            seen["epochs"].append((epoch, len(pairs.anchors)))

    manager.register(Watcher())
    train(recipe(max_epochs=2, sampler={"gps": {"k": 3}}, prior={"name": "pixels"}))
    assert seen == {"tables": [("gps", (48, 3), 48)], "epochs": [(0, 48), (1, 48)], "items": 96, "steps": 12}


@pytest.mark.host
@pytest.mark.parametrize("sampler", [{"gps": {"k": 3}}, {"pnn": {}}])
def test_a_plugin_reads_whose_image_and_label_each_crop_shows(sampler, manager, recipe, train):
    import torch

    drawn, shown = [], []

    class Reader:
        @hookimpl
        def wrap_method(self, method):
            class Reading(method):
                def training_step(self, batch, batch_idx):
                    shown.append((batch, self.shown_crops))
                    return super().training_step(batch, batch_idx)

            return Reading

        @hookimpl
        def on_epoch_pairs(self, pairs, labels):
            drawn.append((dict(zip(pairs.anchors.tolist(), pairs.positives.tolist(), strict=True)), labels))

    manager.register(Reader())
    run = train(recipe("nnclr", max_epochs=1, sampler=sampler, prior={"name": "pixels"} if "gps" in sampler else None))
    assert len(shown) == 6
    for (images, crops, targets), crop in shown:
        assert len(crops) == len(crop.images) == len(crop.targets) == 2
        assert torch.equal(crop.images[0], images)
        assert torch.equal(crop.targets[0], targets)
        if "gps" in sampler:
            ((positive, labels),) = drawn
            assert crop.images[1].tolist() == [positive[image] for image in images.tolist()]
            assert crop.images[1].tolist() != images.tolist()
            assert crop.targets[1].tolist() == labels[crop.images[1]].tolist()
        else:
            assert torch.equal(crop.images[1], images)
            assert torch.equal(crop.targets[1], targets)
        assert {tensor.dtype for tensor in (*crop.images, *crop.targets)} == {torch.int64}
    with pytest.raises(HostError):
        run.model.training_step(shown[0][0], 0)  # by hand: nobody told what this batch shows
    assert run.model.shown_crops is None


@pytest.mark.host
def test_a_plugins_dataset_reader_is_used(manager):
    import numpy as np
    from PIL import Image

    from solo_gps.errors import DataError
    from solo_gps.hosts.images import host_images

    class Noise:
        def __len__(self):
            return 2

    class Reader:
        @hookimpl
        def register_datasets(self):
            return {Noise.__qualname__: Images}

    class Images:
        labels = np.zeros(2, np.int64)

        def __init__(self, dataset):
            self.dataset = dataset

        def __len__(self):
            return len(self.dataset)

        def image(self, index):
            return Image.new("RGB", (1, 1))

        def content(self):
            yield from (b"a", b"b")

    with pytest.raises(DataError, match="register_datasets"):
        host_images(Noise())
    manager.register(Reader())
    assert len(host_images(Noise())) == 2


def test_d7_a_wrapping_hook_takes_the_arguments_that_it_names_in_pluggys_order(manager):
    class Outer:
        @hookimpl(trylast=True)
        def wrap_dataset(self, dataset):
            return ("outer", dataset)

    class Idle:
        @hookimpl
        def wrap_dataset(self, cfg):
            assert cfg == {"method": "simclr"}

    class Inner:
        @hookimpl(tryfirst=True)
        def wrap_dataset(self, dataset, cfg):
            return ("inner", dataset)

    for plugin in (Outer(), Idle(), Inner()):
        manager.register(plugin)
    assert plugins.wrapped("wrap_dataset", "dataset", "images", cfg={"method": "simclr"}) == ("outer", ("inner", "images"))
    assert plugins.wrapped("wrap_method", "method", int, cfg={}) is int, "nobody wraps"
