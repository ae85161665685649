"""A convolution with its activation and max pooling: which kernel, over which items, on which memory.

See convolution/sums.py for addresses, output.py for the way there, and sparse.py for the way back. All that follows
from sizes is worked out once for a problem; a call fills in addresses. What a call's threads need for themselves is one
piece of memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.ir import LINE
from striate.engine.llvm.codegen.isa import Isa, the_isa
from striate.engine.llvm.codegen.launch import Kernel, Start
from striate.engine.llvm.conv_pool import output, sparse_input_grad, sparse_weight_grad
from striate.engine.llvm.conv_pool.output import Windows
from striate.engine.llvm.conv_pool.sparse import Geometry, KernelRows, generate_sum, generate_taps, held
from striate.engine.llvm.functions.epilogue import Epilogue
from striate.engine.llvm.memory.views import axes, plane, plane_size, planes, rounded
from striate.engine.llvm.memory.weights import Packing, Weights, packing
from striate.engine.llvm.pooling.dispatch import INDEX, compact
from striate.geometry import ConvShape, PoolShape

#: Numbers that a block's packed rows may take: half of a second-level cache of 512 KiB.
_BLOCK = 1 << 16
#: Numbers of packed rows that stay in a first-level cache of 32 KiB beside what else goes through it.
_NEAR = 6 << 10
#: Numbers of a tile's weights of all channels, read in no order, that stay in such a cache.
_WEIGHTS = 6 << 10
#: Of a number in scratch memory, float32 or int32.
_BYTES = 4


@cache
def _pooled_kernel(isa: Isa, windows: Windows, index: str, activation: str) -> Kernel:
    return Kernel(output.generate(isa, windows, index, activation), isa)


@cache
def _nhwc_kernel(isa: Isa, windows: Windows, epilogue: Epilogue) -> Kernel:
    return Kernel(output.generate_nhwc(isa, windows, epilogue), isa)


@cache
def _weight_kernel(isa: Isa, geometry: Geometry) -> Kernel:
    return Kernel(sparse_weight_grad.generate(isa, geometry), isa)


@cache
def _input_kernel(isa: Isa, geometry: Geometry, rows: KernelRows) -> Kernel:
    return Kernel(sparse_input_grad.generate(isa, geometry, rows), isa)


@cache
def _taps_kernel(isa: Isa) -> Kernel:
    return Kernel(generate_taps(isa), isa)


@cache
def _sum_kernel(isa: Isa) -> Kernel:
    return Kernel(generate_sum(isa), isa)


def _parts(threads: int, sizes: dict[str, int], first: int = 0) -> tuple[int, dict[str, int]]:
    """One piece of memory with ``first`` numbers for all threads, and behind them several arrays for each thread.

    Returns the size of this memory, and where each array begins, as the arguments of :func:`.sparse.arrays`.
    """
    ends = list(itertools.accumulate((-(-threads * size // 16) * 16 for size in sizes.values()), initial=first))
    return ends[-1], {f"{name}_start": start for name, start in zip(sizes, ends[:-1], strict=True)}


# -------------------------------------------------------------------- forward


def joins(pool: PoolShape) -> bool:
    """Whether the map before pooling can be left out forward as well: windows of up to four taps, side by side."""
    few = torch.Size(pool.kernel).numel() <= 4
    # Rounded up, the last window would reach beyond the map.
    inside = all(n * k <= size for n, k, size in zip(pool.output_size, pool.kernel, pool.size, strict=True))
    return few and inside and pool.stride == pool.kernel and not any(map(any, pool.pads)) and max(pool.dilation) == 1


def _image(size: tuple[int, ...], strides: Sequence[int]) -> dict[str, int]:
    """The arguments about images: height and width, and the strides of images, channels and rows."""
    height, width = plane_size(size)
    x_image, x_channel, x_row = strides
    return {"height": height, "width": width, "x_image": x_image, "x_channel": x_channel, "x_row": x_row}


@dataclass(frozen=True, slots=True)
class Nchw:
    """The kernels that walk planes: over which items, and all sizes that they take but that of scratch memory."""

    isa: Isa
    windows: Windows
    together: int  #: output channels of a tile
    sizes: dict[str, int]
    items: int
    threads: int
    scratch: int  #: numbers that a thread packs

    @classmethod
    def of(cls, isa: Isa, shape: ConvShape, pool: PoolShape, threads: int, strides: Sequence[int]) -> Nchw:
        """``strides``: of images, channels and rows."""
        down, along = (1, *pool.kernel)[-2:]
        windows = Windows(*axes(shape), down, along)
        pooled_rows, pooled_width = plane_size(pool.output_size)
        isa = isa.fitting(pooled_width)
        pitch = windows.pooled_columns.pitch(pooled_width, isa.lanes)
        line = shape.in_channels * pitch * windows.pooled_columns.stride
        block = max(1, min(pooled_rows, _BLOCK // (line * windows.pooled_rows.stride)))
        if shape.batch < 4 * threads:
            block = min(block, -(-pooled_rows * shape.batch // (4 * threads)))
        blocks, deep = -(-pooled_rows // block), windows.pooled_rows.span(block)
        items = shape.batch * blocks
        sizes = {"inner": shape.in_channels, "outer": shape.out_channels, **_image(shape.size, strides)}
        sizes |= {"map_width": plane_size(shape.output_size)[1]}
        sizes |= {"pooled_rows": pooled_rows, "pooled_width": pooled_width}
        sizes |= {"block": block, "blocks": blocks, "deep": deep, "pitch": pitch}
        return cls(isa, windows, windows.channels_together(isa), sizes, items, min(threads, items), deep * line)


@dataclass(frozen=True, slots=True)
class Nhwc:
    """The pooled map alone, with channels side by side, of planes."""

    kernel: Kernel
    together: int
    items: int
    threads: int
    scratch: int  #: numbers that a thread needs
    sizes: dict[str, int]  #: all arguments of the kernel but the addresses

    @classmethod
    def of(
        cls, isa: Isa, shape: ConvShape, pool: PoolShape, threads: int, strides: Sequence[int], epilogue: Epilogue
    ) -> Nhwc:
        what = Nchw.of(isa, shape, pool, threads, strides)
        kernel = _nhwc_kernel(what.isa, what.windows, epilogue)
        scratch = what.scratch + what.together * what.isa.lanes
        sizes = {**what.sizes, "scratch_size": scratch}
        return cls(kernel, what.together, what.items, what.threads, scratch, sizes)

    def words(self, x: Any, packed: Any, y: Any, scratch: Any) -> list[Any]:
        """The kernel's arguments, from addresses or from what will be addresses."""
        return self.kernel.words(x=x, weight=packed, y=y, scratch=scratch, **self.sizes)


