"""Decides from the values which outputs use Winograd's form, and which are summed directly.

A tile's outputs are computed from all of its inputs. Inputs that an output doesn't see cancel up to rounding, and that
error is proportional to the tile's values, not to those of the output's window. NaN and infinity don't cancel at all.
For a tile, let E be the sum of the squares of its inputs over all channels; for an output in it, let e be the sum of
the squares in its window. The output

    is computed with the tile       if E <= 36 e and 2^-100 <= E <= 2^120, or if the tile has zeros only
    is the bias                     if its window has zeros only
    is summed directly              otherwise, as are its neighbours in a square of 2 x 2

Everything is summed directly for blocks of filters in which a largest magnitude is outside 2^-40 to 2^40 and not 0.
Within these limits no intermediate number overflows or loses digits by underflow. Together with
:meth:`striate.engine.llvm.winograd.forms.WinogradForm.bound` they bound an output's error by its own window. If all
values are equal, a tile of 4 x 4 outputs has E = 4 e; so the limit is a tile whose root mean square is three times that
of a window in it.

The check is cheap (:class:`Watch`). Four outputs in a square share the inputs in the middle of their windows. While a
tile is transformed, the squares of these inputs are summed separately. If they are large enough by themselves, the
windows needn't be inspected. On photographs, a few tiles in a hundred need it. The decision depends only on the values
of a tile, so results don't depend on chunks and threads.

A weight gradient sums over all positions, so every value of a channel belongs to it, except those at the borders, which
some taps don't see (:func:`generate_edges`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Final

from striate.engine.llvm.codegen.ir import Function, Int, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.convolution.nhwc import ChannelTile
from striate.engine.llvm.winograd.forms import TileValues, WinogradForm

if TYPE_CHECKING:
    from striate.engine.llvm.winograd.kernels import Image

#: The largest ratio of a tile's sum of squares to a window's. With 36, the error next to a spike at the limit is some
#: four times that of equal numbers, and less than one output in a hundred of photographs' maps is summed directly.
SPREAD: Final = 36
#: The limits of a tile's sum of squares, unless it is 0.
LEAST, MOST = 2.0**-100, 2.0**120
#: The limits of the largest magnitude of a filter, unless it is 0.
LEAST_WEIGHT, MOST_WEIGHT = 2.0**-40, 2.0**40
#: Rows and columns of outputs that are summed directly together.
SQUARE: Final = 2
#: The first bit, in a tile's state, of the outputs that see zeros only; the bits of direct sums begin at 0.
ZEROS: Final = 16
#: The squares of smaller numbers aren't exact.
TINY: Final = 2.0**-62


class Watch:
    """Inspects tiles while they are transformed, and records their states.

    A state has a bit for every output that has to be summed directly, and a bit for every output that is the bias.
    """

    def __init__(
        self, f: Function, form: WinogradForm, channels: Number, limits: tuple[Number, Number], states: Pointer
    ) -> None:
        self.f, self.form, self.channels, self.limits, self.states = f, form, channels, limits, states
        #: The corners of the squares of outputs, with the inputs that all four outputs see.
        self.shared = {
            (i, j): {(i + u, j + v) for u, v in product(range(1, form.taps), repeat=2)}
            for i, j in product(range(0, form.outputs, SQUARE), repeat=2)
        }
        self.sums = {key: f.variable(f.zeros()) for key in (None, *self.shared)}
        self.open: dict[tuple[int, int] | None, str] = {}

    def begin(self) -> None:
        """Begins a tile."""
        for total in self.sums.values():
            total.set(self.f.zeros())

    def add(self, j: int, column: Sequence[str]) -> None:
        """Takes a vector of channels of column j of a tile's inputs; after the last column, all are summed."""
        f = self.f
        for i, value in enumerate(column):
            key = next((start for start, inputs in self.shared.items() if (i, j) in inputs), None)
            if key in self.open:
                self.open[key] = f.fma(value, value, self.open[key])
            else:
                self.open[key] = f.arithmetic("fmul", value, value)
        for key in list(self.open):
            # There are few registers, so a sum is finished as soon as its last column has been added.
            last = self.form.size - 1 if key is None else max(column for _, column in self.shared[key])
            if j == last:
                self.sums[key].set(f.arithmetic("fadd", self.sums[key].get(), self.open.pop(key)))

    def settle(self, tile: Number) -> None:
        """Ends a tile, and records which squares of its outputs have to be inspected."""
        f = self.f
        every, *shared = (sum_.get() for sum_ in self.sums.values())
        for sum_ in shared:
            every = f.arithmetic("fadd", every, sum_)
        bits = f.value(f"bitcast {f.mask} {self._poor(_totals(f, [every]), _totals(f, shared))} to i{f.lanes}")
        f.put(f.value(f"zext i{f.lanes} {bits} to i32"), self.states + tile)

    def look(
        self,
        tile: Number,
        image: Image,
        place: Callable[[], tuple[Number, Number, Number]],
        before: tuple[Number, ...],
    ) -> None:
        """Writes the state of a tile, and inspects its windows if necessary.

        ``place`` returns the tile's image, and the first row and column of its outputs.
        """
        f = self.f
        poor = f.widened(f.scalar(self.states + tile), "i32")
        with f.when(f.less(0, poor)):
            number, *corner = place()
            asked: Number = 0
            for at, (i, j) in enumerate(self.shared):
                # Outputs beyond the image don't count.
                down, across = (f.less(first + k, n) for first, k, n in zip(corner, (i, j), self.limits, strict=True))
                bit = f.integer("and", f.integer("lshr", poor, at * f.lanes // len(self.shared)), 1)
                asked = f.integer("or", asked, f.choose(f.both(down, across), bit, 0))
            f.put("0", self.states + tile)
            with f.when(f.less(0, asked)):
                top, left = (first - more for first, more in zip(corner, before, strict=True))
                pixels = [pixel for row in image.patch(number, top, left, self.form.size) for pixel in row]
                with f.when(f.any(self._lanes(pixels, self._not_zero))):
                    state = self._windows(pixels, corner)
                    zeros = f.integer("lshr", state, ZEROS)
                    found = f.variable(state.text, "i64")
                    with f.when(f.less(0, zeros)):
                        # Squares of tiny numbers are 0, too.
                        direct = f.integer("and", f.integer("or", state, zeros), (1 << ZEROS) - 1)
                        found.set(f.choose(f.any(self._lanes(pixels, self._tiny)), direct, state).text)
                    f.put(f.narrow(Int(f, found.get())), self.states + tile)

    def _windows(self, pixels: list[Pointer], corner: list[Number]) -> Int:
        """A tile's state, by the sums of squares of all windows."""
        f, m, n, taps = self.f, self.form.outputs, self.form.size, self.form.taps
        outputs = list(product(range(m), repeat=2))
        totals = {key: f.variable(f.zeros()) for key in (None, *outputs)}
        with f.loop(0, self.channels, f.lanes) as channel:
            squares = [f.arithmetic("fmul", value, value) for value in (f.load(pixel + channel) for pixel in pixels)]
            rows = [self._runs(squares[n * i : n * i + n], taps) for i in range(n)]
            columns = [self._runs(list(column), taps) for column in zip(*rows, strict=True)]
            for key, total in totals.items():
                more = self._runs(squares, n * n)[0] if key is None else columns[key[1]][key[0]]
                total.set(f.arithmetic("fadd", total.get(), more))
        every = _totals(f, [totals[None].get()])
        state: Number = 0
        for start in range(0, len(outputs), SQUARE**2):
            four = outputs[start : start + SQUARE**2]
            sums = _totals(f, [totals[key].get() for key in four])
            zeros, poor = f.compare("oeq", sums, f.zeros()), self._poor(every, sums)
            for at, key in enumerate(four):
                inside = (
                    f.less(first + more, limit) for first, more, limit in zip(corner, key, self.limits, strict=True)
                )
                direct, zero = (self._bit(mask, at, len(four)) for mask in (poor, zeros))
                told = f.choose(f.less(0, zero), 1 << ZEROS, direct)
                told = f.integer("shl", f.choose(f.both(*inside), told, 0), key[0] * m + key[1])
                state = f.integer("or", state, told)
        assert isinstance(state, Int)
        return state

    def _runs(self, values: list[str], length: int) -> list[str]:
        """The sums of all runs of ``length`` neighbours."""
        found = []
        for start in range(len(values) - length + 1):
            total = values[start]
            for value in values[start + 1 : start + length]:
                total = self.f.arithmetic("fadd", total, value)
            found.append(total)
        return found

    def _lanes(self, pixels: list[Pointer], holds: Callable[[str], str]) -> str:
        """The lanes in which a condition holds for the bits of at least one of these pixels."""
        f = self.f
        found = f.variable("zeroinitializer", f.mask)
        with f.loop(0, self.channels, f.lanes) as channel:
            for pixel in pixels:
                found.set(f.mask_or(found.get(), holds(f.magnitude_bits(f.load(pixel + channel)))))
        return found.get()

    def _not_zero(self, bits: str) -> str:
        return self.f.value(f"icmp ne <{self.f.lanes} x i32> {bits}, zeroinitializer")

    def _tiny(self, bits: str) -> str:
        """The mask of tiny numbers other than 0; as unsigned numbers, the one before 0 is the largest."""
        kind = f"<{self.f.lanes} x i32>"
        before = self.f.value(f"sub {kind} {bits}, splat (i32 1)")
        return self.f.value(f"icmp ult {kind} {before}, splat (i32 {bits_of(TINY) - 1})")

    def _poor(self, every: str, sums: str) -> str:
        """The mask where a tile's sum of squares is too large for the given parts, or outside the limits."""
        f = self.f
        fine = f.compare("ole", every, f.arithmetic("fmul", sums, f.constant(SPREAD)))
        for how, limit in (("oge", LEAST), ("ole", MOST)):
            fine = f.value(f"and {f.mask} {fine}, {f.compare(how, every, f.constant(limit))}")
        return f.value(f"xor {f.mask} {fine}, splat (i1 true)")

    def _bit(self, mask: str, share: int, shares: int) -> Int:
        """1 if the mask is set in the lanes of a share, which are all the same."""
        lane = self.f.value(f"extractelement {self.f.mask} {mask}, i64 {share * self.f.lanes // shares}")
        return self.f.choose(lane, 1, 0)


def _totals(f: Function, vectors: list[str]) -> str:
    """The sums of the lanes of one or four vectors; each sum fills a share of the lanes of the result."""
    width = f.lanes
    while len(vectors) > 1:
        width //= 2
        found = []
        for one, other in zip(vectors[::2], vectors[1::2], strict=True):
            low = [lane for lane in range(2 * f.lanes) if not lane & width]
            halves = (f.shuffle(one, other, [lane + more for lane in low]) for more in (0, width))
            found.append(f.arithmetic("fadd", *halves))
        vectors = found
    (total,) = vectors
    while width > 1:
        width //= 2
        total = f.arithmetic("fadd", total, f.shuffle(total, total, [lane ^ width for lane in range(f.lanes)]))
    return total


class Direct:
    """Direct sums of squares of outputs, with the weight as [block][input channel][tap][channel of the block].

    A weight that is packed for many calls includes this order; otherwise each thread reorders the taps when it first
    needs them.
    """

    def __init__(
        self,
        f: Function,
        form: WinogradForm,
        tile: ChannelTile,
        sizes: tuple[Number, Number],
        source: tuple[Pointer, tuple[Number, ...]],
        packed: tuple[Pointer, Number],
    ) -> None:
        """``sizes``: input and output channels; ``source``: the weight and its strides; ``packed``: the memory of the
        reordered taps, and whether it is filled already (not 0).
        """
        self.f, self.form, self.tile, self.packed = f, form, tile, packed[0]
        self.inner, self.outer = sizes
        self.weight, self.strides = source
        self.there = f.variable(str(packed[1]), "i64")

    def prepare(self) -> None:
        f, taps, group = self.f, self.form.taps, self.tile.vectors * self.f.lanes
        with f.when(f.same(Int(f, self.there.get()), 0)):
            self.there.set("1")
            with f.loop(0, self.outer) as o, f.loop(0, self.inner) as c:
                from_ = self.weight + (o * self.strides[0] + c * self.strides[1])
                for i, j in product(range(taps), repeat=2):
                    number = f.scalar(from_ + (i * self.strides[2] + j * self.strides[3]))
                    f.put(number, self._place(o // group, c, i * taps + j) + o % group)

    def _place(self, block: Number, c: Number, tap: int) -> Pointer:
        group = self.tile.vectors * self.f.lanes
        return self.packed + ((block * self.inner + c) * (self.form.taps**2 * group) + tap * group)

    def sums(self, block: Number, pixels: list[list[Pointer]], channels: Number) -> list[TileValues]:
        """For every vector of a block, the square of outputs that sees these pixels, summed over the channels."""
        f, taps, vectors = self.f, self.form.taps, range(self.tile.vectors)
        square = list(product(range(SQUARE), repeat=2))
        totals = {(v, at): f.variable(f.zeros()) for v in vectors for at in square}
        with f.loop(0, channels) as c:
            values = [[f.broadcast(pixel + c) for pixel in row] for row in pixels]
            for v in vectors:
                # Sum the taps of a channel first, because longer sums have larger rounding errors.
                found = dict.fromkeys(square, "")
                for i, j in product(range(taps), repeat=2):
                    weight = f.load(self._place(block, c, i * taps + j) + v * f.lanes)
                    for (u, w), sum_ in found.items():
                        value = values[i + u][j + w]
                        found[u, w] = f.fma(value, weight, sum_) if sum_ else f.arithmetic("fmul", value, weight)
                for at, sum_ in found.items():
                    total = totals[v, at]
                    total.set(f.arithmetic("fadd", total.get(), sum_))
        return [[[totals[v, (u, w)].get() for w in range(SQUARE)] for u in range(SQUARE)] for v in vectors]


def suspects(f: Function, tile: ChannelTile, largest: Pointer, sizes: tuple[Number, Number], flags: Pointer) -> Number:
    """Marks the blocks with a filter that is too large, too small or NaN, and returns whether there are any.

    ``largest``: each filter's largest magnitudes over several shares of its input channels, as integers; ``sizes``:
    shares and blocks.
    """
    (shares, blocks), wide = sizes, f"<{f.lanes} x i32>"
    least, most = (bits_of(limit) for limit in (LEAST_WEIGHT, MOST_WEIGHT))
    found, group = f.variable("0", "i64"), tile.vectors * f.lanes
    with f.loop(0, blocks) as block:
        bad = f.variable("false", "i1")
        for v in range(tile.vectors):
            top = f.variable(f.zeros(), wide)
            with f.loop(0, shares) as share:
                here = f.load_as(largest + ((share * blocks + block) * group + v * f.lanes))
                top.set(larger_bits(f, top.get(), here))
            bits = top.get()
            large = f.value(f"icmp sgt {wide} {bits}, splat (i32 {most})")
            small = f.value(f"icmp slt {wide} {bits}, splat (i32 {least})")
            some = f.value(f"icmp ne {wide} {bits}, zeroinitializer")
            outside = f.mask_or(large, f.value(f"and {f.mask} {small}, {some}"))
            bad.set(f.value(f"or i1 {bad.get()}, {f.any(outside)}"))
        flag = f.choose(bad.get(), 1, 0)
        f.put(f.narrow(flag), flags + block)
        found.set(f.integer("or", Int(f, found.get()), flag).text)
    return Int(f, found.get())


def generate_edges(isa: Isa) -> Function:
    """The kernel that marks channels whose border pixels are much brighter than the pixels next to them.

    A marked channel has ``told[channel]`` = -1, and ``any`` becomes 1. The border consists of the rows and columns
    before a first and after a last one, which some taps of a window don't see. A work item is a vector of channels.
    """
    f = Function("winograd_edges", isa)
    x, told, any_ = f.pointer("x"), f.pointer("told", "i32"), f.pointer("any", "i32")
    images, channels, height, width = f.size("images"), f.size("channels"), f.size("height"), f.size("width")
    image_stride, row_stride = f.size("x_image"), f.size("x_row")
    top, bottom, left, right = f.size("top"), f.size("bottom"), f.size("left"), f.size("right")
    kind = f"<{f.lanes} x i32>"
    with f.loop(f.first, f.last) as item:
        outside, inside = (f.variable(f.zeros(), kind) for _ in range(2))
        with f.loop(0, images) as image, f.loop(0, height) as row:
            line = x + (image * image_stride + row * row_stride + item * f.lanes)
            there = f.both(f.less(top - 1, row), f.less(row, bottom + 1))
            between = f.both(f.less(top, row), f.less(row, bottom))
            start, stop = f.choose(there, left, width), f.choose(there, right + 1, width)
            # Next to the border, a whole row, or its two ends.
            step = f.choose(between, f.larger(right - left, 1), 1)
            for largest, *columns in ((outside, 0, start, 1), (inside, start, stop, step), (outside, stop, width, 1)):
                with f.loop(*columns) as column:
                    bits = f.magnitude_bits(f.load(line + column * channels))
                    largest.set(larger_bits(f, largest.get(), bits))
        tops = [f.value(f"bitcast {kind} {largest.get()} to {f.vector}") for largest in (outside, inside)]
        fine = f.compare("ole", tops[0], f.arithmetic("fmul", tops[1], f.constant(math.sqrt(SPREAD))))
        poor = f.value(f"xor {f.mask} {fine}, splat (i1 true)")
        f.store(f.value(f"sext {f.mask} {poor} to {kind}"), told + item * f.lanes, kind="i32")
        with f.when(f.any(poor)):
            f.put("1", any_)
    return f


def larger_bits(f: Function, one: str, other: str) -> str:
    """The larger of two magnitudes as integers, lane by lane."""
    wide = f"<{f.lanes} x i32>"
    return f.call(wide, f"llvm.smax.v{f.lanes}i32", (wide, one), (wide, other))


def bits_of(number: float) -> int:
    """The bits of a magnitude as an integer."""
    (bits,) = struct.unpack("<i", struct.pack("<f", number))
    assert isinstance(bits, int)
    return bits
