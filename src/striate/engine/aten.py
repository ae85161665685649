"""PyTorch's own kernels (oneDNN on CPUs, cuDNN on NVIDIA GPUs), and compositions of them for what they don't support.

PyTorch pads both sides of an axis alike, has no dilated average pooling, and limits the padding of pooling to half a
kernel. For other problems this backend pads the input or crops the result, or sums strided views tap by tap. No loop
runs over single pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.engine.backends import NO_STEPS, Backend, Pass, traced
from striate.engine.layout import new_empty, phantom, reshaped
from striate.geometry import ConvShape, PoolShape, Problem

_aten = torch.ops.aten
_MAX_POOL: Final = {2: _aten.max_pool2d_with_indices, 3: _aten.max_pool3d_with_indices}
_MAX_POOL_GRAD: Final = {2: _aten.max_pool2d_with_indices_backward, 3: _aten.max_pool3d_with_indices_backward}
_AVG_POOL: Final = {2: _aten.avg_pool2d, 3: _aten.avg_pool3d}
_AVG_POOL_GRAD: Final = {2: _aten.avg_pool2d_backward, 3: _aten.avg_pool3d_backward}
# The overload, so that PyTorch doesn't resolve it at every call.
_convolution_backward: Final = _aten.convolution_backward.default
_INPUT_ONLY: Final = [True, False, False]
_WEIGHT_ONLY: Final = [False, True, False]
#: The dtypes in which sums of half-precision numbers are accumulated.
_ACCUMULATE: Final = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


class AtenBackend(Backend):
    name = "aten"

    def refusal(self, problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> str | None:
        if open_ is Pass.PACKED:
            return NO_STEPS
        if dtype == torch.bool:
            return "PyTorch has no arithmetic on booleans"
        if dtype.is_complex:
            return "PyTorch's kernels take real numbers only"
        if dtype.is_floating_point or open_ in (Pass.OUTPUT, Pass.POSITIONS):
            return None
        if isinstance(problem, PoolShape) or open_ is Pass.WEIGHT_GRAD:
            return "PyTorch has no gradient kernels for integers"
        return None if dtype == torch.int64 else "of all integers, PyTorch transposes convolutions of int64 only"

    # ---------------------------------------------------------------- convolution

    def contract(
        self,
        shape: ConvShape,
        open_: Pass,
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        channels_last: bool = False,
    ) -> Tensor:
        symbolic = first._has_symbolic_sizes_strides or second._has_symbolic_sizes_strides
        call = _call(shape) if symbolic else _known_call(shape)
        if call.extra is not None and open_ is not Pass.INPUT_GRAD:
            first = _pad(first, call.extra)
        if open_ is Pass.OUTPUT:
            output: Tensor = torch.convolution(first, second, bias, *call.how)
            return output
        if open_ is Pass.INPUT_GRAD:
            grad = _input_grad(shape, call, first, second, channels_last)
            if call.extra is not None:
                grad = _pad(grad, [(-before, -after) for before, after in call.extra]).clone()
            return grad if bias is None else grad + bias.reshape(-1, *[1] * shape.dims)
        weight = (new_empty if traced(second) else phantom)(second, call.weight_shape, False)
        grads = _convolution_backward(second, first, weight, None, *call.how, _WEIGHT_ONLY)
        weight_grad: Tensor = grads[1]
        return weight_grad

    # ---------------------------------------------------------------- pooling

    def average(self, shape: PoolShape, open_: Pass, operand: Tensor, channels_last: bool = False) -> Tensor:
        kernel_exists = operand.dtype.is_floating_point or operand.dtype == torch.int64
        if not _pools(shape) or max(shape.dilation) > 1 or not kernel_exists:
            return _average_by_taps(shape, open_, operand, channels_last)
        flat, kernel, stride, padding, _ = _as_planes(shape, operand)
        how = (kernel, stride, padding, shape.ceil_mode, shape.count_include_pad, shape.divisor)
        if open_ is Pass.OUTPUT:
            output: Tensor = _AVG_POOL[len(kernel)](flat, *how)
            return reshaped(output, shape.output_shape)
        grad: Tensor = _AVG_POOL_GRAD[len(kernel)](flat, _empty_planes(shape, flat, channels_last), *how)
        return reshaped(grad, shape.input_shape)

    def largest(self, shape: PoolShape, input: Tensor) -> Tensor:
        if shape.dims > 1 or not _pools(shape):
            return self.maximum(shape, input)[0]
        # In 1-D PyTorch has a kernel without positions, which is much faster.
        return torch.max_pool1d(
            input, shape.kernel, shape.stride, [pad for pad, _ in shape.pads], shape.dilation, shape.ceil_mode
        )

    def maximum(self, shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
        if not _pools(shape):
            return _maximum_framed(shape, input)
        flat, kernel, stride, padding, dilation = _as_planes(shape, input)
        values, indices = _MAX_POOL[len(kernel)](flat, kernel, stride, padding, dilation, shape.ceil_mode)
        return reshaped(values, shape.output_shape), reshaped(indices, shape.output_shape)

    def maximum_grad(
        self, shape: PoolShape, indices: Tensor, grad_output: Tensor, channels_last: bool = False
    ) -> Tensor:
        if not _pools(shape):
            return spread(indices, grad_output, shape.size, channels_last)
        flat, kernel, stride, padding, dilation = _as_planes(shape, grad_output)
        how = (kernel, stride, padding, dilation, shape.ceil_mode, indices.long().reshape(flat.shape))
        grad: Tensor = _MAX_POOL_GRAD[len(kernel)](flat, _empty_planes(shape, flat, channels_last), *how)
        return reshaped(grad, shape.input_shape)


class _Call(NamedTuple):
    """The arguments of PyTorch's convolution for a problem."""

    how: tuple[Any, ...]  #: stride, symmetric padding, dilation, transposed, output_padding, groups
    extra: list[tuple[int, int]] | None  #: the asymmetric rest of the padding, which costs a copy; None if symmetric
    padded_shape: tuple[int, ...]  #: of the input with the extra padding
    weight_shape: tuple[int, ...]


