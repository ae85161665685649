"""Pooling: the maximum, the average or the p-norm over every window, with gradients derived here.

Max pooling sends each output's gradient to the one input that was the maximum (the first of equal ones). This is linear
in the gradient, and its own derivative reads the same positions. Average pooling is a fixed linear map A, so its
gradient is the transpose of A, and the gradient of the transpose is A. Both therefore have derivatives of every order.

The p-norm y = (sum of |x|^p)^(1/p) is a power, an average and a root, which gives

    dL/dx = x |x|^(p-2) * sum over the outputs that see x of  g * y^(1-p),         0 where all of a window is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from striate.engine import Pass, traced
from striate.engine.aten import AtenBackend
from striate.engine.layout import is_channels_last
from striate.errors import GeometryError, OperandError
from striate.geometry import Padding, PoolShape, per_axis
from striate.ops._autograd import is_constant
from striate.ops._calls import batched, overridable, prepared
from striate.ops._dispatch import Dispatch, Entry
from striate.ops._pools import Average, Maximum, Recorded, Way, largest

Ints: TypeAlias = int | Sequence[int]


_compiled = AtenBackend()
problem_of = prepared(PoolShape.of)
_dispatch = {
    "max": Dispatch(partial(problem_of, "max"), recorded=Pass.POSITIONS),
    "avg": Dispatch(partial(problem_of, "avg")),
}
_PYTORCHS: Final = {kind: {dims: getattr(F, f"{kind}_pool{dims}d") for dims in (1, 2, 3)} for kind in ("max", "avg")}


def _prepare(
    call: str,
    kind: Literal["max", "avg"],
    dims: int,
    input: Tensor,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    *how: Any,
) -> tuple[Tensor, bool, PoolShape]:
    whole, had_batch = batched(call, dims, input)
    if input.dtype == torch.bool or input.is_complex():
        raise OperandError(call, f"got an input of {input.dtype}", "needed real numbers")
    shape = problem_of(kind, whole.shape, kernel, stride, padding, dilation, *how)
    return whole, had_batch, shape


def _max_pool(
    dims: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    how = (kernel_size, stride, padding, dilation, ceil_mode)
    known = None if return_indices else _dispatch["max"].find(dims, (input,), how)
    if known is not None:
        if known.padding is not None:
            return _PYTORCHS["max"][dims](input, kernel_size, stride, known.padding, dilation, ceil_mode)
        return _values(input, cast(PoolShape, known.problem), known)
    call = f"max_pool{dims}d"
    whole, had_batch, shape = _prepare(call, "max", dims, input, kernel_size, stride, padding, dilation, ceil_mode)
    if traced(whole):
        values, indices = _compiled.maximum(shape, whole)
    elif not return_indices:
        values = _values(whole, shape)
        return values if had_batch else values.squeeze(0)
    else:
        values, indices = cast("tuple[Tensor, Tensor]", Maximum.of(whole, shape))
    if not had_batch:
        values, indices = values.squeeze(0), indices.squeeze(0)
    return (values, indices.long()) if return_indices else values


def _values(input: Tensor, shape: PoolShape, known: Entry | None = None) -> Tensor:
    """Max pooling for callers that don't need positions. Gradients do need them."""
    transformed = torch._C._are_functorch_transforms_active()
    if transformed or not is_constant(input):
        if known is None or transformed or forward_ad._current_level >= 0:
            return cast("tuple[Tensor, Tensor]", Maximum.of(input, shape))[0]
        recording = known.ready[1]
        if recording is None:
            recording = known.ready[1] = _recording(Way(shape, input))
        return cast(Tensor, recording(input))
    compute = None if known is None else known.ready[0]
    if compute is None:
        compute = largest(shape, input)
        if known is not None:
            known.ready[0] = compute
    return cast(Tensor, compute(input))


def _recording(way: Way) -> Callable[[Tensor], Tensor]:
    return lambda input: cast(Tensor, Recorded.apply(input, way))


def _avg_pool(
    dims: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    dilation: Any,
) -> Tensor:
    how = (ceil_mode, count_include_pad, divisor_override)
    known = _dispatch["avg"].find(dims, (input,), (kernel_size, stride, padding, dilation, *how))
    if known is not None:
        if known.padding is not None:
            return cast(Tensor, _PYTORCHS["avg"][dims](input, kernel_size, stride, known.padding, *how[:2]))
        return cast(Tensor, Average.of(input, known.problem, Pass.OUTPUT, known.channels_last))
    call = f"avg_pool{dims}d"
    whole, had_batch, shape = _prepare(call, "avg", dims, input, kernel_size, stride, padding, dilation, *how)
    if traced(whole):
        output = _compiled.average(shape, Pass.OUTPUT, whole)
    else:
        output = cast(Tensor, Average.of(whole, shape, Pass.OUTPUT, is_channels_last(whole)))
    return output if had_batch else output.squeeze(0)


