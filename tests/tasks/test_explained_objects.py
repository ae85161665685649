"""Why a detector finds one object: evidence lies where the object is, and not at another one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import small_detectors
from small_detectors import centers, pictures, two_stage
from striate import explain
from striate.errors import ExplainError, RunError
from striate.tasks.classification import Classification
from striate.tasks.detection import Detection
from striate.tasks.explained import object_number, one_object

NETWORKS: dict[str, Any] = {
    "centers": lambda: centers(False),
    "outlines": lambda: centers(True),
    "one_stage": lambda: small_detectors.OneStage().eval(),
    "two_stage": lambda: two_stage(False),
    "masks": lambda: two_stage(True),
}
SIZE = (64, 64)


def made(name: str) -> Any:
    torch.manual_seed(0)
    return NETWORKS[name]()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["saliency", "layer_cam"])
def test_evidence_lies_at_the_object(name: str, method: str) -> None:
    model, picture = made(name), pictures(SIZE, 4)
    with torch.no_grad():
        (found,) = model(list(picture))
    assert len(found["boxes"]) == 4
    seen = set()
    for number in range(1, 5):
        asked = one_object(model, picture[0], number)
        assert asked.box is not None
        assert asked.box == tuple(found["boxes"][number - 1].tolist())
        assert asked.target == int(found["labels"][number - 1]) - 1
        options = {"layer": asked.layer} if method == "layer_cam" else {}
        map_ = getattr(explain, method)(asked.network, picture, asked.target, **options).map[0].clamp(min=0)
        peak = int(map_.argmax())
        y, x = divmod(peak, SIZE[1])
        x0, y0, x1, y1 = asked.box
        margin = 8 if method == "layer_cam" else 6
        assert x0 - margin <= x <= x1 + margin, "the peak lies at the object"
        assert y0 - margin <= y <= y1 + margin
        seen.add((y // 16, x // 16))
    assert len(seen) == 4, "another place for each object"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_score_that_is_explained_is_the_objects(name: str) -> None:
    model, picture = made(name), pictures(SIZE, 3)
    asked = one_object(model, picture[0], 2)
    assert asked.target is not None
    assert asked.box is not None
    with torch.no_grad():
        (found,) = model(list(picture))
        logits = asked.network(picture)
        both = asked.network(torch.cat([picture, torch.zeros_like(picture)]))
    assert logits.shape == (1, small_detectors.CLASSES - 1)
    assert int(logits.argmax()) == asked.target
    torch.testing.assert_close(both[:1], logits)
    assert both[1, asked.target] < logits[0, asked.target], "a dark picture has no object"
    if name in ("centers", "outlines", "one_stage"):
        torch.testing.assert_close(logits[0, asked.target].sigmoid(), found["scores"][1], msg="its own place's")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_class_is_scored_where_it_is_surest(name: str) -> None:
    model, picture = made(name), pictures(SIZE, 3)
    network = Detection().explained(model)
    with torch.no_grad():
        (found,) = model(list(picture))
        scores = network(picture)
    assert scores.shape == (1, small_detectors.CLASSES - 1)
    present = {int(label) - 1 for label in found["labels"]}
    assert int(scores.argmax()) in present


def test_maps_of_two_stage_detectors_are_those_that_lie_on_the_picture() -> None:
    model, picture = made("two_stage"), pictures(SIZE, 2)
    asked = one_object(model, picture[0], 1)
    assert asked.layer == "backbone.levels.0", "a small box is looked up on the finest level"
    large = torch.tensor([0.0, 0.0, 1.0, 1.0])
    model.resize((800, 800))
    assert model.layer_of(torch.zeros(3, 80, 80), large) == "backbone.levels.1"
    assert one_object(made("one_stage"), picture[0], 1).layer == "backbone.levels.0"


def test_errors_are_one_line() -> None:
    model = made("centers")
    with pytest.raises(ExplainError, match="got object 3 of 2; needed 1 to 2"):
        one_object(model, pictures(SIZE, 2)[0], 3)
    with pytest.raises(ExplainError, match="nothing is found on this picture; needed an object"):
        one_object(model, pictures(SIZE, 0)[0], 1)
    with pytest.raises(ExplainError, match="needed the number of an object, from 1"):
        object_number("object:0", ())
    with pytest.raises(ExplainError, match="needed the number of an object, from 1"):
        object_number("object:two", ())
    with pytest.raises(RunError, match="needed a detector"):
        Classification().explained_object(torch.nn.Identity(), pictures(SIZE, 0)[0], 1)
    with pytest.raises(RunError, match="Identity has no method place_of"):
        one_object(torch.nn.Identity(), pictures(SIZE, 0)[0], 1)


def test_a_number_is_a_class_where_one_is_called_so() -> None:
    digits = tuple("0123456789")
    assert Detection().object_number("3", digits) is None
    assert Detection().object_number("object:3", digits) == 3
    assert Detection().object_number("3", ("tree", "house")) == 3
    assert Detection().object_number("tree", ("tree", "house")) is None
    assert Classification().object_number("3", ("tree", "house")) is None
