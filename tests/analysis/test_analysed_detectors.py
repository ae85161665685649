"""What is exact about detectors: costs, fields and equivariance of the layers that compute maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import small_detectors
from small_detectors import centers, two_stage
from striate.analysis import equivariance, receptive_field, summarize
from striate.models.dense import dense_part

#: What builds a detector, and the pixels between places of its first map.
NETWORKS: dict[str, tuple[Any, int]] = {
    "centers": (lambda: centers(False), 4),
    "outlines": (lambda: centers(True), 4),
    "one_stage": (lambda: small_detectors.OneStage().eval(), 4),
    "two_stage": (lambda: two_stage(False), 4),
    "masks": (lambda: two_stage(True), 4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_a_detector_are_analysed(name: str) -> None:
    torch.manual_seed(0)
    build, stride = NETWORKS[name]
    part = dense_part(build())
    assert part is not None
    first = next(row for row in receptive_field(part, (1, 3, 64, 64)).rows if row.stride == (stride, stride))
    assert first.size == (8, 8), "the windows that bright squares are looked for in"
    assert summarize(part, (1, 3, 64, 64)).trainable > 0
    moved = equivariance(part, torch.rand(2, 3, 64, 64), [4])
    layer = next(row for row in moved.rows if row.level == "layer" and row.stride == (stride, stride))
    assert layer.error[0] is not None
    assert layer.error[0] < 1e-5, "a shift by the stride moves the map by one place"
