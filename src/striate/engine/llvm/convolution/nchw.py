"""Convolution of planes (NCHW): lanes along the width. Outputs, and input gradients of windows of stride 1.

    for every item: an image n, a block of output rows, a group g
        pack the block's input rows (see memory/rows.py)
        for every tile of T output channels, for every R rows of the block, for every V vectors of a row
            total[T][R][V] = bias[T]
            for every input channel c of the group, for every kernel row i
                for every kernel column j                                             unrolled
                    for t in T, for r in R, for v in V                                unrolled, all in registers
                        total[t][r][v] += weight[t, c, i, j] * packed[c, row(r, i), column(v, j)]
            write total to y[n, t, r, v]

A weight is broadcast to all lanes; an input vector is used for all T channels. T * R * V totals and the operands in use
have to fit into the registers.

Kernel, stride, dilation, leading padding and tile are compiled in; sizes and strides of tensors are arguments, so
images of other sizes run the same code. Only the number of vectors in the last tile of a row (``tail``) depends on the
width.

An input gradient of stride 1 is this same sum with the weight flipped and its channels swapped, with the padding of the
adjoint window (see striate.geometry.Adjoint). Under a stride, neighbouring columns of the gradient have different taps:
each group of ``phases`` channels of the sum holds the column phases of one channel, which are written interleaved.

Packed weight: [group][tile of channels] of [T] biases and [C_in / groups][kernel row][kernel column][T] weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from striate.engine.llvm.codegen.ir import AHEAD, LINE, Function, Number, Pointer, Variable
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.memory.rows import Axis, Rows, interleaved, pack, pack_across, store_row

#: The most taps for which the rows of a window are unrolled as well as its columns.
_MOST_OVERLAPPING = 121
#: The most vectors of a short row.
_SHORT = 4


@dataclass(frozen=True)
class PlaneTile:
    """The register tile: T output channels, R rows, V vectors of a row; ``tail`` vectors in the last tile of a row.

    ``overlap``: whether kernel rows are unrolled, so that an input that several of the R rows see is loaded once.
    ``phases``: the number of channels that are the column phases of one channel.
    ``missing``: pairs (phase, kernel column) without a tap; they are skipped, because 0 times infinity isn't 0.
    ``rest``: the lanes used of a row's last vector if rows are short; storing a known number is faster than a mask.
    """

    channels: int
    rows: int
    vectors: int
    tail: int
    overlap: bool = False
    phases: int = 1
    missing: frozenset[tuple[int, int]] = frozenset()
    rest: int | None = None

    @classmethod
    @cache
    def choose(
        cls,
        isa: Isa,
        channels: int,
        windows: tuple[Axis, Axis],
        rows: int,
        width: int,
        phases: int = 1,
        missing: frozenset[tuple[int, int]] = frozenset(),
    ) -> PlaneTile:
        """The tile with the fewest estimated cycles for ``channels`` channels of a group of ``rows`` x ``width``."""
        window, few = windows[0], windows[0].kernel * windows[1].kernel <= _MOST_OVERLAPPING
        across = -(-width // isa.lanes)
        rest = width % isa.lanes if phases == 1 and across <= _SHORT else None
        best: tuple[float, PlaneTile] | None = None
        for vectors in range(1, min(across, 4) + 1):
            for tile in range(phases, channels + 1, phases):
                for deep in range(1, min(rows, 8) + 1):
                    here = cls(tile, deep, vectors, across % vectors, tile == 1 and few, phases, missing, rest)
                    if tile * deep * vectors > isa.tile(here._held(isa, window)):
                        break
                    each = [here._cycles(window, count) for count in (vectors, here.tail)]
                    cost = each[0] * (across // vectors) + (here.tail and each[1])
                    cost *= -(-channels // tile) * -(-rows // deep)
                    if best is None or cost < best[0] - 1e-9:
                        best = (cost, here)
        assert best is not None
        return best[1]

    def seers(self, window: Axis) -> dict[int, list[tuple[int, int]]]:
        """For each offset from the tile's first source row, the pairs (row of the tile, kernel row) that read it."""
        found: dict[int, list[tuple[int, int]]] = {}
        for row in range(self.rows):
            for i in range(window.kernel):
                found.setdefault(row * window.stride + i * window.dilation, []).append((row, i))
        return dict(sorted(found.items()))

    def _cycles(self, window: Axis, vectors: int) -> float:
        """Estimated cycles of a kernel column, on a core with two loads and two FMAs of latency four per cycle."""
        totals = self.channels * self.rows * vectors
        if self.overlap:
            loads = (window.kernel + len(self.seers(window)) * vectors) / window.kernel
        else:
            loads = self.channels + self.rows * vectors
        # Loads are seldom aligned to cache lines, so some take two accesses.
        return max(totals, 1.25 * loads, 8) / 2 + 0.25 * loads

    def _held(self, isa: Isa, window: Axis) -> int:
        """Registers for operands: weights or inputs, whichever are fewer, and one of the others."""
        if self.overlap:
            # Weights that don't fit into registers are memory operands of the multiplications.
            return min(window.kernel, isa.registers // 2) + 1
        return min(self.channels, self.rows * self.vectors) + 1


@dataclass
class _Generator:
    f: Function
    rows: Axis
    columns: Axis
    tile: PlaneTile
    across: bool

    def emit(self) -> None:
        f, tile = self.f, self.tile
        x, weight, y, scratch = f.pointer("x"), f.pointer("weight"), f.pointer("y"), f.pointer("scratch")
        self.channels, groups = f.size("channels"), f.size("groups")
        tiles, out_channels = f.size("tiles"), f.size("out_channels")
        height, width = f.size("height"), f.size("width")
        self.out_height, self.out_width = f.size("out_height"), f.size("out_width")
        x_image, x_channel, x_row = f.size("x_image"), f.size("x_channel"), f.size("x_row")
        y_image, self.y_channel, self.y_row = f.size("y_image"), f.size("y_channel"), f.size("y_row")
        block, blocks, deep = f.size("block"), f.size("blocks"), f.size("deep")
        self.pitch, scratch_size = f.size("pitch"), f.size("scratch_size")
        self.y_width = self.out_width if tile.phases == 1 else f.size("y_width")
        x_column = f.size("x_column") if self.across else 1
        taps = self.rows.kernel * self.columns.kernel
        with f.loop(f.first, f.last) as item:
            group, rest = item % groups, item // groups
            start, image = (rest % blocks) * block, rest // blocks
            corner, top = x + image * x_image, start * self.rows.stride - self.rows.before
            block_of = (top, deep, height, width, scratch + f.thread * scratch_size, self.pitch)
            if self.across:
                packed = pack_across(f, self.columns.before, corner, self.channels, x_column, x_row, *block_of)
            else:
                corner += group * self.channels * x_channel
                packed = pack(f, self.columns, corner, self.channels, x_channel, x_row, *block_of)
            with f.loop(0, tiles) as which:
                first = which * tile.channels
                self.here = f.smaller(out_channels - first, tile.channels)
                self.weight = weight + (group * tiles + which) * ((self.channels * taps + 1) * tile.channels)
                self.y = y + (image * y_image + (group * out_channels + first) // tile.phases * self.y_channel)
                self._block(packed, start, f.smaller(start + block, self.out_height))

    def _block(self, packed: Rows, start: Number, stop: Number) -> None:
        f, tile = self.f, self.tile
        vectors = (self.out_width + (f.lanes - 1)) // f.lanes
        end = (vectors - tile.tail) * f.lanes
        with f.loop(start, stop, tile.rows) as row:
            lines = packed.scratch + (row - start) * self.rows.stride * packed.row_size
            with f.loop(0, end, f.lanes * tile.vectors) as column:
                self._tile(packed, lines, row, stop, column, tile.vectors)
            if tile.tail:
                self._tile(packed, lines, row, stop, end, tile.tail)

    def _tile(self, packed: Rows, lines: Pointer, row: Number, stop: Number, column: Number, vectors: int) -> None:
        f, tile = self.f, self.tile
        totals: dict[tuple[int, int, int], Variable] = {}
        for t in range(tile.channels):
            bias = f.broadcast(self.weight + t)
            for r in range(tile.rows):
                for v in range(vectors):
                    totals[t, r, v] = f.variable(bias)
        self._ask(row, column, vectors)
        with f.loop(0, self.channels) as channel:
            line = lines + (channel * packed.channel_size + column)
            factors = self.weight + (channel * self.rows.kernel * self.columns.kernel + 1) * tile.channels
            if tile.overlap:
                self._multiply_one(totals, factors, line, packed.row_size, vectors)
            else:
                with f.loop(0, self.rows.kernel) as i:
                    line += i * self.rows.dilation * packed.row_size
                    factors += i * self.columns.kernel * tile.channels
                    each = [line + r * self.rows.stride * packed.row_size for r in range(tile.rows)]
                    for j in range(self.columns.kernel):
                        self._multiply(totals, factors + j * tile.channels, each, j, vectors)
        for t in range(0, tile.channels, tile.phases):
            for r in range(tile.rows):
                # The last tiles may reach beyond the channels and rows; their sums there are dropped.
                there = f.both(f.less(t, self.here), f.less(row + r, stop))
                with f.when(there):
                    place = self.y + (t // tile.phases * self.y_channel + (row + r) * self.y_row + column * tile.phases)
                    parts = [[totals[t + p, r, v].get() for p in range(tile.phases)] for v in range(vectors)]
                    values = [value for part in parts for value in interleaved(f, part)]
                    store_row(f, values, place, self.y_width - column * tile.phases, tile.rest)

    def _ask(self, row: Number, column: Number, vectors: int) -> None:
        """Prefetches the results that are written after this tile."""
        f, tile = self.f, self.tile
        for t in range(0, tile.channels, tile.phases):
            for r in range(tile.rows):
                place = self.y + (t // tile.phases * self.y_channel + (row + r) * self.y_row + column * tile.phases)
                for at in range(0, vectors * tile.phases * f.lanes, LINE):
                    f.prefetch(place + (at + AHEAD), write=True)

    def _multiply(
        self, totals: dict[tuple[int, int, int], Variable], factors: Pointer, each: list[Pointer], j: int, vectors: int
    ) -> None:
        """One kernel column: weights or inputs, whichever are fewer, stay in registers."""
        f, tile = self.f, self.tile
        place = self.columns.place(j, self.pitch)
        inputs = [(r, v, each[r] + place + v * f.lanes) for r in range(tile.rows) for v in range(vectors)]
        channels = [t for t in range(tile.channels) if (t % tile.phases, j) not in tile.missing]
        if len(channels) <= tile.rows * vectors:
            held = {t: f.broadcast(factors + t) for t in channels}
            for r, v, where in inputs:
                value = f.load(where)
                for t, factor in held.items():
                    totals[t, r, v].set(f.fma(factor, value, totals[t, r, v].get()))
            return
        values = [(r, v, f.load(where)) for r, v, where in inputs]
        for t in channels:
            factor = f.broadcast(factors + t)
            for r, v, value in values:
                totals[t, r, v].set(f.fma(factor, value, totals[t, r, v].get()))

    def _multiply_one(
        self,
        totals: dict[tuple[int, int, int], Variable],
        factors: Pointer,
        line: Pointer,
        row_size: Number,
        vectors: int,
    ) -> None:
        """All taps of one output channel: an input that several rows of the tile see is loaded once."""
        f = self.f
        for j in range(self.columns.kernel):
            held = [f.broadcast(factors + (i * self.columns.kernel + j)) for i in range(self.rows.kernel)]
            for offset, seers in self.tile.seers(self.rows).items():
                place = line + (offset * row_size + self.columns.place(j, self.pitch))
                for v in range(vectors):
                    value = f.load(place + v * f.lanes)
                    for r, i in seers:
                        totals[0, r, v].set(f.fma(held[i], value, totals[0, r, v].get()))


def generate(isa: Isa, rows: Axis, columns: Axis, tile: PlaneTile, across: bool = False) -> Function:
    """The kernel.

    ``across``: whether inputs are in channels last, with one group.
    """
    f = Function("nchw_output", isa)
    _Generator(f, rows, columns, tile, across).emit()
    return f
