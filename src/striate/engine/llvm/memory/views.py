"""Converts tensors and windows to the form that kernels take: planes of rows, for problems of one and two axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from striate.engine.llvm.memory.relayout import moved
from striate.engine.llvm.memory.rows import Axis
from striate.geometry import Problem


@dataclass(frozen=True)
class Strides:
    """Where a kernel writes images in channels last, in numbers; the channels of a position are adjacent.

    Args:
        image: from an image to the next one.
        row: from a row to the next one.
        column: from a column to the next one.
        start: from the buffer's first number to the first one that is written.
    """

    image: int
    row: int
    column: int
    start: int = 0

    @classmethod
    def dense(cls, size: tuple[int, int], channels: int) -> Strides:
        """Images without gaps."""
        return cls(size[0] * size[1] * channels, size[1] * channels, channels)

    @property
    def arguments(self) -> dict[str, int]:
        """A kernel's arguments for its result ``y``."""
        return {"y_start": self.start, "y_image": self.image, "y_row": self.row, "y_column": self.column}


@lru_cache(maxsize=4096)
def axes(shape: Problem) -> tuple[Axis, Axis]:
    """The row and column axes of a problem; in 1-D, the rows are those of a plane of height 1."""
    made = [Axis(1, 1, 0, 1)] + [
        Axis(window.kernel, window.stride, before, window.dilation)
        for window, (before, _) in zip(shape.windows, shape.pads, strict=True)
    ]
    return made[-2], made[-1]


def plane_size(size: tuple[int, ...]) -> tuple[int, int]:
    return (1, *size)[-2], size[-1]


def plane(tensor: Tensor) -> Tensor:
    """A tensor as (N, C, H, W); in 1-D, H is 1."""
    return tensor.unsqueeze(2) if tensor.dim() == 3 else tensor


def planes(tensor: Tensor) -> Tensor:
    """A tensor as (N, C, H, W) with contiguous rows, copied if necessary."""
    flat = plane(tensor)
    if flat.stride(3) == 1 or flat.shape[3] == 1:
        return flat
    made = moved(flat, False)
    return flat.contiguous() if made is None else made


def map_sizes(size: tuple[int, int], outputs: tuple[int, int]) -> dict[str, int]:
    """A kernel's arguments for the rows and columns of the operand and of the result."""
    (height, width), (out_height, out_width) = size, outputs
    return {"height": height, "width": width, "out_height": out_height, "out_width": out_width}


def row_strides(name: str, strides: Sequence[int]) -> dict[str, int]:
    """A kernel's arguments for an operand in channels last with dense rows, from the strides of (N, C, H, W)."""
    image, _, row, _ = strides
    return {f"{name}_image": image, f"{name}_row": row}


def plane_strides(name: str, strides: Sequence[int]) -> dict[str, int]:
    """A kernel's arguments for an operand in planes with dense rows, from the strides of (N, C, H, W)."""
    return {**row_strides(name, strides), f"{name}_channel": strides[1]}


def rounded(number: int, step: int) -> int:
    return -(-number // step) * step