def _call(shape: ConvShape) -> _Call:
    shared = [min(sides) for sides in shape.pads]
    extra = [(before - both, after - both) for (before, after), both in zip(shape.pads, shared, strict=True)]
    size = [n + before + after for n, (before, after) in zip(shape.size, extra, strict=True)]
    how = (shape.stride, shared, shape.dilation, False, [0] * shape.dims, shape.groups)
    uneven = any(map(any, extra))
    return _Call(how, extra if uneven else None, (*shape.input_shape[:2], *size), shape.weight_shape)


_known_call = lru_cache(maxsize=4096)(_call)


def _input_grad(shape: ConvShape, call: _Call, weight: Tensor, grad_output: Tensor, channels_last: bool) -> Tensor:
    """The gradient of the input with its extra padding."""
    if grad_output.dtype.is_floating_point and not traced(grad_output):
        # The kernel also takes the input, but only reads its shape and layout.
        input = phantom(grad_output, call.padded_shape, channels_last)
        grads = _convolution_backward(grad_output, input, weight, None, *call.how, _INPUT_ONLY)
        grad: Tensor = grads[0]
        return grad
    stride, padding, dilation, _, _, groups = call.how
    # Integers have no gradient kernels, and exporters don't support them; transposed convolution works for both.
    unreached = [
        n + 2 * cells - window.effective_kernel - (outputs - 1) * window.stride
        for n, cells, window, outputs in zip(
            call.padded_shape[2:], padding, shape.windows, shape.output_size, strict=True
        )
    ]
    return torch.convolution(grad_output, weight, None, stride, padding, dilation, True, unreached, groups)


def spread(indices: Tensor, grad_output: Tensor, size: tuple[int, ...], channels_last: bool) -> Tensor:
    """Scatters gradients: (N, C, *size), where each gradient is added at its flat index within its channel."""
    if not torch._C._has_storage(grad_output):
        # A batched gradient: the tensor that it is added to has to be batched as well.
        values = grad_output.reshape(*grad_output.shape[:2], -1)
        empty = values.new_zeros(*grad_output.shape[:2], math.prod(size))
        return empty.scatter_add(2, indices.reshape(values.shape).long(), values).reshape(*grad_output.shape[:2], *size)
    grad = new_empty(grad_output, (*grad_output.shape[:2], *size), channels_last).zero_()
    # Windows may overlap, so a position can occur several times and its gradients add up. In channels last, positions
    # come before channels.
    flat, positions, values = (
        tensor.movedim(1, -1).flatten(1, -2) if channels_last else tensor.flatten(2)
        for tensor in (grad, indices, grad_output)
    )
    flat.scatter_add_(1 if channels_last else 2, positions.long(), values)
    return grad


