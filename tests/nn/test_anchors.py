"""Anchors by hand: their sizes, places and order."""

from __future__ import annotations

import pytest
import torch

from striate import nn
from striate.errors import ModelError


def test_cells_are_of_their_area_and_ratio_up_to_whole_pixels() -> None:
    cells = nn.AnchorGenerator(((32, 64),), (0.5, 1.0, 2.0)).cells(0)
    # ratio by ratio, sizes within: 32 / sqrt(0.5) = 45.25 wide and 22.6 high
    assert cells[0].tolist() == [-23, -11, 23, 11]
    assert cells[1].tolist() == [-45, -23, 45, 23]
    assert cells[3].tolist() == [-32, -32, 32, 32]
    assert cells[4].tolist() == [-11, -23, 11, 23]


def test_anchors_go_along_rows_with_strides_rounded_down() -> None:
    generator = nn.AnchorGenerator(((2,), (4,)), (1.0,))
    fine, coarse = generator((8, 14), [torch.zeros(2, 1, 4, 7), torch.zeros(2, 1, 3, 3, dtype=torch.float64)])
    assert fine[:8, :2].tolist() == [[2 * column - 1, -1] for column in range(7)] + [[-1, 1]]
    # 8 // 3 = 2 and 14 // 3 = 4
    assert coarse[:, :2].tolist() == [[4 * column - 2, 2 * row - 2] for row in range(3) for column in range(3)]
    assert (fine.dtype, coarse.dtype) == (torch.float32, torch.float64)


def test_levels_must_be_as_many_as_sizes() -> None:
    with pytest.raises(ModelError, match="got 1 feature maps; needed 2"):
        nn.AnchorGenerator(((2,), (4,)))((8, 8), [torch.zeros(1, 1, 4, 4)])
