"""Objects as points: maps of objects and objects of maps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from striate.models import centers

STRIDE = 4


def objects(
    *boxes: tuple[float, ...], classes: list[int] | None = None, counted: list[bool] | None = None
) -> centers.Objects:
    return centers.Objects(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(classes or [0] * len(boxes), dtype=torch.int64),
        torch.zeros(len(boxes), dtype=torch.int64),
        torch.tensor(counted or [True] * len(boxes), dtype=torch.bool),
    )


@st.composite
def scenes(draw: st.DrawFn) -> tuple[centers.Objects, tuple[int, int], int, int]:
    """Objects of any sizes with centres at least three places apart, on two pictures, with their map's shape."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    cells = [(n, y, x) for n in range(2) for y in range(0, height, 3) for x in range(0, width, 3)]
    chosen = draw(st.lists(st.sampled_from(cells), unique=True, max_size=8))
    share = st.floats(0.01, 0.99)
    size = st.floats(math.log(0.1), math.log(60)).map(math.exp)
    boxes, classes = [], []
    for _, y, x in chosen:
        cx, cy, w, h = (x + draw(share)) * STRIDE, (y + draw(share)) * STRIDE, draw(size), draw(size)
        boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        classes.append(draw(st.integers(0, 2)))
    made = centers.Objects(
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
        torch.tensor([n for n, _, _ in chosen], dtype=torch.int64),
        torch.ones(len(chosen), dtype=torch.bool),
    )
    return made, (height, width), 2, 3


def perfect(made: centers.Objects, shape: tuple[int, int], pictures: int, classes: int) -> tuple[Tensor, Tensor]:
    """The maps of a network that knows: logits of the heat, and codes at the objects' places."""
    heat = centers.heat_maps(made, centers.gaussians(made, shape, STRIDE), pictures, classes)
    places = made.places(shape, STRIDE)
    codes = torch.zeros(pictures, 4, *shape, dtype=made.boxes.dtype)
    codes[made.pictures, :, places[:, 1], places[:, 0]] = centers.codes_of(made.boxes, places, STRIDE)
    return heat.logit(), codes


@settings(deadline=None, max_examples=100)
@given(scenes())
def test_objects_of_the_maps_are_the_objects(scene: tuple[centers.Objects, tuple[int, int], int, int]) -> None:
    made, shape, pictures, classes = scene
    logits, codes = perfect(made, shape, pictures, classes)
    scores, found, places = centers.peaks(logits, 100)
    boxes = centers.boxes_of(centers.at_places(codes, places), places, STRIDE)
    for picture in range(pictures):
        sure = scores[picture] == math.inf
        mine = made.pictures == picture
        got = torch.cat([found[picture, sure, None], boxes[picture, sure]], 1)
        expected = torch.cat([made.classes[mine, None], made.boxes[mine]], 1)
        assert len(got) == len(expected)
        got, expected = (rows[rows[:, 1:].sum(1).argsort()] for rows in (got, expected))
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_near_objects_of_different_classes_are_both_found() -> None:
    made = objects((0.0, 0, 20, 20), (2.0, 2, 22, 22), classes=[0, 1])
    logits, _ = perfect(made, (8, 8), 1, 2)
    scores, classes, places = centers.peaks(logits, 10)
    assert (scores[0] == math.inf).tolist()[:3] == [True, True, False]
    assert sorted(classes[0, :2].tolist()) == [0, 1]
    assert places[0, 0].tolist() == [2, 2] or places[0, 0].tolist() == [3, 3]


def test_heat_is_as_wide_and_high_as_the_object() -> None:
    made = objects((0.0, 24, 64, 40))
    heat = centers.heat_maps(made, centers.gaussians(made, (16, 16), STRIDE), 1, 1)[0, 0]
    assert heat[8, 8] == 1
    assert heat.max() == 1
    # deviations of 0.09 of 64 and 16 pixels, in places of 4
    assert heat[8, 9].item() == pytest.approx(math.exp(-0.5 * (4 / (0.09 * 64)) ** 2), rel=1e-5)
    assert heat[9, 8].item() == pytest.approx(math.exp(-0.5 * (4 / (0.09 * 16)) ** 2), rel=1e-5)


def by_hand(logits: Tensor, heat: Tensor) -> float:
    total = 0.0
    for logit, wanted in zip(logits.flatten().tolist(), heat.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= (1 - p) ** 2 * math.log(p) if wanted == 1 else (1 - wanted) ** 4 * p**2 * math.log(1 - p)
    return total


def test_focal_loss_is_the_papers() -> None:
    logits, heat = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.rand(2, 3, 4, 5, dtype=torch.float64)
    heat[0, 1, 2, 3] = heat[1, 0, 0, 0] = 1
    expected = [by_hand(logits[picture], heat[picture]) for picture in range(2)]
    assert centers.focal_loss(logits, heat).tolist() == pytest.approx(expected)
    ignored = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    ignored[0, 0, :2] = True
    expected[0] -= by_hand(logits[0, :, :2], heat[0, :, :2])
    assert centers.focal_loss(logits, heat, ignored).tolist() == pytest.approx(expected)


def test_focal_loss_of_sure_answers_is_finite() -> None:
    logits = torch.tensor([-1e4, 1e4]).reshape(1, 1, 1, 2).requires_grad_()
    loss = centers.focal_loss(logits, torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-1, 1])


