"""Regions on a pyramid: which level a box belongs to, and that the order stays."""

from __future__ import annotations

import torch

from striate import nn, ops

STRIDES = {"0": 4, "1": 8, "2": 16, "3": 32}


def test_boxes_belong_to_the_level_of_their_size() -> None:
    sides = torch.tensor([1.0, 111, 112, 223, 224, 447, 448, 5000])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], 1)
    # 224 is of level 4, whose stride is 16; a level more for each doubling
    assert nn.MultiScaleRoIAlign(STRIDES, 7).levels(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert nn.MultiScaleRoIAlign({"0": 32, "1": 32}, 7).levels(boxes).unique().tolist() == [0]


def test_regions_of_all_images_come_in_their_order() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = {
        name: torch.rand(2, 3, 256 // stride, 256 // stride, generator=generator) for name, stride in STRIDES.items()
    }
    maps["pool"] = torch.zeros(2, 3, 4, 4)
    corner = torch.rand(9, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + torch.rand(9, 2, generator=generator) ** 3 * 600 + 1], 1)
    pool = nn.MultiScaleRoIAlign(STRIDES, 3)
    pooled = pool(maps, [boxes[:4], boxes[4:]])
    for index, (box, level) in enumerate(zip(boxes, pool.levels(boxes).tolist(), strict=True)):
        image = slice(0, 1) if index < 4 else slice(1, 2)
        alone = ops.roi_align(maps[str(level)][image], [box[None]], 3, 1 / STRIDES[str(level)], 2)
        torch.testing.assert_close(pooled[index], alone[0])
    assert pool(maps, [boxes[:0], boxes[:0]]).shape == (0, 3, 3, 3)
