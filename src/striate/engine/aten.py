"""PyTorch's own kernels (oneDNN on CPUs, cuDNN on NVIDIA GPUs), and what they lack composed from them.

PyTorch pads both sides of an axis alike, doesn't dilate averages, and lets pooling pad by half a kernel at most. What
is beyond that is padded or cut before and after, or added up tap by tap over whole strided views; never cell by cell.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.engine.backends import Backend, Pass
from striate.geometry import ConvShape, PoolShape, Problem

_aten = torch.ops.aten
_MAX_POOL: Final = {2: _aten.max_pool2d_with_indices, 3: _aten.max_pool3d_with_indices}
_MAX_POOL_GRAD: Final = {2: _aten.max_pool2d_with_indices_backward, 3: _aten.max_pool3d_with_indices_backward}
_AVG_POOL: Final = {2: _aten.avg_pool2d, 3: _aten.avg_pool3d}
_AVG_POOL_GRAD: Final = {2: _aten.avg_pool2d_backward, 3: _aten.avg_pool3d_backward}


class AtenBackend(Backend):
    name = "aten"

    def refusal(self, problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> str | None:
        if dtype == torch.bool:
            return "PyTorch has no arithmetic on booleans"
        if isinstance(problem, ConvShape) and open_ is not Pass.OUTPUT and not dtype.is_floating_point:
            return "PyTorch has no gradient kernels for whole numbers"
        if dtype.is_complex:
            return "PyTorch's kernels take real numbers only"
        return None

    # ---------------------------------------------------------------- convolution

    def contract(self, shape: ConvShape, open_: Pass, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        # What can be padded alike on both sides is left to the kernel; only the rest costs a copy.
        shared = [min(sides) for sides in shape.pads]
        extra = [(before - both, after - both) for (before, after), both in zip(shape.pads, shared, strict=True)]
        uneven = any(map(any, extra))
        if open_ is not Pass.INPUT_GRAD and uneven:
            first = _pad(first, extra)
        zeros = [0] * shape.dims
        if open_ is Pass.OUTPUT:
            output: Tensor = torch.convolution(
                first, second, bias, shape.stride, shared, shape.dilation, False, zeros, shape.groups
            )
            return output
        if open_ is Pass.INPUT_GRAD:
            # The kernel asks for the operand that is open, too, but only looks at its shape and layout.
            size = [n + before + after for n, (before, after) in zip(shape.size, extra, strict=True)]
            input = _like(second, (shape.batch, shape.in_channels, *size))
            weight, grad_output, wanted = first, second, [True, False, False]
        else:
            input, grad_output, wanted = first, second, [False, True, False]
            weight = second.new_empty(shape.weight_shape)
        grads: tuple[Tensor, ...] = _aten.convolution_backward(
            grad_output,
            input,
            weight,
            None,
            shape.stride,
            shared,
            shape.dilation,
            False,
            zeros,
            shape.groups,
            wanted,
        )
        if open_ is Pass.WEIGHT_GRAD:
            return grads[1]
        grad = _pad(grads[0], [(-before, -after) for before, after in extra]) if uneven else grads[0]
        return grad if bias is None else grad + bias.reshape(-1, *[1] * shape.dims)

    # ---------------------------------------------------------------- pooling

    def average(self, shape: PoolShape, open_: Pass, operand: Tensor) -> Tensor:
        if not _pools(shape) or max(shape.dilation) > 1:
            return _average_by_taps(shape, open_, operand)
        flat, kernel, stride, padding, _ = _as_planes(shape, operand)
        how = (kernel, stride, padding, shape.ceil_mode, shape.count_include_pad, shape.divisor)
        if open_ is Pass.OUTPUT:
            output: Tensor = _AVG_POOL[len(kernel)](flat, *how)
            return output.reshape(shape.output_shape)
        input = _like(flat, (*flat.shape[:2], *[1] * (len(kernel) - shape.dims), *shape.size))
        grad: Tensor = _AVG_POOL_GRAD[len(kernel)](flat, input, *how)
        return grad.reshape(shape.input_shape)

    def maximum(self, shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
        if not _pools(shape):
            return _maximum_framed(shape, input)
        flat, kernel, stride, padding, dilation = _as_planes(shape, input)
        values, indices = _MAX_POOL[len(kernel)](flat, kernel, stride, padding, dilation, shape.ceil_mode)
        return values.reshape(shape.output_shape), indices.reshape(shape.output_shape)

    def maximum_grad(self, shape: PoolShape, indices: Tensor, grad_output: Tensor) -> Tensor:
        if not _pools(shape):
            return spread(indices, grad_output, shape.size)
        flat, kernel, stride, padding, dilation = _as_planes(shape, grad_output)
        input = _like(flat, (*flat.shape[:2], *[1] * (len(kernel) - shape.dims), *shape.size))
        how = (kernel, stride, padding, dilation, shape.ceil_mode, indices.long().reshape(flat.shape))
        grad: Tensor = _MAX_POOL_GRAD[len(kernel)](flat, input, *how)
        return grad.reshape(shape.input_shape)


def spread(indices: Tensor, grad_output: Tensor, size: tuple[int, ...]) -> Tensor:
    """(N, C, *size) of zeros, to which every gradient is added at its flat index within its channel."""
    lead, outputs = grad_output.shape[:2], torch.Size(grad_output.shape[2:]).numel()
    grad = grad_output.new_zeros(*lead, torch.Size(size).numel())
    # Windows overlap, so positions repeat: their gradients add up.
    flat = indices.reshape(*lead, outputs).long()
    return grad.scatter_add(2, flat, grad_output.reshape(*lead, outputs)).reshape(*lead, *size)


def _pad(tensor: Tensor, sides: list[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pads the spatial axes; negative sides cut."""
    if any(cells > 0 for pair in sides for cells in pair):
        tensor = F.pad(tensor, [max(cells, 0) for pair in reversed(sides) for cells in pair], value=value)
    for axis, (before, after) in enumerate(sides, start=2):
        if before < 0 or after < 0:
            start = max(-before, 0)
            tensor = tensor.narrow(axis, start, tensor.shape[axis] - start - max(-after, 0))
    return tensor


