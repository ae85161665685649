"""Winograd's convolution on interleaved channels: windows one stride apart with fewer multiplications than taps.

    Y = A' [ (G w G') * (B' d B) ] A         summed over input channels before the outer pair of A is applied

computes a tile of m x m outputs Y from a tile d of n x n inputs, n = m + r - 1 for windows of r x r, where * goes
element by element: n * n multiplications instead of m * m * r * r. For every element the sum over input channels is a
matrix product, tiles by input channels times input channels by output channels, which is where the time goes.

    for every item: a chunk of T tiles
        part[e][tile][c]  = (B' d B)[e]             lanes over c; inputs beyond the image read zeros
        sums[e][tile][o]  = sum over c of part[e][tile][c] * weight[e][o][c]        P tiles and V vectors in registers
        y[tile]           = epilogue of (A' sums A + bias)

The input gradient is the same with the kernel turned around and its channels swapped. The weight gradient is

    G' [ sum over tiles of (B' d B) * (A g A') ] G

with g a tile of output gradients: matrix products that sum over tiles.

The matrices follow from n - 1 points at which polynomials are evaluated, and infinity; see :class:`Form`.

Packed weight: [e][V vectors of output channels][C_in][V * lanes], then a bias for each of these channels, then a zero
for each input channel.

Sources: Winograd, "Arithmetic complexity of computations" (1980); Lavin & Gray, "Fast algorithms for convolutional
neural networks", CVPR 2016, sections 4.1 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, TypeAlias

from striate.engine.llvm.emit import Function, Number, Pointer, Variable
from striate.engine.llvm.epilogue import PLAIN, Epilogue
from striate.engine.llvm.interleaved import ChannelTile
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.packing import transposed_vectors

#: Numbers between the slices of two elements, so that they don't fall onto the same lines of a cache.
GAP: Final = 16

Matrix: TypeAlias = tuple[tuple[Fraction, ...], ...]


#: By their number. 0 and 1 need the fewest operations; of four besides 0 those at 5/8 and 3/2 spread the entries'
#: magnitudes little, and with them rounding (0, 1 and 2 as in the paper: five times as much).
_POINTS: Final = {3: (0, 1, -1), 5: (0, Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2))}


@dataclass(frozen=True)
class Form:
    """The matrices for tiles of m outputs of windows of r taps along an axis."""

    outputs: int
    taps: int

    @property
    def size(self) -> int:
        """Inputs along an axis of a tile, n."""
        return self.outputs + self.taps - 1

    @property
    def elements(self) -> int:
        return self.size**2

    @property
    def points(self) -> tuple[Fraction, ...]:
        return tuple(map(Fraction, _POINTS[self.size - 1]))

    @property
    def a(self) -> Matrix:
        """A, n x m: powers of the points."""
        return self._powers(self.outputs)

    @property
    def g(self) -> Matrix:
        """G, n x r: powers of the points, divided by the products of their distances from all others."""
        *rows, last = self._powers(self.taps)
        scales = [math.prod(point - other for other in self.points if other != point) for point in self.points]
        return (*(tuple(x / scale for x in row) for row, scale in zip(rows, scales, strict=True)), last)

    @property
    def b(self) -> Matrix:
        """B', n x n: coefficients of the product of (x - other) over all others, and over all for infinity."""
        rows = [_product([other for other in self.points if other != point]) for point in self.points]
        return (*((*row, Fraction(0)) for row in rows), _product(self.points))

    def _powers(self, count: int) -> Matrix:
        infinity = tuple(Fraction(int(i == count - 1)) for i in range(count))
        return (*(tuple(point**i for i in range(count)) for point in self.points), infinity)


