"""Objects: what stays is what the network returns, and each removed box names the surer one that covers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from test_why_view import finished, result
from torch import Tensor, nn

from striate import ops
from striate.data import Normalization, Preprocessing
from striate.studio.finding import candidates, suppressed
from striate.studio.subject import Subject, find, of_zoo


class Drawn(nn.Module):
    """A detector whose candidates are drawn by lot, and suppressed as the zoo's detectors do."""

    def __init__(self, count: int = 60) -> None:
        super().__init__()
        torch.manual_seed(2)
        corners = 40 * torch.rand(count, 2)
        self.boxes = torch.cat([corners, corners + 8 + 16 * torch.rand(count, 2)], 1)
        self.scores, self.labels = torch.rand(count), torch.randint(1, 4, (count,))
        self.nms_thresh, self.score_thresh, self.detections_per_img = 0.3, 0.2, 100

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        sure = self.scores > self.score_thresh
        boxes, scores, labels = self.boxes[sure], self.scores[sure], self.labels[sure]
        kept = ops.batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return [{"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]} for _ in images]


PIXELS = torch.zeros(3, 64, 64, dtype=torch.uint8)


def test_what_stays_is_what_the_network_returns() -> None:
    own = Drawn()([PIXELS])[0]
    found = candidates(Drawn(), PIXELS, None, None)
    assert torch.equal(found.boxes[found.kept], own["boxes"])
    assert torch.equal(found.scores[found.kept], own["scores"])
    assert len(found.boxes) == int((Drawn().scores > 0.2).sum())
    stricter = Drawn()
    stricter.nms_thresh, stricter.score_thresh = 0.6, 0.5
    again = candidates(Drawn(), PIXELS, 0.5, 0.6)
    assert torch.equal(again.boxes[again.kept], stricter([PIXELS])[0]["boxes"])


def test_each_removed_box_names_the_surest_kept_one_that_covers_it() -> None:
    found = candidates(Drawn(), PIXELS, None, None)
    assert (~found.kept).any()
    ious = ops.box_iou(found.boxes, found.boxes)
    for place, (kept, by) in enumerate(zip(found.kept.tolist(), found.by.tolist(), strict=True)):
        if kept:
            assert by == -1
            continue
        guilty = [
            other
            for other in range(place)
            if found.kept[other] and found.labels[other] == found.labels[place] and ious[place, other] > 0.3
        ]
        assert by == guilty[0]
        assert found.overlap[place] == pytest.approx(ious[place, by].item())


def test_nothing_found_and_no_suppression() -> None:
    nothing = candidates(Drawn(), PIXELS, 0.9999, None)
    assert len(nothing.boxes) == 0
    kept, by, _ = suppressed(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5)
    assert len(kept) == len(by) == 0

    class Peaks(Drawn):
        def __init__(self) -> None:
            super().__init__()
            del self.nms_thresh

        def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
            return [{"boxes": self.boxes, "scores": self.scores, "labels": self.labels}]

    found = candidates(Peaks(), PIXELS, None, None)
    assert bool(found.kept.all())
    assert torch.equal(found.scores, Peaks().scores.sort(descending=True).values)


@pytest.fixture(scope="module")
def detector(start: Callable[..., Any]) -> Any:
    how = Preprocessing(None, (64, 64), Normalization((0.0,) * 3, (1.0,) * 3))
    maps = nn.Conv2d(3, 2, 3)
    return start(Subject("drawn", maps, ("cat", "dog", "hen"), how, task="detection", detector=Drawn()))


def test_the_server_tells_boxes_and_classes_of_pixels(detector: Any, start: Callable[..., Any]) -> None:
    told = result(detector, finished(detector, "/api/objects"))
    own = Drawn()([PIXELS])[0]
    kept = [each for each in told["boxes"] if each["kept"]]
    assert [each["box"] for each in kept] == own["boxes"].tolist()
    assert [each["name"] for each in kept] == [("cat", "dog", "hen")[label - 1] for label in own["labels"].tolist()]
    assert (told["overlap"], told["score"]) == (0.3, 0.2)
    assert detector.ask("/api/objects", "POST", b"{}", overlap=7)[0] == 400
    client = start(of_zoo("unet", size=(3, 64, 64)))
    job = finished(client, "/api/objects")
    _, chosen = client.numbers(f"/api/jobs/{job['id']}/result", part="map")
    workspace = client.studio.workspace
    with torch.no_grad():
        wanted = workspace.subject.whole(workspace.picture(None).inputs)["out"][0].argmax(0)
    assert np.array_equal(chosen[0], wanted.float().numpy())
    assert sum(each["share"] for each in result(client, job)["classes"]) == pytest.approx(1)


def test_no_more_stay_than_the_network_gives() -> None:
    few = Drawn()
    few.detections_per_img = 5
    found = candidates(few, PIXELS, None, None)
    assert torch.equal(found.boxes[found.kept], Drawn()([PIXELS])[0]["boxes"][:5])
    assert bool((~found.kept & (found.by < 0)).any())


@pytest.fixture(scope="module")
def places(start: Callable[..., Any]) -> Any:
    """CenterNet in small, with random weights, which is sure of something."""
    subject = of_zoo("centernet_small", size=(3, 64, 64))
    subject.whole.score_threshold = 0.0  # type: ignore[assignment]
    return start(subject)


def test_a_position_is_told_and_others_are_refused(places: Any) -> None:
    job = finished(places, "/api/objects")
    told = result(places, job)
    assert (told["references"], told["levels"][0]["size"], told["proposals"]) == ("heat", [16, 16], None)
    _, heat = places.numbers(f"/api/jobs/{job['id']}/result", part="heat0")
    path = f"/api/objects/{job['id']}/position"
    said = places.json(path, at="3,7")
    assert said["boxes"][0]["score"] == pytest.approx(float(heat[0, 3, 7]))
    assert said["boxes"][0]["reference"] == [28, 12, 32, 16]
    for wrong in ({"at": "16,0"}, {"at": "1"}, {"level": 1}, {"at": "x"}):
        assert places.ask(path, **wrong)[0] == 400
    assert places.ask("/api/objects/none/position")[0] == 404


def test_the_call_gives_the_same_boxes(start: Callable[..., Any]) -> None:
    client = start(find("centernet_small", size=(3, 64, 64)))
    told = result(client, finished(client, f"/api/objects?{urlencode({'score': 0.012})}"))
    known: dict[str, Any] = {}
    exec(told["call"], known)
    assert told["boxes"]
    assert [each["box"] for each in told["boxes"]] == known["found"]["boxes"].tolist()
    assert known["said"].kind == "heat"


def test_the_page_shows_what_a_position_says(places: Any, browser: Any) -> None:
    browser.open(places, "#/objects?stage=positions&at=3,7")
    told_line = "document.querySelector('.told')?.innerText"
    line = browser.wait(f"{told_line}?.includes('Position (3, 7)') && {told_line}")
    told = places.json(f"/api/objects/{finished(places, '/api/objects')['id']}/position", at="3,7")
    assert told["boxes"][0]["name"] in line
    assert ("It is a peak" in line) == (told["higher"] is None)
    browser.run(
        """const frame = document.querySelector(".painted svg").getBoundingClientRect();
        document.querySelector(".painted svg").dispatchEvent(new MouseEvent("click", {bubbles: true,
            clientX: frame.left + frame.width * 2.5 / 16, clientY: frame.top + frame.height * 9.5 / 16}));"""
    )
    browser.wait(f"location.hash.includes('at=9%2C2') && {told_line}.includes('Position (9, 2)')")
    text = browser.run(
        """window.saved = null; URL.createObjectURL = (blob) => { window.saved = blob; return "#"; };
        HTMLAnchorElement.prototype.click = () => {};
        document.querySelector(".scene .exports button").click();
        return window.saved.text();"""
    )
    assert "<image" in text
    assert "data:image/png" in text
    assert browser.errors() == []


def test_the_page_says_why_a_box_is_removed(detector: Any, browser: Any, studio: Any) -> None:
    told = result(detector, finished(detector, "/api/objects"))
    removed = next(place for place, each in enumerate(told["boxes"]) if not each["kept"])
    browser.open(detector, "#/objects")
    browser.wait(f"document.querySelectorAll('.box').length === {len(told['boxes'])}")
    browser.run(f"document.querySelector('[data-box=\"{removed}\"]').focus()")
    told_line = "document.querySelector('.told').innerText"
    line = browser.wait(f"{told_line}.includes('is removed') && {told_line}")
    assert line.startswith(told["boxes"][removed]["name"])
    guilty = browser.run("return document.querySelector('.guilty').dataset.box")
    assert int(guilty) == told["boxes"][removed]["by"]
    assert browser.errors() == []
    browser.open(studio, "#/objects")
    assert "finds no objects" in browser.wait("document.querySelector('.note')?.innerText")