@dataclass(frozen=True, slots=True)
class _Maximum:
    """The pooled map and its positions, but for the addresses."""

    pack: Packing
    start: Start
    shape: tuple[int, ...]
    dtype: torch.dtype  #: of positions
    scratch: int  #: numbers: the packed weights, and behind them the threads' own
    own: int  #: bytes to these

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        values, positions = fresh.empty(self.shape), fresh.empty(self.shape, dtype=self.dtype)
        scratch = fresh.empty(self.scratch)
        packed = scratch.data_ptr()
        self.pack.fill(weight, bias, packed)
        self.start(x.data_ptr(), packed, values.data_ptr(), positions.data_ptr(), packed + self.own)
        return values, positions


def maximum(
    shape: ConvShape, pool: PoolShape, input: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    """What computes the pooled map of a problem that joins, and its positions: -1 where the activation lets no
    gradient back; from operands that lie in memory as these do.
    """
    x, threads, dtype = planes(input), launch.threads(), compact(pool)
    what = Nchw.of(the_isa(), shape, pool, threads, x.stride()[:3])
    _, *geometry = Weights.of(weight, 1)
    pack = packing(the_isa(), *geometry, bias is not None, what.together, False, threads)
    kernel = _pooled_kernel(what.isa, what.windows, INDEX[dtype], activation)
    packed = rounded(math.prod(pack.shape), LINE)
    scratch, starts = _parts(what.threads, {"scratch": what.scratch}, packed)
    free = ("x", "weight", "y", "positions", "scratch")
    start = kernel.bound(free, what.items, what.threads, scratch_size=what.scratch, **what.sizes)
    made = _Maximum(pack, start, pool.output_shape, dtype, scratch, _BYTES * starts["scratch_start"])
    if x.data_ptr() != input.data_ptr():
        return lambda x, weight, bias: made(planes(x), weight, bias)
    return made


# -------------------------------------------------------------------- backward


def _side_by_side(tensor: Tensor) -> bool:
    """Whether a row's channels and columns lie in memory as they do in a packed row."""
    channels = tensor.shape[1]
    return tensor.stride(3) == channels and (channels == 1 or tensor.stride(1) == 1)


def _pooled(g: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one layout in which the pooled positions of a channel lie evenly apart."""
    if g.stride() != positions.stride() or (g.shape[2] > 1 and g.stride(2) != g.stride(3) * g.shape[3]):
        g, positions = g.contiguous(), positions.contiguous()
    return g, positions


def _pooled_sizes(pool: PoolShape, g: Tensor) -> dict[str, int]:
    """The arguments about the pooled map and its gradient, whose pooled positions lie ``g_step`` apart."""
    pooled_rows, pooled_width = plane_size(pool.output_size)
    sizes = {"pooled_rows": pooled_rows, "pooled_width": pooled_width}
    return sizes | {"g_image": g.stride(0), "g_channel": g.stride(1), "g_step": g.stride(3)}


def _geometry(shape: ConvShape, pool: PoolShape, side_by_side: bool, dtype: torch.dtype) -> Geometry:
    rows, columns = axes(shape)
    return Geometry(rows, columns, axes(pool)[0], shape.in_channels, side_by_side, INDEX[dtype])


@lru_cache(maxsize=256)
def _places(geometry: Geometry, outputs: tuple[int, int], row_size: int) -> Tensor:
    """Where in packed rows the window of every position of the convolution's output starts."""
    down = fresh.arange(outputs[0], dtype=torch.int32) * (geometry.rows.stride * row_size)
    along = fresh.arange(outputs[1], dtype=torch.int32) * (geometry.columns.stride * geometry.channels)
    return (down[:, None] + along).flatten()


@dataclass(frozen=True, slots=True)
class _WeightGrad:
    """The gradients of weight and bias, but for the addresses."""

    start: Start
    add_up: Start
    scratch: int
    places: Tensor  #: whose address the kernel has
    shape: tuple[int, ...]

    def __call__(self, x: Tensor, g: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        scratch, made, bias = fresh.empty(self.scratch), fresh.empty(self.shape), fresh.empty(self.shape[0])
        own = scratch.data_ptr()
        self.start(x.data_ptr(), g.data_ptr(), positions.data_ptr(), own)
        self.add_up(own, made.data_ptr(), bias.data_ptr())
        return made, bias


def weight_grad(
    shape: ConvShape, pool: PoolShape, input: Tensor, grad: Tensor, positions: Tensor
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What computes the gradients of weight and bias from those of the pooled map, of operands that lie in memory as
    these do; positions of -1 take nothing.
    """
    isa, threads = _isa(shape), launch.threads()
    x, (g, near) = _rows_in_order(plane(input)), _pooled(plane(grad), plane(positions))
    geometry = _geometry(shape, pool, _side_by_side(x), positions.dtype)
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
    packed = geometry.parts * deep * row_size + isa.lanes
    each = {"partial": sums, "bias": outers, "scratch": packed}
    each |= {"list_places": lists, "list_values": lists, "counts": outers}
    scratch, starts = _parts(threads, each)
    places = _places(geometry, outputs, row_size)
    sizes = {"outer": shape.out_channels, **_image(x.shape[2:], x.stride()[:3]), **_pooled_sizes(pool, g)}
    sizes |= {"block": block, "blocks": blocks, "deep": deep, "row_size": row_size}
    sizes |= {"scratch_size": packed, "list_size": lists}
    apart = {"sums_size": sums, "outers": outers}
    arguments = {"places": places.data_ptr(), **starts, **sizes, **apart}
    start = _weight_kernel(isa, geometry).bound(("x", "g", "positions", "memory"), items, threads, **arguments)
    add_up = _add_up(isa, shape, geometry, threads=threads, bias_start=starts["bias_start"], **apart)
    made = _WeightGrad(start, add_up, scratch, places, shape.weight_shape)
    if _same_memory((x, input), (g, grad), (near, positions)):
        return made
    return lambda x, g, at: made(_rows_in_order(plane(x)), *_pooled(plane(g), plane(at)))


def _add_up(isa: Isa, shape: ConvShape, geometry: Geometry, **apart: int) -> Start:
    """The kernel that adds up the threads' sums; ``apart`` has how many there are, and how far apart they lie."""
    rows, columns = (1, *shape.kernel)[-2:]
    sizes = {"parts": geometry.parts, "channels": geometry.channels, "rows": rows, "columns": columns}
    sizes |= {"row_numbers": geometry.kernel_rows(isa).vectors * isa.lanes}
    free = ("partial", "weight", "bias")
    return _sum_kernel(isa).bound(free, shape.out_channels, launch.threads(), **sizes, **apart)


def _rows_in_order(x: Tensor) -> Tensor:
    """Images whose rows the kernels can copy."""
    return x if _side_by_side(x) or x.stride(3) == 1 else x.contiguous()


def _same_memory(*pairs: tuple[Tensor, Tensor]) -> bool:
    return all(one.data_ptr() == other.data_ptr() for one, other in pairs)


@dataclass(frozen=True, slots=True)
class _InputGrad:
    """The gradient of the input, but for the addresses."""

    start: Start
    taps: Start
    scratch: int
    shape: tuple[int, ...]
    layout: tuple[int, ...]

    def __call__(self, weight: Tensor, g: Tensor, positions: Tensor) -> Tensor:
        made, scratch = fresh.empty_strided(self.shape, self.layout), fresh.empty(self.scratch)
        own = scratch.data_ptr()
        self.taps(weight.data_ptr(), own)
        self.start(made.data_ptr(), g.data_ptr(), positions.data_ptr(), own)
        return made


def input_grad(
    shape: ConvShape, pool: PoolShape, weight: Tensor, grad: Tensor, positions: Tensor, channels_last: bool
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """What computes the gradient of the input from those of the pooled map, of operands that lie in memory as these
    do; positions of -1 take nothing.
    """
    isa, threads = _isa(shape), launch.threads()
    w, (g, near) = plane(weight), _pooled(plane(grad), plane(positions))
    layout = torch.channels_last if channels_last and shape.dims == 2 else torch.contiguous_format
    lies = fresh.empty(shape.input_shape, memory_format=layout)
    x = plane(lies)
    rows, geometry = input_rows(shape), _geometry(shape, pool, _side_by_side(x), positions.dtype)
    axis = geometry.rows
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
    at_most = seeing(block) * outputs[1]
    # Behind the lists of positions one that takes what belongs to none of them, at most everything.
    room = at_most * most + shape.out_channels * pooled[0] * pooled[1]
    # One row more than are seen, which stays empty.
    packed, counts = (deep + 1) * row_size + isa.lanes, at_most + 1 + isa.lanes
    factors = rounded(shape.out_channels * rows.count * rows.vectors * isa.lanes, LINE)
    each = {"scratch": packed, "counts": counts, "list_weights": room, "list_values": room}
    scratch, starts = _parts(threads, each, factors)
    sizes = {"outer": shape.out_channels, "out_height": outputs[0], "out_width": outputs[1]}
    sizes |= {**_image(x.shape[2:], x.stride()[:3]), **_pooled_sizes(pool, g)}
    sizes |= {"block": block, "blocks": blocks, "deep": deep, "row_size": row_size}
    sizes |= {"scratch_size": packed, "counts_size": counts, "list_size": room, "most": most}
    free = ("x", "g", "positions", "memory")
    start = _input_kernel(isa, geometry, rows).bound(free, items, threads, taps_start=0, **starts, **sizes)
    made = _InputGrad(start, _taps(isa, w, rows), scratch, shape.input_shape, lies.stride())
    if _same_memory((g, grad), (near, positions)):
        return made
    return lambda weight, g, at: made(weight, *_pooled(plane(g), plane(at)))


def _taps(isa: Isa, w: Tensor, rows: KernelRows) -> Start:
    """The kernel that writes weights that lie in memory as these do as rows of taps."""
    outer, channels, kernel_rows, kernel_columns = w.shape
    sizes = {"channels": channels, "rows": kernel_rows, "columns": kernel_columns}
    steps = zip(("outer_step", "channel_step", "row_step", "column_step"), w.stride(), strict=True)
    return _taps_kernel(isa).bound(
        ("weight", "taps"), outer, 1, row_numbers=rows.vectors * isa.lanes, **sizes, **dict(steps)
    )


@lru_cache(maxsize=1024)
def weight_rows(shape: ConvShape) -> KernelRows:
    """The tiles that the kernel of the weight's gradient writes out one by one."""
    isa, (rows, columns) = _isa(shape), axes(shape)
    return KernelRows.of(isa, rows.kernel, columns.kernel * shape.in_channels, held(isa))


@lru_cache(maxsize=1024)
def input_rows(shape: ConvShape) -> KernelRows:
    """The tiles of the kernel of the input's gradient: their weights of all channels stay in a cache, if they can."""
    isa, (rows, columns) = _isa(shape), axes(shape)
    most = max(1, min(_WEIGHTS // (shape.out_channels * isa.lanes), held(isa)))
    return KernelRows.of(isa, rows.kernel, columns.kernel * shape.in_channels, most)


def _isa(shape: ConvShape) -> Isa:
    """On vectors for the numbers of a kernel's row."""
    return the_isa().fitting(shape.kernel[-1] * shape.in_channels)
