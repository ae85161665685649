"""FCOS: how boxes are told from positions, and which position stands for which object."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from striate import nn
from striate.models import fcos

coordinate = st.floats(0, 500, width=32)


@given(st.tuples(coordinate, coordinate, coordinate, coordinate), st.sampled_from([8, 16, 128]))
def test_distances_and_boxes_are_inverse(corners: tuple[float, float, float, float], stride: int) -> None:
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    box = torch.tensor([[x0, y0, x1, y1]], dtype=torch.float64)
    square = torch.tensor([[40.0, 8.0, 40 + stride, 8 + stride]], dtype=torch.float64)
    torch.testing.assert_close(fcos.boxes_at(fcos.distances(square, box), square), box)


def test_centreness_is_1_in_the_middle_and_0_at_the_border() -> None:
    found = fcos.centreness(torch.tensor([[3.0, 2.0, 3.0, 2.0], [0.0, 2.0, 3.0, 2.0], [1.0, 1.0, 4.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.5]))


def by_hand(objects: torch.Tensor, levels: list[torch.Tensor], radius: float) -> list[int]:
    """The same, one position after the other."""
    found = []
    for index, level in enumerate(levels):
        for square in level.tolist():
            stride, x, y = square[2] - square[0], (square[0] + square[2]) / 2, (square[1] + square[3]) / 2
            least = 4 * stride if index else 0
            most = 8 * stride if index < len(levels) - 1 else float("inf")
            best, smallest = nn.BACKGROUND, float("inf")
            for number, (x0, y0, x1, y1) in enumerate(objects.tolist()):
                sides = (x - x0, y - y0, x1 - x, y1 - y)
                near = max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)) < radius * stride
                area = (x1 - x0) * (y1 - y0)
                if min(sides) > 0 and near and least < max(sides) < most and area < smallest:
                    best, smallest = number, area
            found.append(best)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_positions_stand_for_the_smallest_object_that_they_may(seed: int) -> None:
    torch.manual_seed(seed)
    generator = nn.AnchorGenerator(((8,), (16,), (32,)), (1.0,))
    levels = generator((128, 128), [torch.zeros(1, 1, side, side) for side in (16, 8, 4)])
    first = torch.rand(12, 2) * 100
    objects = torch.cat([first, first + 5 + torch.rand(12, 2) ** 3 * 150], 1).round(decimals=2) + 0.003
    matches = fcos.match(objects, levels, 1.5).tolist()
    assert matches == by_hand(objects, levels, 1.5)
    assert len(set(matches)) > 4
    assert set(fcos.match(objects[:0], levels, 1.5).tolist()) == {nn.BACKGROUND}