def _product(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients of the polynomial with these roots, the constant one first."""
    found = [Fraction(1)]
    for root in roots:
        found = [low - root * high for low, high in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return tuple(found)


def transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


Tile: TypeAlias = list[list[str]]


def _both(f: Function, matrix: Matrix, tile: Tile) -> Tile:
    """matrix * tile * matrix', of vectors."""
    columns = [_times(f, matrix, column) for column in zip(*tile, strict=True)]
    return [_times(f, matrix, row) for row in zip(*columns, strict=True)]


def _times(f: Function, matrix: Matrix, values: Sequence[str]) -> list[str]:
    """A matrix of numbers times a column of vectors.

    Rows that differ in signs only, as those of two opposite points do, share their halves: a + b and a - b.
    """
    found: dict[int, str] = {}
    for i, row in enumerate(matrix):
        if i in found:
            continue
        even: list[Fraction] | None = None
        for j in range(i + 1, len(matrix)):
            other = matrix[j]
            if j not in found and row != other and all(abs(x) == abs(y) for x, y in zip(row, other, strict=True)):
                even = [x if x == y else Fraction(0) for x, y in zip(row, other, strict=True)]
                break
        if even is None or not any(even):
            found[i] = _combined(f, row, values)
            continue
        odd = [x - y for x, y in zip(row, even, strict=True)]
        one, two = _combined(f, even, values), _combined(f, odd, values)
        found[i], found[j] = f.arithmetic("fadd", one, two), f.arithmetic("fsub", one, two)
    return [found[i] for i in range(len(matrix))]


def _combined(f: Function, factors: Sequence[Fraction], values: Sequence[str]) -> str:
    """The sum of factor * value, starting with what needs no multiplication."""
    terms = sorted((pair for pair in zip(factors, values, strict=True) if pair[0]), key=lambda pair: pair[0] != 1)
    if not terms:
        return f.zeros()
    common = {abs(factor) for factor, _ in terms}
    if len(terms) > 1 and len(common) == 1 and common != {Fraction(1)}:
        # One multiplication for all.
        (size,) = common
        inner = _combined(f, [factor / size for factor, _ in terms], [value for _, value in terms])
        return f.arithmetic("fmul", inner, f.constant(float(size)))
    total = ""
    for factor, value in terms:
        if not total:
            if factor == 1:
                total = value
            elif factor == -1:
                total = f.negative(value)
            else:
                total = f.arithmetic("fmul", value, f.constant(float(factor)))
        elif abs(factor) == 1:
            total = f.arithmetic("fadd" if factor > 0 else "fsub", total, value)
        else:
            total = f.fma(value, f.constant(float(factor)), total)
    return total


class Tiles:
    """Tiles of outputs, numbered over all images; sizes are arguments, in this order."""

    def __init__(self, f: Function, outputs: int) -> None:
        self.count, self.down, self.across = f.size(), f.size(), f.size()
        self.outputs = outputs

    def place(self, tile: Number) -> tuple[Number, Number, Number]:
        """Image, and the first row and column of its outputs."""
        here = tile % (self.down * self.across)
        row, column = here // self.across, here % self.across
        return tile // (self.down * self.across), row * self.outputs, column * self.outputs


class Image:
    """Interleaved numbers, and what stands for all that lies outside; sizes are arguments, in this order."""

    def __init__(self, f: Function, start: Pointer, outside: Pointer) -> None:
        self.f, self.start, self.outside = f, start, outside
        self.channels, self.height, self.width, self.image, self.row = (f.size() for _ in range(5))

    def patch(self, image: Number, top: Number, left: Number, size: int) -> list[list[Pointer]]:
        """Where ``size`` rows and columns of pixels lie."""
        limits, strides = (self.height, self.width), (self.row, self.channels)
        return places(self.f, self.start + image * self.image, self.outside, (top, left), limits, strides, size)


def places(
    f: Function,
    start: Pointer,
    outside: Pointer,
    corner: tuple[Number, Number],
    limits: tuple[Number, Number],
    strides: tuple[Number, Number],
    size: int,
) -> list[list[Pointer]]:
    """Addresses of ``size`` rows and columns from a corner on, ``outside`` for those beyond the limits."""
    rows, columns = (
        [(first + i, f.both(f.less(-1, first + i), f.less(first + i, limit))) for i in range(size)]
        for first, limit in zip(corner, limits, strict=True)
    )
    return [
        [
            f.either(f.both(inside, there), start + (row * strides[0] + column * strides[1]), outside)
            for column, there in columns
        ]
        for row, inside in rows
    ]


@dataclass
class Generator:
    """The kernel of the output; what is made of sums is left open."""

    f: Function
    form: Form
    tile: ChannelTile

    def emit(self) -> Function:
        f, form = self.f, self.form
        x, self.weight, self.y = (f.pointer() for _ in range(3))
        self.ask()
        scratch = f.pointer()
        tiles = self.tiles = Tiles(f, form.outputs)
        before = f.size(), f.size()
        self.outer, self.blocks, self.out_height, self.out_width = (f.size() for _ in range(4))
        chunk, scratch_size = f.size(), f.size()
        image = Image(f, x, x)
        channels = self.blocks * (self.tile.vectors * f.lanes)
        self.bias = self.weight + form.elements * channels * image.channels
        image.outside = self.bias + channels
        self.part = scratch + f.thread * scratch_size
        self.part_slice = chunk * image.channels + GAP
        self.sums = self.part + form.elements * self.part_slice
        self.sums_row = channels
        self.sums_slice = chunk * self.sums_row + GAP
        # Outputs beyond the image are written there.
        self.waste = self.sums + form.elements * self.sums_slice
        with f.loop(f.first, f.last) as item:
            start = item * chunk
            count = f.smaller(chunk, tiles.count - start)
            _transform(f, form.b, tiles, image, before, (start, count), self.part, self.part_slice)
            self._multiply(count, image.channels)
            with f.loop(0, count) as tile:
                self.write(tile, *tiles.place(start + tile))
        return f

    def ask(self) -> None:
        """Asks for another argument after the result."""

    def write(self, tile: Number, image: Number, top: Number, left: Number) -> None:
        """Writes what becomes of a tile whose sums are complete."""
        raise NotImplementedError

    def outputs(self, tile: Number, channel: Number) -> Tile:
        """Outputs of a vector of channels."""
        f, size = self.f, self.form.size
        bias, seen = f.load(self.bias + channel), self.sums + (tile * self.sums_row + channel)
        sums = [[f.load(seen + (size * i + j) * self.sums_slice) for j in range(size)] for i in range(size)]
        made = _both(f, transposed(self.form.a), sums)
        return [[f.arithmetic("fadd", total, bias) for total in row] for row in made]

    def _multiply(self, count: Number, inner: Number) -> None:
        f, tile = self.f, self.tile
        group = tile.vectors * f.lanes
        with f.loop(0, self.form.elements) as e, f.loop(0, self.blocks) as block:
            weights = self.weight + (e * self.blocks + block) * inner * group
            with f.loop(0, count, tile.columns) as first:
                seen = self.part + (e * self.part_slice + first * inner)
                totals = _totals(f, tile)
                with f.loop(0, inner) as c:
                    _add(f, tile, totals, seen + c, inner, weights + c * group)
                into = self.sums + (e * self.sums_slice + first * self.sums_row + block * group)
                for (p, v), total in totals.items():
                    f.store(total.get(), into + p * self.sums_row + v * f.lanes)


@dataclass
class _Whole(Generator):
    """All outputs are written, after an epilogue."""

    epilogue: Epilogue

    def ask(self) -> None:
        self.added = self.f.pointer() if self.epilogue.adds else None

    def write(self, tile: Number, image: Number, top: Number, left: Number) -> None:
        f, form = self.f, self.form
        each = (self.waste, (top, left), (self.out_height, self.out_width))
        strides = (self.out_width * self.outer, self.outer)
        plane = image * self.out_height * strides[0]
        targets = places(f, self.y + plane, *each, strides, form.outputs)
        added = self.added and places(f, self.added + plane, *each, strides, form.outputs)
        with f.loop(0, self.outer, f.lanes) as channel:
            for i, row in enumerate(self.outputs(tile, channel)):
                for j, total in enumerate(row):
                    more = added[i][j] + channel if added else None
                    f.store(self.epilogue.apply(f, total, more), targets[i][j] + channel)


def _totals(f: Function, tile: ChannelTile) -> dict[tuple[int, int], Variable]:
    return {(p, v): f.variable(f.zeros()) for p in range(tile.columns) for v in range(tile.vectors)}


def _add(
    f: Function,
    tile: ChannelTile,
    totals: dict[tuple[int, int], Variable],
    numbers: Pointer,
    step: Number,
    vectors: Pointer,
) -> None:
    """``totals[p, v] += numbers[p * step] * vectors[v]``"""
    held = [f.load(vectors + v * f.lanes) for v in range(tile.vectors)]
    for p in range(tile.columns):
        value = f.broadcast(numbers + p * step)
        for v in range(tile.vectors):
            totals[p, v].set(f.fma(value, held[v], totals[p, v].get()))


def _transform(
    f: Function,
    matrix: Matrix,
    tiles: Tiles,
    image: Image,
    before: tuple[Number, Number],
    which: tuple[Number, Number],
    part: Pointer,
    slice_: Number,
) -> None:
    """Writes ``part[e][tile][channel]`` for some tiles, the first and how many."""
    start, count = which
    with f.loop(0, count) as tile:
        n, top, left = tiles.place(start + tile)
        pixels = image.patch(n, top - before[0], left - before[1], len(matrix[0]))
        with f.loop(0, image.channels, f.lanes) as channel:
            values = [[f.load(pixel + channel) for pixel in row] for row in pixels]
            into = part + (tile * image.channels + channel)
            made = _both(f, matrix, values)
            for e, value in enumerate(value for row in made for value in row):
                f.store(value, into + e * slice_)


def generate(isa: Isa, form: Form, tile: ChannelTile, epilogue: Epilogue = PLAIN) -> Function:
    """The output; its arguments in the order in which they are asked for above."""
    return _Whole(Function("winograd_output", isa), form, tile, epilogue).emit()


def generate_weights(isa: Isa, form: Form, vectors: int, side_by_side: str) -> Function:
    """Packs a weight: [element][block of ``vectors`` of output channels][input channel][channel of the block].

    An item is a vector's length of input channels of a block. Both numbers of channels are whole vectors; which of them
    lie side by side in memory, ``"outer"``, ``"inner"`` or neither, decides how they are read.
    """
    f = Function("winograd_weights", isa)
    weight, packed = f.pointer(), f.pointer()
    inner, outer, blocks = (f.size() for _ in range(3))
    outer_stride, inner_stride, row_stride, column_stride = (f.size() for _ in range(4))
    group, taps = vectors * f.lanes, [(i, j) for i in range(form.taps) for j in range(form.taps)]
    strips = inner // f.lanes
    slice_ = blocks * inner * group

    def write(values: dict[tuple[int, int], str] | None, place: Pointer) -> None:
        made = [[f.zeros()] * form.size] * form.size
        if values is not None:
            made = _both(f, form.g, [[values[i, j] for j in range(form.taps)] for i in range(form.taps)])
        for e, value in enumerate(value for row in made for value in row):
            f.store(value, place + e * slice_)

    with f.loop(f.first, f.last) as item, f.loop(0, group, f.lanes) as v:
        block, first = item // strips, item % strips * f.lanes
        channel = block * group + v
        from_ = weight + (channel * outer_stride + first * inner_stride)
        into = packed + ((block * inner + first) * group + v)
        there = f.less(channel, outer)
        with f.when(there):
            if side_by_side == "inner":
                read = {}
                for i, j in taps:
                    tap = from_ + (i * row_stride + j * column_stride)
                    read[i, j] = transposed_vectors(f, [f.load(tap + o * outer_stride) for o in range(f.lanes)])
                for row in range(f.lanes):
                    write({tap: rows[row] for tap, rows in read.items()}, into + row * group)
            else:
                lanes = f.positions(0, outer_stride)
                with f.loop(0, f.lanes) as c:
                    places = {(i, j): from_ + (c * inner_stride + i * row_stride + j * column_stride) for i, j in taps}
                    if side_by_side == "outer":
                        values = {tap: f.load(place) for tap, place in places.items()}
                    else:
                        values = {tap: f.gather(place, lanes) for tap, place in places.items()}
                    write(values, into + c * group)
        with f.when(f.negation(there)), f.loop(0, f.lanes) as none:
            write(None, into + none * group)
    return f


def generate_parts(isa: Isa, form: Form, of_gradients: bool) -> Function:
    """Transforms tiles of inputs, or of output gradients, for a weight gradient. An item is a tile."""
    f = Function("winograd_gradient_parts" if of_gradients else "winograd_input_parts", isa)
    x, part, zeros = f.pointer(), f.pointer(), f.pointer()
    tiles, image = Tiles(f, form.outputs), Image(f, x, zeros)
    before, start, slice_ = (f.size(), f.size()), f.size(), f.size()
    matrix = form.a if of_gradients else form.b
    which = start + f.first, f.last - f.first
    _transform(f, matrix, tiles, image, before, which, part + f.first * image.channels, slice_)
    return f


def generate_products(isa: Isa, form: Form, tile: ChannelTile, side_by_side: bool) -> Function:
    """``made[o, c] = G' total G`` with ``total[e] += sum over tiles of other[e][tile][o] * part[e][tile][c]``.

    An item is ``together`` elements e of P output channels o and V vectors of input channels c, which have to be whole
    tiles. What reaches beyond the output channels is dropped at the end. ``more`` and ``last`` say whether tiles came
    before, and whether this is the end, which takes all elements together; ``side_by_side`` whether input channels lie
    so in the result.
    """
    f = Function("winograd_products", isa)
    part, other, total, made = (f.pointer() for _ in range(4))
    count, inner, outer, part_slice, other_slice = (f.size() for _ in range(5))
    together, item_size, thread_size, more, last = (f.size() for _ in range(5))
    outer_stride, inner_stride, row_stride, column_stride = (f.size() for _ in range(4))
    size, group = form.size, tile.vectors * f.lanes
    blocks = inner // group
    all_blocks = f.ceil_div(outer, tile.columns) * blocks
    step = tile.columns * group
    with f.loop(f.first, f.last) as item:
        block, start = item % all_blocks, item // all_blocks * together
        o, c = block // blocks * tile.columns, block % blocks * group
        place = total + (block * item_size + f.thread * thread_size)
        with f.loop(start, start + together) as e:
            totals = _totals(f, tile)
            kept = {(p, v): place + (e * step + p * group + v * f.lanes) for p, v in totals}
            with f.when(f.less(0, more)):
                for key, sum_ in totals.items():
                    sum_.set(f.load(kept[key]))
            with f.loop(0, count) as t:
                numbers = other + (e * other_slice + t * outer + o)
                _add(f, tile, totals, numbers, 1, part + (e * part_slice + t * inner + c))
            for key, sum_ in totals.items():
                f.store(sum_.get(), kept[key])
        with (
            f.when(f.less(0, last)),
            f.loop(0, f.smaller(tile.columns, outer - o)) as p,
            f.loop(0, group, f.lanes) as v,
        ):
            seen = place + (p * group + v)
            sums = [[f.load(seen + (size * i + j) * step) for j in range(size)] for i in range(size)]
            into = made + ((o + p) * outer_stride + (c + v) * inner_stride)
            for i, row in enumerate(_both(f, transposed(form.g), sums)):
                for j, value in enumerate(row):
                    tap = into + (i * row_stride + j * column_stride)
                    if side_by_side:
                        f.store(value, tap)
                    else:
                        f.store_apart(value, tap, inner_stride)
    return f
