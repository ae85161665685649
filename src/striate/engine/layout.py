"""Memory layouts: results lie in memory as their operands do, so that a network in channels_last stays in it."""

from __future__ import annotations

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(tensor: Tensor) -> bool:
    """Whether channels lie side by side in memory; where it makes no difference (maps of one pixel), no."""
    # Read off the strides, since some wrappers (batched tensors) don't answer is_contiguous(memory_format).
    return (
        tensor.dim() in _CHANNELS_LAST and tensor.stride(1) == 1 and tensor.shape[1] > 1 and not tensor.is_contiguous()
    )


def laid_out(tensor: Tensor, channels_last: bool) -> Tensor:
    """The tensor in a layout; itself, if it has that already."""
    if torch._C._are_functorch_transforms_active():
        return tensor  # batched tensors know no layouts
    if channels_last and tensor.dim() in _CHANNELS_LAST:
        return tensor.contiguous(memory_format=_CHANNELS_LAST[tensor.dim()])
    return tensor.contiguous()


def new_empty(like: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """Unwritten memory in a layout, of the dtype and device of ``like``."""
    if not channels_last or len(shape) not in _CHANNELS_LAST:
        return like.new_empty(shape)
    return like.new_empty(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor nobody else holds, with axes of length 1 put in or left out; not a view of it.

    What an autograd function returns must not be a view, or PyTorch refuses to let anybody change it in place.
    """
    if tensor.shape == shape:
        return tensor
    result: Tensor = torch.ops.aten._unsafe_view(tensor, shape)
    return result
