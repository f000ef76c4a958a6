"""Installed as a user would: the wheel and the editable install both show the Hydra groups and the entry points."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "tests" / "example_plugin"
REPORT = """
import json, pathlib, solo_gps
from importlib.metadata import entry_points
from hydra import initialize
from hydra.core.global_hydra import GlobalHydra
with initialize(version_base="1.2", config_path=None):
    options = GlobalHydra.instance().config_loader().get_group_options
    groups = {name: options(name) for name in ("sampler", "prior", "search", "refresh", "images", "recipe")}
print(json.dumps({
    "where": str(pathlib.Path(solo_gps.__file__).parents[1]),
    "groups": groups,
    "scripts": [e.value for e in entry_points(group="console_scripts") if e.name == "solo-gps"],
}))
"""


def run(python, *arguments, **kwargs):
    # What was installed must be found by itself, not through the path of whoever runs the tests.
    environ = {**(kwargs.pop("env", None) or {name: value for name, value in os.environ.items() if name != "PYTHONPATH"})}
    done = subprocess.run(
        [str(python), *map(str, arguments)], capture_output=True, text=True, cwd=kwargs.pop("cwd", "/"), env=environ, **kwargs
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder):
    """A new environment that sees this one's libraries (torch, Hydra, solo-learn) but not this one's solo-gps."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    site = Path(run(folder / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def build_environment():
    """The build backend comes from this environment, so that installing needs no network."""
    return {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}


def install(python, *what):
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--no-deps", "--no-build-isolation", "--no-index", *what, env=build_environment())


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    python = environment(folder / "env")
    checkout = folder / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv*", "runs", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    install(python, *(["-e", checkout] if request.param == "editable" else [checkout]))
    install(python, PLUGIN)
    return python, checkout, request.param


def test_the_groups_and_the_command_are_found(installed):
    import json

    python, checkout, kind = installed
    report = json.loads(run(python, "-c", REPORT))
    assert (report["where"] == str(checkout)) == (kind == "editable")
    for group in ("sampler", "prior", "search", "refresh", "images", "recipe"):
        listed = {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")}
        assert listed <= set(report["groups"][group])
    assert {"gps", "none", "mirror"} <= set(report["groups"]["sampler"])
    assert report["scripts"] == ["solo_gps.commands.cli:main"]


def test_no_test_or_config_folder_lands_beside_other_packages(installed):
    python, _, kind = installed
    if kind == "wheel":
        site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        assert {path.name for path in site.iterdir() if path.is_dir() and "dist-info" not in path.name} == {
            "solo_gps",
            "hydra_plugins",
            "mirror_positives",
        }
        assert (site / "solo_gps" / "report" / "page.html.jinja").is_file()


@pytest.mark.host
def test_a_third_party_sampler_works_by_its_name(installed, digits, tmp_path):
    pytest.importorskip("solo.methods")
    python, _, kind = installed
    if kind == "editable":
        pytest.skip("the wheel's run shows the same code path")
    log = tmp_path / "pairs.txt"
    environ = {**os.environ, "PYTHONPATH": "", "MIRROR_LOG": str(log), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    overrides = [f"data.train_path={digits / 'train'}", "max_epochs=2", "optimizer.batch_size=16", "data.num_workers=0"]
    overrides += ["+prior=pixels"]  # it starts from a config file outside the groups, which must have been installed too
    program = "from solo_gps.commands.cli import main; raise SystemExit(main())"
    arguments = ["pretrain", "--config-name", "simclr_digits", *overrides, "accelerator=cpu"]
    run(python, "-c", program, *arguments, "+sampler=mirror", "sampler.mirror.every=2", env=environ, cwd=tmp_path)
    n = len(list((digits / "train").glob("*/*.png")))
    wanted = [n - 1 - i if i % 2 == 0 else i for i in range(n)]
    assert log.read_text().splitlines() == [f"{epoch} {wanted}" for epoch in (0, 1)]


def test_importing_the_package_is_cheap_and_without_torch():
    """The time is only reported (benchmarks/imports.py measures it); that torch stays out is asserted."""
    code = "import sys, solo_gps; print([m for m in ('torch', 'hydra', 'timm', 'numpy', 'faiss') if m in sys.modules])"
    started = time.perf_counter()
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == "[]"
    print(f"import in a new process: {time.perf_counter() - started:.3f} s")


def test_the_search_path_plugin_imports_nothing_heavy():
    code = (
        "import sys, hydra_plugins.solo_gps_searchpath as p; p.config_folder();"
        "print([m for m in ('torch', 'timm', 'numpy', 'faiss', 'solo') if m in sys.modules])"
    )
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == "[]"
