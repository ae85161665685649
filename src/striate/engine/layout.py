"""Memory layouts: results lie in memory as their operands do, so that a network in channels_last stays in it."""

from __future__ import annotations

import math
import mmap
from functools import lru_cache

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(tensor: Tensor) -> bool:
    """Whether channels lie side by side in memory and the other axes in their order, gaps between them or not.

    PyTorch's results are in channels_last for such operands. Where it makes no difference (maps of one pixel, images of
    one channel): no.
    """
    # Read off the strides, since some wrappers (batched tensors) don't answer is_contiguous(memory_format).
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
    """The tensor in a layout; itself, if it has that already."""
    if torch._C._are_functorch_transforms_active() or not torch._C._has_storage(tensor):
        return tensor  # batched tensors know no layouts
    if channels_last and tensor.dim() in _CHANNELS_LAST:
        return tensor.contiguous(memory_format=_CHANNELS_LAST[tensor.dim()])
    return tensor.contiguous()


def new_empty(like: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """Unwritten memory in a layout, of the dtype and device of ``like``."""
    if not channels_last or len(shape) not in _CHANNELS_LAST:
        return like.new_empty(shape)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=_CHANNELS_LAST[len(shape)])


#: A mapping of pages for each dtype that was asked for.
_phantoms: dict[torch.dtype, Tensor] = {}
#: Where it can be said, no memory is set aside for pages that nobody touches.
_PAGES: dict[str, int] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_NORESERVE} if hasattr(mmap, "MAP_NORESERVE") else {}
)


def phantom(like: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """A tensor for kernels that ask for one and look at its shape and layout only: it takes no memory.

    All of a dtype lie over one mapping of pages that nobody touches. Fresh memory instead costs up to a third of a
    gradient kernel's time: it pushes the result out of the memory that was used last.
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
            return None  # address space is scarce here
    return known.as_strided(shape, strides)


@lru_cache(maxsize=4096)
def _extent(shape: tuple[int, ...], channels_last: bool) -> tuple[int, tuple[int, ...]]:
    """How many numbers there are, and the strides."""
    last = channels_last and len(shape) in _CHANNELS_LAST
    order = (shape[0], *shape[2:], shape[1]) if last else shape
    strides = [1]
    for length in order[:0:-1]:
        strides.insert(0, strides[0] * max(length, 1))
    if last:
        strides = [strides[0], strides[-1], *strides[1:-1]]
    return math.prod(shape), tuple(strides)


def reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor nobody else holds, with axes of length 1 put in or left out; not a view of it.

    What an autograd function returns must not be a view, or PyTorch refuses to let anybody change it in place.
    """
    if tensor.shape == shape:
        return tensor
    result: Tensor = torch.ops.aten._unsafe_view(tensor, shape)
    return result
