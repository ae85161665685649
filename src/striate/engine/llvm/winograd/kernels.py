"""Winograd's convolution in channels last: windows with stride 1, with fewer multiplications than taps.

    Y = A' [ (G w G') * (B' d B) ] A         summed over input channels before the outer pair of A is applied

computes a tile of m x m outputs Y from a tile d of n x n inputs, n = m + r - 1 for windows of r x r. The product * is
elementwise: n * n multiplications instead of m * m * r * r. For every element, the sum over input channels is a matrix
product, tiles by input channels times input channels by output channels, which takes most of the time.

    for every item: a chunk of T tiles
        part[e][tile][c]  = (B' d B)[e]             lanes over c; inputs beyond the image are zeros
        sums[e][tile][o]  = sum over c of part[e][tile][c] * weight[e][o][c]        P tiles and V vectors in registers
        y[tile]           = epilogue of (A' sums A + bias)
        y[square]         = epilogue of (direct sums + bias)    if the tile's values require it: see values.py

The input gradient is the same with the kernel flipped and its channels swapped. The weight gradient is

    G' [ sum over tiles of (B' d B) * (A g A') ] G

where g is a tile of output gradients, and the sum over tiles is a matrix product.

For the matrices, sources and rounding see forms.py.

Packed weight: [e][V vectors of output channels][C_in][V * lanes]; a bias for each of these channels; a zero for each
input channel; for each vector of input channels, the largest magnitude of each output channel, as an integer; and, if
the weight is packed for many calls, the taps in the order of direct sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from striate.engine.llvm.codegen.ir import Function, Int, Number, Pointer, Variable
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.convolution.nhwc import ChannelTile
from striate.engine.llvm.functions.epilogue import PLAIN, Epilogue
from striate.engine.llvm.memory.rows import transposed_vectors
from striate.engine.llvm.winograd.forms import TOGETHER, Matrix, TileValues, WinogradForm, both, times, transposed
from striate.engine.llvm.winograd.values import SQUARE, ZEROS, Direct, Watch, larger_bits, suspects

#: Numbers between the slices of two elements, so that they don't map to the same cache sets.
GAP: Final = 16
#: The axes of a weight, in the names of its strides.
WEIGHT_AXES: Final = ("outer", "inner", "row", "column")

#: Writes a square of outputs for a vector of channels, given the first channel.
Put: TypeAlias = Callable[[Number, TileValues], None]
#: Conditions, one for each output of a square.
KeptOutputs: TypeAlias = list[list[str]]


class Tiles:
    """Tiles of outputs, numbered over all images; sizes are arguments."""

    def __init__(self, f: Function, outputs: int) -> None:
        self.count, self.down, self.across = f.size("tiles"), f.size("down"), f.size("across")
        self.outputs = outputs

    def place(self, tile: Number) -> tuple[Number, Number, Number]:
        """The image of a tile, and the first row and column of its outputs."""
        here = tile % (self.down * self.across)
        row, column = here // self.across, here % self.across
        return tile // (self.down * self.across), row * self.outputs, column * self.outputs


class Image:
    """Images in channels last, and the memory that stands for pixels outside; sizes are arguments."""

    def __init__(self, f: Function, start: Pointer, outside: Pointer) -> None:
        self.f, self.start, self.outside = f, start, outside
        self.channels, self.height, self.width = f.size("channels"), f.size("height"), f.size("width")
        self.image, self.row = f.size("x_image"), f.size("x_row")

    def patch(self, image: Number, top: Number, left: Number, size: int) -> list[list[Pointer]]:
        """The addresses of ``size`` rows and columns of pixels."""
        limits, strides = (self.height, self.width), (self.row, self.channels)
        return places(self.f, self.start + image * self.image, self.outside, (top, left), limits, strides, size)

    def whole(self, image: Number, top: Number, left: Number, size: int, staging: Pointer) -> tuple[Pointer, Number]:
        """The address of the first of ``size`` rows and columns at equal distances, and the distance between rows.

        A patch that reaches beyond the image is copied to ``staging``.
        """
        f, across = self.f, self.channels
        start, row = f.variable(staging.text, "ptr"), f.variable(str(size * across), "i64")
        inside = (
            f.both(f.less(-1, first), f.less(first, last))
            for first, last in ((top, self.height - (size - 1)), (left, self.width - (size - 1)))
        )
        there = f.both(*inside)
        with f.when(there):
            start.set((self.start + (image * self.image + top * self.row + left * across)).text)
            row.set(str(self.row))
        with f.when(f.negation(there)), f.loop(0, size) as i, f.loop(0, size) as j:
            from_, to = self.patch(image, top + i, left + j, 1)[0][0], staging + (i * size + j) * across
            with f.loop(0, across, f.lanes) as channel:
                f.store(f.load(from_ + channel), to + channel)
        return Pointer(f, start.get()), Int(f, row.get())


def evenly(start: Pointer, step: Number, count: int) -> list[Pointer]:
    """``count`` addresses, each computed from the one before, because they wouldn't all fit into registers."""
    found = [start]
    while len(found) < count:
        found.append(start.f.opaque(found[-1] + step))
    return found


