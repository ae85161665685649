"""The built handbook: it builds without a warning, its links lead somewhere, and a browser shows every page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from tests.studio import conftest as pages

ROOT = Path(__file__).parent.parent.parent
BUILT = ROOT / "build" / "docs"

# Fixtures: Chromium, or a loud skip.
_driver, browser = pages._driver, pages.browser


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder of the handbook's pages, built if sources are newer than pages; any warning is an error."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "STRIATE_TEST"))}
    kept["PYTHONPATH"] = str(ROOT / "src")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(BUILT)]
    done = subprocess.run(command, env=kept, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return BUILT


class Page(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.parts: list[str] = []  #: pictures, styles and scripts
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "src" in given:
            self.parts.append(given["src"])
        elif tag == "link" and "href" in given and given.get("rel") in ("stylesheet", "icon", "prefetch"):
            self.parts.append(given["href"])


def found(folder: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text("utf-8")) for path in sorted(folder.rglob("*.html"))}


def broken(read: dict[Path, Page]) -> Iterator[str]:
    """Links and parts that lead to nothing; those to other sites aren't followed."""
    for path, page in read.items():
        for link in (*page.links, *page.parts):
            address = urlsplit(link)
            if address.scheme in ("http", "https") and link in page.links:
                continue
            if address.scheme == "data":
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            if address.scheme or not target.is_file():
                yield f"{path.name}: {link} leads nowhere"
            elif address.fragment and target in read and unquote(address.fragment) not in read[target].anchors:
                yield f"{path.name}: {link} names no part of that page"


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "one.html").write_text(
        '<a href="two.html#here"></a><a href="two.html#there"></a><a href="three.html"></a><a href="#top"></a>'
        '<a href="https://example.org/"></a><script src="https://example.org/a.js"></script><img src="none.png">'
    )
    (tmp_path / "two.html").write_text('<p id="here"></p>')
    assert [line.removeprefix("one.html: ") for line in broken(found(tmp_path))] == [
        "two.html#there names no part of that page",
        "three.html leads nowhere",
        "#top names no part of that page",
        "https://example.org/a.js leads nowhere",
        "none.png leads nowhere",
    ]


@pytest.mark.slow
def test_every_link_leads_to_a_page_and_every_anchor_to_a_part_of_it(built: Path) -> None:
    read = found(built)
    assert len(read) > 60
    assert list(broken(read)) == []


#: What a browser must say of a page once all is loaded.
_LOOKED_AT = """
const pictures = [...document.images].filter(each => !each.closest("noscript"));
return {
  blank: pictures.filter(each => each.complete && !each.naturalWidth).map(each => each.src),
  loading: pictures.some(each => !each.complete),
  raw: [...document.querySelectorAll(".math")].filter(each => !each.querySelector("mjx-container")).length,
  wrong: document.querySelectorAll("mjx-merror").length,
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
};
"""


def looked_at(driver: Any, path: Path) -> dict[str, Any]:
    """Opens a page and waits for its formulas and pictures."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(path.as_uri())
    driver.execute_script("document.querySelectorAll('img').forEach(each => { each.loading = 'eager'; })")

    def told(_: Any) -> Any:
        said = driver.execute_script(_LOOKED_AT)
        return None if said["loading"] or said["raw"] else said

    try:
        return dict(WebDriverWait(driver, 60, 0.1).until(told))
    except TimeoutException:
        return dict(driver.execute_script(_LOOKED_AT))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400], ids=["desk", "phone"])
def test_a_browser_shows_every_page_and_asks_for_nothing_elsewhere(
    built: Path, browser: pages.Browser, width: int
) -> None:
    wrong = []
    browser.driver.set_window_size(width, 900)
    browser.driver.get("about:blank")
    browser.errors()  # forgets what went before
    browser.requested()
    for path in sorted(built.rglob("*.html")):
        said = looked_at(browser.driver, path)
        name = path.relative_to(built).as_posix()
        wrong += [f"{name}: {error}" for error in browser.errors()]
        elsewhere = [each for each in browser.requested() if not each.startswith(("file:", "data:", "about:", "blob:"))]
        wrong += [f"{name}: asks for {address}" for address in elsewhere]
        wrong += [f"{name}: no picture at {address}" for address in said["blank"]]
        if said["raw"] or said["wrong"] or said["loading"]:
            wrong.append(f"{name}: {said['raw']} formulas not set, {said['wrong']} wrong, loading: {said['loading']}")
        if said["wide"] > 0:
            wrong.append(f"{name}: {said['wide']} pixels wider than the window")
    assert wrong == []


@pytest.mark.slow
def test_a_page_that_asks_elsewhere_or_complains_is_noticed(tmp_path: Path, browser: pages.Browser) -> None:
    page = tmp_path / "wrong.html"
    page.write_text(
        '<div style="width: 5000px">wide</div><script>console.error("told")</script><p class="math">x</p>'
        '<img src="none.png"><script src="http://127.0.0.1:9/a.js"></script>'
    )
    browser.driver.set_window_size(1280, 900)
    browser.driver.get(page.as_uri())
    said = browser.run(_LOOKED_AT)
    assert (said["raw"], len(said["blank"])) == (1, 1)
    assert said["wide"] > 3000
    assert any("told" in each for each in browser.errors())
    assert any(each.startswith("http://127.0.0.1:9/") for each in browser.requested())
