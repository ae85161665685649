"""A convolution's contraction on planes: which kernel, with which tile, over which items, on which memory.

The one place where tensors become addresses. Whatever a kernel gets is made or checked here, and is held by a local
variable until the kernel has returned.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.engine.backends import Pass
from striate.engine.layout import reshaped
from striate.engine.llvm import (
    interleaved,
    interleaved_depthwise,
    interleaved_depthwise_weight,
    interleaved_weight,
    launch,
    planar,
    planar_weight,
)
from striate.engine.llvm.epilogue import PLAIN, Epilogue
from striate.engine.llvm.interleaved import ChannelTile
from striate.engine.llvm.interleaved_depthwise import Columns
from striate.engine.llvm.interleaved_depthwise_weight import DepthwiseTile
from striate.engine.llvm.interleaved_weight import TapTile
from striate.engine.llvm.isa import Isa, host
from striate.engine.llvm.launch import Kernel
from striate.engine.llvm.packing import Axis
from striate.engine.llvm.planar import Tile
from striate.engine.llvm.planar_weight import WeightTile
from striate.engine.llvm.relayout import laid_out, moved, transposed
from striate.engine.llvm.weights import Packing, Weights, pack, packing
from striate.geometry import ConvShape, Problem

#: Numbers that a block's packed rows may take: half of a small second-level cache.
_BLOCK = 1 << 16
#: Numbers of a row that a span may take, half of a first-level cache, and positions that reading weights is worth.
_SPAN, _LEAST_SPAN = 1 << 12, 24
#: Gradients that a dense weight gradient goes over for one tap after the other: half of a first-level cache.
_HELD = 1 << 12
#: Rows of a depthwise weight gradient's block, of which a tile's columns stay in a first-level cache.
_DEPTHWISE_ROWS = 28
#: Strides of a gradient's columns up to which they are summed together.
_MOST_PHASES = 4
#: Multiplications that a weight gradient's sums should go through before their lanes are added up.
_ROWS_TOGETHER = 128


@cache
def _output_kernel(isa: Isa, rows: Axis, columns: Axis, tile: Tile) -> Kernel:
    return Kernel(planar.generate(isa, rows, columns, tile), isa)


@cache
def _tap_kernel(isa: Isa, tile: TapTile) -> Kernel:
    return Kernel(interleaved_weight.generate(isa, tile), isa)


@cache
def _channel_kernel(isa: Isa, tile: ChannelTile, epilogue: Epilogue, direct: bool, rest: int) -> Kernel:
    return Kernel(interleaved.generate(isa, tile, epilogue, direct, rest), isa)


@cache
def _depthwise_kernel(
    isa: Isa, rows: Axis, columns: Axis, width: int, backwards: bool, epilogue: Epilogue = PLAIN
) -> Kernel:
    tile = Columns.choose(isa, columns, width, backwards)
    return Kernel(interleaved_depthwise.generate(isa, rows, columns, tile.together, backwards, epilogue), isa)


@cache
def _depthwise_weight_kernel(isa: Isa, rows: Axis, columns: Axis, tile: DepthwiseTile) -> Kernel:
    return Kernel(interleaved_depthwise_weight.generate(isa, rows, columns, tile), isa)


@cache
def _weight_kernel(isa: Isa, rows: Axis, columns: Axis, tile: WeightTile) -> Kernel:
    return Kernel(planar_weight.generate(isa, rows, columns, tile), isa)


@lru_cache(maxsize=4096)
def axes(shape: Problem) -> tuple[Axis, Axis]:
    """The windows as kernels take them; one axis is a row of a plane of height 1."""
    made = [Axis(1, 1, 0, 1)] + [
        Axis(window.kernel, window.stride, before, window.dilation)
        for window, (before, _) in zip(shape.windows, shape.pads, strict=True)
    ]
    return made[-2], made[-1]


def plane_size(size: tuple[int, ...]) -> tuple[int, int]:
    return (1, *size)[-2], size[-1]


def plane(tensor: Tensor) -> Tensor:
    """(N, C, H, W), one axis being a row of height 1."""
    return tensor.unsqueeze(2) if tensor.dim() == 3 else tensor


def interleaves(x: Tensor, weights: Weights) -> bool:
    """Whether channels lie side by side and are enough, or depthwise, to put lanes over them."""
    groups, outer, inner = weights.sizes[:3]
    channels = x.shape[1]
    dense = groups == 1 and outer >= 4
    depthwise = outer == inner == 1 and groups >= 4
    return (dense or depthwise) and channels > 1 and x.stride(1) == 1 and x.stride(3) == channels


def _is_narrow(weights: Weights, width: int) -> bool:
    """Whether depthwise windows over rows of this width are worth two copies to have lanes over channels."""
    groups, outer, inner = weights.sizes[:3]
    lanes = the_isa().lanes
    return outer == inner == 1 and groups >= 2 * lanes and width <= 2 * lanes


def planes(tensor: Tensor) -> Tensor:
    """(N, C, H, W) with neighbours along the width side by side."""
    flat = plane(tensor)
    if flat.stride(3) == 1 or flat.shape[3] == 1:
        return flat
    made = moved(flat, False)
    return flat.contiguous() if made is None else made


def contract(shape: ConvShape, open_: Pass, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
    """The contraction, for problems that :func:`striate.engine.llvm.backend.refusal` lets through."""
    if open_ is Pass.OUTPUT:
        y = _sum(plane(first), Weights.of(second, shape.groups), bias, axes(shape), plane_size(shape.output_size))
        return reshaped(y, shape.output_shape)
    if open_ is Pass.WEIGHT_GRAD:
        return _weight_grad(plane(first), plane(second), shape)
    weights = Weights.of(first, shape.groups, transposed=True)
    grad = _input_grad(plane(second), weights, bias, axes(shape), plane_size(shape.size))
    return reshaped(grad, shape.input_shape)


@dataclass(frozen=True, slots=True)
class Sum:
    """What a sum comes to once sizes are known, but for the addresses: looked up, it costs nothing again."""

    kernel: Kernel
    channels: int  #: output channels of a block of packed weights
    items: int
    threads: int
    scratch: int
    before: list[int]  #: the kernel's words up to the operand's strides
    after: list[int]

    def words(self, x: Any, weight: Any, y: Any, scratch: Any, strides: Sequence[int], added: Any = None) -> list[Any]:
        """The kernel's arguments, from addresses or from what will be addresses."""
        pointers = [x, weight, y] if added is None else [x, weight, y, added]
        if self.scratch:
            pointers.append(scratch)
        return [*pointers, *self.before, *strides, *self.after]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A sum as it is called: its weights are packed, its result gets memory, and its kernel the addresses."""

    sum: Sum
    pack: Packing
    strides: tuple[int, ...]  #: of the operand, as the kernel takes them
    shape: tuple[int, ...]
    layout: tuple[int, ...]  #: the result's strides

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        made = self.sum
        packed = self.pack(weight, bias)
        y = torch.empty_strided(self.shape, self.layout)  # half of what empty takes to work strides out
        scratch = torch.empty(made.scratch) if made.scratch else y
        words = made.words(x.data_ptr(), packed.data_ptr(), y.data_ptr(), scratch.data_ptr(), self.strides)
        made.kernel(made.items, words, made.threads)
        return y


@lru_cache(maxsize=4096)
def _prepared(
    isa: Isa,
    x_shape: tuple[int, ...],
    x_strides: tuple[int, ...],
    geometry: tuple[Any, ...],
    biased: bool,
    side_by_side: bool,
    windows: tuple[Axis, Axis],
    size: tuple[int, int],
    backwards: bool,
    threads: int,
) -> _Prepared:
    """The sum over an operand of this shape and these strides, with weights that :class:`Weights` describes so."""
    batch, _, *source = x_shape
    groups, outer, inner = geometry[1][:3]
    known = (windows, size, threads)
    if backwards:
        made = _depthwise_sum(isa, batch, groups, (source[0], source[1]), *known, True)
    else:
        make = interleaved_sum if side_by_side else _planar_sum
        made = make(isa, batch, groups, outer, inner, (source[0], source[1]), *known)
    pack = packing(isa, *geometry, biased, made.channels, side_by_side, threads)
    strides = (x_strides[0], x_strides[2]) if side_by_side else x_strides[:3]
    shape = (batch, groups * outer, *size)
    layout = torch.channels_last if side_by_side else torch.contiguous_format
    return _Prepared(made, pack, strides, shape, torch.empty(shape, device="meta", memory_format=layout).stride())


def _sum(
    x: Tensor,
    weights: Weights,
    bias: Tensor | None,
    windows: tuple[Axis, Axis],
    size: tuple[int, int],
    backwards: bool = False,
) -> Tensor:
    """y[n, o] = bias[o] + sum over c, t of x[n, c, position(t)] * weight[g, o, c, t], ``size`` positions of it.

    ``backwards``: of depthwise windows, from the output's gradient to the input's, whatever the stride.
    """
    if _is_narrow(weights, size[1]):
        x = laid_out(x, True)
    side_by_side = interleaves(x, weights)
    if not side_by_side:
        x = planes(x)
    tensor, *geometry = weights
    how = (x.shape, x.stride(), tuple(geometry), bias is not None, side_by_side, windows, size, backwards)
    return _prepared(the_isa(), *how, launch.threads())(x, tensor, bias)


@lru_cache(maxsize=4096)
def _planar_sum(
    isa: Isa,
    batch: int,
    groups: int,
    outer: int,
    inner: int,
    size: tuple[int, int],
    windows: tuple[Axis, Axis],
    outputs: tuple[int, int],
    threads: int,
    apart: tuple[int, int] = (1, 1),
    whole: tuple[int, int] | None = None,
) -> Sum:
    """The sum on planes. ``apart``: results are so many rows and columns apart in planes of size ``whole``, and outer
    channels are each plane's columns in between (see planar.py).
    """
    rows, columns = windows
    out_height, out_width = outputs
    tile = Tile.choose(isa, outer, windows, out_height, out_width, apart[1])
    tiles = -(-outer // tile.channels)
    pitch = columns.pitch(out_width, isa.lanes)
    line = inner * pitch * columns.stride
    wanted = max(1, _BLOCK // (line * rows.stride))
    # With few images their blocks of rows are what threads share; a block repeats the rows that two blocks see.
    if batch * groups < 4 * threads:
        wanted = min(wanted, -(-out_height * batch * groups // (4 * threads)))
    block = _rounded(min(wanted, out_height), tile.rows)
    blocks = -(-out_height // block)
    deep = rows.span(block)
    items = batch * blocks * groups
    threads = min(threads, items)
    y_height, y_width = whole or outputs
    plane = y_height * y_width
    after = [groups * outer // apart[1] * plane, plane, y_width * apart[0], block, blocks, deep, pitch, deep * line]
    if apart[1] > 1:
        after.append(y_width)
    before = [inner, groups, tiles, outer, *size, *outputs]
    scratch = threads * deep * line
    return Sum(_output_kernel(isa, rows, columns, tile), tile.channels, items, threads, scratch, before, after)


@lru_cache(maxsize=4096)
def interleaved_sum(
    isa: Isa,
    batch: int,
    groups: int,
    outer: int,
    inner: int,
    size: tuple[int, int],
    windows: tuple[Axis, Axis],
    outputs: tuple[int, int],
    threads: int,
    epilogue: Epilogue = PLAIN,
) -> Sum:
    """The sum with channels side by side, in the operand and in the result: dense (one group) or depthwise."""
    rows, columns = windows
    if groups > 1:
        return _depthwise_sum(isa, batch, groups, size, windows, outputs, threads, False, epilogue)
    tile = ChannelTile.choose(isa, outer, outputs[1])
    together = tile.vectors * isa.lanes
    each = (batch, inner, size, windows, outputs, outer, tile.columns, together, isa, threads)
    items, before, after = _interleaved_block(*each)
    direct = all(
        axis.before <= 0 and axis.span(count) - axis.before <= length
        for axis, count, length in zip(windows, outputs, size, strict=True)
    )
    numbers = batch * size[0] * size[1] * inner, rows.kernel * columns.kernel * inner * outer
    share, span = _divided(items, outputs, tile, outer, together, numbers, inner if direct else 0, threads)
    spans = -(-outputs[1] // span)
    runs = 1 if columns.dilation == 1 else columns.kernel
    after += [share, items * spans, span, spans, runs, columns.kernel * inner // runs]
    items *= spans * -(-outer // share)
    threads = min(threads, items)
    scratch = 0 if direct else threads * after[4]
    kernel = _channel_kernel(isa, tile, epilogue, direct, outer % isa.lanes)
    return Sum(kernel, together, items, threads, scratch, before, after)


def _divided(
    blocks: int,
    outputs: tuple[int, int],
    tile: ChannelTile,
    outer: int,
    together: int,
    numbers: tuple[int, int],
    inner: int,
    threads: int,
) -> tuple[int, int]:
    """The channels and the columns that an item computes of its block of rows.

    Where weights are more ``numbers`` than the image threads share out the channels, so that each reads a weight once.
    A single row that is read where it lies (``inner`` numbers a position, 0 if it isn't) is done in spans that stay in
    the first-level cache while all channels are computed.
    """
    share, span = _rounded(outer, together), outputs[1]
    if blocks < threads and numbers[1] > numbers[0]:
        return _rounded(-(-outer // threads), together), span
    if inner and outputs[0] == 1:
        fair = span if threads == 1 else -(-span // (2 * threads))
        span = min(span, _rounded(min(fair, max(_SPAN // inner, _LEAST_SPAN)), tile.columns))
    return share, span


def _interleaved_block(
    batch: int,
    inner: int,
    size: tuple[int, int],
    windows: tuple[Axis, Axis],
    outputs: tuple[int, int],
    channels: int,
    columns_together: int,
    channels_together: int,
    isa: Isa,
    threads: int,
) -> tuple[int, list[int], list[int]]:
    """The number of items, and the words of interleaved.Block before and after the operand's strides.

    The last of them is the scratch that a thread needs.
    """
    rows, columns = windows
    pitch = columns.span(_rounded(outputs[1], columns_together))
    row_size = _rounded(pitch * inner + channels_together, isa.lanes)
    wanted = max(1, _BLOCK // (row_size * rows.stride))
    if batch < 4 * threads:
        wanted = min(wanted, -(-outputs[0] * batch // (4 * threads)))
    block = min(wanted, outputs[0])
    blocks, deep = -(-outputs[0] // block), rows.span(block)
    both = [(getattr(rows, name), getattr(columns, name)) for name in ("kernel", "stride", "before", "dilation")]
    before = [*itertools.chain(*both), inner, channels, *size, *outputs]
    return batch * blocks, before, [block, blocks, deep, row_size, deep * row_size]


@lru_cache(maxsize=4096)
def _depthwise_sum(
    isa: Isa,
    batch: int,
    channels: int,
    size: tuple[int, int],
    windows: tuple[Axis, Axis],
    outputs: tuple[int, int],
    threads: int,
    backwards: bool,
    epilogue: Epilogue = PLAIN,
) -> Sum:
    """The sum of one channel each; ``backwards`` from the output's gradient to the input's."""
    rows, columns = windows
    # The tile depends on the width, of which few are worth code of their own.
    kernel = _depthwise_kernel(isa, rows, columns, min(outputs[1], isa.registers), backwards, epilogue)
    items = batch * outputs[0]
    return Sum(kernel, isa.lanes, items, min(threads, items), 0, [channels, *size, *outputs], [])


def _input_grad(
    g: Tensor, weights: Weights, bias: Tensor | None, windows: tuple[Axis, Axis], size: tuple[int, int]
) -> Tensor:
    """The gradient's planes, one stride apart: those inputs that see the same taps are an ordinary sum over g.

    Input i sees output o through tap t where i + before = o * stride + t * dilation. Inputs with i % stride = phase, at
    i = phase + m * stride, see the taps with (phase + before - t * dilation) % stride = 0, every step-th one where
    step = stride / gcd(stride, dilation); from one of those to the next, o falls by dilation * step / stride.
    """
    height, width = size
    if all(axis.stride == 1 for axis in windows):
        (rows, row_taps), (columns, column_taps) = (_phase(axis, 0) for axis in windows)
        return _sum(g, weights.taps(row_taps, column_taps), bias, (rows, columns), size)
    if _is_narrow(weights, width):
        g = laid_out(g, True)
    side_by_side = interleaves(g, weights)
    if weights.sizes[0] > 1 and side_by_side:
        return _sum(g, weights, bias, windows, size, backwards=True)
    if not side_by_side and windows[1].stride <= _MOST_PHASES:
        return _planar_grad(planes(g), weights, bias, windows, size)
    # In the layout that its parts will have: copying across layouts costs more than the sums.
    layout = torch.channels_last if side_by_side else torch.contiguous_format
    grad = torch.empty((g.shape[0], weights.sizes[0] * weights.sizes[1], height, width), memory_format=layout)
    for top in range(min(windows[0].stride, height)):
        for left in range(min(windows[1].stride, width)):
            place = grad[:, :, top :: windows[0].stride, left :: windows[1].stride]
            (rows, row_taps), (columns, column_taps) = _phase(windows[0], top), _phase(windows[1], left)
            if not row_taps or not column_taps:
                place.copy_(torch.zeros(()) if bias is None else bias.reshape(1, -1, 1, 1))
                continue
            part = (place.shape[2], place.shape[3])
            place.copy_(_sum(g, weights.taps(row_taps, column_taps), bias, (rows, columns), part))
    return grad


def _planar_grad(
    g: Tensor, weights: Weights, bias: Tensor | None, windows: tuple[Axis, Axis], size: tuple[int, int]
) -> Tensor:
    """The gradient of planes under a stride: for each of its rows, one stride apart, a sum for all columns."""
    isa, threads, (rows, columns) = the_isa(), launch.threads(), windows
    batch, _, *source = g.shape
    groups, inner, outer = weights.sizes[:3]
    grad = torch.empty((batch, groups * inner, *size))
    together, taps = _columns_together(columns)
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
        made = _planar_sum(isa, batch, *sizes, (axis, together), outputs, threads, apart, size)
        packed = pack(isa, weights.taps(row_taps, range(together.kernel)), bias, made.channels, False)
        scratch = torch.empty(made.scratch)
        start = grad.data_ptr() + top * size[1] * grad.element_size()
        words = made.words(g.data_ptr(), packed.data_ptr(), start, scratch.data_ptr(), g.stride()[:3])
        made.kernel(made.items, words, made.threads)
    return grad


@lru_cache(maxsize=1024)
def _columns_together(axis: Axis) -> tuple[Axis, Tensor]:
    """One window over outputs for the inputs of all phases, and by phase its taps; one more for those it hasn't."""
    phases = [_phase(axis, phase) for phase in range(axis.stride)]
    seen = [{k * a.dilation - a.before: tap for k, tap in enumerate(taps)} for a, taps in phases]
    first, last = min(map(min, filter(None, seen))), max(map(max, filter(None, seen)))
    taps = [[each.get(place, axis.kernel) for place in range(first, last + 1)] for each in seen]
    return Axis(last - first + 1, 1, -first, 1), torch.tensor(taps).flatten()


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


@dataclass(frozen=True, slots=True)
class _WeightSum:
    """What a weight's gradient comes to, but for the addresses; threads sum apart and are added up in their order."""

    kernel: Kernel
    items: int
    sums: tuple[int, ...]  #: a thread's
    threads: int
    scratch: int
    words: list[int]  #: the kernel's after its addresses

    def __call__(self, x: Tensor, g: Tensor) -> Tensor:
        shape = self.sums if self.threads == 1 else (self.threads, *self.sums)
        partial, scratch = torch.zeros(shape), torch.empty(self.scratch)
        places = [x.data_ptr(), g.data_ptr(), partial.data_ptr(), scratch.data_ptr()]
        self.kernel(self.items, [*places, *self.words], self.threads)
        return partial if self.threads == 1 else partial.sum(0)


def _weight_grad(x: Tensor, g: Tensor, shape: ConvShape) -> Tensor:
    isa, threads = the_isa(), launch.threads()
    if not _interleaves_weight(x, g, shape):
        x, g = planes(x), planes(g)
        return _planar_weight(isa, shape, x.stride(), g.stride(), threads)(x, g)
    make = _depthwise_weight if shape.groups > 1 else _interleaved_weight
    total = make(isa, shape, x.stride(), g.stride(), threads)(x, g)
    if shape.groups > 1:
        return transposed(total.flatten(0, 1), shape.weight_shape)
    rows, columns = axes(shape)
    taps = total[:, :, : columns.kernel * shape.in_channels // total.shape[1]]
    taps = taps.reshape(rows.kernel, columns.kernel, shape.in_channels, shape.out_channels)
    return reshaped(taps.permute(3, 2, 0, 1).clone(memory_format=torch.contiguous_format), shape.weight_shape)


def _interleaves_weight(x: Tensor, g: Tensor, shape: ConvShape) -> bool:
    """Whether both have their channels side by side, and those of the output are whole vectors."""
    depthwise = shape.groups == shape.in_channels == shape.out_channels
    dense = all(t.stride(3) == t.shape[1] and (t.stride(1) == 1 or t.shape[1] == 1) for t in (x, g))
    return dense and g.shape[1] > 1 and (shape.groups == 1 or depthwise) and shape.out_channels % the_isa().lanes == 0


@lru_cache(maxsize=4096)
def _planar_weight(
    isa: Isa, shape: ConvShape, x_strides: tuple[int, ...], g_strides: tuple[int, ...], threads: int
) -> _WeightSum:
    """On planes: lanes along the width; sums as the weight lies."""
    (height, width), (out_height, out_width) = plane_size(shape.size), plane_size(shape.output_size)
    batch, groups = shape.batch, shape.groups
    inner, outer = shape.in_channels // groups, shape.out_channels // groups
    rows, columns = axes(shape)
    tile = WeightTile.choose(isa, outer, inner, (rows, columns))
    pitch = columns.pitch(out_width, isa.lanes)
    line = inner * pitch * columns.stride
    block = max(1, min(out_height, _BLOCK // (line * rows.stride)))
    blocks = -(-out_height // block)
    deep = rows.span(block)
    vectors = block * -(-out_width // isa.lanes)
    together = max(1, min(_ROWS_TOGETHER // vectors, _BLOCK // (deep * line), -(-batch // threads)))
    items = -(-batch // together) * blocks * groups
    # The last tile may load from input channels that don't exist, to drop what comes of it.
    spare = (tile.inner - 1) * deep * pitch * columns.stride
    scratch = together * deep * line + spare
    threads = min(threads, items)
    sums = shape.weight_shape
    words = [inner, groups, outer, height, width, out_height, out_width, *x_strides[:3], *g_strides[:3]]
    words += [batch, together, block, blocks, deep, pitch, deep * line, scratch, math.prod(sums)]
    return _WeightSum(_weight_kernel(isa, rows, columns, tile), items, sums, threads, threads * scratch, words)


@lru_cache(maxsize=4096)
def _interleaved_weight(
    isa: Isa, shape: ConvShape, x_strides: tuple[int, ...], g_strides: tuple[int, ...], threads: int
) -> _WeightSum:
    """Channels side by side: lanes over output channels; see interleaved_weight.py for the sums' shape."""
    rows, columns = axes(shape)
    runs, run = (1, columns.kernel) if columns.dilation == 1 else (columns.kernel, 1)
    run *= shape.in_channels
    tile = TapTile.choose(isa, shape.out_channels, run)
    across = tile.vectors * isa.lanes
    size, outputs = plane_size(shape.size), plane_size(shape.output_size)
    each = (shape.batch, shape.in_channels, size, (rows, columns), outputs, shape.out_channels)
    items, before, after = _interleaved_block(*each, 1, max(across, tile.inner), isa, threads)
    threads = min(threads, items)
    sums = (rows.kernel, runs, _rounded(run, tile.inner), shape.out_channels)
    wide = min(outputs[1], max(1, _HELD // across))
    few = [max(1, _HELD // (across * wide)), wide]
    words = [*before, x_strides[0], x_strides[2], *after, g_strides[0], g_strides[2], math.prod(sums), *few, runs, run]
    return _WeightSum(_tap_kernel(isa, tile), items, sums, threads, threads * after[-1], words)


@lru_cache(maxsize=4096)
def _depthwise_weight(
    isa: Isa, shape: ConvShape, x_strides: tuple[int, ...], g_strides: tuple[int, ...], threads: int
) -> _WeightSum:
    """Depthwise, channels side by side: lanes over them; sums as (kernel rows, kernel columns, C)."""
    rows, columns = axes(shape)
    size, outputs = plane_size(shape.size), plane_size(shape.output_size)
    kernel = _depthwise_weight_kernel(isa, rows, columns, DepthwiseTile.choose(isa, rows, columns, outputs[1]))
    block = min(_DEPTHWISE_ROWS, -(-outputs[0] * shape.batch // threads), outputs[0])
    blocks = -(-outputs[0] // block)
    items = shape.batch * blocks
    sums = (rows.kernel, columns.kernel, shape.in_channels)
    words = [shape.in_channels, *size, *outputs, x_strides[0], x_strides[2], g_strides[0], g_strides[2]]
    words += [block, blocks, math.prod(sums)]
    return _WeightSum(kernel, items, sums, min(threads, items), 0, words)


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step


def the_isa() -> Isa:
    isa = host()
    assert isa is not None
    return isa
