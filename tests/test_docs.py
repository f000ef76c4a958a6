"""The docs say only what is there: links, recipes, groups, commands, keys."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from solo_gps import cli
from solo_gps.host.recipes import recipe_names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OUTSIDE = {"main_pretrain.py"}


def blocks(page, *languages):
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_lead_somewhere(page):
    prose = re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text()))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_blocks_compile(page):
    for text in blocks(page, "python"):
        ast.parse(text)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_groups_that_are_typed_exist(page):
    text = page.read_text()
    for group in ("sampler", "prior", "search", "refresh"):
        known = {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")} | {"mirror"}
        for typed in re.findall(rf"\+{group}=(\[[\w,]+\]|\w+)", text):
            assert set(typed.strip("[]").split(",")) <= known, typed


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_sampler_keys_that_are_typed_exist(page):
    for sampler, key in re.findall(r"\bsampler\.(gps|pnn|sepp)\.(\w+)", page.read_text()):
        group = OmegaConf.load(ROOT / "configs" / "sampler" / f"{sampler}.yaml")
        assert key in group.sampler[sampler], f"sampler.{sampler}.{key}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_our_commands_and_recipes_exist(page):
    commands = cli._parser()._subparsers._group_actions[0].choices
    for text in blocks(page, "bash"):
        for command in re.findall(r"^\s*solo-gps ([\w-]+)", text, re.MULTILINE):
            assert command in commands, command
        for line in text.splitlines():
            named = re.search(r"--config-name (\S+)", line)
            if named and line.lstrip().startswith("solo-gps") and "--config-path" not in line:
                assert named[1] in recipe_names()
        for script in re.findall(r"python (\S+\.py)", text):
            assert script in OUTSIDE or (ROOT / script).is_file(), script


def test_the_readme_marks_its_two_commands():
    text = (ROOT / "README.md").read_text()
    for label, command in (("run", "make demo"), ("test", "make test")):
        assert f"<!-- fresh:{label} -->\n```bash\n{command}\n```" in text


def test_every_recipe_composes():
    from solo_gps.host.recipes import compose_recipe

    for name in recipe_names():
        cfg = compose_recipe(name)
        assert {"method", "backbone", "augmentations", "data", "optimizer", "scheduler"} <= set(cfg)
        guided = compose_recipe(name, ["+sampler=gps"])
        assert guided.sampler.gps.k == 10
