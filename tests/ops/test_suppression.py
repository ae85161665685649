"""Non-maximum suppression: the boxes that stay, in their order, by the kernel and by PyTorch's operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from striate import ops
from striate.engine import use
from striate.errors import OperandError
from striate.ops import reference, suppression

BACKENDS = pytest.mark.parametrize("backend", ["auto", "aten"])


def some(seed: int, count: int, grid: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and classes; on a grid, where boxes, scores and overlaps are equal often."""
    random = torch.Generator().manual_seed(seed)
    centre, extent = (torch.rand(count, 2, generator=random) * 30 for _ in range(2))
    boxes, scores = torch.cat([centre - extent / 2, centre + extent / 2], 1), torch.rand(count, generator=random)
    if grid:
        boxes, scores = boxes.div(4).round() * 4, scores.mul(4).round() / 4
    return boxes, scores, torch.randint(0, 3, (count,), generator=random)


@BACKENDS
@given(st.integers(0, 10_000), st.integers(0, 70), st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]))
def test_boxes_that_stay_are_the_definitions(backend: str, seed: int, count: int, grid: bool, threshold: float) -> None:
    boxes, scores, classes = some(seed, count, grid)
    with use(backend):
        assert torch.equal(ops.nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold))
        found = ops.batched_nms(boxes, scores, classes, threshold)
    assert torch.equal(found, reference.nms(boxes, scores, threshold, classes))


@BACKENDS
def test_blocks_and_classes_of_many_boxes(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "_BLOCK", 50)
    monkeypatch.setattr(suppression, "_MOVED", {"cpu": 10})
    boxes, scores, classes = some(1, 240)
    with use(backend):
        assert torch.equal(ops.nms(boxes, scores, 0.3), reference.nms(boxes, scores, 0.3))
        for kinds in (classes, classes * 2**40 - 7):
            found = ops.batched_nms(boxes, scores, kinds, 0.3)
            assert torch.equal(found, reference.nms(boxes, scores, 0.3, kinds))


@pytest.mark.usefixtures("narrower")
def test_every_instruction_set_keeps_the_same() -> None:
    boxes, scores, _ = some(2, 90)
    assert torch.equal(ops.nms(boxes, scores, 0.3), reference.nms(boxes, scores, 0.3))


@BACKENDS
def test_boxes_left_of_the_image_dont_reach_another_class(backend: str) -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [-10, -10, -1, -1]])
    with use(backend):
        assert ops.batched_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.1).tolist() == [0, 1]


@BACKENDS
def test_a_threshold_is_compared_as_it_is_and_not_rounded(backend: str) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 1, 1]])  # an overlap of a tenth, which float32 rounds up
    with use(backend):
        assert ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.1).tolist() == [0]
        assert ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.10000000149011612).tolist() == [0, 1]


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_other_dtypes(backend: str, dtype: torch.dtype) -> None:
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 3], [5, 5, 9, 9]], dtype=dtype)
    with use(backend):
        assert ops.nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5).tolist() == [1, 2]


@BACKENDS
def test_boxes_without_area_or_at_infinity_suppress_nothing(backend: str) -> None:
    boxes = torch.tensor([[1.0, 1, 1, 1]] * 2 + [[0, 0, torch.inf, 1], [torch.nan] * 4])
    with use(backend):
        assert ops.nms(boxes, torch.tensor([0.4, 0.3, 0.2, 0.1]), 0.0).tolist() == [0, 1, 2, 3]


BAD: list[tuple[Any, Any, str]] = [
    (torch.rand(3, 5), torch.rand(3), "(N, 4)"),
    (torch.rand(3, 4), torch.rand(2), "(N,)"),
    (torch.rand(3, 4), torch.rand(3, device="meta"), "one device"),
    ([[0, 0, 1, 1]], torch.rand(1), "a tensor"),
]


@pytest.mark.parametrize(("boxes", "scores", "words"), BAD)
def test_what_does_not_fit_is_refused(boxes: Any, scores: Any, words: str) -> None:
    with pytest.raises(OperandError, match=r"^nms: ") as told:
        ops.nms(boxes, scores, 0.5)
    assert words in str(told.value)
    with pytest.raises(OperandError, match=r"^batched_nms: got idxs"):
        ops.batched_nms(torch.rand(3, 4), torch.rand(3), torch.zeros(2), 0.5)
