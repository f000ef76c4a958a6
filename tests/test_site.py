"""The documentation as one site: it builds without a warning, all of it is shown, and it asks nothing of the network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material", reason="no mkdocs-material here")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).with_suffix("") for page in DOCS.rglob("*.md"))
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def build(config, to):
    command = [sys.executable, "-m", "mkdocs", "build", "-f", str(config), "-d", str(to)]
    return subprocess.run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    to = tmp_path_factory.mktemp("site")
    done = build(DOCS / "site" / "mkdocs.yml", to)
    assert done.returncode == 0, done.stderr
    return to


def test_a_page_that_is_not_in_nav_and_a_link_to_nowhere_fail_the_build(tmp_path):
    (tmp_path / "docs" / "site").mkdir(parents=True)
    config = tmp_path / "docs" / "site" / "mkdocs.yml"
    text = (DOCS / "site" / "mkdocs.yml").read_text()
    config.write_text(re.sub(r"^nav:.*", "nav:\n  - Home: index.md\n", text, flags=re.MULTILINE | re.DOTALL))
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[nowhere](#nowhere)\n")
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    done = build(config, tmp_path / "built")
    assert done.returncode == 1
    assert "other.md" in done.stderr
    assert "#nowhere" in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_table_and_list_is_shown_as_one(site, page):
    """A forge is more forgiving than Python-Markdown: there, a list needs an empty line before it."""
    source = FENCE.sub("", (DOCS / page).with_suffix(".md").read_text())
    shown = (site / page).with_suffix(".html").read_text()
    assert shown.count("<table>") == len(re.findall(r"^\|[-| :]*-[-| :]*\|$", source, re.MULTILINE))
    prose = re.findall(r"<p>(.*?)</p>", shown, re.DOTALL)
    assert not [text for text in prose if re.search(r"^(\||[-*] |\d+\. )", text, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_asks_nothing_of_the_network(site, page):
    shown = (site / page).with_suffix(".html").read_text()
    loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"([^\"]*)\"", shown)
    loaded += re.findall(r"<link[^>]*\shref=\"([^\"]*)\"", shown)
    assert loaded
    assert not [url for url in loaded if re.match(r"(https?:)?//", url)]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
THEIRS = (
    "landmark-unique",
    "scrollable-region-focusable",
)  # the theme's copy buttons; Chromium itself brings the keyboard to what scrolls


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_in_a_browser(site, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        asked, wrong = [], []
        for page in ("index", "first-run", "keys"):
            view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            view.set_default_timeout(300_000)
            view.on("request", lambda request: asked.append(request.url))
            view.goto((site / f"{page}.html").as_uri())
            if view.evaluate("document.documentElement.scrollWidth") != width:
                wrong.append((page, "wider than the window"))
            found = axe.run(view).response["violations"]
            wrong += [(page, rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["id"] not in THEIRS]
            view.close()
        browser.close()
    assert wrong == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
