"""A convolution's gradients through an activation and max pooling: which kernel, over which items, on which memory.

See contraction.py for addresses, and sparse.py for what is computed.
"""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor

from striate.engine.llvm import launch, planar_pooled, sparse_input, sparse_weight
from striate.engine.llvm.contraction import axes, planes, the_isa
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.launch import Kernel
from striate.engine.llvm.planar_pooled import Windows
from striate.engine.llvm.sparse import Geometry, KernelRows
from striate.engine.llvm.weights import Weights, pack
from striate.geometry import ConvShape, PoolShape

#: Numbers that a block's packed rows may take: half of a second-level cache of 512 KiB.
_BLOCK = 1 << 16
#: Numbers of a tile's weights: beyond twice a first-level cache of 32 KiB whole maps were as quick, or quicker.
_WEIGHTS = 1 << 14


@cache
def _weight_kernel(isa: Isa, geometry: Geometry) -> Kernel:
    return Kernel(sparse_weight.generate(isa, geometry), isa)


@cache
def _input_kernel(isa: Isa, geometry: Geometry) -> Kernel:
    return Kernel(sparse_input.generate(isa, geometry), isa)


@cache
def _pooled_kernel(isa: Isa, windows: Windows, index: str, activation: str) -> Kernel:
    return Kernel(planar_pooled.generate(isa, windows, index, activation), isa)


