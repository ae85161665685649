"""A convolution with its activation and max pooling: which kernel, over which items, on which memory.

See sums.py for addresses, planar_pooled.py for the way there, and sparse.py for the way back. All that follows
from sizes is worked out once for a problem; a call fills in addresses. What a call's threads need for themselves is one
piece of memory.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.llvm import launch, planar_pooled, sparse_input, sparse_weight
from striate.engine.llvm.isa import Isa, the_isa
from striate.engine.llvm.launch import Kernel
from striate.engine.llvm.planar_pooled import Windows
from striate.engine.llvm.sparse import Geometry, KernelRows, generate_sum, generate_taps
from striate.engine.llvm.views import axes, plane, plane_size, planes, rounded
from striate.engine.llvm.weights import Weights, pack
from striate.geometry import ConvShape, PoolShape

#: Numbers that a block's packed rows may take: half of a second-level cache of 512 KiB.
_BLOCK = 1 << 16
#: Numbers of packed rows that stay in a first-level cache of 32 KiB beside what else goes through it.
_NEAR = 6 << 10
#: Numbers of a tile's weights: beyond twice a first-level cache of 32 KiB whole maps were as quick, or quicker.
_WEIGHTS = 1 << 14
#: Of a number in scratch memory, float32 or int32.
_BYTES = 4


@cache
def _pooled_kernel(isa: Isa, windows: Windows, index: str, activation: str) -> Kernel:
    return Kernel(planar_pooled.generate(isa, windows, index, activation), isa)


@cache
def _weight_kernel(isa: Isa, geometry: Geometry) -> Kernel:
    return Kernel(sparse_weight.generate(isa, geometry), isa)


@cache
def _input_kernel(isa: Isa, geometry: Geometry) -> Kernel:
    return Kernel(sparse_input.generate(isa, geometry), isa)


@cache
def _taps_kernel(isa: Isa) -> Kernel:
    return Kernel(generate_taps(isa), isa)


@cache
def _sum_kernel(isa: Isa) -> Kernel:
    return Kernel(generate_sum(isa), isa)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a pass comes to once sizes are known, but for the addresses."""

    kernel: Kernel
    items: int
    threads: int
    scratch: int  #: numbers that all threads need together
    parts: tuple[int, ...]  #: where in it each of the kernel's scratch pointers points
    before: list[int]  #: the kernel's words between its first address and the others
    after: list[int]  #: and those after them
    rows: KernelRows | None = None


