"""Why: what a job computes is what the library says, and the page shows, cancels and repeats it."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cases import quick_but
from striate import explain
from striate.data import Normalization, Preprocessing
from striate.explain.views import VIEWS
from striate.studio.gallery import gallery_of
from striate.studio.subject import of_module, of_zoo
from striate.tasks.explained import object_scores, pixel_scores


@pytest.fixture(scope="module")
def small(start: Any) -> Any:
    """A studio of a small classifier of digits."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(8 * 100, 10)).eval()
    how = Preprocessing(None, (28, 28), Normalization((0.1,), (0.3,)), mode="frame")
    return start(of_module(model, name="small", classes=tuple("0123456789"), preprocessing=how))


def finished(client: Any, path: str = "/api/jobs", **asked: Any) -> dict[str, Any]:
    """Begins a job and waits for its end."""
    job = client.json(path, "POST", {name: value for name, value in asked.items() if name != "at"},
                      **{name: value for name, value in asked.items() if name == "at"})  # fmt: skip
    end = time.monotonic() + 60
    while job["state"] in ("waiting", "running"):
        assert time.monotonic() < end
        time.sleep(0.02)
        job = client.json(f"/api/jobs/{job['id']}")
    return dict(job)


def result(client: Any, job: dict[str, Any]) -> dict[str, Any]:
    assert job["state"] == "done", job["error"]
    return dict(client.json(f"/api/jobs/{job['id']}/result"))


@pytest.mark.parametrize("method", ["saliency", "grad_cam", "integrated_gradients", "occlusion", "eigen_cam"])
def test_maps_are_the_librarys(small: Any, method: str) -> None:
    job = finished(small, method=method, picture="p4", target=2)
    told = result(small, job)
    workspace = small.studio.workspace
    found = explain.METHODS[method](workspace.subject.model, workspace.picture("p4").inputs, 2)
    _, numbers = small.numbers(f"/api/jobs/{job['id']}/result", part="map")
    assert np.array_equal(numbers, found.map.float().numpy())
    assert told["scores"] == list(found.scores)
    assert told["target"] == ["2"]
    assert told["layer"] == found.layer
    assert (told["low"], told["high"]) == (float(found.map.min()), float(found.map.max()))


def test_filters_patches_and_synthesis_are_the_librarys(small: Any) -> None:
    workspace = small.studio.workspace
    model, how = workspace.subject.model, workspace.subject.preprocessing
    job = finished(small, method="filters", layer="3")
    found = explain.filters(model, "3", fit=False, most=64)
    for part in ("kernels", "responses", "patterns"):
        _, numbers = small.numbers(f"/api/jobs/{job['id']}/result", part=part)
        assert np.allclose(numbers, getattr(found, part).float().numpy())
    assert result(small, job)["order"] == list(found.order)

    gallery = gallery_of(workspace.subject, [])
    job = finished(small, method="top_patches", layer="3", channel=2)
    told = result(small, job)
    patches = explain.top_patches(model, how.normalization(gallery.images), "3", 2, count=12)
    assert [each["image"] for each in told["patches"]] == [each.image for each in patches.patches]
    _, numbers = small.numbers(f"/api/jobs/{job['id']}/result", part="patches")
    for shown, patch in zip(numbers, patches.patches, strict=True):
        assert np.array_equal(~np.isnan(shown[0]), patch.inside.numpy())
        pixels = how.normalization.pixels(patch.pixels[None])[0]
        assert np.array_equal(shown[0][patch.inside], pixels[0][patch.inside].numpy())

    job = finished(small, method="maximize", layer="0", channel=1, steps=5)
    told = result(small, job)
    made = explain.maximize(
        model, (1, 28, 28), layer="0", channel=1, steps=5, count=2,
        prepare=lambda pixels: how.normalization.of_bytes(255 * pixels),
    )  # fmt: skip
    _, numbers = small.numbers(f"/api/jobs/{job['id']}/result", part="pictures")
    assert np.allclose(numbers, 255 * made.pictures.numpy(), atol=1e-3)
    assert told["reached"] == list(made.reached)


@pytest.mark.parametrize(
    "name",
    quick_but(
        [name for name in VIEWS if name not in ("activation_maps", "filters", "maximize")],
        ["hierarchy", "smallest_perturbation"],
    ),
)
def test_other_views_come_as_the_librarys_figures(small: Any, name: str) -> None:
    layer = "3" if name in ("top_patches", "deep_dream", "invert") else None
    if name == "invert":
        pytest.skip("thousands of steps; what draws it is the same")
    job = finished(small, method=name, picture="p1", layer=layer, channel=0 if name == "top_patches" else None)
    told = result(small, job)
    if told["figure"]:
        status, content = small.ask(f"/api/jobs/{job['id']}/figure")
        assert status == 200
        assert content.startswith(b"\x89PNG")


