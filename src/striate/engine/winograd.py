"""The backend of Winograd's convolution: a fraction of the multiplications for windows one stride apart.

A tile of outputs is computed from all inputs that any of them sees; what an input adds to outputs that don't see it
cancels, but for rounding. So results agree with direct sums as well as these agree with one another, yet an output may
move by a rounding error when an input next to its window changes, and an infinity there makes it NaN. Exact analysis
must not see that: the backend competes only where the caller says that outputs need not be local to the last bit, as
:func:`striate.accelerate` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.backends import ConvolutionBackend, Pass
from striate.engine.layout import new_empty
from striate.engine.llvm import launch, winograd, winograd_pooled
from striate.engine.llvm.backend import LlvmBackend, checked_operands
from striate.engine.llvm.epilogue import PLAIN, Epilogue
from striate.engine.llvm.interleaved import ChannelTile
from striate.engine.llvm.isa import Isa, host, the_isa
from striate.engine.llvm.launch import Kernel
from striate.engine.llvm.pooled import joins
from striate.engine.llvm.pools import INDEX, compact
from striate.engine.llvm.relayout import laid_out, moved
from striate.engine.llvm.weights import Weights
from striate.engine.llvm.winograd import GAP, Form
from striate.geometry import ConvShape, PoolShape, Problem

#: The forms there are for windows of so many taps.
FORMS: Final = {3: (Form(2, 3), Form(4, 3)), 5: (Form(2, 5),)}
#: Channels below which transforming tiles costs what it saves.
_FEW_CHANNELS = 16
#: Pairs of channels whose weights, up to 36 numbers each, are small enough to be transformed.
_MOST_WEIGHTS = 1 << 20
#: Tiles as which transforming a weight counts, and reading it where it was transformed before.
_PACKING, _READING = 40, 12
#: How many times as many multiplications a direct sum needs before a plan gives it up unmeasured.
_PAYING = 1.25
#: Tiles of a chunk at least and at most, and the numbers that a thread's tiles should not exceed by much.
_LEAST_TILES, _MOST_TILES, _CHUNK = 24, 48, 1 << 18
#: Numbers of transformed tiles that a weight gradient sums over at once: they should stay in a third-level cache.
_SUMMED = 1 << 20


def pays(problem: ConvShape) -> bool:
    """Whether an output, of a weight transformed before, is likely to be the quicker for it."""
    if _backend.refusal(problem, Pass.OUTPUT, torch.float32, "cpu") is not None:
        return False
    outputs, taps = problem.output_size, problem.kernel[0]
    form = _form(taps, problem.batch, outputs, _READING)
    count = problem.batch * math.prod(_tiles(form, outputs)) + _READING
    direct = taps**2 * (problem.batch * math.prod(outputs) + _READING)
    return _PAYING * form.elements * count < direct


class WinogradBackend(ConvolutionBackend):
    """Generated CPU kernels with fewer multiplications than taps, for windows of 3x3 and 5x5 one stride apart."""

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
        """Where transforming weights and tiles is small against the products."""
        assert isinstance(problem, ConvShape)
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
            return _weight_grad(shape, _interleaved(first), _interleaved(second), channels_last)
        if open_ is Pass.OUTPUT:
            made = _sums(shape, _interleaved(first), Weights.of(second, 1), bias, False)
        else:
            taps = range(shape.kernel[0] - 1, -1, -1)
            weights = Weights.of(first, 1, transposed=True).taps(taps, taps)
            made = _sums(shape, _interleaved(second), weights, bias, True)
        return laid_out(made, channels_last)


_llvm, _backend = LlvmBackend(), WinogradBackend()


@cache
def _output_kernel(isa: Isa, form: Form, tile: ChannelTile, epilogue: Epilogue) -> Kernel:
    return Kernel(winograd.generate(isa, form, tile, epilogue), isa)


@cache
def _pooled_kernel(isa: Isa, form: Form, tile: ChannelTile, pooled: Pooled) -> Kernel:
    after, kind = pooled
    if isinstance(after, Epilogue):
        return Kernel(winograd_pooled.generate_largest(isa, form, tile, after), isa)
    return Kernel(winograd_pooled.generate(isa, form, tile, after, kind), isa)


@cache
def _weights_kernel(isa: Isa, form: Form, vectors: int, side_by_side: str) -> Kernel:
    return Kernel(winograd.generate_weights(isa, form, vectors, side_by_side), isa)


@cache
def _parts_kernel(isa: Isa, form: Form, of_gradients: bool) -> Kernel:
    return Kernel(winograd.generate_parts(isa, form, of_gradients), isa)


@cache
def _products_kernel(isa: Isa, form: Form, tile: ChannelTile, side_by_side: bool) -> Kernel:
    return Kernel(winograd.generate_products(isa, form, tile, side_by_side), isa)


class Pooled(NamedTuple):
    """What is made of outputs instead of writing them all: maxima, with their positions if an activation is named."""

    after: str | Epilogue
    kind: str = ""  #: the positions' type, as pools.INDEX calls it


@dataclass(frozen=True, slots=True)
class Sums:
    """What a convolution's output comes to once sizes are known, but for the addresses."""

    isa: Isa
    form: Form
    kernel: Kernel
    vectors: int
    channels: int  #: output channels in whole tiles
    inner: int
    items: int
    threads: int
    scratch: int
    after: list[int]  #: the kernel's words after the addresses

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
    ) -> Sums:
        """``packed``: the weight is transformed once for many calls; ``backwards``: for the input gradient."""
        inner, outer, size, outputs = shape.in_channels, shape.out_channels, shape.size, shape.output_size
        isa = isa.dividing(math.gcd(inner, outer))
        before = [low for low, _ in shape.pads]
        if backwards:
            inner, outer, size, outputs = outer, inner, outputs, size
            # Input i sees output i + before - tap: the kernel turned around begins so far before it.
            before = [kernel - 1 - low for kernel, low in zip(shape.kernel, before, strict=True)]
        form = _form(shape.kernel[0], shape.batch, outputs, _READING if packed else _PACKING)
        down, across = _tiles(form, outputs)
        tiles = shape.batch * down * across
        tile = ChannelTile.choose(isa, outer, _MOST_TILES)
        channels = _rounded(outer, tile.vectors * isa.lanes)
        most = min(_MOST_TILES, max(_LEAST_TILES, _CHUNK // (form.elements * (inner + channels))))
        # As many chunks for every thread.
        items = -(-tiles // most)
        items = min(_rounded(items, threads), -(-tiles // tile.columns))
        chunk = _rounded(-(-tiles // items), tile.columns)
        items = -(-tiles // chunk)
        scratch = form.elements * (chunk * (inner + channels) + 2 * GAP) + channels
        threads = min(threads, items)
        image = [inner, *size, math.prod(size) * inner, size[1] * inner]
        after = [tiles, down, across, *before, outer, channels // (tile.vectors * isa.lanes), *outputs]
        after += [chunk, scratch, *image]
        kernels = _pooled_kernel if isinstance(epilogue, Pooled) else _output_kernel
        kernel = kernels(isa, form, tile, epilogue)
        return cls(isa, form, kernel, tile.vectors, channels, inner, items, threads, threads * scratch, after)

    def pack(self, weights: Weights, bias: Tensor | None, into: Tensor | None = None) -> Tensor:
        """The transformed weight; ``into`` is where it was packed before."""
        _, outer, inner, _, _ = weights.sizes
        count = self.form.elements * inner * self.channels
        packed = fresh.empty(count + self.channels + inner) if into is None else into
        packed[count:].zero_()
        if bias is not None:
            packed[count : count + outer] = bias
        blocks = self.channels // (self.vectors * self.isa.lanes)
        start = weights.tensor.data_ptr() + weights.offset * weights.tensor.element_size()
        words = [start, packed.data_ptr(), inner, outer, blocks, *weights.strides[1:]]
        strides = {1: ""} | {weights.strides[2]: "inner", weights.strides[1]: "outer"}
        kernel = _weights_kernel(self.isa, self.form, self.vectors, strides[1])
        kernel(blocks * inner // self.isa.lanes, words, launch.threads())
        return packed

    def words(self, x: Any, packed: Any, y: Any, scratch: Any, added: Any = None) -> list[Any]:
        """The kernel's arguments, from addresses or from what will be addresses; ``added``: a map, or the positions."""
        return [x, packed, y, *([] if added is None else [added]), scratch, *self.after]


def _interleaved(image: Tensor) -> Tensor:
    made = moved(image, True)
    return image.contiguous(memory_format=torch.channels_last) if made is None else made


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step


def _tiles(form: Form, outputs: Sequence[int]) -> tuple[int, int]:
    down, across = (-(-n // form.outputs) for n in outputs)
    return down, across


def _form(taps: int, batch: int, outputs: Sequence[int], weights: int) -> Form:
    """The form with the fewest multiplications, transforming weights counted as tiles."""
    return min(FORMS[taps], key=lambda form: form.elements * (batch * math.prod(_tiles(form, outputs)) + weights))


def _sums(shape: ConvShape, x: Tensor, weights: Weights, bias: Tensor | None, backwards: bool) -> Tensor:
    sums = Sums.of(the_isa(), shape, launch.threads(), backwards=backwards)
    packed, scratch = sums.pack(weights, bias), fresh.empty(sums.scratch)
    whole = shape.input_shape if backwards else shape.output_shape
    y = fresh.empty(whole, memory_format=torch.channels_last)
    words = sums.words(x.data_ptr(), packed.data_ptr(), y.data_ptr(), scratch.data_ptr())
    sums.kernel(sums.items, words, sums.threads)
    return y


def pools(shape: ConvShape, pool: PoolShape) -> bool:
    """Whether an output can go through max pooling before it is written."""
    refused = _backend.refusal(shape, Pass.OUTPUT, torch.float32, "cpu") is not None
    return not refused and pool.kernel == (winograd_pooled.WINDOW,) * 2 and joins(pool)


def maximum(
    shape: ConvShape, pool: PoolShape, activation: str, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The pooled map of a problem that pools and its positions, -1 where the activation lets no gradient back; both
    with channels side by side.
    """
    x, weight, bias = checked_operands(shape, Pass.OUTPUT, x, weight, bias)
    x, dtype = _interleaved(x), compact(pool)
    sums = Sums.of(the_isa(), shape, launch.threads(), Pooled(activation, INDEX[dtype]))
    packed, scratch = sums.pack(Weights.of(weight, 1), bias), fresh.empty(sums.scratch)
    last = torch.channels_last
    values = fresh.empty(pool.output_shape, memory_format=last)
    positions = fresh.empty(pool.output_shape, dtype=dtype, memory_format=last)
    results = values.data_ptr(), positions.data_ptr()
    words = sums.words(x.data_ptr(), packed.data_ptr(), results[0], scratch.data_ptr(), results[1])
    sums.kernel(sums.items, words, sums.threads)
    return values, positions


def _weight_grad(shape: ConvShape, x: Tensor, g: Tensor, channels_last: bool) -> Tensor:
    inner, outer = shape.in_channels, shape.out_channels
    isa, threads = the_isa().dividing(math.gcd(inner, outer)), launch.threads()
    before = [low for low, _ in shape.pads]
    form = _form(shape.kernel[0], shape.batch, shape.output_size, _READING)
    down, across = _tiles(form, shape.output_size)
    tiles = shape.batch * down * across
    vectors = 2 if inner % (2 * isa.lanes) == 0 else 1
    tile = ChannelTile(isa.tile(vectors + 1) // vectors, vectors)
    items = -(-outer // tile.columns) * (inner // (vectors * isa.lanes))
    chunk = min(tiles, max(_LEAST_TILES, _SUMMED // (form.elements * (inner + outer))))
    slices = chunk * inner + GAP, chunk * outer + GAP
    # The last output channels of a tile may be read where there are none.
    parts = [fresh.empty(form.elements * slice_ + GAP) for slice_ in slices]
    # Sums that are complete at once need not be kept. Others are taken an element after the other, whose tiles stay in
    # a second-level cache.
    at_once, kept = chunk == tiles, form.elements * tile.columns * vectors * isa.lanes
    total = fresh.empty((threads if at_once else items) * kept)
    where = [0, kept] if at_once else [kept, 0]
    zeros = fresh.zeros(max(inner, outer))
    made = new_empty(g, shape.weight_shape, channels_last)
    products = _products_kernel(isa, form, tile, made.stride(1) == 1)
    for start in range(0, tiles, chunk):
        count = min(chunk, tiles - start)
        each = zip((x, g), parts, slices, (before, [0, 0]), (False, True), strict=True)
        for image, part, slice_, corner, of_gradients in each:
            channels, height, width = image.shape[1:]
            words = [image.data_ptr(), part.data_ptr(), zeros.data_ptr(), tiles, down, across, channels, height, width]
            words += [height * width * channels, width * channels, *corner, start, slice_]
            _parts_kernel(isa, form, of_gradients)(count, words, threads)
        words = [*(part.data_ptr() for part in parts), total.data_ptr(), made.data_ptr()]
        rest = [inner, outer, *slices]
        if at_once:
            products(items, [*words, count, *rest, form.elements, *where, 0, 1, *made.stride()], threads)
        else:
            products(form.elements * items, [*words, count, *rest, 1, *where, start, 0, *made.stride()], threads)
    if not at_once:
        products(items, [*words, 0, *rest, form.elements, *where, 1, 1, *made.stride()], threads)
    return made
