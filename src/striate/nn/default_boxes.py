"""Default boxes, which SSD moves to objects. Their sizes are fractions of the image's size.

Source: Liu et al., "SSD: Single shot multibox detector" (2016), section 2.2, "Choosing scales and aspect ratios for
default boxes".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from striate.errors import ModelError


def linear_scales(levels: int, smallest: float, largest: float) -> tuple[float, ...]:
    """The scale of each level, evenly from ``smallest`` to ``largest``, and 1 beyond the last level (equation 4).

    >>> [round(scale, 2) for scale in linear_scales(4, 0.2, 0.95)]
    [0.2, 0.45, 0.7, 0.95, 1.0]
    """
    step = (largest - smallest) / max(levels - 1, 1)
    return (*(smallest + step * level for level in range(levels)), 1.0)


@dataclass(frozen=True)
class DefaultBoxes:
    """The default boxes of every level, in pixels of the batch of images.

    A level of scale s, followed by one of scale t, has at each position squares of sides s and sqrt(s t), and for each
    aspect ratio r a box of s sqrt(r) by s / sqrt(r), lying and standing. Sides are fractions of the image's, at most 1.
    Boxes at the image's border extend beyond it.

    Args:
        ratios: for each level its aspect ratios above 1.
        scales: of each level, and of one that would follow the last.
        steps: for each level the pixels between positions; None for the image's side divided by the map's.

    Raises:
        ModelError: numbers of ratios, scales and steps that don't fit together.

    >>> boxes = DefaultBoxes(((2,), (2, 3)), (0.25, 0.5, 1.0))
    >>> [len(level) for level in boxes((64, 64), [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)])]
    [64, 24]
    >>> boxes((64, 64), [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)])[0][0].tolist()
    [0.0, 0.0, 16.0, 16.0]
    """

    ratios: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    steps: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        levels = len(self.ratios)
        if len(self.scales) != levels + 1 or (self.steps is not None and len(self.steps) != levels):
            steps = "" if self.steps is None else f" and {len(self.steps)} steps"
            raise ModelError(
                "default boxes",
                f"got {len(self.scales)} scales{steps} for {levels} levels",
                f"needed {levels + 1} scales, and a step for each level or none",
            )

    @property
    def per_position(self) -> tuple[int, ...]:
        """The number of boxes at a position, for each level."""
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)

    def sides(self, level: int) -> Tensor:
        """Width and height (B, 2) of a level's boxes at a position, shares of the image's, float32."""
        scale, following = self.scales[level : level + 2]
        between = math.sqrt(scale * following)
        pairs = [(scale, scale), (between, between)]
        for ratio in self.ratios[level]:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            pairs += [(long, short), (short, long)]
        return torch.tensor(pairs, dtype=torch.float32).clamp(max=1)

    def __call__(self, image_size: tuple[int, int], maps: Sequence[Tensor]) -> list[Tensor]:
        """For each level its boxes (h * w * B, 4), row by row.

        Args:
            image_size: (H, W) of the batch.
            maps: one (N, C, h, w) a level; the boxes are of their dtype and on their device.

        Raises:
            ModelError: as many levels as ``ratios`` are needed.
        """
        if len(maps) != len(self.ratios):
            raise ModelError(
                "default boxes", f"got {len(maps)} feature maps", f"needed {len(self.ratios)}, one for each level"
            )
        return [self._level(level, image_size, maps[level]) for level in range(len(maps))]

    def _level(self, level: int, image_size: tuple[int, int], features: Tensor) -> Tensor:
        rows, columns = features.shape[-2:]
        down, along = float(rows), float(columns)
        if self.steps is not None:
            down, along = (size / self.steps[level] for size in image_size)
        # Fractions in float32 and pixels in the maps' dtype: the same bits as in torchvision.
        y = (torch.arange(rows, dtype=torch.float32, device=features.device) + 0.5) / down
        x = (torch.arange(columns, dtype=torch.float32, device=features.device) + 0.5) / along
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 1, 2).to(features.dtype)
        half = 0.5 * self.sides(level).to(features)
        whole = torch.tensor(image_size[::-1], device=features.device)
        return (torch.cat([centres - half, centres + half], -1) * whole.repeat(2)).reshape(-1, 4)
