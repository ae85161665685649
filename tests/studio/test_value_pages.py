"""The pages of one value and of gradients, in a real browser and at the server: what they show is the library's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strange import strange

from striate.studio.derivation import derive
from striate.studio.gradients import Backward, Target, by_layer
from striate.studio.recording import Recording
from striate.studio.seen import receptive_field
from striate.studio.sharing import weight_gradient

STRANGE = strange()


def recording_of(client: Any) -> Recording:
    found: Recording = client.studio.workspace.recording(None)
    return found


def six(value: float) -> float:
    """As the page writes numbers."""
    return float(f"{value:.6g}")


def conv_of(recording: Recording, which: int = 0) -> int:
    found = [each for each in recording.trace.operations if each.name == "aten.convolution"]
    return recording.number_of(found[which].outputs[0])


def test_a_value_is_derived_at_the_server(studio: Any) -> None:
    recording = recording_of(studio)
    value = conv_of(recording, 1)
    told = studio.json(f"/api/value/{value}", at="0,3,2,4")
    derived = derive(recording, value, (0, 3, 2, 4))
    assert derived.terms is not None
    assert told["terms"]["products"] == derived.terms.products.tolist()
    assert told["number"] == recording.numbers[value][0, 3, 2, 4].item()
    assert told["check"]["holds"]
    header, maps = studio.numbers(f"/api/value/{value}/field", at="0,3,2,4")
    assert (torch.from_numpy(maps[0].copy()) > 0).equal(receptive_field(recording, value, (0, 3, 2, 4)))
    assert header["seen"] == int(maps[0].sum())
    # The gradient stays inside what the value sees, and isn't nothing.
    header, counts = studio.numbers(f"/api/value/{value}/strength", at="0,3,2,4")
    assert header["counts"]
    assert counts.shape == maps.shape
    assert (counts[0][maps[0] == 0] == 0).all()
    assert counts.sum() > 0


def test_the_code_at_the_server_prints_the_number(studio: Any, capsys: pytest.CaptureFixture[str]) -> None:
    recording = recording_of(studio)
    value = conv_of(recording)
    told = studio.json(f"/api/value/{value}", at="0,1,7,8")
    exec(told["call"], {})
    assert float(capsys.readouterr().out) == pytest.approx(recording.numbers[value][0, 1, 7, 8].item(), rel=1e-5)
    told = studio.json("/api/gradients", label=3)
    exec(told["call"], {})
    assert float(capsys.readouterr().out.split()[0]) == pytest.approx(told["number"], rel=1e-5)


@pytest.mark.parametrize(
    "path",
    [
        "/api/value/0?at=0,0,0",
        "/api/value/0?at=0,0,99,0",
        "/api/value/9999?at=0",
        "/api/value/x?at=0",
        "/api/value/0",
        "/api/value/0/field?at=1,1,1,1",
        "/api/value/0/strength?at=1,1,1,1",
        "/api/value/0?at=0,0,0,0&group=-1",
        "/api/gradients?of=0&label=1",
        "/api/gradients?label=77",
        "/api/gradients?of=99999",
        "/api/gradients?place=0,99",
        "/api/gradients/99999/maps",
        "/api/gradients/0/maps?first=7",
        "/api/gradients/0/weight?at=0",
        "/api/gradients/step?steps=51",
        "/api/gradients/step?rate=nan",
    ],
)
def test_wrong_requests_get_one_line(studio: Any, path: str) -> None:
    status, content = studio.ask(path)
    assert 400 <= status < 500, content
    assert b"error" in content


@pytest.mark.parametrize("name", sorted(set(STRANGE) - {"Closed"}))
def test_strange_networks_are_answered(start: Any, name: str) -> None:
    client = start(*STRANGE[name])
    recording = recording_of(client)
    for number, value in enumerate(recording.values):
        if value.numel:
            at = ",".join("0" for _ in value.shape)
            query = {"at": at} if at else {}
            told = client.json(f"/api/value/{number}", **query)
            assert told["check"] is None or told["check"]["holds"]
            for what in ("field", "strength"):
                assert client.ask(f"/api/value/{number}/{what}", **query)[0] == 200
    status, content = client.ask("/api/gradients")
    assert status == (422 if name in ("Counting",) else 200), content


def test_gradients_at_the_server_are_the_librarys(studio: Any) -> None:
    recording = recording_of(studio)
    workspace = studio.studio.workspace
    backward = Backward(workspace.subject.model, workspace.picture(None).inputs, recording)
    found = backward.of(Target(recording.outputs, (0,), 3))
    told = studio.json("/api/gradients", label=3)
    assert told["number"] == found.number
    assert [each["rms"] for each in told["layers"]] == [each.rms for each in by_layer(recording, found)]
    weight = recording.number_of(next(iter(recording.trace.parameters.values())))
    header, maps = studio.numbers(f"/api/gradients/{weight}/maps", label=3)
    assert torch.from_numpy(maps[0].copy()).equal(found.of[weight][:, 0])
    assert header["kind"] == "parameter"
    one = studio.json(f"/api/gradients/{weight}/weight", label=3, at="0,0,1,1")
    assert one["total"] == weight_gradient(recording, found, weight, (0, 0, 1, 1)).total
    assert one["total"] == pytest.approx(one["gradient"], rel=1e-4)
    step = studio.json("/api/gradients/step", label=3, rate=0.001, steps=1)
    assert step["numbers"][0] == pytest.approx(found.number)
    assert step["numbers"][1] < step["numbers"][0]


def test_the_page_of_a_value_walks_to_the_pixels(studio: Any, browser: Any) -> None:
    recording = recording_of(studio)
    value = conv_of(recording, 1)
    place = (0, 3, 2, 4)
    browser.open(studio, f"#/value/{value}/{','.join(map(str, place))}")
    browser.wait("document.querySelector('.value .result') && document.querySelector('.seen canvas')", 60.0)
    derived = derive(recording, value, place)
    assert derived.terms is not None
    assert derived.check is not None
    assert float(browser.run("return document.querySelector('.value .result').textContent")) == six(
        float(derived.check.recorded)
    )
    # Every cell of the window, the weights and the products is the library's number at its place.
    shown = browser.run(
        "return [...document.querySelectorAll('.patches .cell')].map((e) => [e.classList[1], e.dataset.value, "
        "e.dataset.place, e.dataset.number])"
    )
    kinds = {"x": 0, "w": 1}
    assert len(shown) == 3 * len(derived.terms.products)
    products = []
    for kind, number, at, text in shown:
        if kind in kinds:
            strand = derived.terms.strands[kinds[kind]]
            assert int(number) == strand.value
            where = tuple(int(each) for each in at.split(","))
            assert float(text) == six(recording.numbers[strand.value][where].item())
        else:
            products.append(float(text))
    assert products == [six(each) for each in derived.terms.products.tolist()]
    assert browser.run("return document.querySelector('.check').dataset.holds") == "true"
    seen = browser.run("return document.querySelector('.seen-count').textContent")
    assert int(seen) == int(receptive_field(recording, value, place).sum())
    # Walk to the pixels: the first cell of the window, and on along the first operand.
    browser.run("document.querySelector('.patches .cell.x').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    for _ in range(20):
        browser.wait(
            f"document.querySelector('.value') && document.querySelector('.value').dataset.value !== '{value}'"
        )
        value = int(browser.run("return document.querySelector('.value').dataset.value"))
        if value == 0:
            break
        browser.run("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))")
    assert value == 0
    browser.wait("document.querySelector('.pixel')")
    at = tuple(int(each) for each in browser.run("return document.querySelector('.value').dataset.place").split(","))
    pixels = studio.studio.workspace.picture(None).pixels
    assert pixels is not None
    assert int(browser.run("return document.querySelector('.pixel').textContent")) == int(pixels[at[1:]])
    crumbs = browser.run("return document.querySelectorAll('.crumbs li').length")
    assert crumbs >= 3
    browser.run("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'Backspace', bubbles: true}))")
    browser.wait("document.querySelector('.value') && document.querySelector('.value').dataset.value !== '0'")
    assert not browser.errors()


def test_the_page_of_gradients(studio: Any, browser: Any) -> None:
    recording = recording_of(studio)
    workspace = studio.studio.workspace
    backward = Backward(workspace.subject.model, workspace.picture(None).inputs, recording)
    found = backward.of(Target(recording.outputs, (0,), 3))
    weight = recording.number_of(next(iter(recording.trace.parameters.values())))
    browser.open(studio, f"#/gradients/{weight}?label=3&at=0,0,1,1")
    browser.wait("document.querySelector('.weight')")
    assert float(browser.run("return document.querySelector('.gradients .result').textContent")) == six(found.number)
    layers = browser.run(
        "return [...document.querySelectorAll('.layer')].map((e) => [+e.dataset.value, +e.dataset.rms])"
    )
    assert layers == [[each.value, each.rms] for each in by_layer(recording, found)]
    told = weight_gradient(recording, found, weight, (0, 0, 1, 1))
    assert float(browser.run("return document.querySelector('.weight').dataset.total")) == six(told.total)
    browser.click(".descent .step")
    browser.wait("document.querySelector('.losses')")
    losses = [float(each) for each in browser.run("return document.querySelector('.losses').textContent").split(" → ")]
    assert len(losses) == 2
    assert losses[1] < losses[0] == six(found.number)
    browser.click(".descent .back")
    browser.wait("!document.querySelector('.losses')")
    assert not browser.errors()
