"""The memory layout of a plan's tensors: a buffer, and strides, which a tensor without memory describes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from striate.acceleration.plans.capture import Refusal
from striate.engine.llvm.codegen.program import Buffer


@dataclass(frozen=True)
class Placement:
    """A tensor of a plan: its buffer, and a tensor without memory that has its shape and strides."""

    buffer: Buffer
    meta: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.meta.shape)


def is_nhwc(meta: Tensor) -> bool:
    if meta.dim() != 4 or meta.storage_offset():
        return False
    _, channels, height, width = meta.shape
    return _like(meta, (height * width * channels, 1, width * channels, channels))


def _like(meta: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether a tensor has these strides on all axes longer than 1."""
    return all(size == 1 or one == other for size, one, other in zip(meta.shape, meta.stride(), stride, strict=True))


def along(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors that begin at the start of their buffers have the same layout."""
    if one.storage_offset() or other.storage_offset():
        return False
    return one.shape == other.shape and _like(one, other.stride())


def is_dense(place: Placement) -> bool:
    """Whether a tensor fills its buffer without gaps, in any order of axes."""
    expected = 1
    for stride, size in sorted(zip(place.meta.stride(), place.meta.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return place.meta.storage_offset() == 0 and expected == place.buffer.numbers


def innermost(meta: Tensor) -> int:
    """The length of the innermost axis in memory."""
    return next((size for size, stride in zip(meta.shape, meta.stride(), strict=True) if stride == 1 and size > 1), 1)


def innermost_axes(meta: Tensor) -> tuple[int, ...]:
    """The number of axes, the length of the innermost one, and the axes with stride 1."""
    inner = (axis for axis in range(meta.dim()) if meta.stride(axis) == 1 and meta.shape[axis] > 1)
    return (meta.dim(), innermost(meta), *inner)


def of_channels(numbers: Tensor, meta: Tensor) -> Tensor:
    """One number for each index of the innermost axis, from a tensor that is broadcast over all other axes."""
    _, _, *inner = innermost_axes(meta)
    aligned = numbers.reshape(*[1] * (meta.dim() - numbers.dim()), *numbers.shape)
    if any(size > 1 and axis not in inner for axis, size in enumerate(aligned.shape)):
        raise Refusal("a tensor of the model's own with a number for each position")
    return aligned.reshape(-1).expand(innermost(meta))


def stretched(small: Tensor, large: Tensor) -> bool:
    """Whether ``small`` has one number for each channel of each image of ``large``."""
    if (
        small.storage_offset()
        or small.dim() != large.dim()
        or small.shape[0] != large.shape[0]
        or not small.is_contiguous()
    ):
        return False
    inner = [axis for axis in range(1, large.dim()) if large.stride(axis) == 1 and large.shape[axis] > 1]
    fits = all(small.shape[axis] == (large.shape[axis] if axis in inner else 1) for axis in range(1, large.dim()))
    return fits and large.stride(0) >= max(large.stride())
