"""The geometry view: its numbers are the library's, and bad requests get one line."""

from __future__ import annotations

from typing import Any

import pytest

from striate.geometry import ConvShape, Window


def test_the_server_tells_what_the_library_computes(studio: Any) -> None:
    told = studio.json("/api/geometry", size=224, channels=3, layers="conv kernel=7 stride=2 padding=3 out=64;max")
    shape = ConvShape.of((1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3)
    first = told["layers"][0]
    assert (first["macs"], first["in_bounds_macs"]) == (shape.macs, shape.in_bounds_macs)
    assert first["parameters"] == shape.parameters()
    assert first["outputs"] == shape.output_size[0]
    assert told["layers"][1]["field"]["size"] == (Window(7, 2, 3) @ Window(3)).kernel
    assert told["worked"] is None
    small = studio.json("/api/geometry", size=3, layers="max kernel=2", numbers=1, x="1,5,4,9,2,1,6,3,2")
    assert small["worked"]["y"] == [9, 5, 9, 3]
    assert len(studio.json("/api/geometry/presets")["presets"]) > 20


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ({"size": 0}, "size: got '0'; needed a whole number from 1 to 512"),
        ({"size": 10**9}, "size: got"),
        ({"dims": 3}, "dims: got"),
        ({"layers": "conv kernel=7", "size": 3}, "the input has 3"),
        ({"layers": ";".join(["conv"] * 25)}, "layers: got 25"),
        ({"layers": "pool"}, "layer: kind is 'pool'"),
        ({"layers": ""}, "layer: kind is ''"),
        ({"layers": "conv out=100000000"}, "out is"),
        ({"layers": "conv kernel=3\x00=1"}, "kernel is"),
        ({"numbers": 1, "x": "1,2"}, "2 for x"),
        ({"numbers": 1, "x": "1,cat"}, "x: got 'cat'"),
        ({"numbers": 1, "x": "nan"}, "1 for x"),
        ({"numbers": 1, "layers": "conv;conv"}, "2 layers"),
        ({"numbers": 2}, "numbers: got '2'"),
    ],
)
def test_bad_requests_get_one_line(studio: Any, query: dict[str, Any], line: str) -> None:
    status, content = studio.ask("/api/geometry", **query)
    assert 400 <= status < 500
    assert line in content.decode()


def test_the_page_shows_the_numbers_of_the_library(studio: Any, browser: Any) -> None:
    browser.open(studio, "#/geometry?size=14&layers=conv kernel=4 stride=3 padding=2")
    rows = (
        "[...document.querySelectorAll('[data-formula]')]"
        ".map(row => [row.dataset.formula, row.querySelector('b').innerText])"
    )
    shown = dict(browser.wait(f"{rows}.length > 4 && {rows}"))
    shape = ConvShape.of((1, 1, 14, 14), (1, 1, 4, 4), stride=3, padding=2)
    assert shown["Output size"] == str(shape.output_size[0])
    assert shown["MACs"] == f"{shape.macs:,}"
    assert shown["MACs inside"] == f"{shape.in_bounds_macs:,}"
    assert shown["Parameters"] == str(shape.parameters())
    assert browser.errors() == []


def test_a_slider_changes_the_numbers_and_the_address(studio: Any, browser: Any) -> None:
    browser.open(studio, "#/geometry")
    browser.wait("document.querySelector('[data-formula=\"Output size\"] b')?.innerText === '7'")
    browser.run(
        "const slider = document.querySelector('input[type=range][aria-label=kernel]');"
        "slider.value = 5; slider.dispatchEvent(new Event('input', {bubbles: true}));"
    )
    browser.wait("document.querySelector('[data-formula=\"Output size\"] b')?.innerText === '5'")
    assert "kernel%3D5" in browser.run("return location.hash")
    browser.run("[...document.querySelectorAll('button')].find(each => each.innerText === 'same').click()")
    browser.wait("document.querySelector('[data-formula=\"Output size\"] b')?.innerText === '9'")
    assert browser.errors() == []


POINT = """
const [stage, share] = arguments;
const area = document.querySelectorAll(".touch")[stage];
const box = area.getBoundingClientRect();
area.dispatchEvent(new PointerEvent("pointermove", {
  clientX: box.left + box.width * share, clientY: box.top + box.height * share, bubbles: true }));
"""
LIT = """(() => {
  const stage = document.querySelectorAll(".stage")[%d];
  const ground = stage.querySelector(".ground");
  const cell = Number(ground.getAttribute("width")) / %d;
  const lead = Number(ground.getAttribute("x"));
  const found = [...stage.querySelectorAll(".lit")].flatMap((each) => {
    const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => Number(each.getAttribute(name)));
    const places = [];
    for (let row = 0; row < Math.round(height / cell); row += 1)
      for (let column = 0; column < Math.round(width / cell); column += 1)
        places.push([Math.round((y - lead) / cell) + row, Math.round((x - lead) / cell) + column]);
    return places;
  });
  return found.length ? found : null;
})()
"""


def test_pointing_lights_taps_and_the_outputs_that_see_an_input(studio: Any, browser: Any) -> None:
    window = Window(3, stride=2, padding=1, dilation=2)
    outputs = window.output_size(9)
    browser.open(studio, "#/geometry?size=9&layers=conv kernel=3 stride=2 padding=1 dilation=2")
    browser.wait("document.querySelectorAll('.touch').length === 2")
    browser.run(POINT, 1, 0.5 / outputs + 1 / outputs)  # the output at (1, 1)
    seen = [window.position(1, tap) for tap in range(3)]
    found = browser.wait(LIT % (0, 9))
    assert {tuple(each) for each in found} == {(y, x) for y in seen for x in seen}
    browser.run(POINT, 0, 3.5 / 9)  # the input at (3, 3)
    see = [o for o in range(outputs) if 3 in [window.position(o, tap) for tap in range(3)]]
    browser.wait("document.querySelectorAll('.stage')[1].querySelector('.lit.forth')")
    found = browser.wait(LIT % (1, outputs))
    assert {tuple(each) for each in found} == {(y, x) for y in see for x in see}


def test_the_sum_on_the_page_is_the_output(studio: Any, browser: Any) -> None:
    browser.open(studio, "#/geometry?size=3&layers=conv kernel=2&numbers=1&x=1,2,3,4,5,6,7,8,9&w=1,0,-1,2&flipped=1")
    browser.wait("document.querySelectorAll('.touch').length === 2")
    browser.run(POINT, 1, 0.75)
    line = browser.wait("document.querySelector('.terms')?.innerText")
    name, terms, total = line.split(" = ")
    assert name == "y(1, 1)"
    products = [each.replace("\N{MINUS SIGN}", "-").replace("·", "*") for each in terms.split(" + ")]
    assert sum(eval(each) for each in products) == float(total) == 5 * 2 + 6 * -1 + 8 * 0 + 9 * 1
    assert browser.errors() == []
