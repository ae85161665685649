"""Weight gradient of a convolution of planes (NCHW): lanes along the width, summed across at the end.

    for every item: some images n, a block of output rows, a group g
        pack the block's input rows of each image (see memory/rows.py)
        for every tile of T output channels, for every U input channels, for every P of their taps (unrolled)
            total[T][P] = 0
            for every image, for every R rows of the block, for every vector of the row
                for r in R, for t in T, for p in P                                    unrolled, all in registers
                    total[t][p] += g[n, t, row r, column] * packed[n, c(p), row(r, i(p)), column(j(p))]
            partial[thread][t, p] += sum of the lanes of total[t][p]

If T is one, R may be more than one: an input that several rows see, through taps in one column, is then loaded once.

Each thread has a weight gradient of its own, and the caller adds them in the order of the threads. Items are assigned
to threads in a fixed way (see codegen/launch.py), so results are reproducible for a given number of threads.

Lanes beyond the end of a row are set to zero in both operands, because infinity times zero isn't zero.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

from striate.engine.llvm.codegen.ir import AHEAD, Function, Number, Pointer, Variable
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.memory.rows import Axis, Rows, pack

#: A tap of a tile: input channel within the tile, kernel row, kernel column.
Tap = tuple[int, int, int]


@dataclass(frozen=True)
class WeightTile:
    """The register tile: T output channels and P of the taps of U input channels; R rows at a time."""

    outer: int
    inner: int
    taps: int
    rows: int = 1

    @classmethod
    @cache
    def choose(cls, isa: Isa, outer: int, inner: int, windows: tuple[Axis, Axis]) -> WeightTile:
        """The tile with the fewest estimated cycles for the channels of a group and these windows."""
        taps = windows[0].kernel * windows[1].kernel
        best: tuple[float, WeightTile] | None = None
        for t in range(1, min(outer, isa.registers) + 1):
            for u in range(1, min(inner, 4 if taps < 4 else 2) + 1):
                for p in range(1, min(u * taps, isa.registers) + 1):
                    for r in range(1, 9 if t == 1 else 2):
                        if t * p > isa.tile(r if r > 1 else min(t, p) + 1):
                            break
                        here = cls(t, u, p, r)
                        cost = here._cycles(windows) * -(-outer // t) * -(-inner // u)
                        if best is None or cost < best[0] - 1e-9:
                            best = (cost, here)
        assert best is not None
        return best[1]

    def passes(self, windows: tuple[Axis, Axis]) -> list[list[Tap]]:
        """All taps in passes of P, ordered by kernel column; the last pass may have fewer."""
        every = itertools.product(range(self.inner), range(windows[1].kernel), range(windows[0].kernel))
        taps = [(c, i, j) for c, j, i in every]
        return [taps[begin : begin + self.taps] for begin in range(0, len(taps), self.taps)]

    def seers(self, window: Axis, taps: list[Tap], rows: int) -> dict[tuple[int, int, int], list[tuple[int, Tap]]]:
        """For each input channel, kernel column and offset from the first source row, the rows and taps reading it."""
        found: dict[tuple[int, int, int], list[tuple[int, Tap]]] = {}
        for r in range(rows):
            for c, i, j in taps:
                found.setdefault((c, j, r * window.stride + i * window.dilation), []).append((r, (c, i, j)))
        return dict(sorted(found.items()))

    def _cycles(self, windows: tuple[Axis, Axis]) -> float:
        """Estimated cycles per vector of a row; see nchw.PlaneTile."""
        cost = 0.0
        for taps, met in _seen(windows, self.inner, self.taps, self.rows):
            loads = self.outer * self.rows + met
            totals = max(self.outer * taps, 8) * self.rows
            cost += (max(totals, 1.25 * loads) / 2 + 0.25 * loads) / self.rows
        return cost


@cache
def _seen(windows: tuple[Axis, Axis], inner: int, together: int, rows: int) -> list[tuple[int, int]]:
    """For each pass, the number of taps and the number of vectors that they load."""
    steps = [r * windows[0].stride for r in range(rows)]
    found = []
    for taps in WeightTile(1, inner, together).passes(windows):
        columns = {(c, j, i * windows[0].dilation) for c, i, j in taps}
        found.append((len(taps), len({(c, j, step + row) for step in steps for c, j, row in columns})))
    return found


@dataclass
class _Generator:
    f: Function
    rows: Axis
    columns: Axis
    tile: WeightTile

    def emit(self) -> None:
        f, tile = self.f, self.tile
        x, g, partial, scratch = f.pointer("x"), f.pointer("g"), f.pointer("partial"), f.pointer("scratch")
        self.inner, groups, self.outer = f.size("inner"), f.size("groups"), f.size("outer")
        height, width = f.size("height"), f.size("width")
        self.out_height, self.out_width = f.size("out_height"), f.size("out_width")
        x_image, x_channel, x_row = f.size("x_image"), f.size("x_channel"), f.size("x_row")
        self.g_image, self.g_channel, self.g_row = f.size("g_image"), f.size("g_channel"), f.size("g_row")
        images, together = f.size("images"), f.size("together")
        block, blocks, deep, self.pitch = f.size("block"), f.size("blocks"), f.size("deep"), f.size("pitch")
        self.image_size, scratch_size, partial_size = (
            f.size("image_size"),
            f.size("scratch_size"),
            f.size("partial_size"),
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
                for taps_together in tile.passes((self.rows, self.columns)):
                    self._taps(taps_together, packed, g_group, sums, outer, inner)

    def _taps(self, taps: list[Tap], packed: Rows, g: Pointer, sums: Pointer, outer: Number, inner: Number) -> None:
        f, tile = self.f, self.tile
        totals = {(t, tap): f.variable(f.zeros()) for t in range(tile.outer) for tap in taps}
        # If the last tile has fewer channels, it reads the last one again and drops its sums.
        channels = [f.smaller(outer + t, self.outer - 1) * self.g_channel for t in range(tile.outer)]
        with f.loop(0, self.count) as image:
            x = packed.scratch + (image * self.image_size + inner * packed.channel_size)
            lines = [g + (image * self.g_image + channel) for channel in channels]
            rest = (self.stop - self.start) % tile.rows
            with f.loop(self.start, self.stop - rest, tile.rows) as row:
                self._rows(totals, taps, packed, lines, x, row, tile.rows)
            if tile.rows > 1:
                with f.loop(self.stop - rest, self.stop) as row:
                    self._rows(totals, taps, packed, lines, x, row, 1)
        kernel = self.rows.kernel * self.columns.kernel
        for (t, (c, i, j)), total in totals.items():
            there = f.both(f.less(outer + t, self.outer), f.less(inner + c, self.inner))
            with f.when(there):
                place = sums + (((outer + t) * self.inner + inner + c) * kernel + i * self.columns.kernel + j)
                f.add_to(place, f.total(total.get()))

    def _rows(
        self,
        totals: dict[tuple[int, Tap], Variable],
        taps: list[Tap],
        packed: Rows,
        lines: list[Pointer],
        x: Pointer,
        row: Number,
        rows: int,
    ) -> None:
        """Accumulates some rows of the block, vector by vector."""
        f = self.f
        gradients = {(t, r): line + (row + r) * self.g_row for t, line in enumerate(lines) for r in range(rows)}
        first = x + (row - self.start) * self.rows.stride * packed.row_size
        seen = {
            (c, j, offset): first
            + (c * packed.channel_size + offset * packed.row_size + self.columns.place(j, self.pitch))
            for c, j, offset in self.tile.seers(self.rows, taps, rows)
        }
        whole = self.out_width // f.lanes * f.lanes
        with f.loop(0, whole, f.lanes) as column:
            self._ask(gradients, column)
            self._multiply(totals, taps, gradients, seen, rows, column, "")
        with f.when(f.less(whole, self.out_width)):
            self._multiply(totals, taps, gradients, seen, rows, whole, f.inside(whole, self.out_width))

    def _ask(self, gradients: dict[tuple[int, int], Pointer], column: Number) -> None:
        """Prefetches later gradients of each plane, because hardware prefetchers stop at the end of a page."""
        for line in gradients.values():
            self.f.prefetch(line + (column + AHEAD))

    def _multiply(
        self,
        totals: dict[tuple[int, Tap], Variable],
        taps: list[Tap],
        gradients: dict[tuple[int, int], Pointer],
        seen: dict[tuple[int, int, int], Pointer],
        rows: int,
        column: Number,
        mask: str,
    ) -> None:
        """One vector of some rows: gradients or inputs, whichever are fewer, stay in registers."""
        f, outer = self.f, range(self.tile.outer)

        def gradient(t: int, r: int) -> str:
            return f.load(gradients[t, r] + column, mask)

        def input_(place: tuple[int, int, int]) -> str:
            value = f.load(seen[place] + column)
            return f.select(mask, value, f.zeros()) if mask else value

        seers = self.tile.seers(self.rows, taps, rows)
        if len(gradients) <= len(seers):
            held = {at: gradient(*at) for at in gradients}
            for place, each in seers.items():
                value = input_(place)
                for r, tap in each:
                    for t in outer:
                        totals[t, tap].set(f.fma(held[t, r], value, totals[t, tap].get()))
            return
        inputs = {place: input_(place) for place in seers}
        for t, r in gradients:
            factor = gradient(t, r)
            for place, each in seers.items():
                for which, tap in each:
                    if which == r:
                        totals[t, tap].set(f.fma(factor, inputs[place], totals[t, tap].get()))


def generate(isa: Isa, rows: Axis, columns: Axis, tile: WeightTile) -> Function:
    """The kernel."""
    f = Function("nchw_weight", isa)
    _Generator(f, rows, columns, tile).emit()
    return f
