"""What the public operations share before they compute: ranks, unbatched inputs, dtypes under autocast."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from striate.errors import OperandError
from striate.geometry import AXES, ConvShape, PoolShape

_Shape = TypeVar("_Shape", ConvShape, PoolShape)


def layout(dims: int, unbatched: bool = False) -> str:
    """``(N, C, H, W)``."""
    return f"({'' if unbatched else 'N, '}C, {', '.join(AXES[dims])})"


def batched(call: str, dims: int, input: Tensor) -> tuple[Tensor, bool]:
    """The input with a batch axis, and whether it came with one."""
    rank = input.dim()
    if rank == dims + 2:
        return input, True
    if rank == dims + 1:
        return input.unsqueeze(0), False
    raise OperandError(
        call,
        f"got an input of shape {tuple(input.shape)}",
        f"needed {layout(dims)} or unbatched {layout(dims, unbatched=True)}",
    )


def check_weight(call: str, dims: int, input: Tensor, weight: Tensor, bias: Tensor | None, channels: int) -> None:
    """A weight of the right rank, of the input's dtype and device, and a bias with a number for each channel."""
    if weight.dim() != dims + 2:
        kernel = ", ".join("k" + axis for axis in AXES[dims])
        raise OperandError(call, f"got a weight of shape {tuple(weight.shape)}", f"needed (C, C, {kernel})")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and (tensor.dtype, tensor.device) != (input.dtype, input.device):
            raise OperandError(
                call,
                f"got an input of {input.dtype} on {input.device} and a {name} of {tensor.dtype} on {tensor.device}",
                "needed one dtype and one device",
                f"convert one of them: {name}.to(input)",
            )
    if bias is not None and bias.shape != (channels,):
        raise OperandError(call, f"got a bias of shape {tuple(bias.shape)}", f"needed ({channels},)")


def autocast(input: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """The operands in autocast's dtype where autocast is on, as PyTorch does for its own convolutions."""
    device = input.device.type
    if (
        device == "meta"
        or not torch.is_autocast_enabled(device)
        or not input.dtype.is_floating_point
        or input.dtype == torch.float64
    ):
        return (input, *others)
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor if tensor is None else tensor.to(dtype) for tensor in (input, *others))


def fold(count: int, dim: int | None, tensor: Tensor, into: int = 0) -> Tensor:
    """A vmapped tensor with its ``count`` samples (at ``dim``; None: the same for all) folded into axis ``into``."""
    each = tensor.expand(count, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return each.movedim(0, into).flatten(into, into + 1)


def unfold(info: Any, tensor: Tensor) -> Tensor:
    """What was computed of samples folded into the first axis, with an axis of its own for them at the front."""
    return tensor.reshape(info.batch_size, tensor.shape[0] // info.batch_size, *tensor.shape[1:])


def prepared(make: Callable[..., _Shape]) -> Callable[..., _Shape]:
    """``make``, remembering what it made: arguments are parsed and checked once for every problem."""
    cached = lru_cache(maxsize=4096, typed=True)(make)

    def problem(*arguments: Any) -> _Shape:
        if torch.compiler.is_compiling():
            # Traced once anyway, and sizes may be symbols there, which a cache can't look up.
            return make(*arguments)
        return cached(*(_frozen(argument) for argument in arguments))

    return problem


def _frozen(value: Any) -> Any:
    """Lists as tuples all the way down, so that arguments can be looked up in a cache."""
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value
