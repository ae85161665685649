"""Pooling of whole maps: global pooling, and adaptive pooling to a wanted output size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias, cast

import torch
from torch import Tensor

from striate.engine import traced
from striate.engine.layout import is_channels_last, new_empty
from striate.errors import GeometryError, OperandError
from striate.geometry import per_axis, whole_number
from striate.ops._autograd import Differentiable, upstream_in
from striate.ops._calls import batched, check_tensor, fold, overridable, unfold
from striate.ops._pools import Collect, Spread, keep_positions
from striate.ops.pooling import avg_pool1d, avg_pool2d, avg_pool3d, max_pool1d, max_pool2d, max_pool3d

OutputSize: TypeAlias = int | Sequence[int | None] | None

_aten = torch.ops.aten
_AVERAGE: Final = {2: _aten._adaptive_avg_pool2d, 3: _aten._adaptive_avg_pool3d}
_AVERAGE_GRAD: Final = {2: _aten._adaptive_avg_pool2d_backward, 3: _aten._adaptive_avg_pool3d_backward}
_MAXIMUM: Final = {2: _aten.adaptive_max_pool2d, 3: _aten.adaptive_max_pool3d}
_AVG_POOL: Final = {1: avg_pool1d, 2: avg_pool2d, 3: avg_pool3d}
_MAX_POOL: Final = {1: max_pool1d, 2: max_pool2d, 3: max_pool3d}


@overridable
def global_avg_pool(input: Tensor) -> Tensor:
    """The mean of every channel: (N, C, ...) to (N, C, 1, ...). Each input gets 1 / (H * W) of the gradient.

    Source: Lin, Chen & Yan, "Network in network" (2014), section 3.2.

    >>> global_avg_pool(torch.arange(8.0).reshape(1, 2, 2, 2)).flatten()
    tensor([1.5000, 5.5000])

    Formula: F38.
    """
    dims = _dims("global_avg_pool", input)
    if traced(input):
        # An average over sizes that may still be symbolic.
        return input.mean(tuple(range(2, dims + 2)), keepdim=True)
    return _AVG_POOL[dims](input, tuple(input.shape[2:]))


@overridable
def global_max_pool(input: Tensor) -> Tensor:
    """The maximum of every channel: (N, C, ...) to (N, C, 1, ...). The first of equals gets the gradient.

    Source: Oquab et al., "Is object localization for free?" (2015), section 3.2.

    >>> global_max_pool(torch.arange(8.0).reshape(1, 2, 2, 2)).flatten()
    tensor([3., 7.])
    """
    dims = _dims("global_max_pool", input)
    if traced(input):
        return cast(Tensor, _ADAPTIVE_MAX[dims](input, 1))
    return cast(Tensor, _MAX_POOL[dims](input, tuple(input.shape[2:])))


def _dims(call: str, input: Tensor) -> int:
    check_tensor(call, "input", input)
    if 3 <= input.dim() <= 5:
        return input.dim() - 2
    raise OperandError(call, f"got an input of shape {tuple(input.shape)}", "needed (N, C, ...) with 1, 2 or 3 axes")


class _AdaptiveAverage(Differentiable):
    """Adaptive averages of (N, C, ...), or their transpose back to ``size``; each is the other's gradient."""

    @staticmethod
    def forward(
        operand: Tensor, size: tuple[int, ...], output_size: tuple[int, ...], transposed: bool, channels_last: bool
    ) -> Tensor:
        dims = len(size)
        if not transposed:
            return cast(Tensor, _AVERAGE[dims](operand, output_size))
        return cast(
            Tensor, _AVERAGE_GRAD[dims](operand, new_empty(operand, (*operand.shape[:2], *size), channels_last))
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *ctx.sizes, ctx.transposed, ctx.channels_last = inputs

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        upstream = upstream_in(ctx.channels_last, upstream)
        return _AdaptiveAverage.of(upstream, *ctx.sizes, not ctx.transposed, ctx.channels_last), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        return cast(Tensor, _AdaptiveAverage.of(tangents[0], *ctx.sizes, ctx.transposed, ctx.channels_last))

    @staticmethod
    def vmap(info: Any, in_dims: Any, operand: Tensor, *how: Any) -> tuple[Tensor, int]:
        return unfold(info, _AdaptiveAverage.of(fold(info.batch_size, in_dims[0], operand), *how)), 0


class _AdaptiveMaximum(Differentiable):
    """Adaptive maxima of (N, C, ...) and their positions."""

    @staticmethod
    def forward(input: Tensor, output_size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        return cast("tuple[Tensor, Tensor]", _MAXIMUM[len(output_size)](input, output_size))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.size = tuple(inputs[0].shape[2:])
        ctx.channels_last = is_channels_last(inputs[0])
        ctx.mark_non_differentiable(output[1])
        keep_positions(ctx, output[1], ctx.size)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        upstream = upstream_in(ctx.channels_last, upstream)
        return Spread.of(upstream, *ctx.saved_tensors, ctx.size, None, ctx.channels_last), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        return cast(Tensor, Collect.of(tangents[0], *ctx.saved_tensors, ctx.size, None, ctx.channels_last)), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, *how: Any) -> tuple[tuple[Tensor, Tensor], int]:
        values, indices = _AdaptiveMaximum.of(fold(info.batch_size, in_dims[0], input), *how)
        return (unfold(info, values), unfold(info, indices)), 0


def _adaptive(kind: str, dims: int, input: Tensor, output_size: OutputSize) -> tuple[Tensor, Tensor | None]:
    call = f"adaptive_{kind}_pool{dims}d"
    whole, had_batch = batched(call, dims, input)
    if not input.dtype.is_floating_point:
        raise OperandError(call, f"got an input of {input.dtype}", "needed floating-point numbers")
    size = tuple(whole.shape[2:])
    wanted = tuple(
        n if m is None else m for m, n in zip(per_axis(output_size, dims, "output_size", call), size, strict=True)
    )
    wanted = tuple(n if isinstance(n, torch.SymInt) else whole_number(n, "output_size", 0, call) for n in wanted)
    if min(size) < 1 and whole.numel() == 0 and whole.shape[0] != 0:
        raise GeometryError(call, f"got input {size} and output_size {wanted}", "needed 1 or more positions each")
    # One row stands in for the missing axis of 1-D pooling.
    planes = whole.unsqueeze(2) if dims == 1 else whole
    target = (1, *wanted) if dims == 1 else wanted
    indices = None
    if kind == "avg":
        if traced(whole):
            output = cast(Tensor, _AVERAGE[len(target)](planes, target))
        else:
            output = cast(
                Tensor, _AdaptiveAverage.of(planes, tuple(planes.shape[2:]), target, False, is_channels_last(planes))
            )
    elif traced(whole):
        output, indices = cast("tuple[Tensor, Tensor]", _MAXIMUM[len(target)](planes, target))
    else:
        output, indices = cast("tuple[Tensor, Tensor]", _AdaptiveMaximum.of(planes, target))
    lead = whole.shape[:2] if had_batch else whole.shape[1:2]
    return output.reshape(*lead, *wanted), None if indices is None else indices.reshape(*lead, *wanted)


def _adaptive_max(dims: int, input: Tensor, output_size: OutputSize, return_indices: bool) -> Any:
    both = _adaptive("max", dims, input, output_size)
    return both if return_indices else both[0]


@overridable
def adaptive_avg_pool2d(input: Tensor, output_size: OutputSize) -> Tensor:
    """Averages over nearly equal windows, as many along each axis as ``output_size`` says.

    Output i of m averages the input positions floor(i * n / m) to ceil((i + 1) * n / m) - 1 of n, so windows overlap or
    differ by one where m doesn't divide n.

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: one number, or one an axis; None keeps that axis.

    Returns:
        (N, C, *output_size).

    Raises:
        GeometryError, OperandError: an impossible size, an input of another rank.

    Source: He et al., "Spatial pyramid pooling in deep convolutional networks" (2014), section 2.3.

    >>> adaptive_avg_pool2d(torch.arange(6.0).reshape(1, 2, 3), (1, 2))
    tensor([[[2., 3.]]])
    """
    return _adaptive("avg", 2, input, output_size)[0]


@overridable
def adaptive_avg_pool1d(input: Tensor, output_size: OutputSize) -> Tensor:
    """:func:`adaptive_avg_pool2d` along one axis: input (N, C, L) or (C, L)."""
    return _adaptive("avg", 1, input, output_size)[0]


@overridable
def adaptive_avg_pool3d(input: Tensor, output_size: OutputSize) -> Tensor:
    """:func:`adaptive_avg_pool2d` along three axes: input (N, C, D, H, W) or (C, D, H, W)."""
    return _adaptive("avg", 3, input, output_size)[0]


@overridable
def adaptive_max_pool2d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """Maxima over the windows of :func:`adaptive_avg_pool2d`; with their flat positions if ``return_indices``.

    >>> adaptive_max_pool2d(torch.arange(6.0).reshape(1, 2, 3), (1, 2))
    tensor([[[4., 5.]]])
    """
    return _adaptive_max(2, input, output_size, return_indices)


@overridable
def adaptive_max_pool1d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """:func:`adaptive_max_pool2d` along one axis: input (N, C, L) or (C, L)."""
    return _adaptive_max(1, input, output_size, return_indices)


@overridable
def adaptive_max_pool3d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """:func:`adaptive_max_pool2d` along three axes: input (N, C, D, H, W) or (C, D, H, W)."""
    return _adaptive_max(3, input, output_size, return_indices)


_ADAPTIVE_MAX: Final = {1: adaptive_max_pool1d, 2: adaptive_max_pool2d, 3: adaptive_max_pool3d}