def _like(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Unwritten memory in the layout of ``tensor``; a kernel takes its own layout from it."""
    # Read off the strides, since some wrappers (batched tensors) don't answer is_contiguous(memory_format).
    channels_last = tensor.dim() in (4, 5) and tensor.stride(1) == 1 and tensor.shape[1] > 1
    if not channels_last:
        return tensor.new_empty(shape)
    return tensor.new_empty(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def _pools(shape: PoolShape) -> bool:
    """Whether PyTorch's pooling takes this padding: alike on both sides and half a kernel at most."""
    return all(
        before == after and before <= kernel // 2
        for (before, after), kernel in zip(shape.pads, shape.kernel, strict=True)
    )


def _as_planes(shape: PoolShape, tensor: Tensor) -> tuple[Tensor, list[int], list[int], list[int], list[int]]:
    """1-D pooling is 2-D pooling of one row; 2-D and 3-D stay as they are."""
    row = shape.dims == 1
    flat = tensor.unsqueeze(2) if row else tensor
    padding = [before for before, _ in shape.pads]
    lead = [1] if row else []
    return flat, lead + [*shape.kernel], lead + [*shape.stride], [0] * row + padding, lead + [*shape.dilation]


def _average_by_taps(shape: PoolShape, open_: Pass, operand: Tensor) -> Tensor:
    """Averages for any geometry: a sum over a box is a sum along one axis after the other."""
    divisor = _divisor(shape, operand)
    axes = range(shape.dims)
    if open_ is Pass.OUTPUT:
        total = operand
        for axis in axes:
            framed = _framed(total, shape, axis)
            total = framed[_tap(shape, axis, 0)]
            for tap in range(1, shape.kernel[axis]):
                total = total + framed[_tap(shape, axis, tap)]
        return total / divisor
    grad = operand / divisor
    for axis in axes:
        before, length = shape.pads[axis][0], _reach(shape, axis)
        spread = grad.new_zeros(*grad.shape[: 2 + axis], length, *grad.shape[3 + axis :])
        for tap in range(shape.kernel[axis]):
            spread[_tap(shape, axis, tap)] += grad
        # Input that no window reaches gets no gradient: it is put back as zeros.
        sides = [(0, 0)] * shape.dims
        sides[axis] = (-before, before + shape.size[axis] - length)
        grad = _pad(spread, sides)
    return grad


def _reach(shape: PoolShape, axis: int) -> int:
    """Positions from the start of the padding to the last one that a window reaches."""
    return (shape.output_size[axis] - 1) * shape.stride[axis] + shape.windows[axis].effective_kernel


def _framed(tensor: Tensor, shape: PoolShape, axis: int, value: float = 0.0) -> Tensor:
    """The tensor with its padding along one axis, exactly as far as the windows reach."""
    before = shape.pads[axis][0]
    sides = [(0, 0)] * shape.dims
    sides[axis] = (before, _reach(shape, axis) - before - shape.size[axis])
    return _pad(tensor, sides, value)


def _tap(shape: PoolShape, axis: int, tap: int) -> tuple[slice, ...]:
    """The view of a framed tensor that all outputs see through one tap."""
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
    """Max pooling for any padding: framed by the lowest value, positions told in the unframed input."""
    lowest = float("-inf") if input.dtype.is_floating_point else torch.iinfo(input.dtype).min
    framed = input
    for axis in range(shape.dims):
        framed = _framed(framed, shape, axis, lowest)
    inner = PoolShape.of("max", framed.shape, shape.kernel, shape.stride, 0, shape.dilation)
    flat, kernel, stride, padding, dilation = _as_planes(inner, framed)
    values, indices = _MAX_POOL[len(kernel)](flat, kernel, stride, padding, dilation)
    values, rest = values.reshape(shape.output_shape), indices.reshape(shape.output_shape)
    position = torch.zeros_like(rest)
    scale = 1
    for axis in reversed(range(shape.dims)):
        along = rest % inner.size[axis] - shape.pads[axis][0]
        rest = rest // inner.size[axis]
        # Where everything is as low as the frame the first tap wins, which may lie in the frame: then the first
        # tap inside is meant.
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
