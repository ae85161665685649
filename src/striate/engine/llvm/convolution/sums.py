"""Sums over windows, for outputs and input gradients: chooses the kernel, the tile and the work items.

Operands in channels last get lanes over channels, planes get lanes along the width. Everything that follows from sizes
is computed once for each problem; a call fills in addresses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.ir import LINE
from striate.engine.llvm.codegen.isa import Isa, second_level_cache, the_isa
from striate.engine.llvm.codegen.launch import Kernel, Start
from striate.engine.llvm.convolution import nchw, nhwc, nhwc_depthwise, nhwc_grouped
from striate.engine.llvm.convolution.nchw import PlaneTile
from striate.engine.llvm.convolution.nhwc import ChannelTile
from striate.engine.llvm.convolution.nhwc_depthwise import Columns
from striate.engine.llvm.convolution.nhwc_grouped import GroupTile
from striate.engine.llvm.functions.epilogue import PLAIN, Epilogue
from striate.engine.llvm.memory.relayout import laid_out
from striate.engine.llvm.memory.rows import Axis
from striate.engine.llvm.memory.views import Strides, map_sizes, plane_strides, planes, rounded, row_strides
from striate.engine.llvm.memory.weights import Packing, Weights, packing

#: The most numbers in the packed rows of a block: half of a second-level cache.
BLOCK = second_level_cache() // 8
#: The most numbers of a row in a span (half of a first-level cache), and the fewest positions that amortise reading the
#: weights.
_SPAN, _LEAST_SPAN = 1 << 12, 24
#: The widest depthwise output for which converting planes to channels last and back is faster.
_NARROW = 16
#: The widest maps for which depthwise kernels unroll all columns.
_WRITTEN_OUT = 32
_FORMATS = {False: torch.contiguous_format, True: torch.channels_last}
#: The addresses that all kernels take.
_OPERANDS: Final = ("x", "weight", "y")
#: The strides of operands in channels last, and of planes.
_STRIDES: Final = {2: ("x_image", "x_row"), 3: ("x_image", "x_channel", "x_row")}


@cache
def _output_kernel(isa: Isa, rows: Axis, columns: Axis, tile: PlaneTile, across: bool) -> Kernel:
    return Kernel(nchw.generate(isa, rows, columns, tile, across), isa)


@cache
def _channel_kernel(isa: Isa, tile: ChannelTile, epilogue: Epilogue, direct: bool, rest: int) -> Kernel:
    return Kernel(nhwc.generate(isa, tile, epilogue, direct, rest), isa)


@cache
def _grouped_kernel(isa: Isa, tile: GroupTile, epilogue: Epilogue, rests: tuple[int, ...]) -> Kernel:
    return Kernel(nhwc_grouped.generate(isa, tile, epilogue, rests), isa)


@cache
def _depthwise_kernel(
    isa: Isa,
    rows: Axis,
    columns: Axis,
    width: int,
    backwards: bool,
    epilogue: Epilogue,
    widths: tuple[int, int] | None,
) -> Kernel:
    tile = Columns.choose(isa, columns, width, backwards)
    return Kernel(nhwc_depthwise.generate(isa, rows, columns, tile.together, backwards, epilogue, widths), isa)


def suits_nhwc(x: Tensor, sizes: Sequence[int]) -> bool:
    """Whether the operand is in channels last with enough channels (or groups) for lanes over channels.

    ``sizes`` are those of :class:`Weights`.
    """
    groups, outer, inner = sizes[:3]
    channels = x.shape[1]
    enough = True
    if groups == 1 or outer == inner == 1:
        enough = groups * outer >= 4
    return enough and channels > 1 and x.stride(1) == 1 and x.stride(3) == channels


def is_narrow(sizes: Sequence[int], width: int) -> bool:
    """Whether rows are so narrow that a depthwise sum is faster in channels last, including the two copies."""
    groups, outer, inner = sizes[:3]
    return outer == inner == 1 and groups >= 2 * the_isa().lanes and width <= _NARROW


def narrow(size: tuple[int, int], outputs: tuple[int, int]) -> tuple[int, int] | None:
    """The widths of input and output, if depthwise kernels are generated for them; None for wider maps."""
    return (size[1], outputs[1]) if max(size[1], outputs[1]) <= _WRITTEN_OUT else None


def lies_across(x: Tensor, sizes: Sequence[int], width: int, columns: Axis) -> bool:
    """Whether the NCHW kernel can pack an operand in channels last for ``width`` columns (see ``pack_across``)."""
    groups, channels, lanes = sizes[0], x.shape[1], the_isa().fitting(width).lanes
    side_by_side = x.stride(1) == 1 and x.stride(3) == channels
    if not side_by_side or not groups == columns.stride == 1 or channels % lanes:
        return False
    seen = min(x.shape[3], columns.pitch(width, lanes) - columns.before)
    return seen - max(0, -columns.before) >= lanes


def readable(x: Tensor, sizes: Sequence[int], width: int, columns: Axis) -> Tensor:
    """The operand in the layout that the kernel for ``width`` columns reads; copied only if necessary."""
    if is_narrow(sizes, width):
        x = laid_out(x, True)
    return x if suits_nhwc(x, sizes) or lies_across(x, sizes, width, columns) else planes(x)


@dataclass(frozen=True, slots=True)
class SumKernel:
    """A sum of given sizes: its kernel, work items, scratch memory and sizes."""

    kernel: Kernel
    channels: int  #: output channels of a block of packed weights
    items: int
    threads: int
    scratch: int
    sizes: dict[str, int]  #: the kernel's arguments, except the addresses and the operand's strides
    together: int = 1  #: groups of several channels that share a block of packed weights

    def arguments(
        self, x: Any, weight: Any, y: Any, scratch: Any, strides: Sequence[int], added: Any = None
    ) -> dict[str, Any]:
        """The kernel's arguments, from addresses or buffers.

        ``strides``: from an image of the operand to the next one and from a row to the next one; for planes, that from
        a channel to the next one is between these two.
        """
        operands = {"x": x, "weight": weight, "y": y}
        if added is not None:
            operands["added"] = added
        if self.scratch:
            operands["scratch"] = scratch
        return {**operands, **self.sizes, **dict(zip(_STRIDES[len(strides)], strides, strict=True))}

    def words(self, x: Any, weight: Any, y: Any, scratch: Any, strides: Sequence[int], added: Any = None) -> list[Any]:
        """:meth:`arguments` in the kernel's order."""
        return self.kernel.words(**self.arguments(x, weight, y, scratch, strides, added))


