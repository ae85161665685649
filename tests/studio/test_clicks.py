"""What keeps clicks quick: they wait for no run, import nothing large, and answers leave at once."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

AT = "0,1,2,3"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("tensor/{}", {"size": 96}),
        ("value/{}", {"at": AT}),
        ("value/{}/field", {"at": AT}),
        ("network", {}),
        ("network/fields", {}),
        ("network/thumbnails", {"values": "0"}),
        ("network/search", {"q": "conv"}),
        ("tensors", {}),
    ],
)
def test_what_is_recorded_is_shown_while_the_network_runs(studio: Any, path: str, query: dict[str, Any]) -> None:
    value = next(each for each in studio.json("/api/tensors")["tensors"] if each["name"] == "c1")["value"]
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with studio.studio.workspace.lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(20)
        status, content = studio.ask(f"/api/{path.format(value)}", **query)
        assert status == 200, content
    finally:
        done.set()
        thread.join()


def test_a_click_imports_no_symbolic_mathematics() -> None:
    """PyTorch imports SymPy, which takes half a second, for some functions that have nothing to do with it."""
    code = (
        "import sys, torch\n"
        "from striate.studio.derivation import derive\n"
        "from striate.studio.recording import record\n"
        "from striate.studio.seen import receptive_field\n"
        "from striate.studio.views import gradients, numbers, network\n"
        "layers = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU()).eval()\n"
        "recording = record(layers, torch.rand(1, 1, 5, 5))\n"
        "network._placed(recording, None, 1200), network._fields(recording), numbers.about(recording, 0)\n"
        "for value in (recording.outputs, recording.outputs - 1):\n"
        "    if recording.values[value].shape == (1, 2, 3, 3):\n"
        "        derive(recording, value, (0, 0, 1, 1)), receptive_field(recording, value, (0, 0, 1, 1))\n"
        "sys.exit('sympy' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_small_answers_leave_at_once(studio: Any) -> None:
    """asyncio switches off Nagle's algorithm, which waits for more to send, where a socket says that it is TCP's."""
    assert studio.studio._socket.proto == socket.IPPROTO_TCP