def test_the_call_gives_the_same_map(small: Any) -> None:
    told = result(small, finished(small, method="grad_cam", picture="p4"))
    workspace = small.studio.workspace
    code = "\n".join(line for line in told["call"].splitlines() if "= ..." not in line)
    *lines, last = [line for line in code.splitlines() if line]
    names: dict[str, Any] = {"model": workspace.subject.model, "inputs": workspace.picture("p4").inputs}
    exec("\n".join(lines), names)
    found = eval(last, names)
    assert list(found.scores) == told["scores"]
    assert found.layer == told["layer"]


def test_failures_are_a_line_and_the_server_goes_on(small: Any) -> None:
    job = finished(small, method="grad_cam", layer="nowhere")
    assert job["state"] == "failed"
    assert "nowhere" in job["error"]
    status, content = small.ask(f"/api/jobs/{job['id']}/result")
    assert status == 409
    assert "nowhere" in content.decode()
    for asked, line in (
        ({"method": "magic"}, "method: got 'magic'"),
        ({}, "method: got ''"),
        ({"method": 7}, "method: got '7'"),
        ({"method": "saliency", "target": -1}, "target: got '-1'"),
        ({"method": "saliency", "target": "cat"}, "target: got 'cat'"),
        ({"method": "saliency", "picture": "nobody"}, "picture: got 'nobody'"),
        ({"method": "maximize", "steps": 99999}, "steps: got 99999"),
        ({"method": "saliency", "layer": "x" * 400}, "layer: got"),
    ):
        status, content = small.ask("/api/jobs", "POST", json.dumps(asked).encode())
        assert 400 <= status < 500
        assert line in content.decode()
    for path in ("/api/jobs/none", "/api/jobs/none/result", "/api/jobs/none/figure"):
        assert small.ask(path)[0] == 404
    done = finished(small, method="saliency")
    assert small.ask(f"/api/jobs/{done['id']}/result", part="kernels")[0] == 404
    assert small.json("/api/subject")["name"] == "small"


# --------------------------------------------------------------------------------------------------------- the page

DONE = "document.querySelector('.answer')?.dataset.current === '1' && !document.querySelector('.answer [aria-busy]')"


def test_the_page_shows_a_map_and_follows_its_settings(small: Any, browser: Any) -> None:
    browser.open(small, "#/why?picture=p4&target=2")
    browser.wait(f"{DONE} && document.querySelectorAll('.evidence canvas').length >= 3")
    assert "for 2" in browser.run("return document.querySelector('.evidence h2').innerText")
    browser.run(
        "const select = document.querySelector('select[aria-label=method]');"
        "select.value = 'saliency'; select.dispatchEvent(new Event('change', {bubbles: true}));"
    )
    browser.wait(f"{DONE} && document.querySelector('.evidence h2').innerText.startsWith('saliency')")
    assert "method=saliency" in browser.run("return location.hash")
    assert browser.errors() == []


def test_a_job_is_cancelled_on_the_page_and_another_one_follows(small: Any, browser: Any) -> None:
    browser.open(small, "#/why?picture=p4&show=maximize&layer=0&steps=512&channel=0")
    browser.wait("document.querySelector('.job .cancel')")
    browser.run("document.querySelector('.job .cancel').click()")
    browser.wait("document.querySelector('.job')?.dataset.state === 'cancelled'")
    browser.run("document.querySelector('.kinds button').click()")
    browser.wait(f"{DONE} && document.querySelector('.evidence')")
    browser.run("location.hash = '#/why?picture=p4&show=filters&layer=0'")
    browser.wait(f"{DONE} && document.querySelectorAll('.kernels figure').length === 6")
    assert browser.errors() == []


@pytest.mark.parametrize(("name", "task"), [("unet", "semantic"), ("centernet_small", "detection")])
def test_networks_of_pixels_and_of_objects_are_asked_for_a_class(start: Any, name: str, task: str) -> None:
    subject = of_zoo(name, size=(3, 64, 64))
    client = start(subject)
    options = client.json("/api/why")
    scores = {"semantic": pixel_scores, "detection": object_scores}[task](subject.whole)
    inputs = client.studio.workspace.picture(None).inputs
    with torch.no_grad():
        assert len(options["classes"]) == scores(inputs).shape[1]
    job = finished(client, method="saliency", target=1)
    told = result(client, job)
    found = explain.saliency(scores, inputs, 1)
    _, numbers = client.numbers(f"/api/jobs/{job['id']}/result", part="map")
    assert np.allclose(numbers, found.map.float().numpy(), rtol=1e-4, atol=1e-9)
    assert told["scores"] == pytest.approx(list(found.scores))
