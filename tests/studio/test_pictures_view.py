"""The pictures view: uploads, drawings, samples and moves, by its server and on its page."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from striate.analysis.shifts import shifted
from striate.data import load_image
from striate.data.digits import read_digits
from striate.studio.pictures import Moves


def png(pixels: Any) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(kept, "PNG")
    return kept.getvalue()


def test_an_upload_is_listed_recorded_and_forgotten(studio: Any) -> None:
    content = png(np.random.default_rng(0).integers(0, 256, (20, 24)))
    status, answered = studio.ask("/api/pictures", "POST", content, name="mine.png")
    assert status == 200
    made = json.loads(answered)
    assert made["name"] == "mine.png"
    assert made["size"] == [1, 28, 28]
    assert made["id"] in [each["id"] for each in studio.json("/api/subject")["pictures"]]
    header, pixels = studio.numbers(f"/api/pixels/{made['id']}", what="source")
    assert header["shape"] == [1, 20, 24]
    assert np.array_equal(pixels, load_image(io.BytesIO(content)).numpy())
    assert len(studio.json(f"/api/places/{made['id']}")["places"]) > 3
    studio.json(f"/api/pictures/{made['id']}", "DELETE")
    assert made["id"] not in [each["id"] for each in studio.json("/api/subject")["pictures"]]
    assert studio.ask(f"/api/places/{made['id']}")[0] == 422


@pytest.mark.parametrize(
    ("path", "method", "body", "query", "line"),
    [
        ("/api/pictures", "POST", b"no picture", {"name": "a.png"}, "a.png: holds no image"),
        ("/api/pictures", "POST", b"", {}, "a file: is empty"),
        ("/api/pictures", "POST", b"\0" * ((24 << 20) + 1), {}, "request: got more than"),
        ("/api/pictures", "POST", b"x", {"name": "n" * 301}, "name: got 301 characters"),
        ("/api/pictures/drawing", "POST", b"\0", {"channels": 1, "height": 2, "width": 2}, "got 1 bytes"),
        ("/api/pictures/drawing", "POST", b"\0", {"channels": 1, "height": 2}, "width: got none"),
        ("/api/pictures/sample", "POST", b"", {"number": 10**6}, "number: got"),
        ("/api/pictures/p0", "DELETE", None, {}, None),
        ("/api/pictures/zz", "DELETE", None, {}, "picture: got 'zz'"),
        ("/api/gallery", "GET", None, {"first": -1}, "first: got"),
        ("/api/follow/p0", "GET", None, {"value": 0}, "needed a moved one"),
        ("/api/follow/p0~x2", "GET", None, {"value": 999}, "needed one with maps"),
        ("/api/follow/p0~q2", "GET", None, {"value": 1}, "got the moves 'q2'"),
    ],
)
def test_bad_requests_get_one_line(
    studio: Any, path: str, method: str, body: Any, query: Any, line: str | None
) -> None:
    status, content = studio.ask(path, method, body, **query)
    if line is None:
        assert status == 200
        assert "p0" in [each["id"] for each in studio.json("/api/subject")["pictures"]]  # those of the start stay
        return
    assert 400 <= status < 500
    assert line in content.decode()


def test_samples_are_those_of_the_data_set(studio: Any) -> None:
    header, thumbs = studio.numbers("/api/gallery", first=40)
    assert header["total"] == 600
    assert thumbs.shape == (40, 1, 28, 28)
    made = studio.json("/api/pictures/sample", "POST", {}, number=41)
    _, pixels = studio.numbers(f"/api/pixels/{made['id']}")
    assert np.array_equal(pixels, thumbs[1])
    _, labels = read_digits()
    assert made["label"] in set(labels.tolist())
    assert made["label"] == header["labels"][1]
    studio.json(f"/api/pictures/{made['id']}", "DELETE")


def test_followed_maps_are_the_recordings(studio: Any) -> None:
    place = next(each for each in studio.json("/api/places/p3")["places"] if each["strides"] == [1, 1])
    header, maps = studio.numbers("/api/follow/p3~x3y-1", value=place["number"], most=2)
    workspace = studio.studio.workspace
    before = workspace.recording("p3").numbers[place["number"]][0].detach()
    after = workspace.recording("p3~x3y-1").numbers[place["number"]][0].detach()
    chosen = header["shown"]
    assert np.array_equal(maps[0], before[chosen].numpy())
    assert np.array_equal(maps[1], shifted(before[None], (-1, 3))[0][chosen].numpy())
    assert np.array_equal(maps[2], after[chosen].numpy())


def test_the_call_prints_the_difference_of_the_page(studio: Any, capsys: Any) -> None:
    place = next(each for each in studio.json("/api/places/p3")["places"] if each["strides"] == [2, 2])
    name = "p3~r20x3n0.1c2.2.6.6"
    header, _ = studio.numbers(f"/api/follow/{name}", value=place["number"])
    workspace = studio.studio.workspace
    code = "\n".join(line for line in header["call"].splitlines() if "= ..." not in line)
    exec(code, {"pixels": workspace.picture("p3").pixels, "preprocessing": workspace.subject.preprocessing})
    assert float(capsys.readouterr().out) == pytest.approx(header["error"], rel=1e-4)


# --------------------------------------------------------------------------------------------------------- the page

READY = "document.querySelector('.follow')?.dataset.ready === '1'"


def test_a_file_is_uploaded_by_the_page(studio: Any, browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "photo of mine.png"
    file.write_bytes(png(np.eye(28) * 255))
    browser.open(studio, "#/pictures")
    browser.wait(READY)
    browser.run("[...document.querySelectorAll('[role=tab]')].find(each => each.innerText === 'your picture').click()")
    browser.wait("document.querySelector('input[type=file]')")
    browser.driver.find_element("css selector", "input[type=file]").send_keys(str(file))
    id = browser.wait("location.hash.match(/picture=([0-9a-f]{12})/)?.[1]")
    picture = studio.studio.workspace.picture(id)
    assert picture.name == "photo of mine.png"
    assert torch.equal(picture.pixels, (torch.eye(28) * 255).to(torch.uint8)[None])
    browser.wait(READY)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no picture")
    browser.driver.find_element("css selector", "input[type=file]").send_keys(str(broken))
    line = browser.wait("document.querySelector('.drop [role=alert]')?.innerText")
    assert line.startswith("broken.png: holds no image that can be read")
    studio.json(f"/api/pictures/{id}", "DELETE")


STROKE = """
const paper = document.querySelector(".paper");
const box = paper.getBoundingClientRect();
const point = (kind, x, y) => paper.dispatchEvent(new PointerEvent(kind, {
  clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true, pointerId: 1 }));
