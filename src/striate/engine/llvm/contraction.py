"""A convolution's contraction on planes: which kernel, with which tile, over which items, on which memory.

The one place where tensors become addresses. Whatever a kernel gets is made or checked here, and is held by a local
variable until the kernel has returned.
"""

from __future__ import annotations

import itertools
from functools import cache, lru_cache

import torch
from torch import Tensor

from striate.engine.backends import Pass
from striate.engine.llvm import interleaved, interleaved_weight, launch, planar, planar_weight
from striate.engine.llvm.interleaved import ChannelTile
from striate.engine.llvm.interleaved_weight import TapTile
from striate.engine.llvm.isa import Isa, host
from striate.engine.llvm.launch import Kernel
from striate.engine.llvm.packing import Axis
from striate.engine.llvm.planar import Tile
from striate.engine.llvm.planar_weight import WeightTile
from striate.geometry import ConvShape, Problem

#: Numbers that a block's packed rows may take: half of a small second-level cache.
_BLOCK = 1 << 16
#: Multiplications that a weight gradient's sums should go through before their lanes are added up.
_ROWS_TOGETHER = 128


@cache
def _output_kernel(isa: Isa, rows: Axis, columns: Axis, tile: Tile) -> Kernel:
    return Kernel(planar.generate(isa, rows, columns, tile), isa)


@cache
def _tap_kernel(isa: Isa, tile: TapTile) -> Kernel:
    return Kernel(interleaved_weight.generate(isa, tile), isa)


@cache
def _channel_kernel(isa: Isa, tile: ChannelTile) -> Kernel:
    return Kernel(interleaved.generate(isa, tile), isa)


@cache
def _weight_kernel(isa: Isa, rows: Axis, columns: Axis, tile: WeightTile) -> Kernel:
    return Kernel(planar_weight.generate(isa, rows, columns, tile), isa)


@lru_cache(maxsize=4096)
def axes(shape: Problem) -> tuple[Axis, ...]:
    """The windows as kernels take them; one axis is a row of a plane of height 1."""
    made = [
        Axis(window.kernel, window.stride, before, window.dilation)
        for window, (before, _) in zip(shape.windows, shape.pads, strict=True)
    ]
    return (Axis(1, 1, 0, 1), *made) if shape.dims == 1 else tuple(made)


def _plane(tensor: Tensor) -> Tensor:
    """(N, C, H, W), one axis being a row of height 1."""
    return tensor.unsqueeze(2) if tensor.dim() == 3 else tensor


def interleaves(x: Tensor, weight: Tensor) -> bool:
    """Whether channels lie side by side and are enough, or depthwise, to put lanes over them."""
    groups, outer, inner = weight.shape[:3]
    channels = x.shape[1]
    dense = groups == 1 and outer >= 4
    depthwise = outer == inner == 1 and groups >= 4
    return (dense or depthwise) and channels > 1 and x.stride(1) == 1 and x.stride(3) == channels


def planes(tensor: Tensor) -> Tensor:
    """(N, C, H, W) with neighbours along the width side by side."""
    flat = _plane(tensor)
    return flat if flat.stride(3) == 1 or flat.shape[3] == 1 else flat.contiguous()


