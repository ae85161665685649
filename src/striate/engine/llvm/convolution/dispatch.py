"""A convolution's contraction: what each of its passes is a sum of, and what of it under a stride.

The one place where tensors become addresses is below, in sums.py and weight_sums.py: whatever a kernel gets is made or
checked there, and is held by a local variable until the kernel has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.engine import fresh
from striate.engine.backends import Pass
from striate.engine.layout import reshaped
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.isa import the_isa
from striate.engine.llvm.convolution import weight_sums
from striate.engine.llvm.convolution.sums import lies_across, nchw_sum, prepared, readable, suits_nhwc, summed
from striate.engine.llvm.memory.relayout import laid_out
from striate.engine.llvm.memory.rows import Axis
from striate.engine.llvm.memory.views import axes, plane, plane_size, planes
from striate.engine.llvm.memory.weights import Weights, pack
from striate.geometry import ConvShape

#: Strides of a gradient's columns up to which they are summed together.
_MOST_PHASES = 4


#: A contraction whose operands' places in memory are all that is still open: the operands, and a bias.
Ready = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def ready(shape: ConvShape, open_: Pass, first: Tensor, second: Tensor, biased: bool, channels_last: bool) -> Ready:
    """The contraction of operands of which only strides are looked at, and those of whom it is called with are alike.

    For problems that :meth:`striate.engine.llvm.backend.LlvmBackend.refusal` lets through; ``channels_last`` is the
    result's layout.
    """
    if open_ is Pass.WEIGHT_GRAD:
        weight_grad = weight_sums.prepared(first, second, shape)
        return lambda first, second, _: weight_grad(first, second)
    if open_ is Pass.OUTPUT:
        weights, size = Weights.of(second, shape.groups), plane_size(shape.output_size)
        return _sum(first, weights, biased, axes(shape), size, shape.output_shape, channels_last)
    g, weights, size = second, Weights.of(first, shape.groups, transposed=True), plane_size(shape.size)
    windows = axes(shape)
    if all(axis.stride == 1 for axis in windows):
        (rows, row_taps), (columns, column_taps) = (_phase(axis, 0) for axis in windows)
        weights = weights.taps(row_taps, column_taps)
        made = _sum(g, weights, biased, (rows, columns), size, shape.input_shape, channels_last)
    elif _is_depthwise(weights) and suits_nhwc(readable(plane(g), weights.sizes, size[1], windows[1]), weights.sizes):
        made = _sum(g, weights, biased, windows, size, shape.input_shape, channels_last, backwards=True)
    else:
        return lambda first, second, bias: laid_out(_input_grad(shape, first, second, bias), channels_last)
    return lambda first, second, bias: made(second, first, bias)


def _is_depthwise(weights: Weights) -> bool:
    groups, outer, inner = weights.sizes[:3]
    return groups > 1 and outer == inner == 1


def _sum(
    x: Tensor,
    weights: Weights,
    biased: bool,
    windows: tuple[Axis, Axis],
    size: tuple[int, int],
    shape: tuple[int, ...],
    channels_last: bool,
    backwards: bool = False,
) -> Ready:
    """``size`` positions of a sum (see sums.py) over operands that lie as these do; it has as many axes as ``shape``.

    ``backwards``: of depthwise windows, from the output's gradient to the input's, whatever the stride.
    """
    how = (weights.sizes, size[1], windows[1])
    read = readable(plane(x), *how)
    made = prepared(read, weights[1:], biased, windows, size, backwards)
    made = made if len(shape) == 4 else made.of_rows()
    lies = torch.empty_strided(made.shape, made.layout, device="meta")
    if read.data_ptr() != x.data_ptr() or laid_out(lies, channels_last) is not lies:
        return lambda x, weight, bias: laid_out(made(readable(plane(x), *how), weight, bias), channels_last)
    return made


def _input_grad(shape: ConvShape, weight: Tensor, upstream: Tensor, bias: Tensor | None) -> Tensor:
    """The gradient's planes, one stride apart: those inputs that see the same taps are an ordinary sum over g.

    Input i sees output o through tap t where i + before = o * stride + t * dilation. Inputs with i % stride = phase, at
    i = phase + m * stride, see the taps with (phase + before - t * dilation) % stride = 0, every step-th one where
    step = stride / gcd(stride, dilation); from one of those to the next, o falls by dilation * step / stride.
    """
    g, weights, windows = plane(upstream), Weights.of(weight, shape.groups, transposed=True), axes(shape)
    height, width = size = plane_size(shape.size)
    side_by_side = suits_nhwc(g, weights.sizes)
    if not side_by_side and windows[1].stride <= _MOST_PHASES:
        return reshaped(_nchw_grad(g, weights, bias, windows, size), shape.input_shape)
    # In the layout that its parts will have: copying across layouts costs more than the sums.
    layout = torch.channels_last if side_by_side else torch.contiguous_format
    grad = fresh.empty((g.shape[0], weights.sizes[0] * weights.sizes[1], height, width), memory_format=layout)
    for top in range(min(windows[0].stride, height)):
        for left in range(min(windows[1].stride, width)):
            place = grad[:, :, top :: windows[0].stride, left :: windows[1].stride]
            (rows, row_taps), (columns, column_taps) = _phase(windows[0], top), _phase(windows[1], left)
            if not row_taps or not column_taps:
                place.copy_(fresh.zeros(()) if bias is None else bias.reshape(1, -1, 1, 1))
                continue
            part = (place.shape[2], place.shape[3])
            place.copy_(summed(g, weights.taps(row_taps, column_taps), bias, (rows, columns), part))
    return reshaped(grad, shape.input_shape)


def _nchw_grad(
    g: Tensor, weights: Weights, bias: Tensor | None, windows: tuple[Axis, Axis], size: tuple[int, int]
) -> Tensor:
    """The gradient of planes under a stride: for each of its rows, one stride apart, a sum for all columns."""
    isa, threads, (rows, columns) = the_isa(), launch.threads(), windows
    batch, _, *source = g.shape
    groups, inner, outer = weights.sizes[:3]
    grad = fresh.empty((batch, groups * inner, *size))
    together, taps, missing = _columns_together(columns)
    across = lies_across(g, weights.sizes, -(-size[1] // columns.stride), together)
    g = g if across else planes(g)
    weight = F.pad(weights.tensor.reshape(groups * outer, inner, rows.kernel, columns.kernel), (0, 1))
    phases = columns.stride
    each = weight.index_select(3, taps).unflatten(3, (phases, together.kernel)).movedim(3, 2)
    weights = Weights.of(each.flatten(1, 2), groups, transposed=True)
    if bias is not None:
        bias = bias.repeat_interleave(phases)
    apart = (rows.stride, phases)
    for top in range(min(rows.stride, size[0])):
        axis, row_taps = _phase(rows, top)
        if not row_taps:
            grad[:, :, top :: rows.stride] = 0.0 if bias is None else bias[::phases].reshape(1, -1, 1, 1)
            continue
        outputs = (-(-(size[0] - top) // rows.stride), -(-size[1] // phases))
        sizes = (groups, inner * phases, outer, (source[0], source[1]))
        made = nchw_sum(isa, batch, *sizes, (axis, together), outputs, threads, apart, size, missing, across)
        packed = pack(isa, weights.taps(row_taps, range(together.kernel)), bias, made.channels, False)
        scratch = fresh.empty(made.scratch)
        start = grad.data_ptr() + top * size[1] * grad.element_size()
        words = made.words(g.data_ptr(), packed.data_ptr(), start, scratch.data_ptr(), g.stride()[:3])
        made.kernel(made.items, words, made.threads)
    return grad


@lru_cache(maxsize=1024)
def _columns_together(axis: Axis) -> tuple[Axis, Tensor, frozenset[tuple[int, int]]]:
    """One window over outputs for the inputs of all phases; by phase its taps, one more for those it hasn't; those."""
    phases = [_phase(axis, phase) for phase in range(axis.stride)]
    seen = [{k * a.dilation - a.before: tap for k, tap in enumerate(taps)} for a, taps in phases]
    first, last = min(map(min, filter(None, seen))), max(map(max, filter(None, seen)))
    taps = [[each.get(place, axis.kernel) for place in range(first, last + 1)] for each in seen]
    missing = {(p, at) for p, each in enumerate(taps) for at, tap in enumerate(each) if tap == axis.kernel}
    window = Axis(last - first + 1, 1, -first, 1)
    return window, fresh.tensor(taps, dtype=torch.int64).flatten(), frozenset(missing)


@lru_cache(maxsize=4096)
def _phase(axis: Axis, phase: int) -> tuple[Axis, range]:
    """The window over outputs of the inputs of one phase, and the taps it has, the last one first."""
    taps = [t for t in range(axis.kernel) if (phase + axis.before - t * axis.dilation) % axis.stride == 0][::-1]
    if not taps:
        return Axis(1, 1, 0, 1), range(0)
    # The last tap sees the first output: at m = 0 output (phase + before - t * dilation) / stride.
    first = (phase + axis.before - taps[0] * axis.dilation) // axis.stride
    between = taps[0] - taps[1] if len(taps) > 1 else 1
    step = between * axis.dilation // axis.stride if len(taps) > 1 else 1
    return Axis(len(taps), 1, -first, step), range(taps[0], taps[-1] - 1, -between)
