"""Weight gradients: chooses the kernel, the tile, the work items and the scratch memory.

Each thread has partial sums of its own, which are then added in the order of the threads, so results are reproducible.
The exception are 1x1 windows: there, threads divide the weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.layout import reshaped
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.isa import Isa, the_isa
from striate.engine.llvm.codegen.launch import Kernel, Start
from striate.engine.llvm.convolution import nchw_weight, nhwc_depthwise_weight, nhwc_weight, pointwise_weight
from striate.engine.llvm.convolution.nchw_weight import WeightTile
from striate.engine.llvm.convolution.nhwc_depthwise_weight import DepthwiseTile
from striate.engine.llvm.convolution.nhwc_weight import TapTile
from striate.engine.llvm.convolution.pointwise_weight import PointTile
from striate.engine.llvm.convolution.sums import BLOCK, narrow, nhwc_block
from striate.engine.llvm.memory.relayout import transposed
from striate.engine.llvm.memory.rows import Axis
from striate.engine.llvm.memory.views import (
    axes,
    map_sizes,
    plane,
    plane_size,
    plane_strides,
    planes,
    rounded,
    row_strides,
)
from striate.geometry import ConvShape

#: Output gradients that are read repeatedly, once for each tap: half of a first-level cache.
_HELD = 1 << 12
#: Rows in a block of a depthwise weight gradient; a tile's columns of a block stay in the first-level cache.
_DEPTHWISE_ROWS = 28
#: The fewest multiplications in a sum before its lanes are added up.
_ROWS_TOGETHER = 128


@cache
def _tap_kernel(isa: Isa, tile: TapTile) -> Kernel:
    return Kernel(nhwc_weight.generate(isa, tile), isa)


@cache
def _point_kernel(isa: Isa, tile: PointTile, rest: int) -> Kernel:
    return Kernel(pointwise_weight.generate(isa, tile, rest), isa)


@cache
def _depthwise_weight_kernel(
    isa: Isa, rows: Axis, columns: Axis, tile: DepthwiseTile, widths: tuple[int, int] | None
) -> Kernel:
    return Kernel(nhwc_depthwise_weight.generate(isa, rows, columns, tile, widths), isa)


@cache
def _weight_kernel(isa: Isa, rows: Axis, columns: Axis, tile: WeightTile) -> Kernel:
    return Kernel(nchw_weight.generate(isa, rows, columns, tile), isa)


@dataclass(frozen=True, slots=True)
class _WeightSum:
    """A callable weight gradient; each thread has its own sums, which are added in the order of the threads."""

    start: Start
    sums: tuple[int, ...]  #: the shape of a thread's sums
    threads: int
    scratch: int

    @classmethod
    def of(
        cls, kernel: Kernel, items: int, sums: tuple[int, ...], threads: int, scratch: int, sizes: dict[str, int]
    ) -> _WeightSum:
        """``sizes`` are the kernel's arguments except the addresses and the size of a thread's sums."""
        start = kernel.bound(("x", "g", "partial", "scratch"), items, threads, partial_size=math.prod(sums), **sizes)
        return cls(start, sums, threads, scratch)

    def __call__(self, x: Tensor, g: Tensor) -> Tensor:
        shape = self.sums if self.threads == 1 else (self.threads, *self.sums)
        partial, scratch = fresh.zeros(shape), fresh.empty(self.scratch)
        self.start(x.data_ptr(), g.data_ptr(), partial.data_ptr(), scratch.data_ptr())
        return partial if self.threads == 1 else partial.sum(0)


def prepared(x: Tensor, g: Tensor, shape: ConvShape) -> Callable[[Tensor, Tensor], Tensor]:
    """Prepares the weight gradient, (C_out, C_in / groups, ...), for (N, C, ...) tensors with these strides."""
    isa, threads = the_isa(), launch.threads()
    if _is_pointwise(plane(x), plane(g), shape):
        return _pointwise_weight(isa, shape, threads)
    if not _suits_nhwc_weight(plane(x), plane(g), shape):
        return _of_planes(isa, x, g, shape, threads)
    make = _depthwise_weight if shape.groups > 1 else _nhwc_weight
    sums = make(isa, shape, plane(x).stride(), plane(g).stride(), threads)
    if shape.groups > 1:
        return lambda x, g: transposed(sums(x, g).flatten(0, 1), shape.weight_shape)
    return lambda x, g: _in_order(sums(x, g), shape)


def _of_planes(isa: Isa, x: Tensor, g: Tensor, shape: ConvShape, threads: int) -> Callable[[Tensor, Tensor], Tensor]:
    rows = planes(x), planes(g)
    sums = _nchw_weight(isa, shape, rows[0].stride(), rows[1].stride(), threads)
    if all(row.data_ptr() == tensor.data_ptr() for row, tensor in zip(rows, (x, g), strict=True)):
        return sums
    return lambda x, g: sums(planes(x), planes(g))


def _in_order(sums: Tensor, shape: ConvShape) -> Tensor:
    """Reorders the sums, which are by kernel row, column and input channel, to a dense weight."""
    rows, columns = axes(shape)
    taps = sums[:, :, : columns.kernel * shape.in_channels // sums.shape[1]]
    taps = taps.reshape(rows.kernel, columns.kernel, shape.in_channels, shape.out_channels)
    return reshaped(taps.permute(3, 2, 0, 1).clone(memory_format=torch.contiguous_format), shape.weight_shape)


def _is_pointwise(x: Tensor, g: Tensor, shape: ConvShape) -> bool:
    """Whether the convolution is 1x1 with stride 1, and both tensors are in channels last without gaps."""
    single = max(shape.kernel) == max(shape.stride) == 1 and not any(map(any, shape.pads))
    return single and shape.groups == 1 and _in_rows(x) and _in_rows(g)


def _in_rows(tensor: Tensor) -> bool:
    _, channels, height, width = tensor.shape
    wanted = (height * width * channels, 1, width * channels, channels)
    return all(
        size == 1 or step == other for size, step, other in zip(tensor.shape, tensor.stride(), wanted, strict=True)
    )


def _suits_nhwc_weight(x: Tensor, g: Tensor, shape: ConvShape) -> bool:
    """Whether both tensors are in channels last, and the output channels are whole vectors."""
    depthwise = shape.groups == shape.in_channels == shape.out_channels
    dense = all(t.stride(3) == t.shape[1] and (t.stride(1) == 1 or t.shape[1] == 1) for t in (x, g))
    whole = shape.out_channels % the_isa().dividing(shape.out_channels).lanes == 0
    return dense and whole and g.shape[1] > 1 and (shape.groups == 1 or depthwise)


@lru_cache(maxsize=4096)
def _nchw_weight(
    isa: Isa, shape: ConvShape, x_strides: tuple[int, ...], g_strides: tuple[int, ...], threads: int
) -> _WeightSum:
    """The weight gradient in NCHW, with lanes along the width; the sums have the layout of the weight."""
    size, (out_height, out_width) = plane_size(shape.size), plane_size(shape.output_size)
    batch, groups = shape.batch, shape.groups
    inner, outer = shape.in_channels // groups, shape.out_channels // groups
    rows, columns = axes(shape)
    isa = isa.fitting(out_width)
    tile = WeightTile.choose(isa, outer, inner, (rows, columns))
    pitch = columns.pitch(out_width, isa.lanes)
    line = inner * pitch * columns.stride
    block = max(1, min(out_height, BLOCK // (line * rows.stride)))
    blocks = -(-out_height // block)
    deep = rows.span(block)
    vectors = block * -(-out_width // isa.lanes)
    together = max(1, min(_ROWS_TOGETHER // vectors, BLOCK // (deep * line), -(-batch // threads)))
    items = -(-batch // together) * blocks * groups
    # The last tile may load input channels beyond the last one; its sums for them are dropped.
    spare = (tile.inner - 1) * deep * pitch * columns.stride
    scratch = together * deep * line + spare
    threads = min(threads, items)
    sizes = {"inner": inner, "groups": groups, "outer": outer, **map_sizes(size, (out_height, out_width))}
    sizes |= plane_strides("x", x_strides) | plane_strides("g", g_strides)
    sizes |= {"images": batch, "together": together, "block": block, "blocks": blocks, "deep": deep, "pitch": pitch}
    sizes |= {"image_size": deep * line, "scratch_size": scratch}
    kernel = _weight_kernel(isa, rows, columns, tile)
    return _WeightSum.of(kernel, items, shape.weight_shape, threads, threads * scratch, sizes)


@lru_cache(maxsize=4096)
def _nhwc_weight(
    isa: Isa, shape: ConvShape, x_strides: tuple[int, ...], g_strides: tuple[int, ...], threads: int
) -> _WeightSum:
    """The weight gradient in channels last, with lanes over output channels; see nhwc_weight.py for the sums' shape."""
    isa = isa.dividing(shape.out_channels)
    rows, columns = axes(shape)
    runs, run = (1, columns.kernel) if columns.dilation == 1 else (columns.kernel, 1)
    run *= shape.in_channels
    tile = TapTile.choose(isa, shape.out_channels, run)
    across = tile.vectors * isa.lanes
    size, outputs = plane_size(shape.size), plane_size(shape.output_size)
    each = (shape.batch, shape.in_channels, size, (rows, columns), outputs, shape.out_channels)
    items, sizes = nhwc_block(*each, 1, max(across, tile.inner), isa, threads)
    threads = min(threads, items)
    sums = (rows.kernel, runs, rounded(run, tile.inner), shape.out_channels)
    wide = min(outputs[1], max(1, _HELD // across))
    sizes |= row_strides("x", x_strides) | row_strides("g", g_strides)
    sizes |= {"tall": max(1, _HELD // (across * wide)), "wide": wide, "runs": runs, "run": run}
    return _WeightSum.of(_tap_kernel(isa, tile), items, sums, threads, threads * sizes["scratch_size"], sizes)


@dataclass(frozen=True, slots=True)
class _Product:
    """A callable weight gradient that the kernel writes in its final layout."""

    start: Start
    shape: tuple[int, ...]
    scratch: int

    def __call__(self, x: Tensor, g: Tensor) -> Tensor:
        made, scratch = fresh.empty(self.shape), fresh.empty(self.scratch)
        self.start(x.data_ptr(), g.data_ptr(), made.data_ptr(), scratch.data_ptr())
        return made


@lru_cache(maxsize=4096)
def _pointwise_weight(isa: Isa, shape: ConvShape, threads: int) -> _Product:
    """The weight gradient of 1x1 windows in channels last, with lanes over input channels."""
    inner, outer = shape.in_channels, shape.out_channels
    isa = isa.dividing(inner)
    tile = PointTile.choose(isa, inner, outer, threads)
    width = tile.vectors * isa.lanes
    panels, tiles = -(-inner // width), -(-outer // tile.outer)
    # Each chunk of output channels packs the same inputs, so use the fewest chunks that balance the threads.
    chunks = next(many for many in range(1, tiles + 1) if panels * many % threads == 0 or many == min(tiles, threads))
    chunk = -(-tiles // chunks) * tile.outer
    chunks = -(-outer // chunk)
    items = panels * chunks
    threads = min(threads, items)
    positions = shape.batch * math.prod(shape.output_size)
    deep = -(-positions // -(-positions // pointwise_weight.block_of(width)))
    sizes = {"positions": positions, "inner": inner, "outer": outer, "chunk": chunk, "chunks": chunks}
    sizes |= {"deep": deep, "scratch_size": deep * width}
    kernel = _point_kernel(isa, tile, outer % tile.outer)
    start = kernel.bound(("x", "g", "grad", "scratch"), items, threads, **sizes)
    return _Product(start, shape.weight_shape, threads * deep * width)


@lru_cache(maxsize=4096)
def _depthwise_weight(
    isa: Isa, shape: ConvShape, x_strides: tuple[int, ...], g_strides: tuple[int, ...], threads: int
) -> _WeightSum:
    """The depthwise weight gradient in channels last; the sums are (kernel rows, kernel columns, C)."""
    isa = isa.dividing(shape.in_channels)
    rows, columns = axes(shape)
    size, outputs = plane_size(shape.size), plane_size(shape.output_size)
    tile = DepthwiseTile.choose(isa, rows, columns, outputs[1])
    kernel = _depthwise_weight_kernel(isa, rows, columns, tile, narrow(size, outputs))
    block = min(_DEPTHWISE_ROWS, -(-outputs[0] * shape.batch // threads), outputs[0])
    blocks = -(-outputs[0] // block)
    items = shape.batch * blocks
    sums = (rows.kernel, columns.kernel, shape.in_channels)
    sizes = {"channels": shape.in_channels, **map_sizes(size, outputs)}
    sizes |= row_strides("x", x_strides) | row_strides("g", g_strides)
    sizes |= {"block": block, "blocks": blocks}
    return _WeightSum.of(kernel, items, sums, min(threads, items), 0, sizes)