def contract(shape: ConvShape, open_: Pass, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
    """The contraction, for problems that :func:`striate.engine.llvm.backend.refusal` lets through."""
    size, outputs = shape.size, shape.output_size
    if open_ is Pass.OUTPUT:
        weight = second.reshape(shape.groups, -1, *shape.weight_shape[1:])
        return _sum(_plane(first), weight, bias, axes(shape), outputs).reshape(shape.output_shape)
    if open_ is Pass.WEIGHT_GRAD:
        x, g = _plane(first), _plane(second)
        if _interleaves_weight(x, g, shape):
            return _interleaved_weight_grad(x, g, shape)
        return _weight_grad(planes(x), planes(g), shape)
    weight = first.reshape(shape.groups, -1, *shape.weight_shape[1:]).transpose(1, 2)
    return _input_grad(_plane(second), weight, bias, axes(shape), size).reshape(shape.input_shape)


def _sum(x: Tensor, weight: Tensor, bias: Tensor | None, windows: tuple[Axis, ...], size: tuple[int, ...]) -> Tensor:
    """y[n, o] = bias[o] + sum over c, t of x[n, c, position(t)] * weight[g, o, c, t], ``size`` positions of it."""
    isa = the_isa()
    if interleaves(x, weight):
        return _interleaved_sum(isa, x, weight, bias, windows, size)
    x = planes(x)
    batch, _, height, width = x.shape
    groups, outer, inner = weight.shape[:3]
    out_height, out_width = (1, *size)[-2:]
    rows, columns = windows
    tile = Tile.choose(isa, outer, out_height, out_width)
    kernel = _output_kernel(isa, rows, columns, tile)
    tiles = -(-outer // tile.channels)
    packed = _packed_weight(weight, bias, tiles, tile.channels)
    y = torch.empty(batch, groups * outer, out_height, out_width)
    threads = launch.threads()
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
    scratch = torch.empty(min(threads, items), deep * line)
    sizes = [inner, groups, tiles, outer, height, width, out_height, out_width, *x.stride()[:3], *y.stride()[:3]]
    words = [x.data_ptr(), packed.data_ptr(), y.data_ptr(), scratch.data_ptr(), *sizes]
    kernel(items, [*words, block, blocks, deep, pitch, deep * line], threads)
    return y


def _interleaved_sum(
    isa: Isa,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    windows: tuple[Axis, ...],
    size: tuple[int, ...],
) -> Tensor:
    """The sum with channels side by side, in the operand and in the result."""
    batch = x.shape[0]
    groups, outer, _ = weight.shape[:3]
    channels, depthwise = groups * outer, groups > 1
    out_height, out_width = (1, *size)[-2:]
    tile = ChannelTile.choose(isa, channels, out_width, depthwise)
    kernel = _channel_kernel(isa, tile)
    together = tile.vectors * isa.lanes
    vectors = -(-channels // together)
    # [channel][tap][input] to [vectors][tap][input][lane]; a depthwise weight's inputs are its own channel alone.
    terms = weight[0, 0].numel()
    packed = torch.zeros(vectors * together, terms + 1)
    packed[:channels, 1:] = weight.reshape(channels, -1, terms // weight.shape[2]).transpose(1, 2).reshape(channels, -1)
    if bias is not None:
        packed[:channels, 0] = bias
    packed = packed.reshape(vectors, together, terms + 1).transpose(1, 2).contiguous()
    y = torch.empty(batch, out_height, out_width, channels)
    # The last tile of a row, and the last vector of a position's channels, read on beyond what is kept.
    items, words = _interleaved_block(x, windows, (out_height, out_width), channels, tile.columns, together, isa)
    threads = min(launch.threads(), items)
    scratch = torch.empty(threads, words[-1])
    kernel(items, [x.data_ptr(), packed.data_ptr(), y.data_ptr(), scratch.data_ptr(), *words], threads)
    return y.movedim(3, 1)


def _interleaved_block(
    x: Tensor,
    windows: tuple[Axis, ...],
    outputs: tuple[int, int],
    channels: int,
    columns_together: int,
    channels_together: int,
    isa: Isa,
) -> tuple[int, list[int]]:
    """The number of items, and the words that interleaved.Block asks for; the last is the scratch a thread needs."""
    batch, inner, height, width = x.shape
    rows, columns = windows
    pitch = columns.span(_rounded(outputs[1], columns_together))
    row_size = _rounded(pitch * inner + channels_together, isa.lanes)
    wanted = max(1, _BLOCK // (row_size * rows.stride))
    threads = launch.threads()
    if batch < 4 * threads:
        wanted = min(wanted, -(-outputs[0] * batch // (4 * threads)))
    block = min(wanted, outputs[0])
    blocks, deep = -(-outputs[0] // block), rows.span(block)
    both = [(getattr(rows, name), getattr(columns, name)) for name in ("kernel", "stride", "before", "dilation")]
    words = [*itertools.chain(*both), inner, channels, height, width, *outputs, x.stride(0), x.stride(2)]
    return batch * blocks, [*words, block, blocks, deep, row_size, deep * row_size]


def _packed_weight(weight: Tensor, bias: Tensor | None, tiles: int, channels: int) -> Tensor:
    """[group][tile][bias, then inputs and taps][channel of the tile]: what a tile multiplies by, in order."""
    groups, outer = weight.shape[:2]
    terms = weight[0, 0].numel()
    packed = torch.zeros(groups, tiles * channels, terms + 1)
    packed[:, :outer, 1:] = weight.reshape(groups, outer, terms)
    if bias is not None:
        packed[:, :outer, 0] = bias.reshape(groups, outer)
    return packed.reshape(groups * tiles, channels, terms + 1).transpose(1, 2).contiguous()


def _input_grad(
    g: Tensor, weight: Tensor, bias: Tensor | None, windows: tuple[Axis, ...], size: tuple[int, ...]
) -> Tensor:
    """The gradient's planes, one stride apart: those inputs that see the same taps are an ordinary sum over g.

    Input i sees output o through tap t where i + before = o * stride + t * dilation. Inputs with i % stride = phase, at
    i = phase + m * stride, see the taps with (phase + before - t * dilation) % stride = 0, every step-th one where
    step = stride / gcd(stride, dilation); from one of those to the next, o falls by dilation * step / stride.
    """
    height, width = (1, *size)[-2:]
    if all(axis.stride == 1 for axis in windows):
        flipped = tuple(_phase(axis, 0)[0] for axis in windows)
        return _sum(g, weight.flip(-1) if weight.dim() == 4 else weight.flip(-2, -1), bias, flipped, size)
    # In the layout that its parts will have: copying across layouts costs more than the sums.
    layout = torch.channels_last if interleaves(g, weight) else torch.contiguous_format
    grad = torch.empty((g.shape[0], weight.shape[0] * weight.shape[1], height, width), memory_format=layout)
    taps = weight.unsqueeze(-2) if weight.dim() == 4 else weight
    for top in range(min(windows[0].stride, height)):
        for left in range(min(windows[1].stride, width)):
            place = grad[:, :, top :: windows[0].stride, left :: windows[1].stride]
            (rows, row_taps), (columns, column_taps) = _phase(windows[0], top), _phase(windows[1], left)
            if not row_taps or not column_taps:
                place.copy_(torch.zeros(()) if bias is None else bias.reshape(1, -1, 1, 1))
                continue
            seen = taps[..., row_taps, :][..., column_taps]
            place.copy_(_sum(g, seen, bias, (rows, columns), tuple(place.shape[2:])))
    return grad


def _phase(axis: Axis, phase: int) -> tuple[Axis, list[int]]:
    """The window over outputs of the inputs of one phase, and the taps it has, the last one first."""
    taps = [t for t in range(axis.kernel) if (phase + axis.before - t * axis.dilation) % axis.stride == 0][::-1]
    if not taps:
        return Axis(1, 1, 0, 1), taps
    # The last tap sees the first output: at m = 0 output (phase + before - t * dilation) / stride.
    first = (phase + axis.before - taps[0] * axis.dilation) // axis.stride
    step = (taps[0] - taps[1]) * axis.dilation // axis.stride if len(taps) > 1 else 1
    return Axis(len(taps), 1, -first, step), taps


def _weight_grad(x: Tensor, g: Tensor, shape: ConvShape) -> Tensor:
    isa = the_isa()
    batch, _, height, width = x.shape
    out_height, out_width = g.shape[2:]
    groups = shape.groups
    inner, outer = shape.in_channels // groups, shape.out_channels // groups
    rows, columns = axes(shape)
    tile = WeightTile.choose(isa, outer, inner, rows.kernel * columns.kernel)
    kernel = _weight_kernel(isa, rows, columns, tile)
    threads = launch.threads()
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
    scratch_size = together * deep * line + spare
    threads = min(threads, items)
    scratch = torch.empty(threads, scratch_size)
    partial = torch.zeros(threads, *shape.weight_shape)
    sizes = [inner, groups, outer, height, width, out_height, out_width, *x.stride()[:3], *g.stride()[:3]]
    words = [x.data_ptr(), g.data_ptr(), partial.data_ptr(), scratch.data_ptr(), *sizes]
    words += [batch, together, block, blocks, deep, pitch, deep * line, scratch_size, partial[0].numel()]
    kernel(items, words, threads)
    return partial[0] if threads == 1 else partial.sum(0)


def _interleaves_weight(x: Tensor, g: Tensor, shape: ConvShape) -> bool:
    """Whether both have their channels side by side, and those of the output are whole vectors."""
    depthwise = shape.groups == shape.in_channels == shape.out_channels
    side_by_side = all(t.shape[1] > 1 and t.stride(1) == 1 and t.stride(3) == t.shape[1] for t in (x, g))
    return side_by_side and (shape.groups == 1 or depthwise) and shape.out_channels % the_isa().lanes == 0


def _interleaved_weight_grad(x: Tensor, g: Tensor, shape: ConvShape) -> Tensor:
    isa, windows = the_isa(), axes(shape)
    rows, columns = windows
    depthwise = shape.groups > 1
    tile = TapTile.choose(isa, shape.out_channels, columns.kernel if depthwise else shape.in_channels, depthwise)
    kernel = _tap_kernel(isa, tile)
    together = max(tile.vectors * isa.lanes, tile.inner)
    items, words = _interleaved_block(x, windows, (g.shape[2], g.shape[3]), shape.out_channels, 1, together, isa)
    threads = min(launch.threads(), items)
    scratch = torch.empty(threads, words[-1])
    depth = 1 if depthwise else _rounded(shape.in_channels, tile.inner)
    partial = torch.zeros(threads, rows.kernel, columns.kernel, depth, shape.out_channels)
    words += [g.stride(0), g.stride(2), partial[0].numel()]
    kernel(items, [x.data_ptr(), g.data_ptr(), partial.data_ptr(), scratch.data_ptr(), *words], threads)
    total = partial[0] if threads == 1 else partial.sum(0)
    made = total[:, :, : shape.weight_shape[1]].permute(3, 2, 0, 1).contiguous()
    return made.reshape(shape.weight_shape)


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step


def the_isa() -> Isa:
    isa = host()
    assert isa is not None
    return isa
