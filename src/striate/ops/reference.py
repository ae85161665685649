"""The reference: direct sums in float64, forward and gradients, under the names of the operations.

Every function here has the name and the arguments of a function in :mod:`striate.ops`, and computes it by its
definition (see :mod:`striate.engine.reference`). Its gradients are functions too:

    conv2d_input_grad(input_size, weight, grad_output, ...)       arguments as in torch.nn.grad
    conv2d_weight_grad(input, weight_size, grad_output, ...)
    conv2d_backward(grad_output, input, weight, ...)              -> grad_input, grad_weight, grad_bias
    max_pool2d_backward(grad_output, input, ...)                  -> grad_input; the rest as in the forward call

Results are float64 (complex128 for complex operands), without autograd.

>>> image = torch.tensor([[[1.0, 5.0, 4.0], [9.0, 2.0, 1.0], [6.0, 3.0, 2.0]]])
>>> upstream = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
>>> max_pool2d_backward(upstream, image, 2, stride=1)
tensor([[[0., 2., 0.],
         [4., 0., 0.],
         [0., 4., 0.]]], dtype=torch.float64)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from striate.engine import Pass
from striate.engine import reference as direct
from striate.engine import reference_regions as direct_regions
from striate.geometry import ConvShape, PoolShape, per_axis
from striate.ops import reference_regions as of_regions

Sizes = Sequence[int]


def _whole(dims: int, tensor: Tensor) -> tuple[Tensor, bool]:
    """The tensor with a batch axis, and whether it came with one."""
    return (tensor, True) if tensor.dim() == dims + 2 else (tensor[None], False)


def _size(given: Sizes | Tensor) -> tuple[int, ...]:
    """A size as torch.nn.grad takes it, from a size or from a tensor of this size."""
    return tuple(given.shape) if isinstance(given, Tensor) else tuple(given)


def _biased(output: Tensor, bias: Tensor | None) -> Tensor:
    return output if bias is None else output + bias.detach().to(output).reshape(-1, *[1] * (output.dim() - 2))


def _bias_grad(grad_output: Tensor) -> Tensor:
    """db[c] = sum over n and p of g[n, c, p]."""
    exact = grad_output.detach().to(torch.complex128 if grad_output.is_complex() else torch.float64)
    return exact.sum([0, *range(2, exact.dim())])


# -------------------------------------------------------------------- convolution


def conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """y[n, o, p] = b[o] + sum over c, t of x[n, c, position(p, t)] * w[o, c, t].

    Formula: F4.
    """
    x, had_batch = _whole(weight.dim() - 2, input)
    shape = ConvShape.of(x.shape, weight.shape, stride, padding, dilation, groups)
    output = _biased(direct.contract(shape, Pass.OUTPUT, x, weight), bias)
    return output if had_batch else output[0]


def conv_input_grad(
    input_size: Sizes | Tensor,
    weight: Tensor,
    grad_output: Tensor,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """dx[n, c, i] = sum over o and all (p, t) with position(p, t) = i of g[n, o, p] * w[o, c, t].

    Formula: F17.
    """
    g, had_batch = _whole(weight.dim() - 2, grad_output)
    size = _size(input_size) if had_batch else (1, *_size(input_size))
    shape = ConvShape.of(size, weight.shape, stride, padding, dilation, groups)
    grad = direct.contract(shape, Pass.INPUT_GRAD, weight, g)
    return grad if had_batch else grad[0]


def conv_weight_grad(
    input: Tensor,
    weight_size: Sizes | Tensor,
    grad_output: Tensor,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """dw[o, c, t] = sum over n, p of x[n, c, position(p, t)] * g[n, o, p]: a sum over places, not a mean.

    Formula: F16, F18.
    """
    dims = len(_size(weight_size)) - 2
    x = _whole(dims, input)[0]
    shape = ConvShape.of(x.shape, _size(weight_size), stride, padding, dilation, groups)
    return direct.contract(shape, Pass.WEIGHT_GRAD, x, _whole(dims, grad_output)[0])


def conv_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, weight and bias."""
    how = (stride, padding, dilation, groups)
    grad_input = conv_input_grad(input, weight, grad_output, *how)
    grad_weight = conv_weight_grad(input, weight, grad_output, *how)
    return grad_input, grad_weight, _bias_grad(_whole(weight.dim() - 2, grad_output)[0])


