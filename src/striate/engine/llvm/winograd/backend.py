"""The backend of Winograd's convolution: fewer multiplications for windows with stride 1.

A tile of outputs is computed from all inputs that any of them sees. The contribution of an input to outputs that don't
see it cancels up to rounding. So an output may change by a rounding error when an input next to its window changes.
Exact analysis relies on outputs that don't. Therefore this backend is only chosen if the caller allows outputs that
aren't local to the last bit, as :func:`striate.accelerate` does.

The error is bounded as follows. Let u be 2^-24, half a unit in the last place of 1. Let w be an output's filter and x
the inputs in its own window, both as vectors over all C channels and r x r taps, and |.| the length of a vector. Then
the error of an output y of finite numbers, before any epilogue, is at most

    6 R u |w| |x| + u |y|               R = growth * (rounded + min(C, 32) + C / 32 rounded up)

    windows     tiles of outputs        growth      rounded
    3 x 3       2 x 2                   10.0        22
    3 x 3       4 x 4                   67.4        30
    5 x 5       2 x 2                   80.4        34

where direct sums have r * r * C in place of 6 R. Both are worst-case bounds. For normally distributed numbers,
rectified or not, and 16 to 512 channels, the root mean square error is 2 to 3.4 times that of PyTorch's kernels; in all
tests the error is less than 24 u |w| |x|.

Values beside the window aren't in the bound: a bright pixel costs no digits of outputs that don't see it, and
infinities and NaN affect the same outputs as in direct sums. Outputs for which a tile's values don't allow that are
summed directly, within the same kernel; see :mod:`striate.engine.llvm.winograd.values`. In the maps that networks
compute from photographs, these are a few in a thousand outputs; behind filters that respond to differences only, up to
3 in a hundred. If all outputs of a map are summed directly, it takes up to twice the time of direct sums.

A weight gradient is a sum over all positions; each tap sees all of them except some at the borders. In the same tests
its error is less than 24 u |x| |g|, where x is a channel of the input and g one of the output gradient. Channels whose
borders are more than 6 times as bright as the pixels that every tap sees are summed directly; so is the whole gradient
if there are infinities or NaN. One limit remains: a bright pixel that only meets zeros contributes nothing to direct
sums, but here it adds to the rounding error of its channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.backends import ConvolutionBackend, Pass
from striate.engine.layout import new_empty
from striate.engine.llvm.backend import LlvmBackend, checked_operands
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.ir import LINE
from striate.engine.llvm.codegen.isa import Isa, host, the_isa
from striate.engine.llvm.codegen.launch import Kernel, Start
from striate.engine.llvm.conv_pool.dispatch import joins
from striate.engine.llvm.convolution.nhwc import ChannelTile
from striate.engine.llvm.functions.epilogue import PLAIN, Epilogue
from striate.engine.llvm.memory.relayout import laid_out, moved
from striate.engine.llvm.memory.views import Strides
from striate.engine.llvm.memory.weights import Weights
from striate.engine.llvm.pooling.dispatch import INDEX, compact
from striate.engine.llvm.winograd import kernels as winograd
from striate.engine.llvm.winograd import pooled as winograd_pooled
from striate.engine.llvm.winograd import values as winograd_values
from striate.engine.llvm.winograd.forms import WinogradForm
from striate.engine.llvm.winograd.kernels import GAP
from striate.geometry import ConvShape, PoolShape, Problem

#: The forms by the number of taps of a window along an axis.
FORMS: Final = {3: (WinogradForm(2, 3), WinogradForm(4, 3)), 5: (WinogradForm(2, 5),)}
#: With fewer channels, transforming tiles costs as much as it saves.
_FEW_CHANNELS = 16
#: The most pairs of channels; a transformed weight has up to 36 numbers for each.
_MOST_WEIGHTS = 1 << 20
#: The cost of transforming a weight, and of reading a transformed one, in tiles.
_PACKING, _READING = 40, 12
#: In plans, without measuring, Winograd has to save this factor of multiplications.
_PAYING = 1.25
#: The least and the most tiles of a chunk, and the approximate limit of a thread's numbers.
_LEAST_TILES, _MOST_TILES, _CHUNK = 24, 48, 1 << 18
#: Numbers of transformed tiles over which a weight gradient sums at once; they should fit into a third-level cache.
_SUMMED = 1 << 20


class WinogradBackend(ConvolutionBackend):
    """Generated CPU kernels with fewer multiplications than taps, for 3x3 and 5x5 windows with stride 1."""

    name = "winograd"
    local = False

    def refusal(self, problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> str | None:
        if not isinstance(problem, ConvShape) or problem.dims != 2 or problem.groups > 1:
            return "convolves images in one group"
        refused = _llvm.refusal(problem, open_, dtype, device)
        if refused is not None:
            return refused
        if problem.kernel[0] != problem.kernel[1] or problem.kernel[0] not in FORMS:
            return "has forms for windows of 3x3 and 5x5"
        if max(problem.stride) > 1 or max(problem.dilation) > 1:
            return "shares inputs between windows one stride apart that aren't dilated"
        isa = host()
        few = min(problem.in_channels, problem.out_channels) < _FEW_CHANNELS
        common = math.gcd(problem.in_channels, problem.out_channels)
        if isa is None or few or common % isa.dividing(common).lanes:
            return f"needs whole vectors of channels, {_FEW_CHANNELS} or more on both sides"
        if problem.in_channels * problem.out_channels > _MOST_WEIGHTS:
            return "transformed weights would take several times their memory"
        return None

    def recommends(self, problem: Problem, open_: Pass, channels_last: bool) -> bool:
        """Whether transforming the weight and the tiles is cheap compared with the products."""
        assert isinstance(problem, ConvShape)
        if open_ is Pass.PACKED:
            # The weight is already transformed: only multiplications count, and reading the weight.
            outputs, taps = problem.output_size, problem.kernel[0]
            form = _form(taps, problem.batch, outputs, _READING)
            count = problem.batch * math.prod(_tiles(form, outputs)) + _READING
            direct = taps**2 * (problem.batch * math.prod(outputs) + _READING)
            return _PAYING * form.elements * count < direct
        many = min(problem.in_channels, problem.out_channels) >= 2 * _FEW_CHANNELS
        return many and problem.batch * math.prod(problem.output_size) >= 8 * _PACKING

    def contract(
        self,
        shape: ConvShape,
        open_: Pass,
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        channels_last: bool = False,
    ) -> Tensor:
        first, second, bias = checked_operands(shape, open_, first, second, bias)
        if open_ is Pass.WEIGHT_GRAD:
            return _weight_grad(shape, _nhwc(first), _nhwc(second), channels_last)
        if open_ is Pass.OUTPUT:
            made = _sums(shape, _nhwc(first), Weights.of(second, 1), bias, False)
        else:
            taps = range(shape.kernel[0] - 1, -1, -1)
            weights = Weights.of(first, 1, transposed=True).taps(taps, taps)
            made = _sums(shape, _nhwc(second), weights, bias, True)
        return laid_out(made, channels_last)


_llvm, _backend = LlvmBackend(), WinogradBackend()


@cache
def _output_kernel(isa: Isa, form: WinogradForm, tile: ChannelTile, epilogue: Epilogue) -> Kernel:
    return Kernel(winograd.generate(isa, form, tile, epilogue), isa)


@cache
def _pooled_kernel(isa: Isa, form: WinogradForm, tile: ChannelTile, pooled: Pooled) -> Kernel:
    after, kind = pooled
    if isinstance(after, Epilogue):
        return Kernel(winograd_pooled.generate_largest(isa, form, tile, after), isa)
    return Kernel(winograd_pooled.generate(isa, form, tile, after, kind), isa)


@cache
def _weights_kernel(isa: Isa, form: WinogradForm, vectors: int, side_by_side: str) -> Kernel:
    return Kernel(winograd.generate_weights(isa, form, vectors, side_by_side), isa)


@cache
def _parts_kernel(isa: Isa, form: WinogradForm, of_gradients: bool) -> Kernel:
    return Kernel(winograd.generate_parts(isa, form, of_gradients), isa)


@cache
def _products_kernel(isa: Isa, form: WinogradForm, tile: ChannelTile, side_by_side: bool) -> Kernel:
    return Kernel(winograd.generate_products(isa, form, tile, side_by_side), isa)


@cache
def _edges_kernel(isa: Isa) -> Kernel:
    return Kernel(winograd_values.generate_edges(isa), isa)


class Pooled(NamedTuple):
    """Fused max pooling, with positions if an activation is named: only the maxima are written."""

    after: str | Epilogue
    kind: str = ""  #: the type of positions, a value of pooling.dispatch.INDEX


@dataclass(frozen=True, eq=False, slots=True)
class WinogradSums:
    """The output of a convolution of given sizes: its kernel, work items, scratch memory and sizes."""

    isa: Isa
    form: WinogradForm
    kernel: Kernel
    vectors: int
    channels: int  #: output channels in whole tiles
    inner: int
    items: int
    threads: int
    scratch: int
    sizes: dict[str, int]  #: the kernel's arguments, except the addresses and the weight's strides
    kept: bool  #: whether the weight is transformed once for many calls

    @classmethod
    @lru_cache(maxsize=4096)
    def of(
        cls,
        isa: Isa,
        shape: ConvShape,
        threads: int,
        epilogue: Epilogue | Pooled = PLAIN,
        packed: bool = False,
        backwards: bool = False,
        result: Strides | None = None,
    ) -> WinogradSums:
        """``packed``: whether the weight is transformed once for many calls; ``backwards``: for the input gradient.

        ``result``: where the result is written; None for one without gaps. Pooled results have none.
        """
        inner, outer, size, outputs = shape.in_channels, shape.out_channels, shape.size, shape.output_size
        isa = isa.dividing(math.gcd(inner, outer))
        before = [low for low, _ in shape.pads]
        if backwards:
            inner, outer, size, outputs = outer, inner, outputs, size
            # Input i sees output i + before - tap, which gives the padding of the flipped kernel.
            before = [kernel - 1 - low for kernel, low in zip(shape.kernel, before, strict=True)]
        form = _form(shape.kernel[0], shape.batch, outputs, _READING if packed else _PACKING)
        down, across = _tiles(form, outputs)
        tiles = shape.batch * down * across
        tile = ChannelTile.choose(isa, outer, _MOST_TILES)
        channels = _rounded(outer, tile.vectors * isa.lanes)
        most = min(_MOST_TILES, max(_LEAST_TILES, _CHUNK // (form.elements * (inner + channels))))
        # The same number of chunks for every thread.
        items = -(-tiles // most)
        items = min(_rounded(items, threads), -(-tiles // tile.columns))
        chunk = _rounded(-(-tiles // items), tile.columns)
        items = -(-tiles // chunk)
        scratch = form.elements * (chunk * (inner + channels) + 2 * GAP) + channels
        # Memory for a tile, for states and flags, and for the taps in the order of direct sums.
        scratch += form.elements * inner + chunk + channels // (tile.vectors * isa.lanes)
        scratch = _rounded(scratch + (0 if packed else form.taps**2 * inner * channels), LINE)
        threads = min(threads, items)
        out_height, out_width = outputs
        sizes = {"tiles": tiles, "down": down, "across": across, "row_before": before[0], "column_before": before[1]}
        sizes |= {"outer": outer, "blocks": channels // (tile.vectors * isa.lanes)}
        sizes |= {"out_height": out_height, "out_width": out_width, "chunk": chunk, "scratch_size": scratch}
        sizes |= _image_sizes(inner, size) | {"kept": int(packed)}
        if isinstance(epilogue, Pooled):
            assert result is None
            kernel = _pooled_kernel(isa, form, tile, epilogue)
        else:
            kernel = _output_kernel(isa, form, tile, epilogue)
            sizes |= (result or Strides.dense((out_height, out_width), outer)).arguments
        scratch *= threads
        return cls(isa, form, kernel, tile.vectors, channels, inner, items, threads, scratch, sizes, packed)

    def pack(self, weights: Weights, bias: Tensor | None, into: Tensor | None = None) -> Tensor:
        """The transformed weight; ``into`` is memory to reuse."""
        outer = weights.sizes[1]
        count, largest, direct, end = self._parts()
        packed = fresh.empty(end) if into is None else into
        packed[count:largest].zero_()
        if bias is not None:
            packed[count : count + outer] = bias
        address, transform = packed.data_ptr(), _packing(self, outer, weights.strides, launch.threads())
        transform(_start(weights), address, address + 4 * largest, address + 4 * direct)
        return packed

    def _parts(self) -> tuple[int, int, int, int]:
        """The offsets in a packed weight of the bias, the largest magnitudes and the taps, and its size."""
        bias = self.form.elements * self.inner * self.channels
        largest = bias + self.channels + self.inner
        direct = largest + self.inner // self.isa.lanes * self.channels
        return bias, largest, direct, direct + (self.form.taps**2 * self.inner * self.channels if self.kept else 0)

    def arguments(self, x: Any, packed: Any, y: Any, scratch: Any, added: Any = None) -> dict[str, Any]:
        """The kernel's arguments for a weight that is packed for many calls, from addresses or buffers."""
        assert self.kept
        operands = {"x": x, "packed": packed, "y": y, "scratch": scratch, "weight": packed + 4 * self._parts()[2]}
        if added is not None:
            operands["added"] = added
        return {**operands, **self.sizes, **_strides("weight", (0,) * 4)}

    def words(self, x: Any, packed: Any, y: Any, scratch: Any, added: Any = None) -> list[Any]:
        """:meth:`arguments` in the kernel's order."""
        return self.kernel.words(**self.arguments(x, packed, y, scratch, added))