def places(
    f: Function,
    start: Pointer,
    outside: Pointer,
    corner: tuple[Number, Number],
    limits: tuple[Number, Number],
    strides: tuple[Number, Number],
    size: int,
) -> list[list[Pointer]]:
    """Addresses of ``size`` rows and columns from a corner on; ``outside`` for positions beyond the limits."""
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
    """The kernel of the output; subclasses define what is written."""

    f: Function
    form: WinogradForm
    tile: ChannelTile

    def emit(self) -> Function:
        f, form = self.f, self.form
        x, self.packed, self.y = f.pointer("x"), f.pointer("packed"), f.pointer("y")
        self.ask()
        scratch = f.pointer("scratch")
        tiles = self.tiles = Tiles(f, form.outputs)
        before = f.size("row_before"), f.size("column_before")
        self.outer, self.blocks = f.size("outer"), f.size("blocks")
        self.out_height, self.out_width = f.size("out_height"), f.size("out_width")
        chunk, scratch_size = f.size("chunk"), f.size("scratch_size")
        image = self.image = Image(f, x, x)
        source = f.pointer("weight"), tuple(f.size(f"weight_{axis}") for axis in WEIGHT_AXES)
        kept = f.size("kept")
        channels = self.blocks * (self.tile.vectors * f.lanes)
        self.bias = self.packed + form.elements * channels * image.channels
        image.outside = self.bias + channels
        largest = Pointer(f, (image.outside + image.channels).text, "i32")
        self.part = scratch + f.thread * scratch_size
        self.part_slice = chunk * image.channels + GAP
        self.sums = self.part + form.elements * self.part_slice
        self.sums_row = channels
        self.sums_slice = chunk * self.sums_row + GAP
        # Outputs beyond the image are written to this memory.
        self.waste = self.sums + form.elements * self.sums_slice
        staging = self.waste + channels
        states = Pointer(f, (staging + form.elements * image.channels).text, "i32")
        self.flags = states + chunk
        own = Pointer(f, (self.flags + self.blocks).text)
        taps = f.either(f.less(0, kept), source[0], own), kept
        self.direct = Direct(f, form, self.tile, (image.channels, self.outer), source, taps)
        suspected = suspects(f, self.tile, largest, (image.channels // f.lanes, self.blocks), self.flags)
        watch = Watch(f, form, image.channels, (self.out_height, self.out_width), states)
        with f.loop(f.first, f.last) as item:
            start = item * chunk
            count = f.smaller(chunk, tiles.count - start)
            _transform(f, form.b, tiles, image, before, (start, count), self.part, self.part_slice, staging, watch)
            with f.loop(0, count) as tile:
                watch.look(tile, image, partial(tiles.place, start + tile), before)
            self._multiply(count, image.channels)
            with f.loop(0, count) as tile:
                place = tiles.place(start + tile)
                put = self.put(*place, form.outputs)
                with f.loop(0, self.outer, f.lanes) as channel:
                    put(channel, self.outputs(tile, channel))
                state = f.integer("and", f.widened(f.scalar(states + tile), "i32"), (1 << 32) - 1)
                with f.when(f.less(0, f.integer("or", state, suspected))):
                    self._directly(state, place, before)
        return f

    def ask(self) -> None:
        """Reads further arguments, which follow the result."""

    def put(self, image: Number, top: Number, left: Number, size: int, kept: KeptOutputs | None = None) -> Put:
        """A function that writes ``size`` rows and columns of outputs from a corner, only those ``kept``."""
        raise NotImplementedError

    def summed(self, direct: str, zeros: Number, every: int) -> str:
        """Whether a square of outputs is summed directly.

        ``direct``: whether one of the outputs has to be; ``zeros``: the bits of the outputs that are the bias.
        """
        raise NotImplementedError

    def _directly(self, state: Number, place: tuple[Number, Number, Number], before: tuple[Number, Number]) -> None:
        """Writes the outputs of a tile that are summed directly or are the bias, according to its state."""
        f, m = self.f, self.form.outputs
        image, top, left = place
        bits = [[1 << i * m + j for j in range(SQUARE)] for i in range(SQUARE)]
        every = sum(map(sum, bits))
        self.direct.prepare()
        with f.loop(0, m, SQUARE) as i, f.loop(0, m, SQUARE) as j:
            here = f.integer("lshr", state, i * m + j)
            poor, zeros = (f.integer("and", f.integer("lshr", here, by), every) for by in (0, ZEROS))
            pixels = self.image.patch(image, top + i - before[0], left + j - before[1], self.form.taps + SQUARE - 1)
            with f.loop(0, self.blocks) as block:
                flag = f.widened(f.scalar(self.flags + block), "i32")
                direct = f.less(0, f.integer("or", poor, flag))
                with f.when(f.value(f"or i1 {direct}, {f.less(0, zeros)}")):
                    kept = [
                        [f.value(f"or i1 {direct}, {f.less(0, f.integer('and', zeros, bit))}") for bit in row]
                        for row in bits
                    ]
                    summed = f.choose(self.summed(direct, zeros, every), self.image.channels, 0)
                    sums = self.direct.sums(block, pixels, summed)
                    put = self.put(image, top + i, left + j, SQUARE, kept)
                    for v, square in enumerate(sums):
                        channel = (block * self.tile.vectors + v) * f.lanes
                        with f.when(f.less(channel, self.outer)):
                            bias = f.load(self.bias + channel)
                            put(channel, [[f.arithmetic("fadd", total, bias) for total in row] for row in square])

    def outputs(self, tile: Number, channel: Number) -> TileValues:
        """The outputs of a tile for a vector of channels."""
        f, size = self.f, self.form.size
        bias, seen = f.load(self.bias + channel), self.sums + (tile * self.sums_row + channel)
        sums = [f.load(place) for place in evenly(seen, self.sums_slice, size**2)]
        made = both(f, transposed(self.form.a), [sums[i : i + size] for i in range(0, size**2, size)])
        return [[f.arithmetic("fadd", total, bias) for total in row] for row in made]

    def _multiply(self, count: Number, inner: Number) -> None:
        f, tile = self.f, self.tile
        group = tile.vectors * f.lanes
        with f.loop(0, self.form.elements) as e, f.loop(0, self.blocks) as block:
            weights = self.packed + (e * self.blocks + block) * inner * group
            with f.loop(0, count, tile.columns) as first:
                seen = self.part + (e * self.part_slice + first * inner)
                into = self.sums + (e * self.sums_slice + first * self.sums_row + block * group)
                with f.loop(0, inner, TOGETHER) as start:
                    totals = _totals(f, tile)
                    with f.loop(start, f.smaller(start + TOGETHER, inner)) as c:
                        _add(f, tile, totals, seen + c, inner, weights + c * group)
                    more = f.less(0, start)
                    for later, condition in ((False, f.negation(more)), (True, more)):
                        with f.when(condition):
                            for (p, v), total in totals.items():
                                place = into + p * self.sums_row + v * f.lanes
                                sum_ = f.arithmetic("fadd", f.load(place), total.get()) if later else total.get()
                                f.store(sum_, place)


@dataclass
class _Whole(Generator):
    """The kernel that writes all outputs, after an epilogue."""

    epilogue: Epilogue

    def ask(self) -> None:
        self.added = self.f.pointer("added") if self.epilogue.adds else None
        self.start, *self.strides = (self.f.size(f"y_{name}") for name in ("start", "image", "row", "column"))

    def put(self, image: Number, top: Number, left: Number, size: int, kept: KeptOutputs | None = None) -> Put:
        f = self.f
        each = (self.waste, (top, left), (self.out_height, self.out_width))
        of_images, *of_places = self.strides
        strides = (of_places[0], of_places[1])
        plane = self.start + image * of_images
        targets = places(f, self.y + plane, *each, strides, size)
        added = self.added and places(f, self.added + plane, *each, strides, size)
        if kept is not None:
            pairs = (zip(*rows, strict=True) for rows in zip(kept, targets, strict=True))
            targets = [[f.either(keep, place, self.waste) for keep, place in row] for row in pairs]

        def put(channel: Number, square: TileValues) -> None:
            for i, row in enumerate(square):
                for j, total in enumerate(row):
                    more = added[i][j] + channel if added else None
                    f.store(self.epilogue.apply(f, total, more), targets[i][j] + channel)

        return put

    def summed(self, direct: str, zeros: Number, every: int) -> str:
        return direct


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
    staging: Pointer,
    watch: Watch | None = None,
) -> None:
    """Writes ``part[e][tile][channel]`` for some tiles; ``which`` has the first tile and their number.

    ``staging`` is memory for a tile; ``watch`` inspects the values.
    """
    start, count = which
    with f.loop(0, count) as tile:
        n, top, left = tiles.place(start + tile)
        size = len(matrix[0])
        corner, down = image.whole(n, top - before[0], left - before[1], size, staging)
        if watch is not None:
            watch.begin()
        with f.loop(0, image.channels, f.lanes) as channel:
            columns = []
            for j, head in enumerate(evenly(corner + channel, image.channels, size)):
                values = [f.load(pixel) for pixel in evenly(head, down, size)]
                if watch is not None:
                    watch.add(j, values)
                columns.append(times(f, matrix, values))
            into = part + (tile * image.channels + channel)
            made = [times(f, matrix, row) for row in zip(*columns, strict=True)]
            targets = evenly(into, slice_, len(matrix) ** 2)
            for value, target in zip((value for row in made for value in row), targets, strict=True):
                f.store(value, target)
        if watch is not None:
            watch.settle(tile)


def generate(isa: Isa, form: WinogradForm, tile: ChannelTile, epilogue: Epilogue = PLAIN) -> Function:
    """The kernel of the output."""
    return _Whole(Function("winograd_output", isa), form, tile, epilogue).emit()


def generate_weights(isa: Isa, form: WinogradForm, vectors: int, side_by_side: str) -> Function:
    """Packs a weight: [element][block of ``vectors`` of output channels][input channel][channel of the block].

    ``largest`` receives the largest magnitudes of these channels' taps, as integers; ``direct`` the taps themselves, if
    ``kept`` isn't 0: [block][input channel][tap][channel of the block].

    A work item is a vector of input channels of a block. Both numbers of channels are whole vectors. ``side_by_side``
    says which of them are adjacent in memory, ``"outer"``, ``"inner"`` or neither.
    """
    f = Function("winograd_weights", isa)
    weight, packed = f.pointer("weight"), f.pointer("packed")
    largest, direct = f.pointer("largest", "i32"), f.pointer("direct")
    kept, inner, outer, blocks = f.size("kept"), f.size("inner"), f.size("outer"), f.size("blocks")
    outer_stride, inner_stride, row_stride, column_stride = (f.size(f"weight_{axis}") for axis in WEIGHT_AXES)
    group, taps = vectors * f.lanes, [(i, j) for i in range(form.taps) for j in range(form.taps)]
    strips = inner // f.lanes
    slice_ = blocks * inner * group

    def write(values: dict[tuple[int, int], str] | None, row: Number, v: Number) -> None:
        place = packed + (row * group + v)
        made = [[f.zeros()] * form.size] * form.size
        if values is not None:
            for value in values.values():
                top.set(larger_bits(f, top.get(), f.magnitude_bits(value)))
            with f.when(f.less(0, kept)):
                for at, value in enumerate(values.values()):
                    f.store(value, direct + (row * (len(taps) * group) + (at * group + v)))
            made = both(f, form.g, [[values[i, j] for j in range(form.taps)] for i in range(form.taps)])
        for e, value in enumerate(value for row in made for value in row):
            f.store(value, place + e * slice_)

    with f.loop(f.first, f.last) as item, f.loop(0, group, f.lanes) as v:
        block, first = item // strips, item % strips * f.lanes
        channel = block * group + v
        from_ = weight + (channel * outer_stride + first * inner_stride)
        rows = block * inner + first
        there, top = f.less(channel, outer), f.variable(f.zeros(), f"<{f.lanes} x i32>")
        with f.when(there):
            if side_by_side == "inner":
                read = {}
                for i, j in taps:
                    tap = from_ + (i * row_stride + j * column_stride)
                    read[i, j] = transposed_vectors(f, [f.load(tap + o * outer_stride) for o in range(f.lanes)])
                for row in range(f.lanes):
                    write({tap: rows[row] for tap, rows in read.items()}, rows + row, v)
            else:
                lanes = f.positions(0, outer_stride)
                with f.loop(0, f.lanes) as c:
                    places = {(i, j): from_ + (c * inner_stride + i * row_stride + j * column_stride) for i, j in taps}
                    if side_by_side == "outer":
                        values = {tap: f.load(place) for tap, place in places.items()}
                    else:
                        values = {tap: f.gather(place, lanes) for tap, place in places.items()}
                    write(values, rows + c, v)
        with f.when(f.negation(there)), f.loop(0, f.lanes) as none:
            write(None, rows + none, v)
        f.store(top.get(), largest + (item % strips * (blocks * group) + channel), kind="i32")
    return f


def generate_parts(isa: Isa, form: WinogradForm, of_gradients: bool) -> Function:
    """Transforms tiles of inputs, or of output gradients, for a weight gradient; a work item is a tile."""
    f = Function("winograd_gradient_parts" if of_gradients else "winograd_input_parts", isa)
    x, part, zeros, staging = f.pointer("x"), f.pointer("part"), f.pointer("zeros"), f.pointer("staging")
    tiles, image = Tiles(f, form.outputs), Image(f, x, zeros)
    before, start, slice_ = (f.size("row_before"), f.size("column_before")), f.size("start"), f.size("slice")
    matrix = form.a if of_gradients else form.b
    which = start + f.first, f.last - f.first
    own = staging + f.thread * (len(matrix[0]) ** 2 * image.channels)
    _transform(f, matrix, tiles, image, before, which, part + f.first * image.channels, slice_, own)
    return f


def generate_products(isa: Isa, form: WinogradForm, tile: ChannelTile, side_by_side: bool) -> Function:
    """``made[o, c] = G' total G`` with ``total[e] += sum over tiles of other[e][tile][o] * part[e][tile][c]``.

    A work item is ``together`` elements e of P output channels o and V vectors of input channels c, which have to be
    whole tiles. Sums beyond the output channels are dropped at the end. ``more``: whether earlier tiles have been
    summed; ``last``: whether these are the last tiles, for which an item has all elements. ``side_by_side``: whether
    input channels are adjacent in the result. If the result has infinities or NaN, ``spoilt`` becomes 1.
    """
    f = Function("winograd_products", isa)
    part, other, total, made = f.pointer("part"), f.pointer("other"), f.pointer("total"), f.pointer("made")
    spoilt = f.pointer("spoilt", "i32")
    count, inner, outer = f.size("count"), f.size("inner"), f.size("outer")
    part_slice, other_slice = f.size("part_slice"), f.size("other_slice")
    together, item_size, thread_size = f.size("together"), f.size("item_size"), f.size("thread_size")
    more, last = f.size("more"), f.size("last")
    outer_stride, inner_stride, row_stride, column_stride = (f.size(f"made_{axis}") for axis in WEIGHT_AXES)
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
            with f.loop(0, count) as t:
                numbers = other + (e * other_slice + t * outer + o)
                _add(f, tile, totals, numbers, 1, part + (e * part_slice + t * inner + c))
            with f.when(f.less(0, more)):
                for key, sum_ in totals.items():
                    sum_.set(f.arithmetic("fadd", sum_.get(), f.load(kept[key])))
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
            nothing = f.zeros()
            for i, row in enumerate(both(f, transposed(form.g), sums)):
                for j, value in enumerate(row):
                    nothing = f.fma(value, f.zeros(), nothing)
                    tap = into + (i * row_stride + j * column_stride)
                    if side_by_side:
                        f.store(value, tap)
                    else:
                        f.store_apart(value, tap, inner_stride)
            with f.when(f.any(f.compare("uno", nothing, nothing))):
                f.put("1", spoilt)
    return f
