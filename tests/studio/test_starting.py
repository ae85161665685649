"""The page is there before PyTorch is: a server without a network, calls that wait, and what is being done."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from striate.studio.server import Studio


@pytest.fixture
def early(studio: Any) -> Iterator[Any]:
    """Calls of a server that has nothing to show yet."""
    with Studio() as server:
        yield type(studio)(server)


def test_the_server_imports_no_pytorch() -> None:
    code = "import sys, striate.studio.server, striate.cli.studio; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_is_there_and_calls_are_told_to_wait(early: Any, studio: Any) -> None:
    assert b"<title>striate studio</title>" in early.ask("/")[1]
    assert early.ask("/static/app.js")[0] == 200
    early.studio.tell("training a network")
    early.studio._starting.patience = 0.0
    for path in ("/api/subject", "/api/network", "/api/nothing", "/nothing"):
        status, content = early.ask(path)
        assert status == 202
        assert b'"starting":"training a network"' in content
    assert early.ask("/api/subject", headers={"X-Striate-Token": None})[0] == 401
    early.studio.show(studio.studio.workspace)
    assert early.json("/api/subject")["name"] == "lenet5"
    assert early.ask("/api/nothing")[0] == 404


def test_a_call_that_waits_is_answered_once_there_is_something_to_show(early: Any, studio: Any) -> None:
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(early.ask, "/api/subject")
        time.sleep(0.1)
        assert not asked.done()
        early.studio.tell("training a network")
        assert asked.result(3)[0] == 202
        asked = pool.submit(early.json, "/api/subject")
        time.sleep(0.1)
        early.studio.show(studio.studio.workspace)
        assert asked.result(3)["name"] == "lenet5"


def test_a_page_waits_for_the_network(early: Any, studio: Any, browser: Any) -> None:
    browser.open(early)
    time.sleep(0.2)
    early.studio.tell("training a network")
    browser.wait("document.querySelector('main [role=status]')?.textContent.includes('training a network')")
    early.studio.show(studio.studio.workspace)
    browser.wait("document.querySelector('[data-node=c1]')")
    assert browser.errors() == []


def test_what_fails_while_it_starts_ends_the_server() -> None:
    studio, told = Studio(), []

    def fails() -> Any:
        raise ValueError("no network")

    with pytest.raises(ValueError, match="no network"):
        studio.serve(lambda: told.append(studio.address), fails)
    assert told == [studio.address]
    assert studio._thread is not None
    assert not studio._thread.is_alive()
