"""The pages in a browser: the network appears, a number is clicked, nothing is asked of anybody else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from cases import slow_but

TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.fixture
def page(browser: Any, studio: Any) -> Iterator[Any]:
    """The browser; whatever a test does on the pages, their console stays clean and they ask nobody else."""
    yield browser
    assert browser.errors() == []
    own = studio.studio.origin
    foreign = [
        url for url in browser.requested() if url.startswith("http") and url.split("/")[2].split(":")[0] != "127.0.0.1"
    ]
    assert foreign == []
    assert own.startswith("http://127.0.0.1:")


def node(name: str) -> str:
    return f"document.querySelector('[data-node={json.dumps(name)}]')"


def test_the_network_appears(page: Any, studio: Any) -> None:
    page.open(studio)
    page.wait(node("output"))
    assert page.run("return document.title") == "Network · lenet5 · striate"
    names = page.run("return [...document.querySelectorAll('[data-node]')].map((each) => each.dataset.node)")
    assert names == [each["id"] for each in studio.json("/api/network")["nodes"]]
    text = page.run(f"return {node('c1')}.textContent")
    for part in ("c1", "Conv2d 5x5, padding 2", f"6{TIMES}28{TIMES}28", "156 params", "118 k MACs"):
        assert part in text
    page.wait(f"{node('c1')}.textContent.includes('sees 5{TIMES}5')")


def test_small_maps_are_drawn_on_nodes(page: Any, studio: Any) -> None:
    page.open(studio)
    script = """(() => {
        const canvas = document.querySelector(".overlay");
        if (!canvas || !canvas.width) return 0;
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const seen = new Set();
        for (let at = 0; at < data.length; at += 4) {
            if (data[at + 3]) seen.add((data[at] << 16) + (data[at + 1] << 8) + data[at + 2]);
        }
        return seen.size;
    })()"""
    page.wait(f"{script} > 50", why="many colours")


def test_a_node_tells_its_figures_and_its_address_is_kept(page: Any, studio: Any) -> None:
    page.open(studio)
    page.click("[data-node='c3']")
    page.wait("document.querySelector('.details h2')?.textContent.startsWith('c3')")
    assert "240,000" in page.run("return document.querySelector('.details').textContent")
    address = page.run("return location.hash")
    page.open(studio, address)
    page.wait("document.querySelector('.details h2')?.textContent.startsWith('c3')")


def test_a_node_clicked_twice_shows_its_numbers_and_back_leads_back(page: Any, studio: Any) -> None:
    page.open(studio)
    page.wait(node("c1"))
    page.run(f"{node('c1')}.dispatchEvent(new MouseEvent('dblclick', {{bubbles: true}}))")
    page.wait("document.querySelectorAll('.maps canvas').length === 6")
    assert page.run("return location.hash").startswith("#/numbers/")
    page.driver.back()
    page.wait(node("c1"))
    page.driver.forward()
    page.wait("document.querySelectorAll('.maps canvas').length === 6")


def test_maps_have_the_colours_of_their_numbers(page: Any, studio: Any) -> None:
    """The canvas is compared with the table of colours in colours.js, pixel by pixel, for the recorded numbers."""
    page.open(studio, "#/numbers/11?shared=1")
    page.wait("document.querySelectorAll('.maps canvas').length === 6")
    header, numbers = studio.numbers("/api/tensor/11")
    script = """const [maps, low, high] = arguments;
        return import("/static/lib/colours.js").then(({scaleOf, colour}) => {
            const scale = scaleOf(low, high);
            let wrong = 0;
            document.querySelectorAll(".maps canvas").forEach((canvas, channel) => {
                const factor = canvas.width / 28;
                const draw = canvas.getContext("2d");
                for (let y = 0; y < 28; y += 5) for (let x = 0; x < 28; x += 3) {
                    const found = draw.getImageData((x + 0.5) * factor, (y + 0.5) * factor, 1, 1).data;
                    const wanted = colour(Math.fround(maps[channel][y][x]), scale);
                    if ([0, 1, 2].some((part) => found[part] !== wanted[part])) wrong += 1;
                }
            });
            return [wrong, scale.kind];
        });"""
    assert page.run(script, numbers.tolist(), *header["extent"]) == [0, "diverging"]


def test_colours_say_the_sign(page: Any, studio: Any) -> None:
    page.open(studio)
    script = """return import("/static/lib/colours.js").then(({scaleOf, colour}) => [
        scaleOf(-1, 3), scaleOf(0, 2), scaleOf(-4, -1), scaleOf(0, 0), [...colour(0, scaleOf(-1, 3))],
        colour(3, scaleOf(-1, 3))[0] > colour(3, scaleOf(-1, 3))[2],
        colour(-3, scaleOf(-1, 3))[2] > colour(-3, scaleOf(-1, 3))[0],
        [...colour(NaN, scaleOf(0, 1))]]);"""
    both, plus, minus, nothing, zero, orange, blue, missing = page.run(script)
    assert both == {"kind": "diverging", "low": -3, "high": 3}
    assert plus == {"kind": "rising", "low": 0, "high": 2}
    assert minus["kind"] == "rising"
    assert nothing["low"] < nothing["high"]
    assert all(part > 250 for part in zero)
    assert (orange, blue) == (True, True)
    assert missing == [200, 0, 200]


def test_a_click_on_a_number_opens_the_value_there(page: Any, studio: Any) -> None:
    page.open(studio, "#/numbers/11?picture=p3")
    page.wait("document.querySelectorAll('.maps canvas').length === 6")
    page.run(
        """const canvas = document.querySelectorAll(".maps canvas")[4];
        const box = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new MouseEvent("click", {bubbles: true,
            clientX: box.left + box.width * 10.5 / 28, clientY: box.top + box.height * 7.5 / 28}));"""
    )
    assert page.wait("location.hash.startsWith('#/value') && location.hash") == "#/value/11/0,4,7,10?picture=p3"


def test_zooming_writes_every_number(page: Any, studio: Any) -> None:
    page.open(studio, "#/numbers/11?zoom=2&at=20,20")
    page.wait("document.querySelectorAll('.zoom canvas').length >= 3")
    _, numbers = studio.numbers("/api/tensor/11")
    text = page.wait("document.querySelector('.zoom p.number')?.textContent")
    place, _, value = text.partition(": ")
    y, x = json.loads(place.replace("(", "[").replace(")", "]"))
    assert float(value) == pytest.approx(float(numbers[2, y, x]), rel=1e-3)


def test_pictures_stand_side_by_side(page: Any, studio: Any) -> None:
    page.open(studio, "#/numbers/11?with=p2,p5")
    page.wait("document.querySelectorAll('.maps figure').length === 6")
    assert page.run("return document.querySelectorAll('.maps canvas').length") == 18


def test_the_keyboard_is_enough(page: Any, studio: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(studio)
    page.wait(node("c1"))
    stage = page.driver.find_element("css selector", ".stage")
    stage.send_keys(Keys.ARROW_DOWN)
    page.wait("document.querySelector('.details h2')?.textContent.startsWith('input')")
    stage.send_keys(Keys.ARROW_RIGHT)
    page.wait("document.querySelector('.details h2')?.textContent.startsWith('c1')")
    stage.send_keys("/")
    page.driver.switch_to.active_element.send_keys("s4")
    page.wait("document.querySelector('.search li')?.textContent.includes('MaxPool2d')")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait("document.querySelector('.details h2')?.textContent.startsWith('s4')")
    page.driver.find_element("css selector", ".stage").send_keys("n")
    page.wait("location.hash.startsWith('#/numbers')")


def test_boxes_open_and_close(page: Any, start: Callable[..., Any]) -> None:
    inner = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
    layers = [nn.Sequential(*[nn.Conv2d(2 if each else 1, 2, 1) for each in range(12)]), inner]
    client = start(
        nn.Sequential(nn.Conv2d(1, 1, 1), *layers[:1], nn.Sequential(nn.Conv2d(2, 1, 1), *inner)),
        torch.rand(1, 1, 6, 6),
    )
    page.open(client, "#/network?open=-")
    page.wait(node("2"))
    page.click("[data-node='2'] .button")
    page.wait(node("2.1"))
    assert "open=2" in page.run("return location.hash")
    page.click(".box .button")
    page.wait(node("2"))


def test_a_server_that_is_gone_is_a_line_in_the_page(browser: Any, start: Callable[..., Any]) -> None:
    client = start(nn.ReLU(), torch.rand(1, 1, 3, 3))
    browser.open(client)
    browser.wait("document.querySelector('[data-node]')")
    client.studio.stop()
    browser.run("location.hash = '#/numbers/0'")
    browser.wait("document.querySelector('[role=alert]')?.textContent.includes(\"server doesn't answer\")")


def test_a_wrong_token_is_a_line_in_the_page(browser: Any, studio: Any) -> None:
    browser.driver.get("about:blank")
    browser.driver.get(f"{studio.studio.origin}/?token=wrong")
    browser.wait("document.querySelector('[role=alert]')?.textContent.includes('X-Striate-Token')")


@pytest.mark.parametrize(
    "address",
    slow_but(
        [
            "#/nothing",
            "#/numbers/99999",
            "#/numbers/x",
            "#/network?open=none&node=none",
            "#/numbers/26?form=maps",
            "#/%",
        ],
        ["#/nothing", "#/numbers/99999", "#/%"],
    ),
)
def test_wrong_addresses_break_no_page(browser: Any, studio: Any, address: str) -> None:
    browser.open(studio, address)
    browser.wait("document.querySelector('[role=alert], [data-node]')")


@pytest.mark.parametrize("width", slow_but([800, 1280, 2560], [800]))
def test_pages_fit_their_window(page: Any, studio: Any, width: int) -> None:
    for address in ("#/network", "#/numbers/11"):
        page.open(studio, address, size=(width, 900))
        page.wait("document.querySelector('[data-node], .maps canvas')")
        assert page.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def test_what_can_be_clicked_has_a_name(page: Any, studio: Any) -> None:
    for address in ("#/network", "#/numbers/11"):
        page.open(studio, address)
        page.wait("document.querySelector('[data-node], .maps canvas')")
        nameless = page.run(
            """return [...document.querySelectorAll("button, a, input, select, [role=button], canvas[role=img]")]
                .filter((each) => !(each.textContent.trim() || each.getAttribute("aria-label") || each.title
                    || each.closest("label, [aria-label]"))).map((each) => each.outerHTML.slice(0, 80))"""
        )
        assert nameless == []


def test_the_whole_graph_is_saved_wherever_the_page_looks(page: Any, start: Callable[..., Any]) -> None:
    client = start(nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(120))), torch.rand(1, 1, 6, 6))
    page.open(client, "#/network?open=", size=(800, 600))
    page.wait("document.querySelector('[data-node]') && document.querySelector('.exports button')")
    assert page.run("return document.querySelectorAll('[data-node]').length") < 121
    # The small maps of all nodes come in one answer; once one is drawn, all are there.
    page.wait(
        """(() => { const map = document.querySelector(".overlay");
        return map?.width && map.getContext("2d").getImageData(0, 0, map.width, map.height).data.some(Boolean); })()"""
    )
    text = page.run(
        """window.saved = null; URL.createObjectURL = (blob) => { window.saved = blob; return "#"; };
        HTMLAnchorElement.prototype.click = () => {};
        document.querySelector(".exports button").click();
        return window.saved.text();"""
    )
    assert len(re.findall("data-node=", text)) == 122
    assert text.count("<image") > 100


def test_the_drawing_can_be_saved_with_its_style(page: Any, studio: Any) -> None:
    page.open(studio)
    page.wait(node("c1"))
    text = page.run(
        "return import('/static/lib/save.js').then(({svgText}) => svgText(document.querySelector('.graph')))"
    )
    assert text.startswith("<svg")
    assert "Conv2d 5x5" in text
    assert "class=" not in text
    assert 'fill="rgb(' in text


@pytest.mark.parametrize(
    "address",
    [
        "#/network",
        "#/numbers/11",
        "#/value/11/0,4,7,10",
        "#/gradients/1?at=0,0,1,1&steps=1",
        "#/pictures",
        "#/geometry",
        pytest.param("#/why?method=saliency", marks=pytest.mark.slow),
    ],
)
def test_every_view_can_be_saved_and_says_its_call(page: Any, studio: Any, address: str) -> None:
    page.open(studio, address)
    # The first explanation waits for packages that take a second to import.
    page.wait("document.querySelector('.exports button') && document.querySelector('.call pre')", seconds=60)
    if "steps" in address:  # one weight and one step have calls of their own
        page.wait("document.querySelectorAll('.call').length === 3")
    page.run(
        """window.saved = [];
        URL.createObjectURL = (blob) => { window.saved.push([blob.type, blob.size]); return "#"; };
        HTMLAnchorElement.prototype.click = () => {};
        document.querySelectorAll(".exports button").forEach((each) => each.click());"""
    )
    page.wait("window.saved.length === document.querySelectorAll('.exports button').length")
    saved = page.run("return window.saved")
    assert {kind for kind, _ in saved} >= {"application/json"}
    assert {kind for kind, _ in saved} & {"image/png", "image/svg+xml"}
    assert all(size > 50 for _, size in saved)
    calls = page.run("return [...document.querySelectorAll('.call pre')].map((each) => each.textContent)")
    for call in calls:
        compile(call, address, "exec")
