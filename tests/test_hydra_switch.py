"""When a Hydra job is one of ours, and which keys of a recipe a config group has overruled."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from solo_gps.guide.check import read_recipe
from solo_gps.hydra_switch import FailedJob, GuidedJob, _places, asks_for_guidance, overruled

ROOT = Path(__file__).parents[1]
SHAPED = {"method": "simclr", "backbone": {"name": "resnet18"}, "augmentations": []}


@pytest.mark.parametrize(
    ("recipe", "asks"),
    [
        ({}, False),
        ({"sampler": None, "prior": None}, False),
        ({"sampler": {}}, True),
        ({"sampler": {"gps": {"k": 3}}}, True),
        ({"sampler": "gps"}, True),
        ({"sampler": "${nope}"}, True),
        ({"sampler": "???"}, True),
        ({"prior": {"name": "pixels"}}, True),
        ({"search": {"backend": "torch"}}, True),
        ({"refresh": {"every": 2}}, True),
        ({"prior": "${nope}"}, True),
    ],
)
def test_a_recipe_of_solo_learn_asks_by_what_it_says(recipe, asks):
    assert asks_for_guidance(OmegaConf.create({**SHAPED, **recipe})) == asks


@pytest.mark.parametrize(
    ("recipe", "asks"),
    [
        ({"sampler": "ddim"}, False),
        ({"sampler": {"name": "gps"}}, False),
        ({"prior": {"mean": 0.0}}, False),
        ({"search": {"lr": [1, 2]}}, False),
        ({"sampler": {"gps": {"rate": 3}}}, False),
        ({"sampler": {"sepp": None}}, False),
        ({"sampler": "${nope}"}, False),
        ({"base": {**SHAPED, "sampler": {"gps": {}}}}, True),
    ],
)
def test_a_program_that_is_none_of_solo_learns_is_left_alone(recipe, asks, monkeypatch):
    monkeypatch.delitem(sys.modules, "solo.methods", raising=False)
    assert asks_for_guidance(OmegaConf.create(recipe)) == asks


def test_plugins_are_not_loaded_for_a_program_that_cannot_mean_them(monkeypatch):
    monkeypatch.delitem(sys.modules, "solo.methods", raising=False)
    monkeypatch.setattr("solo_gps.plugins.plugin_manager", lambda: pytest.fail("loaded plugins"))
    assert not asks_for_guidance(OmegaConf.create({"sampler": {"name": "ddim", "steps": 50}}))
    assert not asks_for_guidance(OmegaConf.create({**SHAPED, "sampler": None}))
    read_recipe(OmegaConf.create({**SHAPED, "sampler": {}}))


def test_a_config_that_is_no_mapping_asks_for_nothing():
    assert not asks_for_guidance(OmegaConf.create([1]))
    assert not asks_for_guidance(None)


@pytest.mark.parametrize(
    ("recipe", "places"),
    [
        ({"base": {"sampler": {"gps": {"k": 3}}}}, ["base.sampler"]),
        ({"a": {"b": {"sampler": {"sepp": None, "gps": None}}}}, ["a.b.sampler"]),
        ({"data": {"sampler": {"name": "random"}}}, []),
        ({"data": {"sampler": "gps"}}, []),
        ({"sampler": {"gps": {}}, "exp": {"prior": {"name": "pixels"}}}, ["sampler", "exp.prior"]),
        ({"sampler": {"gps": {}}, "exp": {"prior": {"name": "normal"}, "search": {"lr": 1}}}, ["sampler"]),
        ({"sampler": {"gps": {}}, "prior": {"name": "pca"}, "exp": {"prior": {"name": "pixels"}}}, ["sampler", "prior"]),
        ({"below": {"search": {"backend": "torch"}, "refresh": {"of": "features"}}}, ["below.refresh", "below.search"]),
        ({"nodes": {"mine": {"gps": {}}}, "exp": {"sampler": "${nodes.mine}"}}, ["exp.sampler"]),
        ({"sampler": {"gps": {"prior": {"name": "pixels"}}}}, ["sampler"]),
        ({"sampler": {}, "base": {"sampler": {"gps": {}}}}, ["sampler"]),
        ({"sampler": None, "base": {"sampler": {"gps": {}}}}, []),
    ],
)
def test_samplers_below_the_top_of_a_recipe_are_seen(recipe, places):
    assert _places(OmegaConf.create({**SHAPED, **recipe})) == places


LATE = """
import hydra
@hydra.main(version_base="1.2", config_path="conf", config_name="recipe")
def main(cfg):
    {body}
    print("TRAINED PLAINLY")
