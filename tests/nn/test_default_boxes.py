"""Default boxes against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from striate import nn
from striate.errors import ModelError


def test_boxes_of_a_position_are_those_of_the_paper() -> None:
    boxes = nn.DefaultBoxes(((2, 3),), (0.2, 0.45))
    between = math.sqrt(0.2 * 0.45)
    long, longer = 0.2 * math.sqrt(2), 0.2 * math.sqrt(3)
    expected = [(0.2, 0.2), (between, between), (long, 0.1 * math.sqrt(2)), (0.1 * math.sqrt(2), long)]
    expected += [(longer, 0.2 / math.sqrt(3)), (0.2 / math.sqrt(3), longer)]
    torch.testing.assert_close(boxes.sides(0), torch.tensor(expected))
    (level,) = boxes((100, 200), [torch.zeros(1, 1, 2, 4)])
    assert level.shape == (2 * 4 * 6, 4)
    # row 1, column 2, the first lying box: centre at 5/8 of the width and 3/4 of the height
    centre, half = torch.tensor([125.0, 75.0]), torch.tensor([100 * long, 50 * 0.1 * math.sqrt(2)])
    torch.testing.assert_close(level[(1 * 4 + 2) * 6 + 2], torch.cat([centre - half, centre + half]))


def test_steps_take_the_place_of_the_maps_size() -> None:
    boxes = nn.DefaultBoxes(((),), (0.1, 0.1), (100,))
    (level,) = boxes((300, 300), [torch.zeros(1, 1, 4, 4)])
    centres = (level[::2, :2] + level[::2, 2:]) / 2
    torch.testing.assert_close(centres[-1], torch.tensor([350.0, 350.0]))  # beyond the image, as the step says


def test_no_side_is_longer_than_the_image() -> None:
    boxes = nn.DefaultBoxes(((3,),), (0.9, 1.05))
    assert boxes.sides(0).max() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_boxes_are_of_the_maps_dtype(dtype: torch.dtype) -> None:
    boxes = nn.DefaultBoxes(((2,), (2,)), (0.2, 0.5, 1.0))
    levels = boxes((64, 64), [torch.zeros(2, 1, 4, 4, dtype=dtype), torch.zeros(2, 1, 2, 2, dtype=dtype)])
    assert [len(level) for level in levels] == [64, 16]
    assert {level.dtype for level in levels} == {dtype}


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="got 2 scales for 2 levels; needed 3 scales"):
        nn.DefaultBoxes(((2,), (2,)), (0.1, 0.2))
    with pytest.raises(ModelError, match="and 1 steps"):
        nn.DefaultBoxes(((2,), (2,)), (0.1, 0.2, 0.3), (8,))
    with pytest.raises(ModelError, match="got 1 feature maps; needed 2"):
        nn.DefaultBoxes(((2,), (2,)), (0.1, 0.2, 0.3))((8, 8), [torch.zeros(1, 1, 2, 2)])