@dataclass(frozen=True, slots=True)
class PreparedSum:
    """A callable sum: it packs the weight, allocates the result and runs the kernel."""

    pack: Packing
    start: Start
    shape: tuple[int, ...]
    layout: tuple[int, ...]  #: the result's strides
    scratch: int  #: numbers of scratch memory: the packed weights, followed by the kernel's scratch memory
    own: int  #: offset in bytes of the kernel's scratch memory; 0 if it has none

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = fresh.empty_strided(self.shape, self.layout)  # twice as fast as empty, which computes the strides
        scratch = fresh.empty(self.scratch)
        packed = scratch.data_ptr()
        self.pack.fill(weight, bias, packed)
        if self.own:
            self.start(x.data_ptr(), packed, y.data_ptr(), packed + self.own)
        else:
            self.start(x.data_ptr(), packed, y.data_ptr())
        return y

    def of_rows(self) -> PreparedSum:
        """The same sum for 1-D, with a result without the axis of height 1."""
        return replace(self, shape=(*self.shape[:2], self.shape[3]), layout=(*self.layout[:2], self.layout[3]))


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
    across: bool,
    threads: int,
) -> PreparedSum:
    """Prepares the sum over an operand of this shape and these strides, with a weight of this geometry."""
    batch, _, *source = x_shape
    groups, outer, inner = geometry[1][:3]
    known = (windows, size, threads)
    each = (isa, batch, groups, outer, inner, (source[0], source[1]), *known)
    if backwards:
        made = _depthwise_sum(isa, batch, groups, (source[0], source[1]), *known, True)
    else:
        made = nhwc_sum(*each) if side_by_side else nchw_sum(*each, across=across)
    pack = packing(isa, *geometry, biased, made.channels, side_by_side, threads, made.together)
    strides = (row_strides if side_by_side else plane_strides)("x", x_strides)
    shape = (batch, groups * outer, *size)
    layout = torch.empty(shape, device="meta", memory_format=_FORMATS[side_by_side]).stride()
    own = rounded(math.prod(pack.shape), LINE) if made.scratch else 0
    free = (*_OPERANDS, "scratch") if own else _OPERANDS
    start = made.kernel.bound(free, made.items, made.threads, **made.sizes, **strides)
    return PreparedSum(pack, start, shape, layout, own + made.scratch or math.prod(pack.shape), 4 * own)


def prepared(
    x: Tensor,
    geometry: Sequence[Any],
    biased: bool,
    windows: tuple[Axis, Axis],
    size: tuple[int, int],
    backwards: bool = False,
) -> PreparedSum:
    """Prepares the sum over a :func:`readable` operand; ``geometry`` is :class:`Weights` without the tensor."""
    side_by_side = suits_nhwc(x, geometry[1])
    across = not side_by_side and lies_across(x, geometry[1], size[1], windows[1])
    how = (x.shape, x.stride(), tuple(geometry), biased, side_by_side, windows, size, backwards, across)
    return _prepared(the_isa(), *how, launch.threads())