main()
"""
IMPORTS = "from solo.methods import METHODS"


def late(folder, body, recipe, *arguments):
    (folder / "conf" / "sub").mkdir(parents=True)
    (folder / "conf" / "recipe.yaml").write_text(recipe)
    (folder / "conf" / "sub" / "base.yaml").write_text("sampler: {gps: {k: 3}}\n")
    (folder / "late.py").write_text(LATE.format(body=body.replace("\n", "\n    ")))
    return subprocess.run(
        [sys.executable, "late.py", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
    )


ADDS = "cfg._set_flag('struct', False); cfg.sampler = {'gps': {}}"
SHAPED_TEXT = "method: simclr\nbackbone: {name: resnet18}\naugmentations: [{}]\n"


@pytest.mark.host
@pytest.mark.parametrize(
    ("body", "recipe", "arguments", "message"),
    [
        (IMPORTS, "sampler: {gps: {k: 3}}", [], "imports solo-learn inside its function, and its recipe has sampler"),
        (IMPORTS, "nodes: {x: {gps: {}}}\nsampler: ${nodes.x}", [], "imports solo-learn inside its function"),
        (IMPORTS, "prior: {name: pixels}", [], "its recipe has prior"),
        ("pass", SHAPED_TEXT + "defaults: [sub/base]", [], "sub.sampler: solo-gps reads sampler"),
        ("pass", SHAPED_TEXT, ["+sampler@foo=gps"], "foo.sampler: solo-gps reads sampler"),
        ("pass", SHAPED_TEXT, ["+prior@data=pixels"], "data.prior: solo-gps reads sampler"),
        (ADDS, SHAPED_TEXT, [], "this training was plain, though its recipe has sampler: that, or solo-learn, came"),
        (f"{ADDS}; import sys; sys.exit(0)", SHAPED_TEXT, [], "this training was plain"),
        ("pass", SHAPED_TEXT, ["+sampler=gps", "+refresh@foo=features"], "foo.refresh: solo-gps reads sampler"),
        ("pass", SHAPED_TEXT + "sampler: gps", [], "write `sampler: {gps: {}}`"),
        ("pass", SHAPED_TEXT + "sampler: None", [], "or null for none"),
        ("pass", "backbone: {}\naugmentations: [{}]\nmethod: null\nsampler: {gps: {}}", [], "this recipe names no method"),
    ],
)
def test_guidance_that_is_asked_for_where_it_cannot_act_ends_the_program(body, recipe, arguments, message, tmp_path):
    done = late(tmp_path, body, recipe, *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("solo-gps: ")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("body", "recipe"),
    [
        ("pass", "sampler: {gps: {rate: 10}}"),
        ("pass", "search: {lr: [1, 2]}\nprior: {mean: 0}"),
        ("pass", "data: {sampler: {gps: {}}}"),
        ("pass", SHAPED_TEXT + "sampler: null\nkept: {sampler: {gps: {}}}"),
        ("pass", SHAPED_TEXT + "sampler: {}\nprior: {name: nobodys}"),
        (f"import solo_gps\ntry: solo_gps.activate(cfg).__enter__()\nexcept ValueError: pass\n{IMPORTS}", "sampler: {mine: {}}"),
        (
            f"{ADDS}\nimport solo_gps.guide.switch as switch\nswitch.times_switched_on += 1",
            SHAPED_TEXT,
        ),
    ],
)
def test_a_program_that_asks_for_nothing_here_runs(body, recipe, tmp_path):
    done = late(tmp_path, body, recipe)
    assert done.stdout == "TRAINED PLAINLY\n", done.stdout + done.stderr


@pytest.mark.host
def test_no_sampler_leaves_a_program_for_linear_evaluation_alone(tmp_path):
    body = IMPORTS + "\nassert METHODS['simclr'].__mro__[1].__module__ == 'solo.methods.base'"
    assert late(tmp_path, body, "pretrain_method: simclr", "+sampler=none").returncode == 0


def test_keys_that_a_group_overruled_are_named_with_the_mend():
    own = {"sampler": {"gps": {"k": 5, "choose": "uniform"}}, "prior": {"name": "pca"}}
    cfg = OmegaConf.create({"sampler": {"gps": {"k": 10, "choose": "furthest"}}, "prior": {"name": "pca"}})
    lines = overruled(own, cfg, {"sampler.gps.choose": "furthest"})
    assert len(lines) == 1
    assert lines[0].startswith("sampler.gps.k is 10, not 5 as the recipe's own file says")
    assert "write _self_ last" in lines[0]


def test_another_file_of_the_defaults_list_is_not_called_a_group():
    (line,) = overruled({"sampler": {"gps": {"k": 5}}}, OmegaConf.create({"sampler": {"gps": {"k": 10}}}), {}, chosen=[])
    assert "another file of its defaults list is read after" in line


def test_interpolations_and_equal_keys_are_not_overruled():
    own = {"sampler": {"gps": {"k": "${size}", "radius": None}}}
    assert overruled(own, OmegaConf.create({"sampler": {"gps": {"k": 3, "radius": None}}}), {}) == []


class Audited:
    """A decorator that is a class, and keeps its function under a name that we use too."""

    def __init__(self, function):
        functools.update_wrapper(self, function)
        self._function, self._own, self.calls = function, "theirs", []

    def __call__(self, cfg):
        self.calls.append(cfg)
        return self._function(cfg)


def test_a_class_that_decorates_a_function_is_called_and_keeps_its_own():
    audited = Audited(lambda cfg: "done")
    cfg = OmegaConf.create({"x": 1})
    assert GuidedJob(audited, {})(cfg) == "done"
    assert audited.calls == [cfg]
    assert audited._own == "theirs"


TWICE = """
import hydra
import hydra_plugins.solo_gps_searchpath  # as solo_gps.commands.recipes does, before Hydra's own scan
from solo_gps.hydra_switch import GuidedJob
asked = []
GuidedJob.__call__, call = (lambda self, cfg: (asked.append(1), call(self, cfg))[1]), GuidedJob.__call__
@hydra.main(version_base="1.2", config_path=None)
def main(cfg):
    print("asked", len(asked))
