"""``striate studio`` as it is typed: it prints an address that answers, and ends with Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import striate

pytest.importorskip("uvicorn", reason="the studio's packages aren't installed: pip install 'striate[studio]'")

SOURCES = Path(striate.__file__).parent.parent


def begin(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "striate", "studio", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )


@pytest.mark.slow
def test_it_prints_an_address_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    process = begin("lenet5", folder=tmp_path)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        assert b"<title>striate studio</title>" in urllib.request.urlopen(address).read()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in told
        assert list(tmp_path.iterdir()) == []
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("lenet6",), "did you mean lenet5?"),
        (("lenet5", "--size", "28"), "as 3x224x224"),
        (("lenet5", "--image", "none.png"), "none.png"),
        (("--weights", "random"), "got no network"),
        (("lenet5", "--host", "no.such.address.invalid"), "can't be bound"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    from striate.cli import main

    with pytest.raises(SystemExit) as left:
        main(["studio", *arguments])
    assert left.value.code == 2
    found = capsys.readouterr().err
    assert told in found
    assert found.count("\n") == 1


def test_the_world_is_warned_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from striate.cli import main
    from striate.studio.server import Studio

    monkeypatch.setattr(Studio, "serve", lambda self, ready, made: self._socket.close())
    with pytest.raises(SystemExit) as left:
        main(["studio", "lenet5", "--host", "0.0.0.0"])
    assert left.value.code == 0
    assert "warning: 0.0.0.0 can be reached from other machines" in capsys.readouterr().err


def test_the_browser_is_opened_when_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import webbrowser

    from striate.cli import main
    from striate.studio.server import Studio

    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)

    def serve(self: Studio, ready: object, made: object) -> None:
        ready()  # type: ignore[operator]
        self._socket.close()

    monkeypatch.setattr(Studio, "serve", serve)
    with pytest.raises(SystemExit):
        main(["studio", "lenet5", "--open"])
    assert opened == [capsys.readouterr().out.strip()]


BUSY = """
import torch

class Busy(torch.nn.Module):
    def forward(self, x):
        print("computes", flush=True)
        for _ in range(100_000):
            x = (x @ x).softmax(-1)
        return x

def build():
    return Busy(), torch.rand(1, 1, 200, 200)
"""


@pytest.mark.slow
def test_ctrl_c_during_a_computation_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    process = begin("busy.py:build", folder=tmp_path)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]  # the network runs as soon as it is there
        address = next(line for line in lines if line.startswith("http")).strip()
        assert "computes\n" in lines
        place, _, token = address.removeprefix("http://").partition("/?token=")
        with socket.create_connection(tuple(place.split(":")), timeout=30) as connection:
            asked = f"GET /api/network HTTP/1.1\r\nHost: {place}\r\nX-Striate-Token: {token}\r\n\r\n"
            connection.sendall(asked.encode())
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=30)
            assert connection.recv(100).startswith(b"HTTP/1.1 503")
        assert process.returncode == 130
        assert told == "interrupted\n"
    finally:
        process.kill()
