from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from striate.data import IGNORED, Annotation, Detections, Fit, fit_annotated, load_image, place
from striate.data.annotated import object_map
from striate.data.fitting import MODES
from striate.data.moving import LEAST_SEEN, LEAST_SIDE, Placement, boxes_of, upright


def rectangles(size: tuple[int, int], count: int, seed: int) -> Annotation:
    """Objects that are rectangles, whose masks fill their boxes, none over another."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, *size, dtype=torch.bool)
    for mask in masks:
        spans = []
        for length in size:
            start = int(torch.randint(length, (), generator=generator))
            spans.append(slice(start, start + 1 + int(torch.randint(length - start, (), generator=generator))))
        mask[spans[0], spans[1]] = True
    labels = torch.randint(0, 5, (count,), generator=generator)
    truth = Annotation(size, boxes_of(masks), labels, masks=masks)
    return Annotation(size, truth.boxes, labels, masks=masks, class_map=object_map(truth))


def picture_of(truth: Annotation) -> torch.Tensor:
    """The class map as grey levels."""
    assert truth.class_map is not None
    return truth.class_map[None] * 20


@st.composite
def moves(draw, scaled: bool) -> Placement:
    size = draw(st.tuples(st.integers(4, 24), st.integers(4, 24)))
    frame = draw(st.tuples(st.integers(4, 40), st.integers(4, 40)))
    source, target = [0, 0, 0, 0], [0, 0, 0, 0]
    for axis in (0, 1):
        source[axis + 2] = draw(st.integers(1, size[axis]))
        source[axis] = draw(st.integers(0, size[axis] - source[axis + 2]))
        if scaled:
            target[axis + 2] = draw(st.integers(1, frame[axis]))
        else:
            source[axis + 2] = min(source[axis + 2], frame[axis])
            target[axis + 2] = source[axis + 2]
        target[axis] = draw(st.integers(0, frame[axis] - target[axis + 2]))
    return Placement(size, tuple(source), tuple(target), frame, draw(st.booleans()), draw(st.booleans()))  # type: ignore[arg-type]


@given(moves(scaled=False), st.integers(0, 5), st.integers(0, 999))
def test_without_scaling_masks_boxes_maps_and_pixels_agree_to_the_pixel(move: Placement, count: int, seed: int) -> None:
    truth = rectangles(move.size, count, seed)
    picture, moved = move(picture_of(truth), truth)
    assert moved.masks is not None
    assert moved.class_map is not None
    assert torch.equal(boxes_of(moved.masks), moved.boxes)
    inside = move.class_map(torch.zeros(move.size, dtype=torch.uint8)) == 0
    assert (moved.class_map[~inside] == IGNORED).all()
    assert torch.equal(picture[0][inside], moved.class_map[inside] * 20)
    assert (picture[0][~inside] == 0).all()
    # Without masks the same by the boxes, which here are as large as the masks.
    assert torch.equal(move.annotation(Annotation(truth.size, truth.boxes, truth.labels)).boxes, moved.boxes)


@given(moves(scaled=True), st.integers(1, 5), st.integers(0, 999))
def test_an_object_stays_if_enough_of_it_is_left(move: Placement, count: int, seed: int) -> None:
    truth = rectangles(move.size, count, seed)
    moved = move.annotation(truth)
    top, left, height, width = move.source
    assert truth.masks is not None
    seen = truth.masks[:, top : top + height, left : left + width].flatten(1).sum(1) / truth.masks.flatten(1).sum(1)
    assert len(moved) <= int((seen >= LEAST_SEEN).sum())
    if len(moved):
        sides = moved.boxes[:, 2:] - moved.boxes[:, :2]
        assert sides.min() >= LEAST_SIDE
        assert moved.boxes.min() >= 0
        assert (moved.boxes[:, 2:] <= torch.tensor([move.frame[1], move.frame[0]])).all()
        assert moved.masks is not None
        assert (boxes_of(moved.masks) - moved.boxes).abs().max() <= 1  # a pixel counts whose middle is inside


@given(moves(scaled=True), st.integers(0, 4), st.integers(0, 999))
def test_what_is_found_goes_back_to_where_it_was(move: Placement, count: int, seed: int) -> None:
    truth = rectangles(move.size, count, seed)
    found = Detections(move.frame, move.boxes(truth.boxes), truth.labels, torch.ones(count))
    back = move.back(found)
    assert len(back) == count
    torch.testing.assert_close(back.boxes, truth.boxes, rtol=1e-4, atol=1e-3)


@given(moves(scaled=False), st.integers(0, 999))
def test_maps_go_back(move: Placement, seed: int) -> None:
    truth = rectangles(move.size, 3, seed)
    assert truth.masks is not None
    back = move.back_maps(move.masks(truth.masks))
    seen = move.back_maps(torch.ones(move.frame, dtype=torch.bool))
    assert torch.equal(back, truth.masks & seen)
    soft = move.back_maps(move.masks(truth.masks).float())
    torch.testing.assert_close(soft, back.float())


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from(MODES),
)
def test_any_size_is_fitted(size: tuple[int, int], frame: tuple[int, int], mode: str) -> None:
    truth = rectangles(size, 2, 0)
    picture, moved, move = fit_annotated(picture_of(truth), truth, Fit(frame, mode))
    frame = size if mode == "own" else frame
    assert picture.shape == (1, *frame)
    assert moved.size == frame
    if mode == "crop":
        assert move.target == (0, 0, *frame)
    else:
        assert move.source == (0, 0, *size)
    if mode == "frame":
        assert max(side / room for side, room in zip(move.target[2:], frame, strict=True)) == 1


def test_no_objects_are_legal() -> None:
    empty = Annotation((8, 8), masks=torch.zeros(0, 8, 8, dtype=torch.bool))
    _, moved, move = fit_annotated(torch.zeros(3, 8, 8, dtype=torch.uint8), empty, Fit((20, 16)))
    assert len(moved) == 0
    assert moved.masks is not None
    assert moved.masks.shape == (0, 20, 16)
    none = Detections((20, 16), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert len(move.back(none)) == 0


def test_a_cut_object_has_the_box_of_what_is_left_of_its_mask() -> None:
    mask = torch.eye(10, dtype=torch.bool)[None]
    truth = Annotation((10, 10), boxes_of(mask), torch.tensor([0]), masks=mask)
    move = Placement((10, 10), (0, 0, 5, 10), (0, 0, 5, 10), (5, 10))
    assert move.annotation(truth).boxes.tolist() == [[0, 0, 5, 5]]
    without = Annotation((10, 10), truth.boxes, truth.labels)
    assert move.annotation(without).boxes.tolist() == [[0, 0, 10, 5]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_are_set_upright_as_pictures_are(orientation: int) -> None:
    from PIL import Image

    truth = rectangles((6, 9), 3, 1)
    assert truth.class_map is not None
    image = Image.fromarray(truth.class_map.numpy())
    exif = image.getexif()
    exif[0x0112] = orientation
    stored = io.BytesIO()
    image.save(stored, "PNG", exif=exif)
    stored.seek(0)
    picture = load_image(stored)
    turned = upright(truth, orientation)
    assert turned.masks is not None
    assert turned.class_map is not None
    assert turned.size == tuple(picture.shape[1:])
    assert torch.equal(turned.class_map, picture[0])
    assert torch.equal(boxes_of(turned.masks), turned.boxes)
    assert torch.equal(object_map(turned), picture[0])


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_that_fits_stays_as_it_is(mode: str) -> None:
    assert place((30, 20), Fit((30, 20), mode)) == Placement((30, 20), (0, 0, 30, 20), (0, 0, 30, 20), (30, 20))
