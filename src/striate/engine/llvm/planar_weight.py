"""Weight gradient of a convolution of planes (NCHW): lanes along the width, summed across at the end.

    for every item: some images n, a block of output rows, a group g
        pack the block's input rows of each image (see packing.py)
        for every tile of T output channels, for every U input channels, for every P taps of all of theirs (unrolled)
            total[T][P] = 0
            for every image, for every row of the block, for every vector of the row
                for t in T, for p in P                                                unrolled, all in registers
                    total[t][p] += g[n, t, row, column] * packed[n, c(p), row(i(p)), column(j(p))]
            partial[thread][t, p] += sum of the lanes of total[t][p]

Every thread adds to a weight gradient of its own, and the caller adds those up in the threads' order: which thread does
which item is fixed (see launch.py), so the result is the same in every run with as many threads.

Lanes beyond a row's end are cleared on both sides, since what an infinity there would make of a zero is not zero.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

from striate.engine.llvm.emit import Function, Number, Pointer, Variable
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.packing import Axis, Rows, pack


@dataclass(frozen=True)
class WeightTile:
    """What stays in registers: T output channels and P of the taps of U input channels."""

    outer: int
    inner: int
    taps: int

    @classmethod
    @cache
    def choose(cls, isa: Isa, outer: int, inner: int, taps: int) -> WeightTile:
        """The tile that should cost the fewest cycles, for channels of a group and the taps of a kernel."""
        best: tuple[float, WeightTile] | None = None
        for t in range(1, min(outer, isa.registers) + 1):
            for u in range(1, min(inner, 4 if taps < 4 else 2) + 1):
                for p in range(1, min(u * taps, isa.registers) + 1):
                    if t * p > isa.tile(min(t, p) + 1):
                        break
                    # See planar.Tile for the cost; the last pass over the taps may have fewer of them.
                    passes = [p] * (u * taps // p) + ([u * taps % p] if u * taps % p else [])
                    cost = sum(max(t * n, 1.25 * (t + n), 8) / 2 + 0.25 * (t + n) for n in passes)
                    cost *= -(-outer // t) * -(-inner // u)
                    if best is None or cost < best[0] - 1e-9:
                        best = (cost, cls(t, u, p))
        assert best is not None
        return best[1]


#: A tap of a tile: input channel (of the tile's), kernel row, kernel column.
Tap = tuple[int, int, int]


@dataclass
class _Generator:
    f: Function
    rows: Axis
    columns: Axis
    tile: WeightTile

    def emit(self) -> None:
        f, tile = self.f, self.tile
        x, g, partial, scratch = f.pointer(), f.pointer(), f.pointer(), f.pointer()
        self.inner, groups, self.outer = f.size(), f.size(), f.size()
        height, width, self.out_height, self.out_width = f.size(), f.size(), f.size(), f.size()
        x_image, x_channel, x_row = f.size(), f.size(), f.size()
        self.g_image, self.g_channel, self.g_row = f.size(), f.size(), f.size()
        images, together, block, blocks, deep, self.pitch, self.image_size, scratch_size, partial_size = (
            f.size() for _ in range(9)
        )
        taps = self.rows.kernel * self.columns.kernel
        with f.loop(f.first, f.last) as item:
            group, rest = item % groups, item // groups
            start, first_image = (rest % blocks) * block, (rest // blocks) * together
            self.count = f.smaller(together, images - first_image)
            self.stop, self.start = f.smaller(start + block, self.out_height), start
            own = scratch + f.thread * scratch_size
            with f.loop(0, self.count) as image:
                packed = pack(
                    f,
                    self.columns,
                    x + ((first_image + image) * x_image + group * self.inner * x_channel),
                    self.inner,
                    x_channel,
                    x_row,
                    start * self.rows.stride - self.rows.before,
                    deep,
                    height,
                    width,
                    own + image * self.image_size,
                    self.pitch,
                )
            packed = Rows(own, deep * (self.pitch * self.columns.stride), self.pitch * self.columns.stride)
            g_group = g + (first_image * self.g_image + group * self.outer * self.g_channel)
            sums = partial + (f.thread * partial_size + group * self.outer * self.inner * taps)
            with f.loop(0, self.outer, tile.outer) as outer, f.loop(0, self.inner, tile.inner) as inner:
                every = list(itertools.product(range(tile.inner), range(self.rows.kernel), range(self.columns.kernel)))
                for begin in range(0, len(every), tile.taps):
                    self._taps(every[begin : begin + tile.taps], packed, g_group, sums, outer, inner)

    def _taps(self, taps: list[Tap], packed: Rows, g: Pointer, sums: Pointer, outer: Number, inner: Number) -> None:
        f, tile = self.f, self.tile
        totals = {(t, tap): f.variable(f.zeros()) for t in range(tile.outer) for tap in taps}
        # Where the last tile has fewer channels it reads the last one again, and drops the sums.
        channels = [f.smaller(outer + t, self.outer - 1) * self.g_channel for t in range(tile.outer)]
        with f.loop(0, self.count) as image, f.loop(self.start, self.stop) as row:
            line = g + (image * self.g_image + row * self.g_row)
            lines = [line + channel for channel in channels]
            x = packed.scratch + (
                image * self.image_size
                + inner * packed.channel_size
                + (row - self.start) * self.rows.stride * packed.row_size
            )
            places = {
                (c, i, j): c * packed.channel_size
                + i * self.rows.dilation * packed.row_size
                + self.columns.place(j, self.pitch)
                for c, i, j in taps
            }
            whole = self.out_width // f.lanes * f.lanes
            with f.loop(0, whole, f.lanes) as column:
                self._multiply(totals, taps, places, lines, x, column, "")
            with f.when(f.less(whole, self.out_width)):
                self._multiply(totals, taps, places, lines, x, whole, f.inside(whole, self.out_width))
        kernel = self.rows.kernel * self.columns.kernel
        for (t, (c, i, j)), total in totals.items():
            there = f.both(f.less(outer + t, self.outer), f.less(inner + c, self.inner))
            with f.when(there):
                place = sums + (((outer + t) * self.inner + inner + c) * kernel + i * self.columns.kernel + j)
                f.add_to(place, f.total(total.get()))

    def _multiply(
        self,
        totals: dict[tuple[int, Tap], Variable],
        taps: list[Tap],
        places: dict[Tap, Number],
        lines: list[Pointer],
        x: Pointer,
        column: Number,
        mask: str,
    ) -> None:
        """One vector of a row. Whichever are fewer stay in registers, gradients or inputs."""
        f = self.f

        def gradient(t: int) -> str:
            return f.load(lines[t] + column, mask)

        def seen(tap: Tap) -> str:
            value = f.load(x + (places[tap] + column))
            return f.select(mask, value, f.zeros()) if mask else value

        if len(lines) <= len(taps):
            held = [gradient(t) for t in range(len(lines))]
            for tap in taps:
                value = seen(tap)
                for t, factor in enumerate(held):
                    totals[t, tap].set(f.fma(factor, value, totals[t, tap].get()))
            return
        inputs = {tap: seen(tap) for tap in taps}
        for t in range(len(lines)):
            factor = gradient(t)
            for tap, value in inputs.items():
                totals[t, tap].set(f.fma(factor, value, totals[t, tap].get()))


def generate(isa: Isa, rows: Axis, columns: Axis, tile: WeightTile) -> Function:
    """The kernel; its arguments in the order in which they are asked for above."""
    f = Function("planar_weight", isa)
    _Generator(f, rows, columns, tile).emit()
    return f