def _plane(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(2) if tensor.dim() == 3 else tensor


def _side_by_side(tensor: Tensor) -> bool:
    """Whether a row's channels and columns lie in memory as they do in a packed row."""
    channels = tensor.shape[1]
    return tensor.stride(3) == channels and (channels == 1 or tensor.stride(1) == 1)


def _pooled(g: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one layout in which the pooled positions of a channel lie evenly apart."""
    if g.stride() != positions.stride() or (g.shape[2] > 1 and g.stride(2) != g.stride(3) * g.shape[3]):
        g, positions = g.contiguous(), positions.contiguous()
    return g, positions


def _geometry(shape: ConvShape, pool: PoolShape, side_by_side: bool, positions: Tensor) -> Geometry:
    rows, columns = axes(shape)
    index = {torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"}[positions.dtype]
    return Geometry(rows, columns, axes(pool)[0], shape.in_channels, side_by_side, index)


@lru_cache(maxsize=256)
def _places(geometry: Geometry, outputs: tuple[int, int], row_size: int) -> Tensor:
    """Where in packed rows the window of every position of the convolution's output starts."""
    down = torch.arange(outputs[0], dtype=torch.int32) * (geometry.rows.stride * row_size)
    along = torch.arange(outputs[1], dtype=torch.int32) * (geometry.columns.stride * geometry.channels)
    return (down[:, None] + along).flatten()


def joins(shape: ConvShape, pool: PoolShape) -> bool:
    """Whether the map before pooling can be left out forward as well: windows of up to four taps, side by side."""
    few = torch.Size(pool.kernel).numel() <= 4
    # Rounded up, the last window would reach beyond the map.
    inside = all(n * k <= size for n, k, size in zip(pool.output_size, pool.kernel, pool.size, strict=True))
    return few and inside and pool.stride == pool.kernel and not any(map(any, pool.pads)) and max(pool.dilation) == 1


def maximum(
    shape: ConvShape, pool: PoolShape, input: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, Tensor]:
    """The pooled map of a problem that joins, and its positions: -1 where the activation lets no gradient back."""
    isa, x = the_isa(), planes(input)
    rows, columns = axes(shape)
    down, along = (1, *pool.kernel)[-2:]
    windows = Windows(rows, columns, down, along)
    compact = torch.int16 if torch.Size(pool.size).numel() <= 1 << 15 else torch.int32
    kernel = _pooled_kernel(isa, windows, "i16" if compact is torch.int16 else "i32", activation)
    packed = pack(isa, Weights.of(weight, 1), bias, windows.channels_together(isa), False)
    values, positions = torch.empty(pool.output_shape), torch.empty(pool.output_shape, dtype=compact)
    pooled_rows, pooled_width = (1, *pool.output_size)[-2:]
    pitch = windows.pooled_columns.pitch(pooled_width, isa.lanes)
    line = shape.in_channels * pitch * windows.pooled_columns.stride
    block = max(1, min(pooled_rows, _BLOCK // (line * windows.pooled_rows.stride)))
    threads = launch.threads()
    if shape.batch < 4 * threads:
        block = min(block, -(-pooled_rows * shape.batch // (4 * threads)))
    blocks, deep = -(-pooled_rows // block), windows.pooled_rows.span(block)
    items = shape.batch * blocks
    scratch = torch.empty(min(threads, items), deep * line)
    words = [t.data_ptr() for t in (x, packed, values, positions, scratch)]
    words += [shape.in_channels, shape.out_channels, *x.shape[2:], _size(shape)[1], pooled_rows, pooled_width]
    kernel(items, [*words, *x.stride()[:3], block, blocks, deep, pitch, deep * line], threads)
    return values, positions


def weight_grad(
    shape: ConvShape, pool: PoolShape, input: Tensor, grad: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias from those of the pooled map; positions of -1 take nothing."""
    isa = the_isa()
    x, (g, positions) = _plane(input), _pooled(_plane(grad), _plane(positions))
    geometry = _geometry(shape, pool, _side_by_side(x), positions)
    if not geometry.side_by_side and x.stride(3) != 1:
        x = x.contiguous()
    outputs, (pooled_rows, pooled_width) = _size(shape), g.shape[2:]
    row_size = geometry.row_size(outputs[1], isa.lanes)
    axis, pool_axis = geometry.rows, geometry.pool_rows
    block = pooled_rows
    while block > 1 and axis.span(pool_axis.span(block)) * row_size > _BLOCK:
        block = -(-block // 2)
    blocks, deep = -(-pooled_rows // block), axis.span(pool_axis.span(block))
    items = shape.batch * blocks
    threads = min(launch.threads(), items)
    kernel_rows = geometry.kernel_rows(isa)
    partial = torch.zeros(threads, shape.out_channels, kernel_rows.count, kernel_rows.vectors * isa.lanes)
    bias = torch.zeros(threads, shape.out_channels)
    places = _places(geometry, outputs, row_size)
    scratch, most = torch.empty(threads, deep * row_size + isa.lanes), block * pooled_width
    list_places, list_values = torch.empty(threads, most, dtype=torch.int32), torch.empty(threads, most)
    words = [x.data_ptr(), *x.shape[2:], *x.stride()[:3]]
    words += [t.data_ptr() for t in (g, positions, places, partial, bias, scratch, list_places, list_values)]
    words += [shape.out_channels, pooled_rows, pooled_width, g.stride(0), g.stride(1), g.stride(3)]
    words += [block, blocks, deep, row_size, scratch.shape[1], most]
    _weight_kernel(isa, geometry)(items, words, threads)
    total = partial.sum(0)[:, :, : kernel_rows.numbers]
    made = total.unflatten(2, (geometry.columns.kernel, shape.in_channels)).permute(0, 3, 1, 2)
    return made.reshape(shape.weight_shape).contiguous(), bias.sum(0)


def input_grad(
    shape: ConvShape, pool: PoolShape, weight: Tensor, grad: Tensor, positions: Tensor, channels_last: bool
) -> Tensor:
    """The gradient of the input from those of the pooled map; positions of -1 take nothing."""
    isa = the_isa()
    g, positions = _pooled(_plane(grad), _plane(positions))
    layout = torch.channels_last if channels_last and shape.dims == 2 else torch.contiguous_format
    made = torch.empty(shape.input_shape, memory_format=layout)
    x = _plane(made)
    geometry = _geometry(shape, pool, _side_by_side(x), positions)
    kernel_rows, axis = geometry.kernel_rows(isa), geometry.rows
    height, outputs = x.shape[2], _size(shape)
    row_size = geometry.row_size(outputs[1], isa.lanes)

    def seeing(block: int) -> int:
        """Output rows that see a block of input rows, at most."""
        return min(outputs[0], (block - 1 + (axis.kernel - 1) * axis.dilation) // axis.stride + 1)

    block = height
    while block > 1 and axis.span(seeing(block)) * row_size > _BLOCK:
        block = -(-block // 2)
    blocks, deep = -(-height // block), axis.span(seeing(block))
    items = shape.batch * blocks
    threads = min(launch.threads(), items)
    # One row more, which stays empty.
    scratch = torch.empty(threads, (deep + 1) * row_size + isa.lanes)
    ends = torch.empty(threads, seeing(block) * outputs[1] + 2 + isa.lanes, dtype=torch.int32)
    most = shape.out_channels * g.shape[2] * g.shape[3]
    list_weights, list_values = torch.empty(threads, most, dtype=torch.int32), torch.empty(threads, most)
    factors = torch.zeros(shape.out_channels, kernel_rows.count, kernel_rows.vectors * isa.lanes)
    rows_of_taps = _plane(weight).permute(0, 2, 3, 1).flatten(2)
    factors[:, :, : kernel_rows.numbers] = rows_of_taps
    words = [x.data_ptr(), *x.shape[2:], *x.stride()[:3]]
    words += [t.data_ptr() for t in (g, positions, factors, scratch, ends, list_weights, list_values)]
    words += [shape.out_channels, *outputs, *g.shape[2:], g.stride(0), g.stride(1), g.stride(3)]
    words += [block, blocks, deep, row_size, scratch.shape[1], ends.shape[1], most]
    _input_kernel(isa, geometry)(items, words, threads)
    return made


def _size(shape: ConvShape) -> tuple[int, int]:
    return (1, *shape.output_size)[-2], shape.output_size[-1]


def tiles(shape: ConvShape) -> int:
    """Tiles that the kernels write out one by one."""
    return len(_rows_of(shape).tiles())


def weights_fit(shape: ConvShape) -> bool:
    """Whether a tile's weights of all channels, read in no order, stay in a cache while they are."""
    rows = _rows_of(shape)
    return shape.out_channels * rows.rows_together * rows.vectors_together * the_isa().lanes <= _WEIGHTS


def _rows_of(shape: ConvShape) -> KernelRows:
    rows, columns = axes(shape)
    return KernelRows.of(the_isa(), rows.kernel, columns.kernel * shape.in_channels)
