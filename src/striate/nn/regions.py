"""Regions of interest on a feature pyramid: each box is resampled from the level that suits its size.

Source: Lin et al., "Feature pyramid networks for object detection" (2017), section 4.2 and equation 1; He et al., "Mask
R-CNN" (2017), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from striate import ops

#: Boxes with sides of this many pixels belong to this level; level l has a stride of 2^l pixels.
CANONICAL_SIDE: Final = 224
CANONICAL_LEVEL: Final = 4


class MultiScaleRoIAlign(torch.nn.Module):
    """The part of the maps that each box covers, (R, C, size, size), from one level of the pyramid.

    Coordinates are not moved by half a pixel: this is :func:`striate.ops.roi_align` with ``aligned=False``.

    Args:
        strides: of the levels that are used, by their names, powers of two, the finest first.
        output_size: positions along each side.
        sampling_ratio: samples of a position along each axis.

    >>> pool = MultiScaleRoIAlign({"0": 4, "1": 8}, 7)
    >>> features = {"0": torch.zeros(1, 3, 64, 64), "1": torch.zeros(1, 3, 32, 32)}
    >>> pool(features, [torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 200.0, 200.0]])]).shape
    torch.Size([2, 3, 7, 7])
    """

    def __init__(self, strides: Mapping[str, int], output_size: int, sampling_ratio: int = 2) -> None:
        super().__init__()
        self.strides = dict(strides)
        self.output_size = output_size
        self.sampling_ratio = sampling_ratio

    def forward(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The regions of all images, one image's after the other's.

        Args:
            features: the levels (N, C, h, w) by name; those without a stride here are left out.
            boxes: for each image (R_i, 4), in pixels of the batch.
        """
        images = torch.cat([each.new_full((len(each), 1), index) for index, each in enumerate(boxes)])
        return self.regions(features, torch.cat([images, torch.cat(list(boxes))], 1))

    def regions(self, features: Mapping[str, Tensor], regions: Tensor) -> Tensor:
        """The same for regions (R, 5), each the number of an image and a box."""
        levels = self.levels(regions[:, 1:])
        places = [(levels == level).nonzero().flatten() for level in range(len(self.strides))]
        pooled = [
            ops.roi_align(features[name], regions[place], self.output_size, 1 / stride, self.sampling_ratio)
            for (name, stride), place in zip(self.strides.items(), places, strict=True)
        ]
        return torch.cat(pooled)[torch.cat(places).argsort()]

    def levels(self, boxes: Tensor) -> Tensor:
        """For each box (R, 4) the index of its level, int64 (R,)."""
        exponents = [round(math.log2(stride)) for stride in self.strides.values()]
        side = ops.box_area(boxes).sqrt()
        # The small number keeps a box of exactly 224 pixels on its level despite rounding.
        level = (CANONICAL_LEVEL + (side / CANONICAL_SIDE).log2() + 1e-6).floor()
        return level.clamp(exponents[0], exponents[-1]).long() - exponents[0]

    def extra_repr(self) -> str:
        return f"{self.strides}, output_size={self.output_size}, sampling_ratio={self.sampling_ratio}"
