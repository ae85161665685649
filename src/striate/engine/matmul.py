"""Convolutions as matrix products, one product for each tap.

For a tap t, take the outputs o for which the tap lies inside the image, and the inputs that they see through it. Both
are matrices of positions by channels. With the tap's weights w[t], C_out by C_in, each contraction is a sum of matrix
products:

    output          y[o]  += x[o * stride - before + t * dilation]  w[t]'
    input gradient  dx[o * stride - before + t * dilation]  +=  g[o]  w[t]
    weight gradient dw[t]  =  g[o]'  x[o * stride - before + t * dilation]

Padding is never multiplied. On the small maps deep inside a network, more than half of all multiplications are with
padding. A window of one position, or a single window over the whole image, is one product. PyTorch's convolutions
reorder weights for tiles that are larger than such maps, and take up to ten times as long as its matrix products.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Final, NamedTuple

import torch
from torch import Tensor

from striate.engine.backends import NO_STEPS, ConvolutionBackend, Pass
from striate.engine.layout import is_channels_last, laid_out, new_empty, reshaped
from striate.geometry import ConvShape, Problem

#: The most positions of an output for which one product for each tap, with its copies, may be fast.
_FEW_POSITIONS: Final = 64
#: The most numbers of weight gradients of single images that are held before they are added up.
_MATRICES: Final = 1 << 22
#: The fewest channels for which a product takes longer than its copies, and the most taps.
_FEW_CHANNELS, _MOST_TAPS = 32, 25


class MatmulBackend(ConvolutionBackend):
    """Matrix products for convolutions with windows that don't overlap, of small maps, and of the whole image."""

    name = "matmul"

    def refusal(self, problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> str | None:
        if open_ is Pass.PACKED:
            return NO_STEPS
        if not isinstance(problem, ConvShape):
            return "computes convolutions only"
        if dtype not in (torch.float32, torch.float64) or device != "cpu":
            return "computes in float32 and float64 on CPUs only"
        if problem.groups > 1:
            return "has no kernels for groups"
        if 0 in problem.input_shape or 0 in problem.weight_shape:
            return "has no kernels for empty tensors"
        if _is_apart(problem):
            return None
        if math.prod(problem.output_size) > _FEW_POSITIONS or math.prod(problem.kernel) > _MOST_TAPS:
            return f"multiplies a tap at a time, on maps of up to {_FEW_POSITIONS} positions and {_MOST_TAPS} taps"
        if min(problem.in_channels, problem.out_channels) < _FEW_CHANNELS:
            return f"multiplies a tap at a time, of {_FEW_CHANNELS} channels or more on both sides"
        return None

    def recommends(self, problem: Problem, open_: Pass, channels_last: bool) -> bool:
        assert isinstance(problem, ConvShape)
        positions = math.prod(problem.output_size)
        apart = positions == 1 or (open_ is Pass.INPUT_GRAD and max(problem.stride) > 1)
        return (positions <= 4 and channels_last) or (apart and _is_apart(problem))

    def contract(
        self,
        shape: ConvShape,
        open_: Pass,
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        channels_last: bool = False,
    ) -> Tensor:
        last = channels_last and shape.dims > 1
        if is_linear(shape):
            return _linear(shape, open_, first, second, bias, last)
        if _is_apart(shape):
            return _apart(shape, open_, first, second, bias, last)
        if open_ is Pass.OUTPUT:
            return laid_out(_output(shape, _positions(first), _positions(second), bias), last)
        if open_ is Pass.INPUT_GRAD:
            return laid_out(_input_grad(shape, _positions(first), _positions(second), bias), last)
        return laid_out(_weight_grad(shape, _positions(first), _positions(second)), last)


def _is_apart(problem: ConvShape) -> bool:
    """Whether there is no padding, windows don't overlap, and they have no dilation."""
    each = zip(problem.kernel, problem.stride, problem.dilation, problem.output_size, strict=True)
    apart = all((k <= s or count == 1) and (d == 1 or k == 1) for k, s, d, count in each)
    return apart and not any(map(any, problem.pads))


def is_linear(problem: Problem) -> bool:
    """Whether the problem is a linear layer: one window that covers the whole image."""
    if not isinstance(problem, ConvShape) or problem.groups > 1 or any(map(any, problem.pads)):
        return False
    return problem.kernel == problem.size


def _linear(
    shape: ConvShape, open_: Pass, first: Tensor, second: Tensor, bias: Tensor | None, channels_last: bool
) -> Tensor:
    """A linear layer as one matrix product: rows are images or output channels."""
    # The larger operand decides the order of the numbers of an image, so that it isn't copied.
    larger = first if open_ is not Pass.OUTPUT or first.numel() > second.numel() else second
    innermost = channels_last if open_ is Pass.INPUT_GRAD else is_channels_last(larger)

    def rows(tensor: Tensor) -> Tensor:
        return (tensor.movedim(1, -1) if innermost else tensor).flatten(1)

    if open_ is Pass.OUTPUT:
        made = new_empty(first, shape.output_shape, channels_last)
        x, w, y = rows(first), rows(second).t(), made.view(made.shape[:2])
        torch.mm(x, w, out=y) if bias is None else torch.addmm(bias, x, w, out=y)
    elif open_ is Pass.INPUT_GRAD:
        made = new_empty(second, shape.input_shape, innermost)
        torch.mm(second.flatten(1), rows(first), out=rows(made))
        if bias is not None:
            made += bias.reshape(-1, *[1] * shape.dims)
    else:
        made = new_empty(second, shape.weight_shape, innermost)
        torch.mm(second.flatten(1).t(), rows(first), out=rows(made))
    return made


# ---------------------------------------------------------------------------------------- windows that don't overlap


class _Patches:
    """Images as matrices of patches: a row for each window, a column for each number in a window.

    The columns are in the order (C, kernel rows, kernel columns), or with channels innermost.
    """

    def __init__(self, shape: ConvShape, innermost: bool) -> None:
        self.shape, self.innermost = shape, innermost
        outputs, taps = range(2, 2 + shape.dims), range(2 + shape.dims, 2 + 2 * shape.dims)
        self.order = (0, *outputs, *([*taps, 1] if innermost else [1, *taps]))
        self.windows, self.numbers = math.prod(shape.output_size), math.prod(shape.weight_shape[1:])

    def of(self, image: Tensor) -> Tensor:
        """The patches of an image as a view, (N, outputs, window), without the inputs that no window sees."""
        for axis, (length, step) in enumerate(zip(self.shape.kernel, self.shape.stride, strict=True), start=2):
            image = image.unfold(axis, length, step)
        return image.permute(self.order)

    def rows(self, image: Tensor) -> Tensor:
        """The patches as (N, windows, numbers of a window), copied if that isn't a view."""
        return self.of(image).reshape(-1, self.windows, self.numbers)

    def weight(self, weight: Tensor) -> Tensor:
        """The weight as (C_out, numbers of a window), a view if it has the same layout as the patches."""
        return (weight.movedim(1, -1) if self.innermost else weight).flatten(1)


def _apart(
    shape: ConvShape, open_: Pass, first: Tensor, second: Tensor, bias: Tensor | None, channels_last: bool
) -> Tensor:
    """A convolution of windows that don't overlap: one product, or one for each image in NCHW with several windows."""
    if open_ is Pass.INPUT_GRAD:
        return _apart_input_grad(shape, first, second, bias, channels_last)
    # The larger operand decides the order of the numbers in a window, so that it isn't copied.
    larger = first if open_ is Pass.WEIGHT_GRAD or first.numel() > second.numel() else second
    patches = _Patches(shape, is_channels_last(larger))
    x = patches.rows(first)
    if open_ is Pass.WEIGHT_GRAD:
        made = new_empty(second, shape.weight_shape, patches.innermost)
        if patches.windows > 1 and not is_channels_last(second):
            # One matrix for each image, for as many images at once as the memory limit allows.
            together = max(1, _MATRICES // math.prod(shape.weight_shape))
            pairs = zip(second.flatten(2).split(together), x.split(together), strict=True)
            parts = [torch.matmul(*pair).sum(0) for pair in pairs]
            patches.weight(made).copy_(sum(parts[1:], parts[0]))
        else:
            torch.mm(_matrix(second.movedim(1, -1)).t(), x.flatten(0, 1), out=patches.weight(made))
        return made
    w = patches.weight(second)
    if patches.windows > 1 and not channels_last:
        y = reshaped(torch.matmul(w, x.transpose(1, 2)), shape.output_shape)
        return y if bias is None else y.add_(bias.reshape(-1, *[1] * shape.dims))
    made = new_empty(first, shape.output_shape, channels_last)
    rows, x = _matrix(made.movedim(1, -1)), x.flatten(0, 1)
    torch.mm(x, w.t(), out=rows) if bias is None else torch.addmm(bias, x, w.t(), out=rows)
    return made


def _apart_input_grad(shape: ConvShape, w: Tensor, g: Tensor, bias: Tensor | None, channels_last: bool) -> Tensor:
    patches = _Patches(shape, channels_last)
    w = patches.weight(w)
    made = new_empty(g, shape.input_shape, channels_last)
    seen = patches.of(made)
    if made.numel() > seen.numel():
        made.zero_()
    planes = patches.windows > 1 and not is_channels_last(g)
    if seen.is_contiguous():
        torch.mm(_matrix(g.movedim(1, -1)), w, out=seen.view(-1, patches.numbers))
    elif planes and shape.input_shape[2:] == shape.output_size:
        made = reshaped(torch.matmul(w.t(), g.flatten(2)), shape.input_shape)
    else:
        parts = torch.matmul(w.t(), g.flatten(2)).transpose(1, 2) if planes else _matrix(g.movedim(1, -1)) @ w
        seen.copy_(parts.view(seen.shape))
    if bias is not None:
        made += bias.reshape(-1, *[1] * shape.dims)
    return made


# ---------------------------------------------------------------------------------------------- a product a tap


class _Tap(NamedTuple):
    """The indices of one tap, into tensors with channels at the end."""

    outputs: tuple[slice, ...]  #: the outputs for which the tap lies inside the image
    inputs: tuple[slice, ...]  #: the inputs that they see through the tap
    weight: tuple[slice | int, ...]
    everywhere: bool  #: whether the tap lies inside the image for all outputs


@lru_cache(maxsize=1024)
def _taps(shape: ConvShape) -> tuple[_Tap, ...]:
    """The taps that lie inside the image for some output; a tap that does for all outputs comes first."""
    axes = []
    for window, (before, _), size, count in zip(shape.windows, shape.pads, shape.size, shape.output_size, strict=True):
        axis = []
        for tap in range(window.kernel):
            # Output o sees input o * stride + shift.
            shift = tap * window.dilation - before
            start = max(0, -(shift // window.stride))
            stop = min(count, (size - 1 - shift) // window.stride + 1)
            if start < stop:
                inputs = slice(start * window.stride + shift, (stop - 1) * window.stride + shift + 1, window.stride)
                axis.append((tap, slice(start, stop), inputs, stop - start == count))
        axes.append(axis)
    found, every = [], slice(None)
    for each in itertools.product(*axes):
        tap, outputs, inputs, everywhere = zip(*each, strict=True)
        found.append(_Tap((every, *outputs), (every, *inputs), (every, *tap), all(everywhere)))
    return tuple(sorted(found, key=lambda tap: not tap.everywhere))


def _positions(tensor: Tensor) -> Tensor:
    """Moves channels to the end, contiguous: (N, ..., C), or (C_out, ..., C_in) for a weight."""
    return tensor.movedim(1, -1).contiguous()


def _matrix(tensor: Tensor) -> Tensor:
    """A tensor with channels at the end as a matrix of positions by channels."""
    return tensor.reshape(-1, tensor.shape[-1])


def _new(like: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """An uninitialised tensor with channels innermost, and its view as (N, ..., C)."""
    _, channels, *size = shape
    steps = [channels * math.prod(size[i + 1 :]) for i in range(len(size))]
    made = torch.empty_strided(shape, [channels * math.prod(size), 1, *steps], dtype=like.dtype, device=like.device)
    return made, made.movedim(1, -1)


def _fill(rows: Tensor, bias: Tensor | None) -> None:
    rows.zero_() if bias is None else rows.copy_(bias)


def _output(shape: ConvShape, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    made, rows = _new(x, shape.output_shape)
    taps = _taps(shape)
    if taps and taps[0].everywhere:
        first, taps = taps[0], taps[1:]
        part, matrix = _matrix(x[first.inputs]), w[first.weight].t()
        if bias is None:
            torch.mm(part, matrix, out=_matrix(rows))
        else:
            torch.addmm(bias, part, matrix, out=_matrix(rows))
    else:
        _fill(rows, bias)
    for tap in taps:
        part, matrix = _matrix(x[tap.inputs]), w[tap.weight].t()
        if tap.everywhere:
            _matrix(rows).addmm_(part, matrix)
        else:
            place = rows[tap.outputs]
            place += (part @ matrix).view(place.shape)
    return made


def _input_grad(shape: ConvShape, w: Tensor, g: Tensor, bias: Tensor | None) -> Tensor:
    made, rows = _new(g, shape.input_shape)
    _fill(rows, bias)
    for tap in _taps(shape):
        place = rows[tap.inputs]
        place += (_matrix(g[tap.outputs]) @ w[tap.weight]).view(place.shape)
    return made


def _weight_grad(shape: ConvShape, x: Tensor, g: Tensor) -> Tensor:
    made, rows = _new(x, shape.weight_shape)
    taps = _taps(shape)
    if len(taps) < math.prod(shape.kernel):
        rows.zero_()
    for tap in taps:
        torch.mm(_matrix(g[tap.outputs]).t(), _matrix(x[tap.inputs]), out=rows[tap.weight])
    return made
