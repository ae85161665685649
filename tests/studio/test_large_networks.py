"""Large networks stay usable: the memory of the server, what is sent for a first view, and the size of the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import striate
from striate.studio.guard import TOKEN


class Blocks(nn.Module):
    """Ten thousand operators in a thousand layers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(*(nn.ReLU() for _ in range(10))) for _ in range(1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Flat(nn.Module):
    """Ten thousand operators without a layer, so that no box is closed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in range(5000):
            x = (x + step).sin()
        return x


@pytest.mark.slow
@pytest.mark.parametrize("model", [Blocks(), Flat()], ids=["blocks", "flat"])
def test_ten_thousand_operators_can_be_looked_at(model: nn.Module, start: Callable[..., Any], browser: Any) -> None:
    client = start(model, torch.rand(1, 1, 4, 4))
    every = ",".join(f"blocks.{number}" for number in range(1000)) if isinstance(model, Blocks) else ""
    told = client.json("/api/network", **({"open": every} if every else {}))
    assert len(told["nodes"]) == 10_002
    browser.open(client, f"#/network?open={every}" if every else "#/network")
    browser.wait("document.querySelector('[data-node]')", seconds=120)
    assert browser.run("return document.querySelectorAll('[data-node]').length") < 400  # those on screen
    assert browser.run("return document.querySelectorAll('*').length") < 4000
    browser.wait("document.querySelector('.stage').getAttribute('aria-busy') !== 'true'", seconds=60)
    began = time.monotonic()
    browser.run("document.querySelectorAll('[data-node]')[3].dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    browser.wait("document.querySelector('.node.chosen')")
    assert time.monotonic() - began < 2
    last = told["nodes"][len(told["nodes"]) // 2]
    browser.run(f"document.querySelector('.stage').scrollTo({last['box'][0]}, {last['box'][1] / 4})")
    browser.wait("![...document.querySelectorAll('[data-node]')].some((each) => each.dataset.node === 'input')")
    assert browser.errors() == []


@pytest.mark.slow
def test_the_server_of_resnet152_stays_below_its_memory(tmp_path: Path) -> None:
    """A first view, the numbers and one value of ResNet-152 at 224x224: less than 1.5 GB, and 20 MB sent."""
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    process = subprocess.Popen(
        [sys.executable, "-m", "striate", "studio", "resnet152"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(striate.__file__).parent.parent)},
    )
    try:
        assert process.stdout is not None
        place, _, token = process.stdout.readline().strip().removeprefix("http://").partition("/?token=")
        sent = 0

        def ask(path: str) -> bytes:
            nonlocal sent
            while True:
                connection = HTTPConnection(place, timeout=300)
                connection.request("GET", path, headers={TOKEN: token})
                response = connection.getresponse()
                content = response.read()
                sent += len(content)
                if response.status != 202:  # until the network is there
                    assert response.status == 200, content
                    return content

        for path in ("/api/subject", "/api/network", "/api/network/fields", "/api/network/thumbnails?values=1,2,3"):
            ask(path)
        assert sent < 20e6
        listed = json.loads(ask("/api/tensors"))["tensors"]
        maps = [each["value"] for each in listed if len(each["shape"]) == 4 and each["shape"][0] == 1]
        ask(f"/api/value/{maps[len(maps) // 2]}?at=0,0,0,0")
        peak = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line)
        assert int(peak.split()[1]) * 1024 < 1.5e9
    finally:
        process.kill()
        process.wait()