def summed(
    x: Tensor, weights: Weights, bias: Tensor | None, windows: tuple[Axis, Axis], size: tuple[int, int]
) -> Tensor:
    """y[n, o] = bias[o] + sum over c, t of x[n, c, position(t)] * weight[g, o, c, t], at ``size`` positions."""
    x = readable(x, weights.sizes, size[1], windows[1])
    tensor, *geometry = weights
    return prepared(x, geometry, bias is not None, windows, size)(x, tensor, bias)


@lru_cache(maxsize=4096)
def nchw_sum(
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
    missing: frozenset[tuple[int, int]] = frozenset(),
    across: bool = False,
) -> SumKernel:
    """The sum in NCHW.

    ``apart``: the distance of results, in rows and columns, in planes of size ``whole``; the output channels of the sum
    are the columns in between (see nchw.py). ``across``: whether inputs are in channels last (:func:`lies_across`).
    """
    rows, columns = windows
    out_height, out_width = outputs
    isa = isa.fitting(out_width)
    tile = PlaneTile.choose(isa, outer, windows, out_height, out_width, apart[1], missing)
    tiles = -(-outer // tile.channels)
    pitch = columns.pitch(out_width, isa.lanes)
    line = inner * pitch * columns.stride
    wanted = max(1, BLOCK // (line * rows.stride))
    # With few images, threads divide the blocks of rows; then blocks are smaller, although neighbouring blocks pack
    # some rows twice.
    if batch * groups < 4 * threads:
        wanted = min(wanted, -(-out_height * batch * groups // (4 * threads)))
    block = rounded(min(wanted, out_height), tile.rows)
    blocks = -(-out_height // block)
    deep = rows.span(block)
    items = batch * blocks * groups
    threads = min(threads, items)
    y_height, y_width = whole or outputs
    plane = y_height * y_width
    sizes = {"channels": inner, "groups": groups, "tiles": tiles, "out_channels": outer, **map_sizes(size, outputs)}
    sizes |= {"y_image": groups * outer // apart[1] * plane, "y_channel": plane, "y_row": y_width * apart[0]}
    sizes |= {"block": block, "blocks": blocks, "deep": deep, "pitch": pitch, "scratch_size": deep * line}
    if apart[1] > 1:
        sizes["y_width"] = y_width
    if across:
        sizes["x_column"] = inner
    kernel = _output_kernel(isa, rows, columns, tile, across)
    return SumKernel(kernel, tile.channels, items, threads, threads * deep * line, sizes)


@lru_cache(maxsize=4096)
def nhwc_sum(
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
    result: Strides | None = None,
) -> SumKernel:
    """The sum in channels last, for the operand and the result: dense (one group), depthwise or grouped.

    ``result``: where the result of a dense sum is written; None for one without gaps.
    """
    rows, columns = windows
    assert result is None or groups == 1
    if groups > 1 and inner == outer == 1:
        return _depthwise_sum(isa, batch, groups, size, windows, outputs, threads, False, epilogue)
    if groups > 1:
        return _grouped_sum(isa, batch, groups, outer, inner, size, windows, outputs, threads, epilogue)
    isa = isa.fitting(outer)
    numbers = batch * size[0] * size[1] * inner, rows.kernel * columns.kernel * inner * outer
    share = outer
    if batch * outputs[0] < threads and numbers[1] > numbers[0]:
        share = rounded(-(-outer // threads), isa.lanes)  # divide the channels, because there are too few rows
    tile = ChannelTile.choose(isa, share, outputs[1])
    together = tile.vectors * isa.lanes
    each = (batch, inner, size, windows, outputs, outer, tile.columns, together, isa, threads)
    items, sizes = nhwc_block(*each)
    direct = all(
        axis.before <= 0 and axis.span(count) - axis.before <= length
        for axis, count, length in zip(windows, outputs, size, strict=True)
    )
    share, span = _divided(items, outputs, tile, outer, together, numbers, inner if direct else 0, threads)
    spans = -(-outputs[1] // span)
    runs = 1 if columns.dilation == 1 else columns.kernel
    sizes |= {"share": share, "places": items * spans, "span": span, "spans": spans}
    sizes |= {"runs": runs, "run": columns.kernel * inner // runs}
    sizes |= (result or Strides.dense(outputs, outer)).arguments
    items *= spans * -(-outer // share)
    threads = min(threads, items)
    scratch = 0 if direct else threads * sizes["scratch_size"]
    kernel = _channel_kernel(isa, tile, epilogue, direct, outer % isa.lanes)
    return SumKernel(kernel, together, items, threads, scratch, sizes)


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
    """The number of channels and of columns that a work item computes.

    If the weight has more ``numbers`` than the images, threads divide the channels, so that each weight is read once. A
    single row that is read without packing (``inner`` numbers per position; 0 if packed) is divided into spans, which
    stay in the first-level cache while all channels are computed.
    """
    share, span = rounded(outer, together), outputs[1]
    if blocks < threads and numbers[1] > numbers[0]:
        return rounded(-(-outer // threads), together), span
    if inner and outputs[0] == 1:
        fair = span if threads == 1 else -(-span // (2 * threads))
        span = min(span, rounded(min(fair, max(_SPAN // inner, _LEAST_SPAN)), tile.columns))
    return share, span


def nhwc_block(
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
) -> tuple[int, dict[str, int]]:
    """The number of work items, and the arguments of nhwc.Block except the operand's strides."""
    rows, columns = windows
    pitch = columns.span(rounded(outputs[1], columns_together))
    row_size = rounded(pitch * inner + channels_together, isa.lanes)
    wanted = max(1, BLOCK // (row_size * rows.stride))
    if batch < 4 * threads:
        wanted = min(wanted, -(-outputs[0] * batch // (4 * threads)))
    block = min(wanted, outputs[0])
    blocks, deep = -(-outputs[0] // block), rows.span(block)
    sizes = {**_window_sizes(windows), "column_stride": columns.stride, "inner": inner, "outer": channels}
    sizes |= map_sizes(size, outputs)
    sizes |= {"block": block, "blocks": blocks, "deep": deep, "row_size": row_size, "scratch_size": deep * row_size}
    return batch * blocks, sizes


def _window_sizes(windows: tuple[Axis, Axis]) -> dict[str, int]:
    """The arguments of a kernel for any windows, except the column stride, which may be compiled in."""
    rows, columns = windows
    sizes = {"kernel_rows": rows.kernel, "kernel_columns": columns.kernel, "row_stride": rows.stride}
    sizes |= {"row_before": rows.before, "column_before": columns.before}
    return sizes | {"row_dilation": rows.dilation, "column_dilation": columns.dilation}


def _grouped_sum(
    isa: Isa,
    batch: int,
    groups: int,
    outer: int,
    inner: int,
    size: tuple[int, int],
    windows: tuple[Axis, Axis],
    outputs: tuple[int, int],
    threads: int,
    epilogue: Epilogue,
) -> SumKernel:
    """The sum of groups of several channels (see nhwc_grouped.py)."""
    rows, columns = windows
    isa = nhwc_grouped.fitting(isa, inner, outer)
    tile = GroupTile.choose(isa, inner, outer, columns.stride, outputs[1])
    chunks = -(-groups // tile.together)
    pitch = columns.span(outputs[1])
    row_size = rounded(pitch * tile.together * inner, isa.lanes) + 2 * isa.lanes
    wanted = max(1, BLOCK // (row_size * rows.stride))
    if batch * chunks < 4 * threads:
        wanted = min(wanted, -(-outputs[0] * batch * chunks // (4 * threads)))
    block = min(wanted, outputs[0])
    blocks, deep = -(-outputs[0] // block), rows.span(block)
    items = batch * chunks * blocks
    threads = min(threads, items)
    sizes = {**_window_sizes(windows), "groups": groups, **map_sizes(size, outputs)}
    sizes |= {"block": block, "blocks": blocks, "deep": deep}
    sizes |= {"pitch": pitch, "row_size": row_size, "scratch_size": deep * row_size}
    if tile.together > 1:
        rests = tuple(sorted({outer * tile.together, outer * (groups % tile.together)} - {0}))
    else:
        rests = (outer % isa.lanes,)
    kernel = _grouped_kernel(isa, tile, epilogue, rests)
    together = tile.vectors * isa.lanes
    return SumKernel(kernel, together, items, threads, threads * deep * row_size, sizes, tile.together)


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
) -> SumKernel:
    """The depthwise sum; with ``backwards`` the input gradient from the output gradient."""
    rows, columns = windows
    # The tile depends on the width; limiting the width limits the number of kernels.
    width = min(outputs[1], isa.registers)
    kernel = _depthwise_kernel(isa, rows, columns, width, backwards, epilogue, narrow(size, outputs))
    items = batch * outputs[0]
    sizes = {"channels": channels, **map_sizes(size, outputs)}
    return SumKernel(kernel, isa.lanes, items, min(threads, items), 0, sizes)
