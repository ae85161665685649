"""Boxes: laws of overlaps, conversions, and gradients where boxes have no area."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from striate import ops
from striate.engine import reference_regions
from striate.errors import GeometryError, OperandError

OVERLAPS = [ops.box_iou, ops.generalized_box_iou, ops.distance_box_iou, ops.complete_box_iou]
LOSSES = [ops.generalized_box_iou_loss, ops.distance_box_iou_loss, ops.complete_box_iou_loss]
boxes = st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=1, max_size=5).map(
    lambda rows: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64)
)


@given(boxes, boxes)
def test_laws_of_overlaps(one: torch.Tensor, other: torch.Tensor) -> None:
    plain = ops.box_iou(one, other)
    expected = [[reference_regions.box_iou(a, b) for b in other.tolist()] for a in one.tolist()]
    torch.testing.assert_close(plain, torch.tensor(expected, dtype=torch.float64))
    for overlap in OVERLAPS:
        found = overlap(one, other)
        torch.testing.assert_close(found, overlap(other, one).T)
        assert found.isfinite().all()
        assert (found <= plain + 1e-6).all()
    for overlap, loss in zip(OVERLAPS[1:], LOSSES, strict=True):
        # The loss has its eps in one more place.
        torch.testing.assert_close(loss(one, one), 1 - overlap(one, one).diagonal(), atol=1e-5, rtol=0)


@given(boxes, st.sampled_from(["xyxy", "xywh", "cxcywh"]), st.sampled_from(["xyxy", "xywh", "cxcywh"]))
def test_conversions_come_back(some: torch.Tensor, before: Any, after: Any) -> None:
    torch.testing.assert_close(ops.box_convert(ops.box_convert(some, before, after), after, before), some)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_of_boxes_without_area_and_far_apart_are_numbers(loss: Any) -> None:
    some = torch.tensor([[1.0, 1, 1, 1], [0, 0, 4, 0], [0, 0, 1e-20, 1e-20], [0, 0, 1, 1], [5, 5, 2, 2]])
    for other in (some.flip(0), some, some + 1e4):
        mine, theirs = some.clone().requires_grad_(), other.clone().requires_grad_()
        values = loss(mine, theirs)
        values.sum().backward()
        assert mine.grad is not None
        assert theirs.grad is not None
        assert all(each.isfinite().all() for each in (values, mine.grad, theirs.grad))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_differentiable_and_of_nothing_are_nothing(loss: Any) -> None:
    mine = (torch.tensor([[0.0, 0, 3, 2], [1, 1, 5, 4]], dtype=torch.float64)).requires_grad_()
    other = torch.tensor([[1.0, 0.5, 4, 3], [0.2, 1.1, 4, 6]], dtype=torch.float64)
    if loss is not ops.complete_box_iou_loss:  # a factor of it counts as a constant
        assert torch.autograd.gradcheck(lambda some: loss(some, other), (mine,))
    none = torch.zeros(0, 4, requires_grad=True)
    assert loss(none, none, "none").shape == (0,)
    for reduction in ("mean", "sum"):
        assert loss(none, none, reduction).item() == 0


def test_narrow_and_whole_numbers_dont_overflow() -> None:
    big = torch.tensor([[0, 0, 60000, 60000]])
    assert ops.box_area(big.int()).item() == 60000**2
    assert ops.box_area(big.half()).item() == pytest.approx(60000**2, rel=1e-2)
    assert ops.box_iou(big, big).item() == 1


def test_masks_and_their_boxes() -> None:
    masks = torch.zeros(3, 5, 7, dtype=torch.uint8)
    masks[0, 2, 3] = 1
    masks[1, 1:4, :] = 1
    assert ops.masks_to_boxes(masks).tolist() == [[3, 2, 3, 2], [0, 1, 6, 3], [0, 0, 0, 0]]
    assert ops.masks_to_boxes(masks, far_edge=True).tolist() == [[3, 2, 4, 3], [0, 1, 7, 4], [0, 0, 0, 0]]
    assert ops.masks_to_boxes(masks[:0]).shape == (0, 4)


def test_what_does_not_fit_is_refused() -> None:
    for call in (ops.box_area, lambda some: ops.box_iou(some, some), lambda some: ops.clip_boxes(some, (2, 2))):
        with pytest.raises(OperandError, match=r"\(2, 3\); needed \(N, 4\)"):
            call(torch.zeros(2, 3))
    with pytest.raises(GeometryError, match="'yxyx'; needed one of xyxy, xywh, cxcywh"):
        ops.box_convert(torch.zeros(1, 4), "yxyx", "xyxy")  # type: ignore[arg-type]
    with pytest.raises(OperandError, match="in pairs"):
        ops.distance_box_iou_loss(torch.zeros(1, 4), torch.zeros(2, 4))
    with pytest.raises(OperandError, match="reduction 'all'"):
        ops.distance_box_iou_loss(torch.zeros(1, 4), torch.zeros(1, 4), "all")  # type: ignore[arg-type]
    with pytest.raises(OperandError, match=r"needed \(N, H, W\)"):
        ops.masks_to_boxes(torch.zeros(2, 2))