main()
"""


def test_a_job_is_wrapped_once_though_the_plugin_is_imported_twice(tmp_path):
    (tmp_path / "twice.py").write_text(TWICE)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "twice.py"], capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert done.stdout.splitlines() == ["asked 1"], done.stdout + done.stderr


def test_a_failed_job_can_be_sent_back_by_a_launcher():
    assert str(pickle.loads(pickle.dumps(FailedJob("solo-gps: no")))) == "solo-gps: no"


TYPOS = [
    (["+sampler=gps", "sampler.gps.choose=farthest"], "Did you mean 'furthest'?"),
    (["+sampler.gsp.k=3"], "Did you mean 'gps'?"),
    (["+sampler.gps.kk=3"], "Did you mean 'k'?"),
    (["+sampler=gps", "+prior.name=tim"], "Did you mean 'timm'?"),
    (["+sampler=gps", "+prior=pca", "+prior.dimension=3"], "Did you mean 'dimensions'?"),
    (["+sampler=gps", "+search.backend=fais"], "Did you mean 'faiss'?"),
    (["+sampler=gps", "+refresh.evry=3"], "Did you mean 'every'?"),
    (["+sampler=gps", "method=simlcr"], "Did you mean 'simclr'?"),
    (["+sampler=gps", "method=mae"], "mae"),
    (["+sampler=gps", "+search=torch", "+prior=timm", "method=simlcr"], "Did you mean 'simclr'?"),
    (["+sampler=gps", "+images=own", "data.format=dali"], "set data.format=image_folder"),
]
JUDGED = """
import sys
from solo_gps.commands.cli import main
try:
    main(["pretrain", "--config-name", "simclr_digits", *sys.argv[1:]])
except SystemExit as ended:
    print(ended.code)
print("torch" in sys.modules, "timm" in sys.modules, "solo" in sys.modules)
"""


@pytest.mark.host
@pytest.mark.parametrize(("arguments", "message"), TYPOS)
def test_a_misspelt_word_is_judged_before_torch_is_imported(arguments, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", JUDGED, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    line, imported = done.stdout.splitlines()
    assert line.startswith("solo-gps: ")
    assert message in line
    assert imported == "False False False"
