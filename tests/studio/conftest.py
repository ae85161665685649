"""A running studio, calls of its server, and a browser that looks at it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

_PACKAGES = "NO STUDIO: pip install 'striate[studio]' to run the tests of the studio"

if all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn")):
    from striate.studio import samples
    from striate.studio.guard import TOKEN
    from striate.studio.server import Studio
    from striate.studio.subject import Subject, find, of_module
    from striate.studio.workspace import Workspace
else:
    warnings.warn(_PACKAGES, stacklevel=1)
    collect_ignore_glob = ["test_*.py"]


@dataclass
class Client:
    """Calls of a studio's server, with its token."""

    studio: Studio

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str | None] | None = None,
        **query: Any,
    ) -> tuple[int, bytes]:
        """Status and body of one call; a header that is None in ``headers`` is left out."""
        connection = HTTPConnection("127.0.0.1", self.studio.port, timeout=60)
        given = {TOKEN: self.studio.token} | (headers or {})
        sent = {name: value for name, value in given.items() if value is not None}
        try:
            connection.request(method, f"{path}?{urlencode(query)}" if query else path, body, sent)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def json(self, path: str, method: str = "GET", body: Any = None, **query: Any) -> Any:
        """The JSON of a call that succeeds."""
        status, content = self.ask(path, method, None if body is None else json.dumps(body).encode(), **query)
        assert status == 200, content
        return json.loads(content)

    def numbers(self, path: str, **query: Any) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """The header and the numbers of a binary answer."""
        status, content = self.ask(path, **query)
        assert status == 200, content
        length = int.from_bytes(content[:4], "little")
        header = json.loads(content[4 : 4 + length])
        return header, np.frombuffer(content[4 + length :], "<f4").reshape(header["shape"])


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Client]]:
    """Starts a studio of a network of the zoo by name, of a module with inputs, or of a subject."""
    running: list[Studio] = []

    def begin(what: str | torch.nn.Module | Subject, inputs: Any = None, **settings: Any) -> Client:
        if isinstance(what, str):
            what = find(what)
        if isinstance(what, Subject):
            pictures = samples.pictures_of(what)
        else:
            what = of_module(what.eval())
            pictures = [what.given(inputs, "example", id="p0")]
        studio = Studio(Workspace(what, pictures, **settings)).start()
        running.append(studio)
        return Client(studio)

    yield begin
    for each in running:
        each.stop()


@pytest.fixture(scope="session")
def studio(start: Callable[..., Client]) -> Client:
    """A running studio of LeNet-5 with random weights, on the digits."""
    return start("lenet5")


_MISSING = "NO BROWSER: install chromium and chromium-driver to run the tests of the studio's pages"


@dataclass
class Browser:
    """Chromium without a window; :meth:`errors` is what its console complains of."""

    driver: Any

    def open(self, client: Client, address: str = "", *, size: tuple[int, int] = (1440, 900)) -> None:
        """Opens the studio at a view's address, ``"#/network"``."""
        self.driver.set_window_size(*size)
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(client.studio.address + address)

    def wait(self, script: str, seconds: float = 20.0, why: str = "") -> Any:
        """Waits until JavaScript gives something that is true, and gives it."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        try:
            return WebDriverWait(self.driver, seconds, 0.05).until(
                lambda driver: driver.execute_script(f"return {script}")
            )
        except TimeoutException:
            shown = self.driver.execute_script("return document.body.innerText.slice(0, 500)")
            raise AssertionError(
                f"{why or script} didn't come about; the page says: {shown}; {self.errors()}"
            ) from None

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def click(self, selector: str) -> None:
        """Clicks the first element that a CSS selector finds, once it is there."""
        self.wait(f"document.querySelector({json.dumps(selector)})", why=selector)
        self.driver.find_element("css selector", selector).click()

    def errors(self) -> list[str]:
        """What the console says that is worse than a remark; how tests read canvases is no concern of the pages."""
        told = [each["message"] for each in self.driver.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]
        return [each for each in told if "willReadFrequently" not in each]

    def requested(self) -> list[str]:
        """The addresses of all requests since :meth:`open`."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found


@pytest.fixture(scope="session")
def _driver() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        chromedriver = None
    if chromium is None or chromedriver is None:
        warnings.warn(_MISSING, stacklevel=1)
        pytest.skip(_MISSING)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
        "--hide-scrollbars",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.set_script_timeout(30)
    yield driver
    driver.quit()


@pytest.fixture
def browser(_driver: Any) -> Browser:
    """A browser; where there is none the test is skipped, loudly."""
    return Browser(_driver)