def test_what_does_not_count_is_left_out() -> None:
    made = objects((0.0, 0, 8, 8), (8.0, 4, 16, 15), counted=[True, False])
    left = centers.left_out(made, 2, (4, 5), STRIDE)
    expected = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    expected[0, 0, 1:4, 2:4] = True
    assert left.equal(expected)


def test_box_loss_is_a_mean_over_the_objects_own_places() -> None:
    made = objects((4.0, 4, 60, 60), (40.0, 4, 48, 12))
    gaussian = centers.gaussians(made, (16, 16), STRIDE)
    places = centers.Places.of(made, gaussian, 1)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    owner = gaussian.argmax(0)
    codes = centers.codes_of(made.boxes[owner], torch.stack([columns, rows], -1), STRIDE).permute(2, 0, 1)[None]
    assert centers.box_loss(codes, made, places, STRIDE).tolist() == pytest.approx([0, 0], abs=1e-5)
    # boxes of twice the width have half the IoU, whichever place says so
    codes[:, 2] += math.log(2)
    assert centers.box_loss(codes, made, places, STRIDE).tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


def test_class_loss_is_a_mean_over_the_objects_own_places() -> None:
    made = objects((4.0, 4, 60, 60), (40.0, 4, 48, 12), classes=[0, 2])
    gaussian = centers.gaussians(made, (16, 16), STRIDE)
    places = centers.Places.of(made, gaussian, 1)
    assert places.mean(torch.ones(len(places.weights))).tolist() == pytest.approx([1, 1])
    logits = torch.zeros(1, 3, 16, 16)
    assert centers.class_loss(logits, made, places).tolist() == pytest.approx([math.log(3)] * 2)
    logits[0, 0] = math.log(2)
    assert centers.class_loss(logits, made, places).tolist() == pytest.approx([math.log(2), math.log(4)])


@pytest.mark.parametrize("name", ["focal", "class", "box"])
def test_gradients(name: str) -> None:
    made = objects((0.5, 0, 9, 7.7), (6.0, 5, 15, 11), classes=[0, 1])
    made = centers.Objects(made.boxes.double(), made.classes, made.pictures, made.counted)
    gaussian = centers.gaussians(made, (3, 4), STRIDE)
    heat = centers.heat_maps(made, gaussian, 1, 2)
    places = centers.Places.of(made, gaussian, 1)
    losses = {
        "class": (lambda logits: centers.class_loss(logits, made, places), 2),
        "focal": (lambda logits: centers.focal_loss(logits, heat), 2),
        "box": (lambda codes: centers.box_loss(codes, made, places, STRIDE), 4),
    }
    loss, channels = losses[name]
    assert torch.autograd.gradcheck(loss, torch.randn(1, channels, 3, 4, dtype=torch.float64, requires_grad=True))


def test_boxes_of_wild_codes_are_finite() -> None:
    codes = torch.full((1, 4), 1e4)
    assert centers.boxes_of(codes, torch.zeros(1, 2), STRIDE).isfinite().all()


def test_peaks_are_maxima_of_their_class_and_come_in_order() -> None:
    logits = torch.full((1, 2, 5, 5), -9.0)
    # of class 0: a neighbour of a higher one, that one, one two places beside it, one alone; and one of class 1
    logits[0, 0, 0, 0], logits[0, 0, 1, 1], logits[0, 0, 1, 3], logits[0, 0, 4, 4] = 1.0, 2.0, 0.7, 0.5
    logits[0, 1, 1, 1] = 1.5
    scores, classes, places = centers.peaks(logits, 5)
    torch.testing.assert_close(scores[0, :4], torch.tensor([2.0, 1.5, 0.7, 0.5]))
    assert classes[0, :4].tolist() == [0, 1, 0, 0]
    assert places[0, :4].tolist() == [[1, 1], [1, 1], [3, 1], [4, 4]]


def test_the_likeliest_place_is_near_and_of_the_objects_class() -> None:
    made = objects((0.0, 0, 2, 2), (8.0, 8, 16, 16), classes=[1, 0])
    logits = torch.zeros(1, 2, 6, 6)
    logits[0, 0, 0, 1], logits[0, 1, 1, 0], logits[0, 1, 0, 3] = 5.0, 3.0, 9.0
    assert centers.likeliest(logits, made, STRIDE).tolist() == [[0, 1], [3, 3]]
