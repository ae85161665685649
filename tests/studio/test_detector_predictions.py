"""What detectors say at every position: their results are among it, and proposals are those of the first stage."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import slow_but
from striate import models, ops
from striate.nn import resize_boxes
from striate.studio.finding import candidates, suppressed
from striate.studio.predictions import at, predictions

ONE_STAGE = [
    "centernet_small",
    "ssdlite320_mobilenet_v3_large",
    "condinst_small",
    "ssd300_vgg16",
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
]
TWO_STAGE = ["fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"]
PIXELS = (255 * torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(1))).to(torch.uint8)


def detector(name: str) -> Any:
    """A detector with random weights that is sure of something, for pictures of about the size of the test's."""
    torch.manual_seed(0)
    model: Any = models.create(name, 5).eval()
    if name.endswith("_fpn"):
        model.resize((96, 128))
    if name.startswith("ssd"):
        for parameter in model.head.parameters():  # new ones say the same everywhere
            torch.nn.init.normal_(parameter, std=0.1 if name.startswith("ssdlite") else 0.003)
    heads = getattr(model, "roi_heads", model)
    setattr(heads, "score_thresh" if hasattr(heads, "score_thresh") else "score_threshold", 0.0)
    return model


def found_by(model: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(model([PIXELS / 255])[0])


@pytest.mark.parametrize("name", slow_but(ONE_STAGE, ONE_STAGE[:1]))
def test_results_are_among_the_predictions(name: str) -> None:
    model = detector(name)
    own = found_by(model)
    said = predictions(model, PIXELS / 255)
    assert said is not None
    boxes, scores, labels = (
        torch.cat([getattr(level, part).flatten(0, 2) for level in said.levels])
        for part in ("boxes", "scores", "labels")
    )
    assert torch.equal(scores.max(), own["scores"][0])
    place = int(scores.argmax())
    assert torch.equal(boxes[place], own["boxes"][0])
    assert labels[place] == own["labels"][0]
    assert all(bool((boxes == box).all(1).any()) for box in own["boxes"])


@pytest.mark.parametrize("name", slow_but(TWO_STAGE, TWO_STAGE[:1]))
def test_proposals_that_stay_are_those_of_the_first_stage(name: str) -> None:
    model = detector(name)
    said = predictions(model, PIXELS / 255)
    assert said is not None
    assert said.proposals is not None
    given = said.proposals
    with torch.no_grad():
        batch, _ = model.transform([PIXELS / 255])
        (own,), _ = model.rpn(batch, model.backbone(batch.tensors))
    kept, by, _ = suppressed(given.boxes, given.scores, given.levels, given.overlap, given.most)
    assert torch.equal(given.boxes[kept], resize_boxes(own, batch.image_sizes[0], (96, 128)))
    assert (by[~kept] >= 0).any()


@pytest.mark.parametrize("name", slow_but(TWO_STAGE, TWO_STAGE[:1]))
def test_suppression_of_the_second_stage_is_told(name: str) -> None:
    model = detector(name)
    own = found_by(model)
    model.roi_heads.detections_per_img = 20
    found = candidates(copy.deepcopy(model), PIXELS, None, None)
    assert torch.equal(found.boxes[found.kept], own["boxes"][:20])
    assert (found.by >= 0).any()
    over = found.by[found.by >= 0]
    ious = ops.box_iou(found.boxes, found.boxes)
    assert bool((ious[found.by >= 0, over] > model.roi_heads.nms_thresh).all())


def test_peaks_are_the_places_that_no_neighbour_beats() -> None:
    model = detector("centernet_small")
    said = predictions(model, PIXELS / 255)
    assert said is not None
    with torch.no_grad():
        heat = model.maps(model.batch([PIXELS / 255]))["heat"][0]
    classes, (height, width) = heat.argmax(0), heat.shape[1:]
    for row in range(height):
        for column in range(width):
            told = at(said, 0, row, column)
            own = heat[classes[row, column]]
            around = own[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            if told["higher"] is None:
                assert own[row, column] == around.max()
            else:
                assert own[tuple(told["higher"])] == around.max() > own[row, column]
    assert any(at(said, 0, row, 0)["higher"] for row in range(height))


def test_anchors_are_listed_in_pixels_of_the_picture() -> None:
    model = detector("ssdlite320_mobilenet_v3_large")
    said = predictions(model, PIXELS / 255)
    assert said is not None
    told = at(said, 1, 2, 3)
    assert len(told["boxes"]) == 6
    rows, columns = said.levels[1].scores.shape[:2]
    assert said.levels[1].cell == pytest.approx((96 / rows, 128 / columns))
    for each in told["boxes"]:
        left, top, right, bottom = each["reference"]
        assert ((top + bottom) / 2, (left + right) / 2) == pytest.approx((2.5 * 96 / rows, 3.5 * 128 / columns))
    assert predictions(torch.nn.Conv2d(3, 1, 1), PIXELS / 255) is None
