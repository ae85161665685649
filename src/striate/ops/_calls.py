"""What the public operations share before they compute: ranks, unbatched inputs, dtypes under autocast."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable
from functools import lru_cache, wraps
from types import NoneType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from striate.errors import OperandError
from striate.geometry import AXES, ConvShape, PoolShape

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Shape = TypeVar("_Shape", ConvShape, PoolShape)


def layout(dims: int, unbatched: bool = False) -> str:
    """``(N, C, H, W)``."""
    return f"({'' if unbatched else 'N, '}C, {', '.join(AXES[dims])})"


def check_tensor(call: str, name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise OperandError(call, f"got {type(value).__name__} as {name}", "needed a tensor")


def batched(call: str, dims: int, input: Tensor) -> tuple[Tensor, bool]:
    """The input with a batch axis, and whether it came with one."""
    check_tensor(call, "input", input)
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


def check_weight(
    call: str, dims: int, input: Tensor, weight: Tensor, bias: Tensor | None, transposed_groups: int | None = None
) -> None:
    """A weight of the right rank, of the input's dtype and device, and a bias with a number for each channel."""
    check_tensor(call, "weight", weight)
    if weight.dim() != dims + 2:
        kernel = ", ".join("k" + axis for axis in AXES[dims])
        raise OperandError(call, f"got a weight of shape {tuple(weight.shape)}", f"needed (C, C, {kernel})")
    if weight.dtype != input.dtype or weight.device != input.device:
        raise _unlike(call, input, "weight", weight)
    if bias is None:
        return
    check_tensor(call, "bias", bias)
    if bias.dtype != input.dtype or bias.device != input.device:
        raise _unlike(call, input, "bias", bias)
    channels = weight.shape[0] if transposed_groups is None else weight.shape[1] * transposed_groups
    if bias.shape != (channels,):
        raise OperandError(call, f"got a bias of shape {tuple(bias.shape)}", f"needed ({channels},)")


def _unlike(call: str, input: Tensor, name: str, tensor: Tensor) -> OperandError:
    return OperandError(
        call,
        f"got an input of {input.dtype} on {input.device} and a {name} of {tensor.dtype} on {tensor.device}",
        "needed one dtype and one device",
        f"convert one of them: {name}.to(input)",
    )


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on where the tensor is."""
    device = tensor.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def autocast(input: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """The operands in autocast's dtype where autocast is on, as PyTorch does for its own convolutions."""
    if not isinstance(input, Tensor) or not autocasts(input):
        return (input, *others)
    dtype = torch.get_autocast_dtype(input.device.type)
    return tuple(
        tensor.to(dtype)
        if tensor is not None and tensor.dtype.is_floating_point and tensor.dtype != torch.float64
        else tensor
        for tensor in (input, *others)
    )


def fold(count: int, dim: int | None, tensor: Tensor, into: int = 0) -> Tensor:
    """A vmapped tensor with its ``count`` samples (at ``dim``; None: the same for all) folded into axis ``into``."""
    each = tensor.expand(count, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return each.movedim(0, into).flatten(into, into + 1)


def unfold(info: Any, tensor: Tensor) -> Tensor:
    """A result whose first axis holds folded samples, with the samples back on an axis of their own at the front."""
    return tensor.reshape(info.batch_size, tensor.shape[0] // info.batch_size, *tensor.shape[1:])


def prepared(make: Callable[..., _Shape]) -> Callable[..., _Shape]:
    """``make`` with a cache: arguments are parsed and checked once for every problem.

    The first two arguments are looked up by value. The others are looked up by identity first, which takes a fifth of
    the time, then by value. Arguments in the cache by identity are immutable, and are kept alive so that no other
    object gets their identity.
    """
    by_value = lru_cache(maxsize=4096, typed=True)(make)
    by_identity: dict[tuple[Any, ...], tuple[_Shape, tuple[Any, ...]]] = {}

    def problem(first: Any, second: Any, *others: Any) -> _Shape:
        if torch.compiler.is_compiling():
            return make(first, second, *others)  # traced once anyway
        key = (first, second, *map(id, others))
        try:
            return by_identity[key][0]
        except KeyError:
            pass
        except TypeError:  # symbolic sizes can't be looked up
            return make(first, second, *others)
        try:
            frozen = [_frozen(argument) for argument in (first, second, *others)]
        except _UnfitError:
            return make(first, second, *others)
        made = by_value(*frozen)
        if all(unchanging(argument) for argument in others):
            if len(by_identity) >= 4096:
                by_identity.clear()
            by_identity[key] = made, others
        return made

    return problem


def unchanging(value: Any) -> bool:
    """Whether a value is immutable, with everything that it contains."""
    return type(value) in (int, str, bool, NoneType) or (type(value) is tuple and all(map(unchanging, value)))


def settled(settings: Any) -> Any:
    """A snapshot of settings, with lists as tuples."""
    try:
        hash(settings)
    except TypeError:
        return tuple(settled(tuple(each)) if isinstance(each, (list, tuple)) else each for each in settings)
    return settings


class _UnfitError(Exception):
    """An argument that can't be looked up: a symbolic size while tracing, or a mistake."""


def _frozen(value: Any) -> Any:
    """Lists as tuples and integers of any type as int, in nested values too: equal keys mean equal problems."""
    kind = type(value)
    if kind is int or value is None or kind is bool or kind is str:
        return value
    if isinstance(value, (list, tuple)):
        for item in value:
            if type(item) is not int:
                return tuple([_frozen(item) for item in value])
        return tuple(value)
    if isinstance(value, (numbers.Integral, Tensor)):
        try:
            return operator.index(value)
        except TypeError:
            raise _UnfitError from None
    raise _UnfitError


def overridable(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Makes a public operation that tensor subclasses and function modes may override, like PyTorch's own functions.

    ``torch.fx.symbolic_trace`` records calls in this way, and results keep the type of a tensor subclass.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        operands = (*args, *kwargs.values())
        if has_torch_function(operands):
            return handle_torch_function(call, operands, *args, **kwargs)
        return function(*args, **kwargs)

    return call