point("pointerdown", 0.25, 0.5); point("pointermove", 0.75, 0.5); point("pointerup", 0.75, 0.5);
"""


def test_a_drawing_reaches_the_network(studio: Any, browser: Any) -> None:
    browser.open(studio, "#/pictures")
    browser.wait(READY)
    browser.run("[...document.querySelectorAll('[role=tab]')].find(each => each.innerText === 'draw').click()")
    browser.wait("document.querySelector('.paper')")
    browser.run(STROKE)
    id = browser.wait("location.hash.match(/picture=([0-9a-f]{12})/)?.[1]")
    browser.wait(READY)
    shown = np.array(
        browser.run(
            "const ink = document.querySelector('.paper').getContext('2d', { willReadFrequently: true });"
            "return [...ink.getImageData(0, 0, 28, 28).data]"
        )
    )
    shown = shown.reshape(28, 28, 4)[..., 0]
    id = browser.run("return location.hash.match(/picture=([0-9a-f]{12})/)[1]")
    pixels = studio.studio.workspace.picture(id).pixels[0].numpy()
    assert np.array_equal(pixels, shown)
    assert pixels[14, 14] > 200
    assert pixels[3].max() == 0
    assert browser.errors() == []
    studio.json(f"/api/pictures/{id}", "DELETE")


DRAG = """
const area = document.querySelector(".touchable");
const box = area.getBoundingClientRect();
const pixel = box.width / 28;
const point = (kind, x, y) => area.dispatchEvent(new PointerEvent(kind, {
  clientX: box.left + x * pixel, clientY: box.top + y * pixel, bubbles: true, pointerId: 1 }));
const [from, to] = arguments;
point("pointerdown", ...from); point("pointermove", ...to); point("pointerup", ...to);
"""


def test_a_picture_is_moved_by_hand_and_the_maps_follow(studio: Any, browser: Any) -> None:
    browser.open(studio, "#/pictures?picture=p3")
    browser.wait(READY)
    browser.run(DRAG, [14, 14], [17, 12])
    browser.wait("location.hash.includes('p3%7Ex3y-2')")
    browser.wait(f"{READY} && document.querySelector('.verdict').dataset.error !== ''")
    number = int(browser.run("return document.querySelector('.follow select').value"))
    header, _ = studio.numbers("/api/follow/p3~x3y-2", value=number)
    shown = float(browser.run("return document.querySelector('.verdict').dataset.error"))
    assert shown == pytest.approx(header["error"])
    assert np.array_equal(
        studio.numbers("/api/pixels/p3~x3y-2")[1],
        Moves(across=3, down=-2)(studio.studio.workspace.picture("p3").pixels).numpy(),
    )
    browser.run("[...document.querySelectorAll('button')].find(each => each.innerText === 'drag to cover').click()")
    browser.run(DRAG, [4, 5], [10, 9])
    browser.wait("location.hash.includes('c5.4.4.6')")
    browser.wait(READY)
    assert browser.errors() == []
