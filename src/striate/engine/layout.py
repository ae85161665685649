"""Memory layouts: results have the layout of their operands, so a network in channels last stays in channels last."""

from __future__ import annotations

import math
import mmap
from functools import lru_cache

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a tensor is in channels last: channels adjacent in memory, the other axes in order, with or without gaps.

    For such operands PyTorch returns results in channels last. False where both layouts are the same (maps of one
    pixel, images of one channel).
    """
    # Computed from the strides, because batched tensors don't support is_contiguous(memory_format).
    if tensor.dim() not in _CHANNELS_LAST or tensor.stride(1) != 1 or tensor.shape[1] == 1 or tensor.is_contiguous():
        return False
    shape, strides = tensor.shape, tensor.stride()
    least = shape[1]
    for axis in (*range(len(shape) - 1, 1, -1), 0):
        if shape[axis] > 1:
            if strides[axis] < least:
                return False
            least = strides[axis] * shape[axis]
    return True


def laid_out(tensor: Tensor, channels_last: bool) -> Tensor:
    """The tensor in a layout; the tensor itself if it has that layout already."""
    if torch._C._are_functorch_transforms_active() or not torch._C._has_storage(tensor):
        return tensor  # batched tensors have no layout
    if channels_last and tensor.dim() in _CHANNELS_LAST:
        return tensor.contiguous(memory_format=_CHANNELS_LAST[tensor.dim()])
    return tensor.contiguous()


def new_empty(like: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """An uninitialised tensor in a layout, with the dtype and device of ``like``."""
    if not channels_last or len(shape) not in _CHANNELS_LAST:
        return like.new_empty(shape)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=_CHANNELS_LAST[len(shape)])


#: The mapping of pages behind the phantoms of each dtype.
_phantoms: dict[torch.dtype, Tensor] = {}
#: Where the system supports it, the mapping reserves no memory for pages that are never touched.
_PAGES: dict[str, int] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_NORESERVE} if hasattr(mmap, "MAP_NORESERVE") else {}
)


def phantom(like: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """A tensor without memory, for PyTorch kernels that take an operand only for its shape and layout.

    All phantoms of a dtype are views of one mapping of pages that is never touched. Allocating memory would cost up to
    a third of a gradient kernel's time, because the result would then not get the block that was used last.
    """
    found = _phantom(like.dtype, shape, channels_last) if like.is_cpu else None
    return new_empty(like, shape, channels_last) if found is None else found


@lru_cache(maxsize=4096)
def _phantom(dtype: torch.dtype, shape: tuple[int, ...], channels_last: bool) -> Tensor | None:
    count, strides = _extent(shape, channels_last)
    known = _phantoms.get(dtype)
    if known is None or known.numel() < count:
        try:
            pages = mmap.mmap(-1, max(2 * count * dtype.itemsize, 1 << 26), **_PAGES)
            known = _phantoms[dtype] = torch.frombuffer(pages, dtype=dtype)
        except (OSError, ValueError, OverflowError):
            return None  # no address space left
    return known.as_strided(shape, strides)


@lru_cache(maxsize=4096)
def _extent(shape: tuple[int, ...], channels_last: bool) -> tuple[int, tuple[int, ...]]:
    """The number of elements, and the strides."""
    last = channels_last and len(shape) in _CHANNELS_LAST
    order = (shape[0], *shape[2:], shape[1]) if last else shape
    strides = [1]
    for length in order[:0:-1]:
        strides.insert(0, strides[0] * max(length, 1))
    if last:
        strides = [strides[0], strides[-1], *strides[1:-1]]
    return math.prod(shape), tuple(strides)


def reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Inserts or removes axes of length 1 in a tensor that has no other reference; the result isn't a view.

    If an autograd function returned a view, PyTorch would refuse in-place operations on it.
    """
    if tensor.shape == shape:
        return tensor
    result: Tensor = torch.ops.aten._unsafe_view(tensor, shape)
    return result