def _parts(threads: int, sizes: list[int]) -> tuple[int, tuple[int, ...]]:
    """One piece of memory for several arrays of every thread: its size, and where each array begins."""
    ends = list(itertools.accumulate(-(-threads * size // 16) * 16 for size in sizes))
    return ends[-1], (0, *ends[:-1])


# -------------------------------------------------------------------- forward


def joins(shape: ConvShape, pool: PoolShape) -> bool:
    """Whether the map before pooling can be left out forward as well: windows of up to four taps, side by side."""
    few = torch.Size(pool.kernel).numel() <= 4
    # Rounded up, the last window would reach beyond the map.
    inside = all(n * k <= size for n, k, size in zip(pool.output_size, pool.kernel, pool.size, strict=True))
    return few and inside and pool.stride == pool.kernel and not any(map(any, pool.pads)) and max(pool.dilation) == 1


@lru_cache(maxsize=1024)
def _maximum_plan(
    isa: Isa, shape: ConvShape, pool: PoolShape, activation: str, threads: int
) -> tuple[_Plan, int, torch.dtype]:
    """The plan, the channels of a block of packed weights, and the positions' dtype."""
    down, along = (1, *pool.kernel)[-2:]
    windows = Windows(*axes(shape), down, along)
    compact = torch.int16 if torch.Size(pool.size).numel() <= 1 << 15 else torch.int32
    pooled_rows, pooled_width = plane_size(pool.output_size)
    isa = isa.fitting(pooled_width)
    pitch = windows.pooled_columns.pitch(pooled_width, isa.lanes)
    line = shape.in_channels * pitch * windows.pooled_columns.stride
    block = max(1, min(pooled_rows, _BLOCK // (line * windows.pooled_rows.stride)))
    if shape.batch < 4 * threads:
        block = min(block, -(-pooled_rows * shape.batch // (4 * threads)))
    blocks, deep = -(-pooled_rows // block), windows.pooled_rows.span(block)
    items = shape.batch * blocks
    threads = min(threads, items)
    kernel = _pooled_kernel(isa, windows, "i16" if compact is torch.int16 else "i32", activation)
    sizes = [
        shape.in_channels,
        shape.out_channels,
        *plane_size(shape.size),
        plane_size(shape.output_size)[1],
        pooled_rows,
        pooled_width,
    ]
    blocking = [block, blocks, deep, pitch, deep * line]
    plan = _Plan(kernel, items, threads, threads * deep * line, (0,), sizes, blocking)
    return plan, windows.channels_together(isa), compact


def maximum(
    shape: ConvShape, pool: PoolShape, input: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, Tensor]:
    """The pooled map of a problem that joins, and its positions: -1 where the activation lets no gradient back."""
    isa, x = the_isa(), planes(input)
    plan, together, compact = _maximum_plan(isa, shape, pool, activation, launch.threads())
    packed = pack(isa, Weights.of(weight, 1), bias, together, False)
    values, positions = fresh.empty(pool.output_shape), fresh.empty(pool.output_shape, dtype=compact)
    scratch = fresh.empty(plan.scratch)
    words = [t.data_ptr() for t in (x, packed, values, positions, scratch)]
    plan.kernel(plan.items, [*words, *plan.before, *x.stride()[:3], *plan.after], plan.threads)
    return values, positions


# -------------------------------------------------------------------- backward


_INDEX = {torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"}


def _side_by_side(tensor: Tensor) -> bool:
    """Whether a row's channels and columns lie in memory as they do in a packed row."""
    channels = tensor.shape[1]
    return tensor.stride(3) == channels and (channels == 1 or tensor.stride(1) == 1)


def _pooled(g: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one layout in which the pooled positions of a channel lie evenly apart."""
    if g.stride() != positions.stride() or (g.shape[2] > 1 and g.stride(2) != g.stride(3) * g.shape[3]):
        g, positions = g.contiguous(), positions.contiguous()
    return g, positions


def _geometry(shape: ConvShape, pool: PoolShape, side_by_side: bool, dtype: torch.dtype) -> Geometry:
    rows, columns = axes(shape)
    return Geometry(rows, columns, axes(pool)[0], shape.in_channels, side_by_side, _INDEX[dtype])


@lru_cache(maxsize=256)
def _places(geometry: Geometry, outputs: tuple[int, int], row_size: int) -> Tensor:
    """Where in packed rows the window of every position of the convolution's output starts."""
    down = fresh.arange(outputs[0], dtype=torch.int32) * (geometry.rows.stride * row_size)
    along = fresh.arange(outputs[1], dtype=torch.int32) * (geometry.columns.stride * geometry.channels)
    return (down[:, None] + along).flatten()


@lru_cache(maxsize=1024)
def _weight_plan(
    isa: Isa, shape: ConvShape, pool: PoolShape, side_by_side: bool, dtype: torch.dtype, threads: int
) -> tuple[_Plan, Geometry, Tensor]:
    """The plan, and the table of places."""
    geometry = _geometry(shape, pool, side_by_side, dtype)
    outputs, (pooled_rows, pooled_width) = plane_size(shape.output_size), plane_size(pool.output_size)
    axis, pool_axis = geometry.rows, geometry.pool_rows

    def numbers(geometry: Geometry, block: int) -> int:
        return axis.span(pool_axis.span(block)) * geometry.row_size(outputs[1], isa.lanes)

    block = pooled_rows
    while block > 1 and numbers(geometry, block) > _BLOCK:
        block = -(-block // 2)
    # Channels in parts whose rows stay in a first-level cache, if there are such parts.
    whole = shape.in_channels // isa.lanes if shape.in_channels % isa.lanes == 0 else 0
    parted = (geometry.parted(parts) for parts in range(2, whole + 1) if whole % parts == 0)
    if numbers(geometry, block) > _NEAR:
        geometry = next((each for each in parted if numbers(each, block) <= _NEAR), geometry)
    row_size, deep = geometry.row_size(outputs[1], isa.lanes), axis.span(pool_axis.span(block))
    blocks = -(-pooled_rows // block)
    items = shape.batch * blocks
    threads = min(threads, items)
    rows = geometry.kernel_rows(isa)
    outers = rounded(shape.out_channels, isa.lanes)
    sums = shape.out_channels * geometry.parts * (rows.count * rows.vectors * isa.lanes)
    lists = outers * block * pooled_width
    each = [sums, outers, geometry.parts * deep * row_size + isa.lanes, lists, lists, outers]
    scratch, parts = _parts(threads, each)
    after = [block, blocks, deep, row_size, *each[:4]]
    before = [shape.out_channels, pooled_rows, pooled_width]
    kernel = _weight_kernel(isa, geometry)
    plan = _Plan(kernel, items, threads, scratch, parts, before, after, rows)
    return plan, geometry, _places(geometry, outputs, row_size)


def weight_grad(
    shape: ConvShape, pool: PoolShape, input: Tensor, grad: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias from those of the pooled map; positions of -1 take nothing."""
    isa = _isa(shape)
    x, (g, positions) = plane(input), _pooled(plane(grad), plane(positions))
    side_by_side = _side_by_side(x)
    if not side_by_side and x.stride(3) != 1:
        x = x.contiguous()
    plan, geometry, places = _weight_plan(isa, shape, pool, side_by_side, positions.dtype, launch.threads())
    assert plan.rows is not None
    scratch = fresh.empty(plan.scratch)
    base = scratch.data_ptr()
    own = [base + _BYTES * part for part in plan.parts]
    words = [x.data_ptr(), *x.shape[2:], *x.stride()[:3]]
    words += [g.data_ptr(), positions.data_ptr(), places.data_ptr(), *own, *plan.before]
    plan.kernel(plan.items, [*words, g.stride(0), g.stride(1), g.stride(3), *plan.after], plan.threads)
    made, bias = fresh.empty(shape.weight_shape), fresh.empty(shape.out_channels)
    rows, columns = (1, *shape.kernel)[-2:]
    sums, outers = plan.after[4:6]
    words = [*own[:2], made.data_ptr(), bias.data_ptr(), plan.threads, sums, outers, plan.rows.vectors * isa.lanes]
    words += [geometry.parts, geometry.channels, rows, columns]
    _sum_kernel(isa)(shape.out_channels, words, launch.threads())
    return made, bias


@lru_cache(maxsize=1024)
def _input_plan(
    isa: Isa, shape: ConvShape, pool: PoolShape, side_by_side: bool, dtype: torch.dtype, threads: int
) -> _Plan:
    geometry = _geometry(shape, pool, side_by_side, dtype)
    rows, axis = geometry.kernel_rows(isa), geometry.rows
    height, outputs, pooled = plane_size(shape.size)[0], plane_size(shape.output_size), plane_size(pool.output_size)
    row_size = geometry.row_size(outputs[1], isa.lanes)

    def seeing(block: int) -> int:
        """Output rows that see a block of input rows, at most."""
        return min(outputs[0], (block - 1 + (axis.kernel - 1) * axis.dilation) // axis.stride + 1)

    block = height
    while block > 1 and axis.span(seeing(block)) * row_size > _BLOCK:
        block = -(-block // 2)
    blocks, deep = -(-height // block), axis.span(seeing(block))
    items = shape.batch * blocks
    threads = min(threads, items)
    windows = [-(-window.effective_kernel // window.stride) for window in pool.windows]
    most = shape.out_channels * torch.Size(windows).numel()
    positions = seeing(block) * outputs[1]
    # Behind the lists of positions one that takes what belongs to none of them, at most everything.
    room = positions * most + shape.out_channels * pooled[0] * pooled[1]
    # One row more than are seen, which stays empty.
    each = [(deep + 1) * row_size + isa.lanes, positions + 1 + isa.lanes, room, room]
    scratch, parts = _parts(threads, each)
    before, after = [shape.out_channels, *outputs, *pooled], [block, blocks, deep, row_size, *each[:3], most]
    return _Plan(_input_kernel(isa, geometry), items, threads, scratch, parts, before, after, rows)


def input_grad(
    shape: ConvShape, pool: PoolShape, weight: Tensor, grad: Tensor, positions: Tensor, channels_last: bool
) -> Tensor:
    """The gradient of the input from those of the pooled map; positions of -1 take nothing."""
    isa = _isa(shape)
    g, positions = _pooled(plane(grad), plane(positions))
    layout = torch.channels_last if channels_last and shape.dims == 2 else torch.contiguous_format
    made = fresh.empty(shape.input_shape, memory_format=layout)
    x, w = plane(made), plane(weight)
    plan = _input_plan(isa, shape, pool, _side_by_side(x), positions.dtype, launch.threads())
    assert plan.rows is not None
    row_numbers = plan.rows.vectors * isa.lanes
    factors = fresh.empty(shape.out_channels, plan.rows.count, row_numbers)
    words = [w.data_ptr(), factors.data_ptr(), row_numbers, *w.shape[1:], *w.stride()]
    _taps_kernel(isa)(shape.out_channels, words, 1)
    scratch = fresh.empty(plan.scratch)
    own = [scratch.data_ptr() + _BYTES * part for part in plan.parts]
    words = [x.data_ptr(), *x.shape[2:], *x.stride()[:3]]
    words += [g.data_ptr(), positions.data_ptr(), factors.data_ptr(), *own, *plan.before]
    plan.kernel(plan.items, [*words, g.stride(0), g.stride(1), g.stride(3), *plan.after], plan.threads)
    return made


def tiles(shape: ConvShape) -> int:
    """Tiles that the kernels write out one by one."""
    return len(_rows_of(shape).tiles())


@lru_cache(maxsize=1024)
def weights_fit(shape: ConvShape) -> bool:
    """Whether a tile's weights of all channels, read in no order, stay in a cache while they are."""
    rows = _rows_of(shape)
    return shape.out_channels * rows.rows_together * rows.vectors_together * _isa(shape).lanes <= _WEIGHTS


def _rows_of(shape: ConvShape) -> KernelRows:
    rows, columns = axes(shape)
    return KernelRows.of(_isa(shape), rows.kernel, columns.kernel * shape.in_channels)


def _isa(shape: ConvShape) -> Isa:
    """On vectors for the numbers of a kernel's row."""
    return the_isa().fitting(shape.kernel[-1] * shape.in_channels)
