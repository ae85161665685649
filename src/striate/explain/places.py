"""Spatial positions of a layer's output on the image: maps, maps with channels last, grids of tokens."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

#: Class, distillation and register tokens that may stand before those of the grid.
_EXTRA: Final = 16


@dataclass(frozen=True)
class Grid:
    """How to arrange an output as maps.

    Args:
        size: (h, w), rows and columns of places.
        channels: at each place.
        form: ``"map"`` (N, C, h, w), ``"channels last"`` (N, h, w, C) or ``"tokens"`` (N, extra + h * w, C).
        extra: tokens without a place (class, registers), in front.

    >>> import torch
    >>> grid = grid_of((1, 197, 768), (224, 224))
    >>> grid.size, grid.extra, grid.maps(torch.zeros(1, 197, 768)).shape
    ((14, 14), 1, torch.Size([1, 768, 14, 14]))
    """

    size: tuple[int, int]
    channels: int
    form: Literal["map", "channels last", "tokens"]
    extra: int = 0

    def maps(self, output: Tensor) -> Tensor:
        """The output as (N, C, h, w)."""
        if self.form == "map":
            return output
        if self.form == "channels last":
            return output.permute(0, 3, 1, 2)
        return output[:, self.extra :].transpose(1, 2).reshape(len(output), -1, *self.size)


def grid_of(
    shape: tuple[int, ...], image_size: tuple[int, int], known: Collection[tuple[int, ...]] = ()
) -> Grid | None:
    """How an output of a shape lies on images of a size (H, W); None if it has no places, or only one.

    If an output has four dimensions, its last two are spatial, unless only the middle two have the image's proportions.
    A sequence is arranged as the largest grid with a size in ``known`` (sizes of maps elsewhere in the network, such as
    the convolution that cuts patches), else as a grid with the image's proportions, with at most 16 tokens before it.
    """
    if len(shape) == 4:
        channels_last = alike(shape[1:3], image_size) and not alike(shape[2:], image_size)
        height, width = shape[1:3] if channels_last else shape[2:]
        if height * width > 1:
            form: Literal["map", "channels last"] = "channels last" if channels_last else "map"
            return Grid((height, width), shape[3 if channels_last else 1], form)
    if len(shape) == 3:
        proportional = [(h, h * image_size[1] // image_size[0]) for h in range(1, image_size[0] + 1)]
        exact = [size for size in proportional if size[0] * image_size[1] == size[1] * image_size[0]]
        for sizes in ([(h, w) for h, w in known], exact):
            fitting = [(h, w) for h, w in sizes if 1 < h * w <= shape[1] <= min(h * w + _EXTRA, 2 * h * w)]
            if fitting:
                size = max(fitting, key=lambda each: each[0] * each[1])
                return Grid(size, shape[2], "tokens", shape[1] - size[0] * size[1])
    return None


def alike(size: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """Whether places may lie on an image: at one stride along both axes, up to what windows without padding cut off.

    They cut off as many places along either axis, here at most half of the shorter one's. One place more or less along
    an axis is rounding.
    """
    (height, width), (rows, columns) = size, image_size
    if height > rows or width > columns or min(size) < 1:
        return False
    # The sides differ by as much as the image's, in steps of the stride: which strides does that leave?
    apart, whole = height - width, rows - columns
    if abs(apart) > 1 and apart * whole <= 0:
        return False
    cut = min(rows, columns) / 2
    least = max(1, abs(whole) / (abs(apart) + 1), (rows - cut) / height, (columns - cut) / width)
    most = min(
        abs(whole) / (abs(apart) - 1) if abs(apart) > 1 else math.inf,
        *(length / (places - 1) if places > 1 else math.inf for places, length in zip(size, image_size, strict=True)),
    )
    return least <= most
