"""Training, live: the page follows a run from checkpoint to checkpoint, to its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import Begun
from test_why_view import finished, result

from striate.explain import activation_maps
from striate.studio.subject import of_run


@pytest.fixture
def followed(tmp_path: Path, start: Callable[..., Any]) -> tuple[Begun, Any]:
    """A run that has begun, and a studio that shows it."""
    run = Begun(tmp_path / "run")
    run.epoch(0)
    return run, start(of_run(run.path))


def test_the_server_tells_what_the_run_wrote(followed: tuple[Begun, Any]) -> None:
    run, client = followed
    told = client.json("/api/training")
    assert told["history"] == [each.to_dict() for each in run.history]
    assert not told["finished"]
    state = run.epoch(1)
    told = client.json("/api/training")
    assert len(told["history"]) == 2
    newest = told["snapshots"][-1]
    header, kernels = client.numbers("/api/training/kernels", layer="c1", at=newest["number"])
    assert np.array_equal(kernels, state["c1.weight"].numpy())
    assert header["epoch"] == 2
    _, before = client.numbers("/api/training/kernels", layer="c1", at=told["snapshots"][0]["number"])
    assert np.array_equal(before, run.state(0)["c1.weight"].numpy())
    header, maps = client.numbers("/api/training/maps", picture="p3", layer="c3", at=newest["number"])
    model = run.settings.new_model().eval()
    model.load_state_dict(state)
    inputs = client.studio.workspace.picture("p3").inputs
    assert np.array_equal(maps, activation_maps(model, inputs[0], "c3").maps[:32].numpy())
    with torch.no_grad():
        assert header["says"] == pytest.approx(model(inputs)[0].softmax(0).tolist())
    run.finish(2)
    assert client.json("/api/training")["finished"]
    job = finished(client, "/api/training/confusion")
    assert result(client, job)["n"] == 40


def test_bad_requests_get_one_line(followed: tuple[Begun, Any], studio: Any) -> None:
    _, client = followed
    for path, query, line in (
        ("/api/training/kernels", {"layer": "f6"}, "needed a convolution"),
        ("/api/training/kernels", {}, "layer: got none"),
        ("/api/training/kernels", {"layer": "c1", "at": 99}, "snapshot: got 99"),
        ("/api/training/kernels", {"layer": "c1", "at": "x"}, "at: got 'x'"),
        ("/api/training/maps", {"layer": "nowhere"}, "nowhere"),
        ("/api/training/maps", {"picture": "nobody"}, "nobody"),
    ):
        status, content = client.ask(path, **query)
        assert 400 <= status < 500, content
        assert line in content.decode()
    assert studio.json("/api/training") == {"run": None}
    assert studio.ask("/api/training/kernels", layer="c1")[0] == 404


NEWEST = "document.querySelector('output').dataset.snapshot"
LINES = "[...document.querySelectorAll('[data-measure=loss] polyline')]"
RIGHT = "[...document.querySelectorAll('.confusion .right text')]"


def test_the_page_follows_a_run_to_its_end(followed: tuple[Begun, Any], browser: Any) -> None:
    run, client = followed
    browser.open(client, "#/training?picture=p3")
    browser.wait("document.querySelector('.training')?.dataset.epochs === '1'", seconds=60)
    # The first maps wait for explanations to be imported.
    shown = "document.querySelector('.kernels-panel canvas') && document.querySelector('.maps-panel canvas')"
    browser.wait(shown, seconds=120)
    run.epoch(1)
    browser.wait("document.querySelector('.training').dataset.epochs === '2'")
    browser.wait(
        "document.querySelector('.kernels-panel').dataset.at === document.querySelector('output').dataset.snapshot"
    )
    lines = browser.run(
        "return [...document.querySelectorAll('[data-measure=loss] polyline')].map(each => each.points.length)"
    )
    assert lines == [2, 2]
    run.epoch(2)
    run.finish(3)
    browser.wait("document.querySelector('.training').dataset.finished === '1'")
    browser.wait("document.querySelector('output').innerText.startsWith('the finished network')")
    # The matrix of the checkpoint before stays until the finished network's has come.
    right = "[...document.querySelectorAll('.confusion .right text')].map(each => Number(each.textContent))"
    browser.wait(f"{right}.reduce((sum, each) => sum + each, 0) === 34", seconds=60)
    assert browser.run("return document.querySelectorAll('.confusion rect').length") == 100
    # Back to the first checkpoint by the slider: its filters are shown.
    browser.run(
        "const slider = document.querySelector('.timeline input');"
        "slider.value = 0; slider.dispatchEvent(new Event('input', {bubbles: true}));"
    )
    browser.wait("document.querySelector('.kernels-panel').dataset.at === '0'")
    assert "at=0" in browser.run("return location.hash")
    assert browser.errors() == []
