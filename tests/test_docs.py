"""The docs say only what is there: links, recipes, groups, commands, keys."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

import api_reference
import cli_reference
import pytest
from config_keys import defaults, sampler_config, table
from omegaconf import OmegaConf

import solo_gps
from solo_gps.commands import cli
from solo_gps.commands.recipes import recipe_names
from solo_gps.hosts.detect import INSTALL
from solo_gps.samplers import register_samplers

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OUTSIDE = {"main_pretrain.py", "main_nn.py"}
EXAMPLES = {"mirror", "brightness", "frames", "NAME"}


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
    for group in ("sampler", "prior", "search", "refresh", "images", "watch"):
        known = {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")} | EXAMPLES
        for typed in re.findall(rf"\+{group}=(\[[\w,]+\]|\w+)", text):
            assert set(typed.strip("[]").split(",")) <= known, typed


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_sampler_keys_that_are_typed_exist(page):
    for sampler, key in re.findall(r"\bsampler\.(gps|pnn|sepp)\.(\w+)", page.read_text()):
        assert key in defaults(sampler_config(sampler)), f"sampler.{sampler}.{key}"


TOLD = ["prior", "each prior", "search", "refresh", "images", "watch", *(f"sampler {name}" for name in register_samplers())]


@pytest.mark.parametrize("of", TOLD)
def test_each_table_of_keys_stands_once_and_is_that_of_the_code(of):
    """A key's meaning is written below its field, in the dataclass; the docs repeat it by machine."""
    pages = [page for page in PAGES if f"<!-- keys: {of} -->" in page.read_text()]
    assert len(pages) == 1, f"docs/ needs the lines '<!-- keys: {of} -->' and '<!-- end of keys -->', once"
    current = f"<!-- keys: {of} -->\n{table(of)}<!-- end of keys -->" in pages[0].read_text()
    assert current, f"{pages[0].name}: the table of {of} is not what the dataclass says; run python tests/config_keys.py"


def test_every_key_has_its_sentence_and_its_default_in_its_table():
    for of in TOLD:
        for row in table(of).splitlines()[2:]:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
            assert all(cells) or cells[0] == "`name`", row
            assert cells[-1].endswith((".", "...")), row


def test_the_reference_is_that_of_the_docstrings():
    text = api_reference.PAGE.read_text()
    assert api_reference.with_parts(text) == text, "run python tests/api_reference.py"


def test_the_reference_has_what_the_package_offers():
    told = set(re.findall(r"<!-- docstring: solo_gps\.(\w+) -->", api_reference.PAGE.read_text()))
    elsewhere = {"__version__", "hookimpl", "SoloGpsError"}  # a text; docs/plugins.md; by its own module
    assert told == set(solo_gps.__all__) - elsewhere


def test_the_page_of_commands_is_that_of_the_parsers():
    assert cli_reference.PAGE.read_text() == cli_reference.page(), "run python tests/cli_reference.py"


def test_an_option_becomes_a_row():
    parser = argparse.ArgumentParser(prog="solo-gps")
    one = parser.add_subparsers().add_parser("one", help="does it", epilog="example: solo-gps one a")
    one.add_argument("file", nargs="*")
    one.add_argument("--form", choices=["x", "y"], default="x", help="of <n>|m")
    one.add_argument("--keys", nargs="+", metavar="KEY", required=True, help="all %(dest)s")
    (lines,) = cli_reference.commands(parser, "")
    assert lines[:7] == ["## solo-gps one", "", "Does it.", "", "```bash", "solo-gps one a", "```"]
    assert lines[10:13] == [
        "| `[file ...]` |  |",
        r"| `--form {x,y}` | of &lt;n>\|m; default: `x` |",
        "| `--keys KEY [KEY ...]` | all keys; required |",
    ]


def test_a_docstring_becomes_markdown():
    def function(one: int, *, two: str = "x") -> float:
        """Does it, as :func:`solo_gps.positives` does.

        More of it, with ``code``.

        Args:
            one: A first sentence
                that goes on.
            two: Another.

        Returns:
            A number
            of two lines.
        """

    assert api_reference.signature("f", function) == "f(one: int, *, two: str = 'x') -> float"
    assert api_reference.prose(function) == [
        *["Does it, as `positives` does.", "", "More of it, with `code`.", "", "*Args*", ""],
        *["- `one`: A first sentence that goes on.", "- `two`: Another.", "", "*Returns*: A number of two lines."],
    ]


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


def test_every_recipe_of_ours_composes():
    from solo_gps.commands.recipes import compose_recipe

    for name in recipe_names():
        if "/" in name:  # the papers' rows: tests/commands/test_recipes.py
            continue
        guided = compose_recipe(name, ["+sampler=gps"])
        assert {"method", "backbone", "augmentations", "data", "optimizer", "scheduler"} <= set(guided)
        assert guided.sampler.gps.k == 10


INSTALL_LINES = (
    "echo 'setuptools<81' > constraint.txt",
    'PIP_CONSTRAINT=constraint.txt pip install git+https://github.com/vturrisi/solo-learn "setuptools<81"',
    "pip install {pins}",
    "pip install --no-deps solo-learn==1.0.2",
)


def test_the_install_lines_are_one_set():
    """The Makefile is what runs; README, docs and the error for a missing solo-learn say the same."""
    makefile = (ROOT / "Makefile").read_text()
    (pins,) = re.findall(r"^HOST_102 := (.*)$", makefile, re.MULTILINE)
    assert "--no-deps solo-learn==1.0.2" in makefile
    for name, text in {
        "README.md": (ROOT / "README.md").read_text(),
        "docs/hosts.md": (ROOT / "docs" / "hosts.md").read_text(),
        "the error": INSTALL,
    }.items():
        joined = re.sub(r"\s*\\\n\s*", " ", text)
        for line in INSTALL_LINES:
            assert line.format(pins=pins) in joined, f"{name} lacks: {line.format(pins=pins)}"


def test_the_citation_names_the_papers_that_the_readme_names():
    text = (ROOT / "CITATION.cff").read_text()
    cited = OmegaConf.to_container(OmegaConf.create(text))
    assert cited["version"] == solo_gps.__version__
    papers = set(re.findall(r"arxiv.org/abs/(\d+\.\d+)", (ROOT / "README.md").read_text()))
    assert {paper["url"].removeprefix("https://arxiv.org/abs/") for paper in cited["references"]} == papers


SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "harness")


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_each_benchmark_shows_in_its_help_how_it_is_called(script):
    text = script.read_text()
    assert f"python benchmarks/{script.name}" in (ast.get_docstring(ast.parse(text)) or "")
    assert "parser(__doc__)" in text or "description=__doc__" in text


def test_the_tests_that_the_page_on_reliability_names_are_those_of_the_faults():
    page = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"\| `(test_\w+)` \|$", page, re.MULTILINE)
    there = {path: re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE) for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) == len(set(named)) == sum(line.startswith("| ") for line in page.splitlines()) - page.count("| fault |")
    assert set(named) <= {name for names in there.values() for name in names}
    assert {name for path, names in there.items() if path.parent.name == "faults" for name in names} <= set(named)
