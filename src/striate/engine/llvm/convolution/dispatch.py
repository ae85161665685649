"""Maps each pass of a convolution to the sums that compute it, for strides, too.

Tensors become addresses only here, in sums.py and in weight_sums.py. Tensors that a kernel gets are allocated or
checked there, and a local variable keeps them alive until the kernel has returned.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.engine import fresh
from striate.engine.backends import Pass, Ready
from striate.engine.layout import reshaped
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.isa import the_isa
from striate.engine.llvm.convolution import weight_sums
from striate.engine.llvm.convolution.sums import lies_across, nchw_sum, prepared, readable, suits_nhwc, summed
from striate.engine.llvm.memory.relayout import laid_out
from striate.engine.llvm.memory.rows import Axis, phase
from striate.engine.llvm.memory.views import axes, plane, plane_size, planes
from striate.engine.llvm.memory.weights import Weights, pack
from striate.geometry import ConvShape

#: The largest column stride for which all column phases of an input gradient are one sum.
_MOST_PHASES = 4


def ready(shape: ConvShape, open_: Pass, first: Tensor, second: Tensor, biased: bool, channels_last: bool) -> Ready:
    """Prepares a contraction for operands with the strides of ``first`` and ``second``, whose numbers aren't read.

    The problem has to be accepted by :meth:`striate.engine.llvm.backend.LlvmBackend.refusal`. ``channels_last`` is the
    layout of the result.
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
        (rows, row_taps), (columns, column_taps) = (phase(axis, 0) for axis in windows)
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
    """Prepares a sum (see sums.py) of ``size`` positions over operands with these strides; results have ``shape``.

    ``backwards``: the input gradient of a depthwise convolution with any stride, from the output gradient.
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
    """The input gradient under a stride, phase by phase: all inputs of a phase see the same taps.

    Input i sees output o through tap t if i + before = o * stride + t * dilation. The inputs i = phase + m * stride see
    the taps with (phase + before - t * dilation) % stride = 0. These are every step-th tap, where
    step = stride / gcd(stride, dilation). From one of these taps to the next, o falls by dilation * step / stride. So
    each phase is an ordinary sum over g.
    """
    g, weights, windows = plane(upstream), Weights.of(weight, shape.groups, transposed=True), axes(shape)
    height, width = size = plane_size(shape.size)
    side_by_side = suits_nhwc(g, weights.sizes)
    if not side_by_side and windows[1].stride <= _MOST_PHASES:
        return reshaped(_nchw_grad(g, weights, bias, windows, size), shape.input_shape)
    # Allocate the gradient in the layout of its parts, because copying between layouts costs more than the sums.
    layout = torch.channels_last if side_by_side else torch.contiguous_format
    grad = fresh.empty((g.shape[0], weights.sizes[0] * weights.sizes[1], height, width), memory_format=layout)
    for top in range(min(windows[0].stride, height)):
        for left in range(min(windows[1].stride, width)):
            place = grad[:, :, top :: windows[0].stride, left :: windows[1].stride]
            (rows, row_taps), (columns, column_taps) = phase(windows[0], top), phase(windows[1], left)
            if not row_taps or not column_taps:
                place.copy_(fresh.zeros(()) if bias is None else bias.reshape(1, -1, 1, 1))
                continue
            part = (place.shape[2], place.shape[3])
            place.copy_(summed(g, weights.taps(row_taps, column_taps), bias, (rows, columns), part))
    return reshaped(grad, shape.input_shape)


def _nchw_grad(
    g: Tensor, weights: Weights, bias: Tensor | None, windows: tuple[Axis, Axis], size: tuple[int, int]
) -> Tensor:
    """The input gradient in NCHW under a stride: one sum for each row phase, which computes all column phases."""
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
        axis, row_taps = phase(rows, top)
        if not row_taps:
            grad[:, :, top :: rows.stride] = 0.0 if bias is None else bias[::phases].reshape(1, -1, 1, 1)
            continue
        outputs = (-(-(size[0] - top) // rows.stride), -(-size[1] // phases))
        sizes = (groups, inner * phases, outer, (source[0], source[1]))
        made = nchw_sum(isa, batch, *sizes, (axis, together), outputs, threads, apart, size, missing, across)
        packed = pack(isa, weights.taps(row_taps, range(together.kernel)), bias, made.channels, False)
        scratch = fresh.empty(made.scratch)
        start = grad.data_ptr() + top * size[1] * grad.element_size()
        arguments = made.arguments(g.data_ptr(), packed.data_ptr(), start, scratch.data_ptr(), g.stride()[:3])
        made.kernel(made.items, made.threads, **arguments)
    return grad


@lru_cache(maxsize=1024)
def _columns_together(axis: Axis) -> tuple[Axis, Tensor, frozenset[tuple[int, int]]]:
    """One window over the outputs for the inputs of all phases.

    Returns:
        The window; its taps, phase by phase, where the index ``axis.kernel`` stands for a missing tap; and the missing
        taps as (phase, position).
    """
    phases = [phase(axis, number) for number in range(axis.stride)]
    seen = [{k * a.dilation - a.before: tap for k, tap in enumerate(taps)} for a, taps in phases]
    first, last = min(map(min, filter(None, seen))), max(map(max, filter(None, seen)))
    taps = [[each.get(place, axis.kernel) for place in range(first, last + 1)] for each in seen]
    missing = {(p, at) for p, each in enumerate(taps) for at, tap in enumerate(each) if tap == axis.kernel}
    window = Axis(last - first + 1, 1, -first, 1)
    return window, fresh.tensor(taps, dtype=torch.int64).flatten(), frozenset(missing)