@lru_cache(maxsize=4096)
def _packing(sums: WinogradSums, outer: int, strides: tuple[int, ...], threads: int) -> Start:
    """Transforms a weight of :class:`Weights` with ``outer`` output channels and these strides."""
    side_by_side = ({1: ""} | {strides[2]: "inner", strides[1]: "outer"})[1]
    blocks = sums.sizes["blocks"]
    return _weights_kernel(sums.isa, sums.form, sums.vectors, side_by_side).bound(
        ("weight", "packed", "largest", "direct"),
        blocks * sums.inner // sums.isa.lanes,
        threads,
        kept=int(sums.kept),
        inner=sums.inner,
        outer=outer,
        blocks=blocks,
        **_strides("weight", strides[1:]),
    )


@lru_cache(maxsize=4096)
def _bound(sums: WinogradSums, strides: tuple[int, ...], *more: str) -> Start:
    """The kernel of sums, for a weight of :class:`Weights` with these strides; ``more``: its other addresses."""
    free = ("x", "packed", "y", "scratch", "weight", *more)
    return sums.kernel.bound(free, sums.items, sums.threads, **sums.sizes, **_strides("weight", strides[1:]))


def _start(weights: Weights) -> int:
    """The address of a weight's first number."""
    return weights.tensor.data_ptr() + weights.offset * weights.tensor.element_size()


