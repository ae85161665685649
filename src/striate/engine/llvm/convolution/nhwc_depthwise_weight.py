"""Weight gradient of depthwise windows in channels last (NHWC): lanes over channels.

    for every item: an image n, a block of output rows
        for every two vectors of channels (a cache line), for every T columns (the last ones may be fewer)
            for each of the vectors, for every R kernel rows, for every P kernel columns
                total[R][P] = partial[thread]
                for every row of the block
                    held[T] = g[n, row, T columns, channels]
                    for r in R whose input row exists
                        for every input column p that the T columns see and that exists (unrolled)
                            value = x[n, row(r), p, channels]
                            total[r][j] += value * held[t]    for every (t, j) that sees p there
                partial[thread] = total[R][P]

R * P totals and T gradients stay in registers, and an input is loaded once for all of them. The T columns of a block
stay in the first-level cache while the loop goes over the kernel rows. Each thread has its own sums, as in
nchw_weight.py.

Partial sums: [kernel row][kernel column][C]; the caller ensures that C is a whole number of vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from striate.engine.llvm.codegen.ir import Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.convolution.nhwc_depthwise import Columns
from striate.engine.llvm.memory.rows import Axis


@dataclass(frozen=True)
class DepthwiseTile:
    """The register tile: R kernel rows, P kernel columns, T columns; the last tile of a row has ``tail`` columns."""

    rows: int
    taps: int
    together: int
    tail: int

    @classmethod
    @cache
    def choose(cls, isa: Isa, rows: Axis, columns: Axis, width: int) -> DepthwiseTile:
        """The tile with the fewest estimated cycles for rows of ``width``."""
        best: tuple[float, DepthwiseTile] | None = None
        for taps in range(1, min(columns.kernel, isa.registers) + 1):
            for deep in range(1, min(rows.kernel, isa.registers) + 1):
                # One register holds the input.
                for together in range(1, min(width, isa.registers - deep * taps - 1) + 1):
                    here = cls(deep, taps, together, width % together)
                    cost = here._cycles(columns, together) * (width // together)
                    cost += here.tail and here._cycles(columns, here.tail)
                    cost *= -(-rows.kernel // deep) * -(-columns.kernel // taps)
                    if best is None or cost < best[0] - 1e-9:
                        best = (cost, here)
        assert best is not None
        return best[1]

    def _cycles(self, columns: Axis, together: int) -> float:
        """Estimated cycles of a row of T columns, on a core with two loads and two FMAs of latency four per cycle."""
        seen = {t * columns.stride + j * columns.dilation for t in range(together) for j in range(self.taps)}
        loads = together + self.rows * len(seen)
        totals = max(self.rows * self.taps, 8) * together
        return max(totals, loads) / 2 + 0.25 * loads + 2

    def seers(self, columns: Axis, together: int, taps: range) -> dict[int, list[tuple[int, int]]]:
        """For each input column, relative to that of column 0, the pairs (column, tap) that read it."""
        every = Columns.of(columns, together, False).seers
        found = {place: [(t, j) for t, j in seers if j in taps] for place, seers in every.items()}
        return {place: seers for place, seers in found.items() if seers}


@dataclass
class _Generator:
    f: Function
    rows: Axis
    columns: Axis
    tile: DepthwiseTile
    widths: tuple[int, int] | None

    def emit(self) -> None:
        f, tile = self.f, self.tile
        self.x, self.g, partial = f.pointer("x"), f.pointer("g"), f.pointer("partial")
        f.pointer("scratch")  # the scratch memory of other weight gradients, which this kernel doesn't use
        out_width: Number
        self.width: Number
        self.channels, self.height, self.width = f.size("channels"), f.size("height"), f.size("width")
        self.out_height, out_width = f.size("out_height"), f.size("out_width")
        self.x_image, self.x_row = f.size("x_image"), f.size("x_row")
        self.g_image, self.g_row = f.size("g_image"), f.size("g_row")
        block, blocks, partial_size = f.size("block"), f.size("blocks"), f.size("partial_size")
        if self.widths is not None:
            self.width, out_width = self.widths
        self.partial = partial + f.thread * partial_size
        end = out_width - tile.tail
        line = 2 * f.lanes
        with f.loop(f.first, f.last) as item:
            image, self.start = item // blocks, item % blocks * block
            self.stop = f.smaller(self.start + block, self.out_height)
            with f.loop(0, self.channels, line) as first:
                last = f.smaller(first + line, self.channels)
                for column in f.each(0, end, tile.together, self.widths is not None):
                    with f.loop(first, last, f.lanes) as channel:
                        self._columns(image, column, channel, tile.together)
                if tile.tail:
                    with f.loop(first, last, f.lanes) as channel:
                        self._columns(image, end, channel, tile.tail)

    def _columns(self, image: Number, column: Number, channel: Number, together: int) -> None:
        """All kernel rows for some columns of the block."""
        f, kernel, axis = self.f, self.rows.kernel, self.columns
        first = column * axis.stride
        x = self.x + (image * self.x_image + first * self.channels + channel)
        g = self.g + (image * self.g_image + column * self.channels + channel)
        rest = kernel % self.tile.rows
        with f.loop(0, kernel - rest, self.tile.rows) as i:
            self._rows(x, g, first, channel, together, i, self.tile.rows)
        if rest:
            self._rows(x, g, first, channel, together, kernel - rest, rest)

    def _rows(
        self, x: Pointer, g: Pointer, first: Number, channel: Number, together: int, i: Number, deep: int
    ) -> None:
        """Some kernel rows, from row i on; ``first`` is the input column at which column 0 starts."""
        f, axis, most = self.f, self.columns, self.tile.taps
        for begin in range(0, axis.kernel, most):
            taps = range(begin, min(begin + most, axis.kernel))
            seers = self.tile.seers(axis, together, taps)
            whole = f.both(f.less(-1, first + min(seers)), f.less(first + max(seers), self.width))
            kernel_rows = [i + r for r in range(deep)]
            sums = [self.partial + (row * axis.kernel * self.channels + channel) for row in kernel_rows]
            for guarded, condition in ((False, whole), (True, f.negation(whole))):
                with f.when(condition):
                    self._sum(x, g, first, together, seers, kernel_rows, taps, sums, guarded)

    def _sum(
        self,
        x: Pointer,
        g: Pointer,
        first: Number,
        together: int,
        seers: dict[int, list[tuple[int, int]]],
        kernel_rows: list[Number],
        taps: range,
        sums: list[Pointer],
        guarded: bool,
    ) -> None:
        f, axis = self.f, self.rows
        places = {(r, j): start + j * self.channels for r, start in enumerate(sums) for j in taps}
        totals = {tap: f.variable(f.load(place)) for tap, place in places.items()}
        with f.loop(self.start, self.stop) as row:
            line = g + row * self.g_row
            held = [f.load(line + t * self.channels) for t in range(together)]
            self._prefetch(x, line, row, together)
            for r, i in enumerate(kernel_rows):
                source = row * axis.stride - axis.before + i * axis.dilation
                with f.when(f.both(f.less(-1, source), f.less(source, self.height))):
                    seen = x + source * self.x_row
                    for offset, each in seers.items():
                        place = first + offset
                        there = f.both(f.less(-1, place), f.less(place, self.width)) if guarded else "true"
                        with f.when(there):
                            value = f.load(seen + offset * self.channels)
                            for t, j in each:
                                totals[r, j].set(f.fma(value, held[t], totals[r, j].get()))
        for tap, where in places.items():
            f.store(totals[tap].get(), where)

    def _prefetch(self, x: Pointer, line: Pointer, row: Number, together: int) -> None:
        """Prefetches the inputs and gradients of the next columns in this row: hardware doesn't prefetch such jumps."""
        f, axis, stride = self.f, self.rows, self.columns.stride
        for t in range(together, 2 * together):
            f.prefetch(line + t * self.channels)
        for down in range(axis.stride):
            newest = row * axis.stride - axis.before + (axis.kernel - 1) * axis.dilation - down
            for t in range(together * stride, 2 * together * stride):
                f.prefetch(x + (newest * self.x_row + t * self.channels))


def generate(
    isa: Isa, rows: Axis, columns: Axis, tile: DepthwiseTile, widths: tuple[int, int] | None = None
) -> Function:
    """The kernel.

    ``widths`` are those of the input and the output, if they are compiled in: all columns are then unrolled, and need
    no checks at the borders.
    """
    f = Function("nhwc_depthwise_weight", isa)
    _Generator(f, rows, columns, tile, widths).emit()
    return f