def _lp_pool(
    dims: int,
    input: Tensor,
    norm_type: float,
    kernel_size: Any,
    stride: Any,
    ceil_mode: bool,
    padding: Any,
    dilation: Any,
) -> Tensor:
    call = f"lp_pool{dims}d"
    if not isinstance(norm_type, (int, float)) or not norm_type > 0:
        raise OperandError(call, f"got norm_type {norm_type}", "needed a number above 0, or inf")
    try:
        _prepare(call, "avg", dims, input, kernel_size, stride, padding, dilation, ceil_mode)
    except GeometryError as error:
        # The error comes from the average inside the norm; the message names the call.
        where = error.where.replace("avg_pool", "lp_pool")
        raise GeometryError(where, error.got, error.needed, error.remedy) from None
    if math.isinf(norm_type):
        return cast(Tensor, _max_pool(dims, input.abs(), kernel_size, stride, padding, dilation, ceil_mode, False))
    # Powers of narrow numbers overflow long before their root would.
    wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    powers = _magnitude_power(wide, norm_type)
    mean = _avg_pool(dims, powers, kernel_size, stride, padding, ceil_mode, True, None, dilation)
    power = mean * math.prod(per_axis(kernel_size, dims, "kernel", call))
    # The root has no slope at 0; a window of zeros gets a gradient of zero rather than NaN.
    some = power != 0
    norm = cast(Tensor, torch.where(some, power, 1).pow(1 / norm_type) * some)
    return norm.to(input.dtype) if input.is_floating_point() else norm


def _magnitude_power(input: Tensor, p: float) -> Tensor:
    """|x|^p, with derivatives of 0 where x is 0 and the true ones don't exist (p at or below 1; the second below 2)."""
    if p == 1:
        return input.abs()
    if p % 2 == 0:
        return input.pow(p)  # smooth, which |x| is not
    if p > 2:
        return input.abs().pow(p)
    some = input != 0
    return torch.where(some, input, 1).abs().pow(p) * some


@overridable
def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest value in every window. NaN is larger than all; of equals the first is taken, of NaNs the last.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size, dilation: one number, or one an axis.
        stride: the same; by default the kernel size, so that windows lie side by side.
        padding: as in :func:`striate.ops.conv2d`; padded cells are never the maximum.
        ceil_mode: round the output size up; the last window then hangs over the end.
        return_indices: also return each maximum's flat position in its (H, W) plane, int64.

    Returns:
        (N, C, H', W'), or that and the indices of the same shape.

    Raises:
        GeometryError: a window larger than the padded input, or one that lies wholly in the padding.
        OperandError: an input of another rank.

    Source: Goodfellow, Bengio & Courville, "Deep Learning" (2016), section 9.3.

    >>> image = torch.tensor([[[1.0, 5.0, 4.0], [9.0, 2.0, 1.0], [6.0, 3.0, 2.0]]])
    >>> max_pool2d(image, 2, stride=1)
    tensor([[[9., 5.],
             [9., 3.]]])

    Formula: F36, F41, W8, S20, S21.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@overridable
def max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """:func:`max_pool2d` along one axis: input (N, C, L) or (C, L)."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@overridable
def max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """:func:`max_pool2d` along three axes: input (N, C, D, H, W) or (C, D, H, W)."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@overridable
def avg_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Ints = 1,
) -> Tensor:
    """The mean of every window.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding, dilation, ceil_mode: as in :func:`max_pool2d`.
        count_include_pad: padded zeros count as cells. Cells beyond the padding never count.
        divisor_override: divide by this instead of by the number of cells.

    Returns:
        (N, C, H', W').

    Raises:
        GeometryError, OperandError: as :func:`max_pool2d`.

    Source: Goodfellow, Bengio & Courville, "Deep Learning" (2016), section 9.3; dilation as in ONNX's AveragePool.

    >>> image = torch.tensor([[[1.0, 5.0, 4.0], [9.0, 2.0, 1.0], [6.0, 3.0, 2.0]]])
    >>> avg_pool2d(image, 2, stride=1)
    tensor([[[4.2500, 3.0000],
             [5.0000, 2.0000]]])

    Formula: F37.
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dilation)


@overridable
def avg_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Ints = 1,
) -> Tensor:
    """:func:`avg_pool2d` along one axis: input (N, C, L) or (C, L)."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dilation)


@overridable
def avg_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Ints = 1,
) -> Tensor:
    """:func:`avg_pool2d` along three axes: input (N, C, D, H, W) or (C, D, H, W)."""
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dilation)


@overridable
def lp_pool2d(
    input: Tensor,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Ints = 1,
) -> Tensor:
    """The p-norm (sum of |x|^p)^(1/p) of every window; p = 1 sums magnitudes, p = inf takes the largest.

    The norm is of |x|, as in ONNX's LpPool. PyTorch keeps the sign, so that for odd p numbers of a window cancel, and a
    negative sum gives NaN. As in PyTorch, a window that extends beyond the end (``ceil_mode``) is scaled up as if it
    were whole.

    Args:
        input: (N, C, H, W) or (C, H, W).
        norm_type: p, above 0.
        kernel_size, stride, ceil_mode, padding, dilation: as in :func:`max_pool2d`.

    Returns:
        (N, C, H', W').

    Raises:
        GeometryError, OperandError: as :func:`max_pool2d`.

    Source: Gulcehre et al., "Learned-norm pooling for deep feedforward and recurrent neural networks" (2014), eq. 2.

    >>> lp_pool2d(torch.tensor([[[3.0, -4.0]]]), 2, (1, 2))
    tensor([[[5.]]])
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode, padding, dilation)


@overridable
def lp_pool1d(
    input: Tensor,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Ints = 1,
) -> Tensor:
    """:func:`lp_pool2d` along one axis: input (N, C, L) or (C, L)."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode, padding, dilation)


@overridable
def lp_pool3d(
    input: Tensor,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Ints = 1,
) -> Tensor:
    """:func:`lp_pool2d` along three axes: input (N, C, D, H, W) or (C, D, H, W)."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode, padding, dilation)
