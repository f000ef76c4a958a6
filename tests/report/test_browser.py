"""The page in Chromium: narrow and wide, light and dark, by keyboard, for those who hear it, on paper."""

from __future__ import annotations

import shutil

import pytest

from solo_gps.report.comparison import write_comparison

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(labelled, unlabelled, long_names, compared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {
        "labelled": labelled.save(folder / "labelled"),
        "unlabelled": unlabelled.save(folder / "unlabelled"),
        "long": long_names.save(folder / "long"),
        "comparison": write_comparison(compared, folder / "comparison", title="Comparison", command="solo-gps compare x"),
    }


@pytest.fixture
def opened(chromium, files):
    """Opens a page; at the end, nothing was asked of the network and nothing was said on the console."""
    said, asked, views = [], [], []

    def open_page(which="labelled", width=390, scheme="light"):
        view = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        view.set_default_timeout(300_000)
        views.append(view)
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(files[which].as_uri())
        return view

    yield open_page
    for view in views:
        view.close()
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert sum(url.startswith("file:") for url in asked) == len(views)


@pytest.mark.parametrize("which", ["labelled", "unlabelled", "comparison"])
@pytest.mark.parametrize("width", [320, 390, 1440])
def test_nothing_is_wider_than_the_window(opened, which, width):
    view = opened(which, width)
    assert view.evaluate("document.documentElement.scrollWidth") == width
    broken = "[...document.images].filter(image => !image.alt || !image.complete || !image.naturalWidth).length"
    assert view.evaluate(broken) == 0  # one that waits to be scrolled to is not printed either


def test_long_names_make_no_table_wide(opened):
    view = opened("long", 1440)
    assert view.evaluate("[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).length") == 0
    assert view.evaluate("Math.min(...[...document.querySelectorAll('thead th')].map(one => one.offsetWidth))") >= 80


@pytest.mark.parametrize("which", ["labelled", "comparison"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing(opened, which, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(opened(which, width=width, scheme=scheme)).response["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == []


def test_the_page_follows_the_scheme_and_its_pictures_do(opened):
    ground = "getComputedStyle(document.body).backgroundColor"
    source = "document.querySelector('picture img').currentSrc"
    light, dark = opened(), opened(scheme="dark")
    assert light.evaluate(ground) == "rgb(255, 255, 255)"
    assert dark.evaluate(ground) == "rgb(20, 23, 26)"
    for view in (light, dark):
        view.evaluate("document.querySelector('picture img').decode()")
    assert light.evaluate(source) != dark.evaluate(source)


def test_the_keyboard_reaches_all_that_moves(opened):
    view = opened()
    wanted = view.evaluate("document.querySelectorAll('a, [tabindex], summary').length")
    reached = 0
    for _ in range(wanted):
        view.keyboard.press("Tab")
        reached += view.evaluate(
            "document.activeElement.matches('a, [tabindex], summary') && !document.activeElement.dataset.seen"
        )
        view.evaluate("document.activeElement.dataset.seen = 'yes'")
    assert reached == wanted > 10


def test_the_first_key_leads_past_the_links(opened):
    view = opened()
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent") == "To the summary"
    view.keyboard.press("Enter")
    assert view.evaluate("location.hash") == "#summary"


def test_it_prints(opened):
    assert opened(width=1440).pdf()[:5] == b"%PDF-"