def _transposed(
    x: Tensor,
    weight_size: Sizes,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> tuple[ConvShape, Tensor]:
    """The convolution that a call transposes, and the call's input, padded to the size of that convolution's output.

    Padding is needed if output_padding is at least the stride, so that windows reach further. Zeros add nothing there.
    """
    shape = ConvShape.of_transposed(x.shape, weight_size, stride, padding, output_padding, groups, dilation)
    longer = x.new_zeros(shape.output_shape)
    longer[tuple(slice(n) for n in x.shape)] = x.detach()
    return shape, longer


def conv_transpose(input: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any, **named: Any) -> Tensor:
    """y[n, o, i] = b[o] + sum over c and all (p, t) with position(p, t) = i of x[n, c, p] * w[c, o, t]."""
    x, had_batch = _whole(weight.dim() - 2, input)
    shape, longer = _transposed(x, weight.shape, *how, **named)
    output = _biased(direct.contract(shape, Pass.INPUT_GRAD, weight, longer), bias)
    return output if had_batch else output[0]


def conv_transpose_input_grad(
    input_size: Sizes | Tensor, weight: Tensor, grad_output: Tensor, *how: Any, **named: Any
) -> Tensor:
    """dx[n, c, p] = sum over o, t of g[n, o, position(p, t)] * w[c, o, t]: the convolution that was transposed."""
    g, had_batch = _whole(weight.dim() - 2, grad_output)
    size = _size(input_size) if had_batch else (1, *_size(input_size))
    shape, _ = _transposed(g.new_zeros(size), weight.shape, *how, **named)
    grad = direct.contract(shape, Pass.OUTPUT, g, weight)[tuple(slice(n) for n in size)]
    return grad if had_batch else grad[0]


def conv_transpose_weight_grad(
    input: Tensor, weight_size: Sizes | Tensor, grad_output: Tensor, *how: Any, **named: Any
) -> Tensor:
    """dw[c, o, t] = sum over n, p of g[n, o, position(p, t)] * x[n, c, p]."""
    dims = len(_size(weight_size)) - 2
    shape, longer = _transposed(_whole(dims, input)[0], _size(weight_size), *how, **named)
    return direct.contract(shape, Pass.WEIGHT_GRAD, _whole(dims, grad_output)[0], longer)


def conv_transpose_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, *how: Any, **named: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, weight and bias."""
    grad_input = conv_transpose_input_grad(input, weight, grad_output, *how, **named)
    grad_weight = conv_transpose_weight_grad(input, weight, grad_output, *how, **named)
    return grad_input, grad_weight, _bias_grad(_whole(weight.dim() - 2, grad_output)[0])


# -------------------------------------------------------------------- pooling; the names below fix the first argument


def max_pool(
    dims: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """y[p] = max over t of x[position(p, t)]."""
    x, had_batch = _whole(dims, input)
    shape = PoolShape.of("max", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    values, indices = direct.maximum(shape, x)
    if not had_batch:
        values, indices = values[0], indices[0]
    return (values, indices) if return_indices else values


def max_pool_backward(
    dims: int, grad_output: Tensor, input: Tensor, kernel_size: Any, *how: Any, **named: Any
) -> Tensor:
    """dx[i] = sum over all p whose maximum stands at i of g[p]."""
    x, had_batch = _whole(dims, input)
    named["return_indices"] = True
    _, indices = max_pool(dims, x, kernel_size, *how, **named)
    grad = direct.maximum_grad(x.shape[2:], indices, _whole(dims, grad_output)[0])
    return grad if had_batch else grad[0]


def _average_shape(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Any = 1,
) -> PoolShape:
    how = (ceil_mode, count_include_pad, divisor_override)
    return PoolShape.of("avg", x.shape, kernel_size, stride, padding, dilation, *how)


def avg_pool(dims: int, input: Tensor, kernel_size: Any, *how: Any, **named: Any) -> Tensor:
    """y[p] = 1 / cells(p) * sum over t of x[position(p, t)]."""
    x, had_batch = _whole(dims, input)
    output = direct.average(_average_shape(x, kernel_size, *how, **named), x)
    return output if had_batch else output[0]


def avg_pool_backward(
    dims: int, grad_output: Tensor, input: Tensor, kernel_size: Any, *how: Any, **named: Any
) -> Tensor:
    """dx[i] = sum over all (p, t) with position(p, t) = i of g[p] / cells(p)."""
    x, had_batch = _whole(dims, input)
    grad = direct.average_grad(_average_shape(x, kernel_size, *how, **named), _whole(dims, grad_output)[0])
    return grad if had_batch else grad[0]


def lp_pool(
    dims: int,
    input: Tensor,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
    *,
    padding: Any = 0,
    dilation: Any = 1,
) -> Tensor:
    """y[p] = (sum over t of |x[position(p, t)]|^norm_type)^(1 / norm_type)."""
    x, had_batch = _whole(dims, input)
    if math.isinf(norm_type):
        output: Tensor = max_pool(dims, x.abs(), kernel_size, stride, padding, dilation, ceil_mode)
    else:
        shape = PoolShape.of("avg", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
        powers = x.detach().double().abs() ** norm_type
        output = (direct.average(shape, powers) * math.prod(shape.kernel)) ** (1 / norm_type)
    return output if had_batch else output[0]


def lp_pool_backward(
    dims: int,
    grad_output: Tensor,
    input: Tensor,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
    *,
    padding: Any = 0,
    dilation: Any = 1,
) -> Tensor:
    """dx[i] = sign(x) |x|^(p-1) * sum over the outputs that see i of g * y^(1-p), without windows of zeros only."""
    x, had_batch = _whole(dims, input)
    x, g = x.detach().double(), _whole(dims, grad_output)[0].detach().double()
    if math.isinf(norm_type):
        grad = x.sign() * max_pool_backward(dims, g, x.abs(), kernel_size, stride, padding, dilation, ceil_mode)
    else:
        shape = PoolShape.of("avg", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
        y = lp_pool(dims, x, norm_type, kernel_size, stride, ceil_mode, padding=padding, dilation=dilation)
        seen = direct.average_grad(shape, torch.where(y > 0, g * y ** (1 - norm_type), 0.0))
        slope = torch.where(x != 0, x.sign() * x.abs() ** (norm_type - 1), 0.0)  # below 1 infinite at 0: left out
        grad = slope * seen * math.prod(shape.kernel)
    return grad if had_batch else grad[0]


# -------------------------------------------------------------------- whole maps


def global_avg_pool(input: Tensor) -> Tensor:
    """y = 1 / positions * sum over i of x[i].

    Formula: F38.
    """
    axes = list(range(2, input.dim()))
    return input.detach().double().sum(axes, keepdim=True) / math.prod(input.shape[2:])


def global_avg_pool_backward(grad_output: Tensor, input: Tensor) -> Tensor:
    """dx[i] = g / positions."""
    return grad_output.detach().double().expand(input.shape) / math.prod(input.shape[2:])


def global_max_pool(input: Tensor) -> Tensor:
    """y = max over i of x[i]."""
    return torch.amax(input.detach().double(), list(range(2, input.dim())), keepdim=True)


def global_max_pool_backward(grad_output: Tensor, input: Tensor) -> Tensor:
    """dx[i] = g at the first i where x[i] is the maximum, else 0."""
    flat = input.detach().flatten(2)
    first = torch.zeros_like(flat, dtype=torch.float64).scatter_(2, flat.argmax(2, keepdim=True), 1.0)
    return (first * grad_output.detach().double().flatten(2)).reshape(input.shape)


def _adaptive_windows(size: Sizes, output_size: Any) -> tuple[tuple[int, ...], Iterator[tuple[Any, Any]]]:
    """The output's size, and for each output place the slices of its window: floor(i n / m) to ceil((i + 1) n / m)."""
    wanted = per_axis(output_size, len(size), "output_size", "adaptive pooling")
    counts = tuple(n if m is None else m for n, m in zip(size, wanted, strict=True))
    bounds = [[slice(i * n // m, -(-(i + 1) * n // m)) for i in range(m)] for n, m in zip(size, counts, strict=True)]
    return counts, zip(itertools.product(*map(range, counts)), itertools.product(*bounds), strict=True)


def adaptive_avg_pool(dims: int, input: Tensor, output_size: Any) -> Tensor:
    """y[p] = mean of x over the window of p."""
    x = input.detach().double()
    counts, places = _adaptive_windows(x.shape[-dims:], output_size)
    output = x.new_zeros(*x.shape[:-dims], *counts)
    for place, window in places:
        output[(..., *place)] = x[(..., *window)].mean(list(range(-dims, 0)))
    return output


def adaptive_avg_pool_backward(dims: int, grad_output: Tensor, input: Tensor, output_size: Any) -> Tensor:
    """dx[i] = sum over the p whose window holds i of g[p] / cells(p)."""
    grad = torch.zeros(input.shape, dtype=torch.float64, device=input.device)
    for place, window in _adaptive_windows(input.shape[-dims:], output_size)[1]:
        seen = grad[(..., *window)]
        seen += grad_output.detach().double()[(..., *place, *[None] * dims)] / math.prod(seen.shape[-dims:])
    return grad


def adaptive_max_pool(dims: int, input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """y[p] = maximum of x over the window of p."""
    x = input.detach()
    flat = torch.arange(math.prod(x.shape[-dims:]), device=x.device).reshape(x.shape[-dims:])
    counts, places = _adaptive_windows(x.shape[-dims:], output_size)
    values = x.new_zeros(*x.shape[:-dims], *counts, dtype=torch.float64)
    indices = torch.zeros(values.shape, dtype=torch.long, device=x.device)
    for place, window in places:
        best = x[(..., *window)].flatten(-dims).max(-1)
        values[(..., *place)] = best.values.double()
        indices[(..., *place)] = flat[window].flatten()[best.indices]
    return (values, indices) if return_indices else values


def adaptive_max_pool_backward(dims: int, grad_output: Tensor, input: Tensor, output_size: Any) -> Tensor:
    """dx[i] = sum over all p whose maximum stands at i of g[p]."""
    x, had_batch = _whole(dims, input)
    indices = adaptive_max_pool(dims, x, output_size, return_indices=True)[1]
    grad = direct.maximum_grad(x.shape[2:], indices, _whole(dims, grad_output)[0])
    return grad if had_batch else grad[0]


# -------------------------------------------------------------------- plain arrays


def _overlap(mode: str, size: Sizes, kernel: Sizes) -> Any:
    """The part of the full result that a mode keeps."""
    parts = []
    for n, k in zip(size, kernel, strict=True):
        start = {"full": 0, "same": (k - 1) // 2, "valid": k - 1}[mode]
        length = {"full": n + k - 1, "same": n, "valid": n - k + 1}[mode]
        parts.append(slice(start, start + length))
    return tuple(parts)


def _shifts(size: Sizes, kernel: Sizes) -> Iterator[tuple[Any, Any]]:
    """For each weight its index and where in the full result it puts the input."""
    for a in itertools.product(*map(range, kernel)):
        yield a, tuple(slice(start, start + n) for start, n in zip(a, size, strict=True))


def convolve(input: Tensor, weight: Tensor, mode: str = "full") -> Tensor:
    """(x * w)[z] = sum over a of x[z - a] * w[a].

    Formula: F5, F9, F10.
    """
    dims = weight.dim()
    x, size = input.detach().double(), input.shape[input.dim() - dims :]
    full = x.new_zeros(*x.shape[: x.dim() - dims], *(n + k - 1 for n, k in zip(size, weight.shape, strict=True)))
    for a, there in _shifts(size, weight.shape):
        full[(..., *there)] += x * weight[a].detach().double()
    return full[(..., *_overlap(mode, size, weight.shape))]


def convolve_backward(grad_output: Tensor, input: Tensor, weight: Tensor, mode: str = "full") -> tuple[Tensor, Tensor]:
    """dx[i] = sum over a of g[i + a] * w[a] and dw[a] = sum over i of g[i + a] * x[i]."""
    dims = weight.dim()
    x, w, size = input.detach().double(), weight.detach().double(), input.shape[input.dim() - dims :]
    full = x.new_zeros(*x.shape[: x.dim() - dims], *(n + k - 1 for n, k in zip(size, weight.shape, strict=True)))
    full[(..., *_overlap(mode, size, weight.shape))] = grad_output.detach().double()
    grad_input, grad_weight = torch.zeros_like(x), torch.zeros_like(w)
    for a, there in _shifts(size, weight.shape):
        grad_input += full[(..., *there)] * w[a]
        grad_weight[a] = (full[(..., *there)] * x).sum()
    return grad_input, grad_weight


def distribution_of_sum(joint: Tensor) -> Tensor:
    """P(z) = sum over x of joint[x, z - x].

    Formula: F11, F12.
    """
    first, second = joint.shape[-2:]
    output = joint.new_zeros(*joint.shape[:-2], first + second - 1, dtype=torch.float64)
    for x, y in itertools.product(range(first), range(second)):
        output[..., x + y] += joint.detach().double()[..., x, y]
    return output


def correlate(input: Tensor, weight: Tensor, mode: str = "valid") -> Tensor:
    """sum over a of x[z + a] * w[a]: convolution with the flipped kernel.

    Formula: F7.
    """
    return convolve(input, weight.flip(list(range(weight.dim()))), mode)


def correlate_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, mode: str = "valid"
) -> tuple[Tensor, Tensor]:
    """The gradients of :func:`correlate`."""
    axes = list(range(weight.dim()))
    grad_input, grad_flipped = convolve_backward(grad_output, input, weight.flip(axes), mode)
    return grad_input, grad_flipped.flip(axes)


# -------------------------------------------------------------------- the names: a convolution's axes are its weight's

conv1d = conv2d = conv3d = conv
conv1d_input_grad = conv2d_input_grad = conv3d_input_grad = conv_input_grad
conv1d_weight_grad = conv2d_weight_grad = conv3d_weight_grad = conv_weight_grad
conv1d_backward = conv2d_backward = conv3d_backward = conv_backward
conv_transpose1d = conv_transpose2d = conv_transpose3d = conv_transpose
conv_transpose1d_input_grad = conv_transpose2d_input_grad = conv_transpose3d_input_grad = conv_transpose_input_grad
conv_transpose1d_weight_grad = conv_transpose2d_weight_grad = conv_transpose3d_weight_grad = conv_transpose_weight_grad
conv_transpose1d_backward = conv_transpose2d_backward = conv_transpose3d_backward = conv_transpose_backward

max_pool1d = partial(max_pool, 1)
max_pool2d = partial(max_pool, 2)
max_pool3d = partial(max_pool, 3)
max_pool1d_backward = partial(max_pool_backward, 1)
max_pool2d_backward = partial(max_pool_backward, 2)
max_pool3d_backward = partial(max_pool_backward, 3)
avg_pool1d = partial(avg_pool, 1)
avg_pool2d = partial(avg_pool, 2)
avg_pool3d = partial(avg_pool, 3)
avg_pool1d_backward = partial(avg_pool_backward, 1)
avg_pool2d_backward = partial(avg_pool_backward, 2)
avg_pool3d_backward = partial(avg_pool_backward, 3)
lp_pool1d = partial(lp_pool, 1)
lp_pool2d = partial(lp_pool, 2)
lp_pool3d = partial(lp_pool, 3)
lp_pool1d_backward = partial(lp_pool_backward, 1)
lp_pool2d_backward = partial(lp_pool_backward, 2)
lp_pool3d_backward = partial(lp_pool_backward, 3)
adaptive_avg_pool1d = partial(adaptive_avg_pool, 1)
adaptive_avg_pool2d = partial(adaptive_avg_pool, 2)
adaptive_avg_pool3d = partial(adaptive_avg_pool, 3)
adaptive_avg_pool1d_backward = partial(adaptive_avg_pool_backward, 1)
adaptive_avg_pool2d_backward = partial(adaptive_avg_pool_backward, 2)
adaptive_avg_pool3d_backward = partial(adaptive_avg_pool_backward, 3)
adaptive_max_pool1d = partial(adaptive_max_pool, 1)
adaptive_max_pool2d = partial(adaptive_max_pool, 2)
adaptive_max_pool3d = partial(adaptive_max_pool, 3)
adaptive_max_pool1d_backward = partial(adaptive_max_pool_backward, 1)
adaptive_max_pool2d_backward = partial(adaptive_max_pool_backward, 2)
adaptive_max_pool3d_backward = partial(adaptive_max_pool_backward, 3)
roi_pool, nms = direct_regions.roi_pool, direct_regions.nms
roi_align, roi_align_input_grad = of_regions.roi_align, of_regions.roi_align_input_grad