def _strides(name: str, strides: Sequence[int]) -> dict[str, int]:
    """A kernel's arguments for a weight in one group."""
    return {f"{name}_{axis}": stride for axis, stride in zip(winograd.WEIGHT_AXES, strides, strict=True)}


def _image_sizes(channels: int, size: Sequence[int]) -> dict[str, int]:
    """A kernel's arguments for images in channels last without gaps."""
    height, width = size
    sizes = {"channels": channels, "height": height, "width": width}
    return sizes | {"x_image": height * width * channels, "x_row": width * channels}


def _nhwc(image: Tensor) -> Tensor:
    made = moved(image, True)
    return image.contiguous(memory_format=torch.channels_last) if made is None else made


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step


def _tiles(form: WinogradForm, outputs: Sequence[int]) -> tuple[int, int]:
    down, across = (-(-n // form.outputs) for n in outputs)
    return down, across


def _form(taps: int, batch: int, outputs: Sequence[int], weights: int) -> WinogradForm:
    """The form with the fewest multiplications; transforming the weight is counted as ``weights`` tiles."""
    return min(FORMS[taps], key=lambda form: form.elements * (batch * math.prod(_tiles(form, outputs)) + weights))


def _sums(shape: ConvShape, x: Tensor, weights: Weights, bias: Tensor | None, backwards: bool) -> Tensor:
    sums = WinogradSums.of(the_isa(), shape, launch.threads(), backwards=backwards)
    packed, scratch = sums.pack(weights, bias), fresh.empty(sums.scratch)
    whole = shape.input_shape if backwards else shape.output_shape
    y = fresh.empty(whole, memory_format=torch.channels_last)
    start = _bound(sums, weights.strides)
    start(x.data_ptr(), packed.data_ptr(), y.data_ptr(), scratch.data_ptr(), _start(weights))
    return y


def pools(shape: ConvShape, pool: PoolShape) -> bool:
    """Whether max pooling can be fused with the convolution."""
    refused = _backend.refusal(shape, Pass.OUTPUT, torch.float32, "cpu") is not None
    return not refused and pool.kernel == (winograd_pooled.WINDOW,) * 2 and joins(pool)


def maximum(
    shape: ConvShape, pool: PoolShape, activation: str, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The pooled map and its positions, both in channels last; -1 where the activation has a zero gradient.

    The problem has to satisfy :func:`pools`.
    """
    x, weight, bias = checked_operands(shape, Pass.OUTPUT, x, weight, bias)
    x, dtype = _nhwc(x), compact(pool)
    sums = WinogradSums.of(the_isa(), shape, launch.threads(), Pooled(activation, INDEX[dtype]))
    weights = Weights.of(weight, 1)
    packed, scratch = sums.pack(weights, bias), fresh.empty(sums.scratch)
    last = torch.channels_last
    values = fresh.empty(pool.output_shape, memory_format=last)
    positions = fresh.empty(pool.output_shape, dtype=dtype, memory_format=last)
    addresses = x.data_ptr(), packed.data_ptr(), values.data_ptr(), scratch.data_ptr()
    _bound(sums, weights.strides, "positions")(*addresses, _start(weights), positions.data_ptr())
    return values, positions


@lru_cache(maxsize=4096)
def _edges(isa: Isa, shape: tuple[int, ...], ends: _Ends, threads: int) -> Start:
    """Marks the channels of images with bright borders."""
    batch, channels, *size = shape
    sizes = {"images": batch, **_image_sizes(channels, size), **ends._asdict()}
    return _edges_kernel(isa).bound(("x", "told", "any"), channels // isa.lanes, threads, **sizes)


@lru_cache(maxsize=4096)
def _parts(
    isa: Isa,
    form: WinogradForm,
    of_gradients: bool,
    shape: tuple[int, ...],
    tiles: tuple[int, int, int],
    corner: tuple[int, int],
    slice_: int,
    count: int,
    threads: int,
) -> Start:
    """Transforms ``count`` tiles of images, from the tile ``start`` on."""
    _, channels, *size = shape
    sizes = {"tiles": tiles[0], "down": tiles[1], "across": tiles[2], "slice": slice_}
    sizes |= {"row_before": corner[0], "column_before": corner[1], **_image_sizes(channels, size)}
    free = ("x", "part", "zeros", "staging", "start")
    return _parts_kernel(isa, form, of_gradients).bound(free, count, threads, **sizes)


@lru_cache(maxsize=4096)
def _products(
    isa: Isa,
    form: WinogradForm,
    tile: ChannelTile,
    channels: tuple[int, int],
    slices: tuple[int, int],
    apart: tuple[int, int],
    strides: tuple[int, ...],
    threads: int,
    items: int,
    count: int,
    together: int,
    last: bool,
) -> Start:
    """Adds up the products of ``count`` tiles; see :func:`striate.engine.llvm.winograd.kernels.generate_products`.

    ``apart``: the distances of two items' sums, and of two threads'; ``strides``: those of the gradient.
    """
    sizes = {"count": count, "together": together, "last": int(last), "inner": channels[0], "outer": channels[1]}
    sizes |= {"part_slice": slices[0], "other_slice": slices[1], "item_size": apart[0], "thread_size": apart[1]}
    free = ("part", "other", "total", "made", "spoilt", "more")
    kernel = _products_kernel(isa, form, tile, strides[1] == 1)
    return kernel.bound(free, items, threads, **sizes, **_strides("made", strides))


def _weight_grad(shape: ConvShape, x: Tensor, g: Tensor, channels_last: bool) -> Tensor:
    inner, outer = shape.in_channels, shape.out_channels
    isa, threads = the_isa().dividing(math.gcd(inner, outer)), launch.threads()
    corners = (shape.pads[0][0], shape.pads[1][0]), (0, 0)
    form = _form(shape.kernel[0], shape.batch, shape.output_size, _READING)
    down, across = _tiles(form, shape.output_size)
    tiles = shape.batch * down * across
    vectors = 2 if inner % (2 * isa.lanes) == 0 else 1
    tile = ChannelTile(isa.tile(vectors + 1) // vectors, vectors)
    items = -(-outer // tile.columns) * (inner // (vectors * isa.lanes))
    chunk = min(tiles, max(_LEAST_TILES, _SUMMED // (form.elements * (inner + outer))))
    slices = chunk * inner + GAP, chunk * outer + GAP
    # The last tile may read beyond the output channels.
    parts = [fresh.empty(form.elements * slice_ + GAP) for slice_ in slices]
    # Sums over all tiles at once needn't be kept. Otherwise elements are summed one after the other, so that an
    # element's tiles stay in a second-level cache.
    at_once, kept = chunk == tiles, form.elements * tile.columns * vectors * isa.lanes
    total = fresh.empty((threads if at_once else items) * kept)
    zeros, staging = fresh.zeros(max(inner, outer)), fresh.empty(threads * form.elements * max(inner, outer))
    made = new_empty(g, shape.weight_shape, channels_last)
    told = torch.zeros(1 + inner + outer, dtype=torch.int32, device="cpu")
    marks = told.data_ptr() + 4
    for image, ends in zip((x, g), _seen_by_all(shape), strict=True):
        _edges(isa, tuple(image.shape), ends, threads)(image.data_ptr(), marks, told.data_ptr())
        marks += 4 * image.shape[1]
    apart = (0, kept) if at_once else (kept, 0)
    add_up = partial(_products, isa, form, tile, (inner, outer), slices, apart, made.stride(), threads)
    sums = (*(part.data_ptr() for part in parts), total.data_ptr(), made.data_ptr(), told.data_ptr())
    for start in range(0, tiles, chunk):
        count = min(chunk, tiles - start)
        each = zip((x, g), parts, slices, corners, (False, True), strict=True)
        for image, part, slice_, corner, of_gradients in each:
            how = (of_gradients, tuple(image.shape), (tiles, down, across), corner, slice_)
            transform = _parts(isa, form, *how, count, threads)
            transform(image.data_ptr(), part.data_ptr(), zeros.data_ptr(), staging.data_ptr(), start)
        if at_once:
            add_up(items, count, form.elements, True)(*sums, 0)
        else:
            add_up(form.elements * items, count, 1, False)(*sums, start)
    if not at_once:
        add_up(items, 0, form.elements, True)(*sums, 1)
    if int(told[0]):
        return _repaired(shape, x, g, made, told[1:], channels_last)
    return made


def _repaired(shape: ConvShape, x: Tensor, g: Tensor, made: Tensor, marked: Tensor, channels_last: bool) -> Tensor:
    """Replaces inaccurate parts of a weight gradient by direct sums: marked channels, or all for infinities and NaN."""
    direct = partial(_llvm.contract, open_=Pass.WEIGHT_GRAD, bias=None)
    if not made.isfinite().all():
        # Infinities and NaN spread; and very large numbers may overflow only in Winograd's form.
        return direct(shape, first=x, second=g, channels_last=channels_last)
    marks = marked.split((shape.in_channels, shape.out_channels))
    of_x, of_g = (_poor(*each) for each in zip((x, g), marks, _seen_by_all(shape), strict=True))
    if len(of_x):
        made[:, of_x] = direct(replace(shape, in_channels=len(of_x)), first=x[:, of_x], second=g)
    if len(of_g):
        made[of_g] = direct(replace(shape, out_channels=len(of_g)), first=x, second=g[:, of_g])
    return made


class _Ends(NamedTuple):
    """The first and last row, and the first and last column, of a rectangle."""

    top: int
    bottom: int
    left: int
    right: int


@lru_cache(maxsize=4096)
def _seen_by_all(shape: ConvShape) -> tuple[_Ends, _Ends]:
    """The inputs that all taps see, and the outputs that see no padding; an empty rectangle ends before it begins."""
    inputs: list[int] = []
    outputs: list[int] = []
    for size, out, taps, (low, _) in zip(shape.size, shape.output_size, shape.kernel, shape.pads, strict=True):
        for ends, count, first, last in (
            (inputs, size, taps - 1 - low, out - 1 - low),
            (outputs, out, low, size - taps + low),
        ):
            ends += [min(max(first, 0), count), max(min(last, count - 1), -1)]
    return _Ends(*inputs), _Ends(*outputs)


def _poor(image: Tensor, marked: Tensor, ends: _Ends) -> Tensor:
    """The marked channels whose largest value is too large compared with the largest one that all taps see."""
    (channels,) = marked.nonzero(as_tuple=True)
    values = image[:, channels].abs()
    top, bottom, left, right = ends
    seen = values[:, :, top : bottom + 1, left : right + 1]
    if not seen.numel():
        return channels
    limit = math.sqrt(winograd_values.SPREAD) * seen.amax((0, 2, 3))
    return channels[~(values.amax((0, 2, 3)) <= limit)]