def _pad(tensor: Tensor, sides: list[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pads the spatial axes; negative sides crop."""
    if any(cells > 0 for pair in sides for cells in pair):
        tensor = F.pad(tensor, [max(cells, 0) for pair in reversed(sides) for cells in pair], value=value)
    for axis, (before, after) in enumerate(sides, start=2):
        if before < 0 or after < 0:
            start = max(-before, 0)
            tensor = tensor.narrow(axis, start, tensor.shape[axis] - start - max(-after, 0))
    return tensor


def _empty_planes(shape: PoolShape, flat: Tensor, channels_last: bool) -> Tensor:
    """A stand-in for the input, of which the gradient kernels read only the shape and layout."""
    row = [1] * (flat.dim() - 2 - shape.dims)
    wanted = (*flat.shape[:2], *row, *shape.size)
    return (new_empty if traced(flat) else phantom)(flat, wanted, channels_last)


def _pools(shape: PoolShape) -> bool:
    """Whether PyTorch's pooling supports this padding: the same on both sides, and half a kernel at most."""
    return all(
        before == after and before <= kernel // 2
        for (before, after), kernel in zip(shape.pads, shape.kernel, strict=True)
    )


def _as_planes(shape: PoolShape, tensor: Tensor) -> tuple[Tensor, list[int], list[int], list[int], list[int]]:
    """Maps 1-D pooling to 2-D pooling of one row; 2-D and 3-D are unchanged."""
    row = shape.dims == 1
    flat = tensor.unsqueeze(2) if row else tensor
    padding = [before for before, _ in shape.pads]
    lead = [1] if row else []
    return flat, lead + [*shape.kernel], lead + [*shape.stride], [0] * row + padding, lead + [*shape.dilation]


def _average_by_taps(shape: PoolShape, open_: Pass, operand: Tensor, channels_last: bool) -> Tensor:
    """Average pooling of any geometry: sums along one axis after the other, tap by tap."""
    # Sums in half precision could overflow before the division.
    wide = operand.to(_ACCUMULATE.get(operand.dtype, operand.dtype))
    if not wide.dtype.is_floating_point:
        wide = wide.long()
    divisor = _divisor(shape, wide)
    if open_ is Pass.OUTPUT:
        total = wide
        for axis in range(shape.dims):
            framed = _framed(total, shape, axis)
            total = framed[_tap(shape, axis, 0)]
            for tap in range(1, shape.kernel[axis]):
                total = total + framed[_tap(shape, axis, tap)]
        rounding = None if wide.dtype.is_floating_point else "trunc"
        return torch.div(total, divisor, rounding_mode=rounding).to(operand.dtype)
    grad = wide / divisor
    for axis in range(shape.dims):
        before, length = shape.pads[axis][0], _reach(shape, axis)
        reached = (*grad.shape[: 2 + axis], length, *grad.shape[3 + axis :])
        spread = new_empty(grad, reached, channels_last).zero_()
        for tap in range(shape.kernel[axis]):
            spread[_tap(shape, axis, tap)] += grad
        # Inputs that no window reaches have a gradient of zero: pad the gradient to the size of the input.
        sides = [(0, 0)] * shape.dims
        sides[axis] = (-before, before + shape.size[axis] - length)
        grad = _pad(spread, sides)
    return grad.to(operand.dtype, copy=True)


def _reach(shape: PoolShape, axis: int) -> int:
    """The number of positions from the start of the padding to the last position that a window reaches."""
    return (shape.output_size[axis] - 1) * shape.stride[axis] + shape.windows[axis].effective_kernel


def _framed(tensor: Tensor, shape: PoolShape, axis: int, value: float = 0.0) -> Tensor:
    """Pads the tensor along one axis, exactly as far as the windows reach."""
    before = shape.pads[axis][0]
    sides = [(0, 0)] * shape.dims
    sides[axis] = (before, _reach(shape, axis) - before - shape.size[axis])
    return _pad(tensor, sides, value)


def _tap(shape: PoolShape, axis: int, tap: int) -> tuple[slice, ...]:
    """The slice of a padded tensor that all outputs see through one tap."""
    first = tap * shape.dilation[axis]
    last = first + (shape.output_size[axis] - 1) * shape.stride[axis]
    return (*[slice(None)] * (2 + axis), slice(first, last + 1, shape.stride[axis]))


def _divisor(shape: PoolShape, like: Tensor) -> Tensor | int:
    if shape.divisor is not None:
        return shape.divisor
    divisor = torch.ones((), dtype=like.dtype, device=like.device)
    for counts in shape.divisors:
        divisor = divisor.unsqueeze(-1) * torch.tensor(counts, dtype=like.dtype, device=like.device)
    return divisor


def _maximum_framed(shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
    """Max pooling of any padding: pads with the lowest value, and converts positions to those of the unpadded input."""
    lowest = float("-inf") if input.dtype.is_floating_point else torch.iinfo(input.dtype).min
    framed = input
    for axis in range(shape.dims):
        framed = _framed(framed, shape, axis, lowest)
    inner = PoolShape.of("max", framed.shape, shape.kernel, shape.stride, 0, shape.dilation)
    flat, kernel, stride, padding, dilation = _as_planes(inner, framed)
    values, indices = _MAX_POOL[len(kernel)](flat, kernel, stride, padding, dilation)
    values, rest = reshaped(values, shape.output_shape), reshaped(indices, shape.output_shape)
    position = torch.zeros_like(rest)
    scale = 1
    for axis in reversed(range(shape.dims)):
        along = rest % inner.size[axis] - shape.pads[axis][0]
        rest = rest // inner.size[axis]
        # If the whole window is as low as the padding, the first tap wins, which may lie in the padding. Its position
        # is then replaced by that of the first tap inside the input.
        along = torch.maximum(along, _first_inside(shape, axis, along))
        position = position + along * scale
        scale *= shape.size[axis]
    return values, position


def _first_inside(shape: PoolShape, axis: int, like: Tensor) -> Tensor:
    """Position along the axis of each output's first tap inside the input, shaped to broadcast."""
    size = shape.size[axis]
    window = shape.windows[axis].resolve(size)
    first = [window.position(o, window.taps_inside(o, size)[0]) for o in range(shape.output_size[axis])]
    return torch.tensor(first, device=like.device).reshape(-1, *[1] * (shape.dims - 1 - axis))
