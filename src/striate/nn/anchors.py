"""Anchors: boxes of a few sizes and shapes at every position of every feature map, which a detector moves to objects.

Source: Ren et al., "Faster R-CNN" (2015), section 3.1.1; one size a level of a pyramid: Lin et al., "Feature pyramid
networks for object detection" (2017), section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from striate.errors import ModelError


@dataclass(frozen=True)
class AnchorGenerator:
    """The anchors of every level, in pixels of the batch of images.

    An anchor of size s and ratio r is s / sqrt(r) wide and s * sqrt(r) high. The anchors of a position lie around
    (column * stride, row * stride), with whole numbers of pixels to each side, ratio by ratio and within a ratio size
    by size. A level's stride is the images' size divided by the map's, rounded down.

    Args:
        sizes: for each level its sizes, pixels.
        ratios: height / width, the same for all levels.

    >>> generator = AnchorGenerator(((32,), (64,)), (0.5, 1.0, 2.0))
    >>> [len(level) for level in generator((64, 96), [torch.zeros(1, 1, 16, 24), torch.zeros(1, 1, 8, 12)])]
    [1152, 288]
    >>> generator.cells(0)[1].tolist()
    [-16.0, -16.0, 16.0, 16.0]
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    @property
    def per_position(self) -> tuple[int, ...]:
        """The number of anchors at a position, for each level."""
        return tuple(len(sizes) * len(self.ratios) for sizes in self.sizes)

    def cells(self, level: int) -> Tensor:
        """The anchors (A, 4) of a level around the origin, float32."""
        sizes, roots = torch.tensor(self.sizes[level]), torch.tensor(self.ratios).sqrt()
        widths, heights = (1 / roots)[:, None] * sizes, roots[:, None] * sizes
        half = torch.stack([widths.flatten(), heights.flatten()], 1) / 2
        return torch.cat([-half, half], 1).round()

    def __call__(self, image_size: tuple[int, int], maps: Sequence[Tensor]) -> list[Tensor]:
        """For each level its anchors (h * w * A, 4), row by row.

        Args:
            image_size: (H, W) of the batch, padding included.
            maps: one (N, C, h, w) a level; the anchors are of their dtype and on their device.

        Raises:
            ModelError: as many levels as ``sizes`` are needed.
        """
        if len(maps) != len(self.sizes):
            raise ModelError(
                "anchors", f"got {len(maps)} feature maps", f"needed {len(self.sizes)}, one for each level"
            )
        return [self._level(level, image_size, maps[level]) for level in range(len(maps))]

    def _level(self, level: int, image_size: tuple[int, int], features: Tensor) -> Tensor:
        rows, columns = features.shape[-2:]
        down, right = image_size[0] // rows, image_size[1] // columns
        y, x = torch.meshgrid(
            torch.arange(rows, device=features.device) * down,
            torch.arange(columns, device=features.device) * right,
            indexing="ij",
        )
        centres = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
        return (centres + self.cells(level).to(features)).reshape(-1, 4)
