"""A run that asked for guidance is guided, whoever runs it, wherever, and however it was asked; from the pixels and the class.

Programs x launchers x samplers x ways of asking, thinned to what says something new: every program with every launcher and every
way, every sampler in every launcher, and every sampler in every way.
"""

from __future__ import annotations

import pytest
from programs import check_guided

pytestmark = pytest.mark.host
LAUNCHERS = {
    "multirun": ["--multirun"],
    "joblib": ["--multirun", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["--multirun", "hydra/launcher=submitit_local"],
    "ray": ["--multirun", "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"],  # no dev extra: half a gigabyte
}
NODES = {
    "gps": "gps: {k: 3}",
    "pnn": "pnn: {beta: 0.0}",
    "sepp": "sepp: {fraction: 1.0, low_quantile: 0.5, high_quantile: 1.0}",
    "[gps,pnn]": "gps: {k: 3}, pnn: {beta: 0.0}",
}
PRIOR = "prior: {name: pixels, image_size: 8}\n"
"""Chosen by hand, so that a test can find the neighbours without us."""
SEPP_KEYS = ("+sampler.sepp.fraction=1", "+sampler.sepp.low_quantile=0.5", "+sampler.sepp.high_quantile=1")


def launcher(name):
    if name != "multirun":
        pytest.importorskip(f"hydra_plugins.hydra_{name}_launcher")
    return LAUNCHERS[name]


@pytest.mark.parametrize(
    ("program", "sampler"), [("main", "gps"), ("main", "[gps,pnn]"), ("pretrain", "sepp"), ("pretrain", "pnn")]
)
def test_typed(program, sampler, programs):
    programs.recipe(programs.text + (PRIOR if sampler != "pnn" else ""))
    keys = {"gps": ["sampler.gps.k=3"], "[gps,pnn]": ["sampler.gps.k=3"], "sepp": [key[1:] for key in SEPP_KEYS]}
    steps, _ = programs.run(program, f"+sampler={sampler}", *keys.get(sampler, []))
    check_guided(steps.all, sampler, programs.images)


@pytest.mark.parametrize(
    ("program", "sampler"), [("main", "pnn"), ("main", "sepp"), ("pretrain", "gps"), ("pretrain", "[gps,pnn]")]
)
def test_in_the_recipes_own_file_and_again_from_what_hydra_kept_of_that_run(program, sampler, programs):
    programs.recipe(f"{programs.text}{PRIOR}sampler: {{{NODES[sampler]}}}\n")
    steps, _ = programs.run(program)
    check_guided(steps.all, sampler, programs.images)
    assert (programs.folder / "run" / ".hydra" / "config.yaml").exists()
    (programs.folder / "run").rename(programs.folder / "earlier")
    steps, _ = programs.run(program, config="config", folder="earlier/.hydra")
    check_guided(steps.all, sampler, programs.images)


def test_a_key_alone(programs):
    programs.recipe(programs.text + PRIOR)
    steps, _ = programs.run("main", "+sampler.gps.k=3")
    check_guided(steps.all, "gps", programs.images)


@pytest.mark.parametrize("place", ["sampler: gps, _self_", "_self_, sampler: gps"])
def test_in_a_defaults_list(place, programs):
    first, second = (f"  - {entry}\n" for entry in place.split(", "))
    programs.recipe(f"defaults:\n{first}{second}{programs.text}{PRIOR}sampler: {{{NODES['gps']}}}\n")
    steps, printed = programs.run("main", "sampler.gps.k=3") if place.startswith("_self_") else programs.run("main")
    check_guided(steps.all, "gps", programs.images)
    assert "sampler.gps.k is" not in printed


def test_a_group_that_overrules_the_recipes_own_key_is_named(programs):
    text = f"defaults:\n  - _self_\n  - sampler: gps\n{programs.text}{PRIOR}sampler: {{{NODES['gps']}}}\n"
    programs.recipe(text)
    steps, printed = programs.run("pretrain")
    check_guided(steps.all, "gps", programs.images, k=10)
    assert printed.count("solo-gps: warning: sampler.gps.k is 10, not 3 as the recipe's own file says") == 1


@pytest.mark.parametrize(("program", "name"), [(p, n) for p in ("main", "pretrain") for n in LAUNCHERS])
def test_sweeps_over_samplers(program, name, programs):
    samplers = ["gps", "none", "pnn", "[gps,pnn]"] if name == "multirun" else ["gps", "pnn", "none"]
    programs.recipe(programs.text + PRIOR)
    steps, _ = programs.run(program, *launcher(name), f"+sampler={','.join(samplers)}")
    for sampler in samplers:
        check_guided(steps.of(f"+sampler={sampler}"), sampler, programs.images, k=10)


@pytest.mark.parametrize(
    ("program", "name", "sampler"),
    [
        ("main", "joblib", "[gps,pnn]"),
        ("main", "submitit", "sepp"),
        ("pretrain", "joblib", "sepp"),
        ("pretrain", "submitit", "[gps,pnn]"),
    ],
)
def test_sweeps_of_a_recipe_that_names_its_sampler(program, name, sampler, programs):
    programs.recipe(f"{programs.text}{PRIOR}sampler: {{{NODES[sampler]}}}\n")
    steps, _ = programs.run(program, *launcher(name), "seed=1,2")
    for seed in (1, 2):
        check_guided(steps.of(f"seed={seed}"), sampler, programs.images)
