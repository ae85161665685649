"""Convolution, activation and max pooling of planes (NCHW) at once: lanes along the width of the pooled map.

    for every item: an image, a block of pooled rows
        pack the block's input rows, every (stride * pooling stride)-th column together (see memory/rows.py)
        for every T output channels, for every pooled row of the block, for every vector of the row
            total[T][taps of the pooling window] = bias[T]
            for every input channel, for every kernel row i, for every kernel column j (unrolled)
                total[t][u, v] += weight[t, i, j] * packed[row of u and i, columns of v and j]
            the largest of total[t], and which it was, go through the activation and to the result

The map between convolution and pooling is never written: what pooling looks at is in registers when it is done. Windows
of the pooling lie side by side and have four taps at most, so that their totals, for two channels, fit the registers.

Plans want the largest alone, after any function that rises, and with channels side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce
from typing import TypeAlias

from striate.engine.llvm.codegen.ir import Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.functions.epilogue import Epilogue
from striate.engine.llvm.memory.rows import Axis, Rows, pack
from striate.engine.llvm.pooling.nchw import clamped, larger_of, takes_over

#: Of every channel of a tile, by the taps of the pooling window.
Totals: TypeAlias = list[dict[tuple[int, int], str]]


@dataclass(frozen=True)
class Windows:
    """A convolution's windows, and how many of its rows and columns pooling takes together."""

    rows: Axis
    columns: Axis
    down: int
    along: int

    @property
    def taps(self) -> list[tuple[int, int]]:
        """Of the pooling window, in the order in which the first of equals wins."""
        return [(u, v) for u in range(self.down) for v in range(self.along)]

    @property
    def pooled_rows(self) -> Axis:
        """What a pooled row sees, as one window."""
        return _joined(self.rows, self.down)

    @property
    def pooled_columns(self) -> Axis:
        return _joined(self.columns, self.along)

    def channels_together(self, isa: Isa) -> int:
        """Output channels of a tile: their totals, the inputs of one tap and a weight fit the registers."""
        taps = self.down * self.along
        return max(1, isa.tile(taps + 1) // taps)


def _joined(axis: Axis, together: int) -> Axis:
    return Axis(axis.span(together), axis.stride * together, axis.before, 1)


class _Generator:
    """What is made of a tile's totals is left open."""

    def __init__(self, isa: Isa, windows: Windows) -> None:
        self.f, self.windows = Function("nchw_pooled", isa), windows
        self.together = windows.channels_together(isa)

    def ask(self) -> None:
        """Reads another argument after the result."""

    def write(self, totals: Totals, image: Number, first: Number, row: Number, column: Number) -> None:
        """Writes what becomes of the totals of a vector of pooled columns, of the channels from ``first`` on."""
        raise NotImplementedError

    def emit(self) -> Function:
        f, windows = self.f, self.windows
        x, weight, self.y = map(f.pointer, ("x", "weight", "y"))
        self.ask()
        scratch = f.pointer("scratch")
        self.inner, self.outer = map(f.size, ("inner", "outer"))
        height, width, self.map_width = map(f.size, ("height", "width", "map_width"))
        self.pooled_rows, self.pooled_width = map(f.size, ("pooled_rows", "pooled_width"))
        x_image, x_channel, x_row = map(f.size, ("x_image", "x_channel", "x_row"))
        block, blocks, deep = map(f.size, ("block", "blocks", "deep"))
        self.pitch, scratch_size = map(f.size, ("pitch", "scratch_size"))
        self.behind = scratch + (f.thread + 1) * scratch_size
        both, tile_size = windows.pooled_columns, (self.inner * self._taps() + 1) * self.together
        with f.loop(f.first, f.last) as item:
            start, image = (item % blocks) * block, item // blocks
            packed = pack(
                f,
                both,
                x + image * x_image,
                self.inner,
                x_channel,
                x_row,
                start * windows.pooled_rows.stride - windows.rows.before,
                deep,
                height,
                width,
                scratch + f.thread * scratch_size,
                self.pitch,
            )
            with f.loop(0, self.outer, self.together) as first:
                weights = weight + first // self.together * tile_size
                self.stop = f.smaller(start + block, self.pooled_rows)
                with f.loop(start, self.stop) as row:
                    line = packed.scratch + (row - start) * windows.pooled_rows.stride * packed.row_size
                    with f.loop(0, self.pooled_width, f.lanes) as column:
                        self.write(self._totals(packed, line + column, weights), image, first, row, column)
        return f

    def _taps(self) -> int:
        return self.windows.rows.kernel * self.windows.columns.kernel

    def _totals(self, packed: Rows, line: Pointer, weights: Pointer) -> Totals:
        f, windows, together = self.f, self.windows, self.together
        rows, columns = windows.rows, windows.columns
        totals = {}
        for t in range(together):
            bias = f.broadcast(weights + t)
            for tap in windows.taps:
                totals[t, tap] = f.variable(bias)
        with f.loop(0, self.inner) as channel, f.loop(0, rows.kernel) as i:
            factors = weights + ((channel * rows.kernel + i) * columns.kernel + 1) * together
            above = line + (channel * packed.channel_size + i * rows.dilation * packed.row_size)
            lines = [above + u * rows.stride * packed.row_size for u in range(windows.down)]
            for j in range(columns.kernel):
                seen = {
                    (u, v): f.load(lines[u] + self._place(v * columns.stride + j * columns.dilation))
                    for u, v in windows.taps
                }
                for t in range(together):
                    factor = f.broadcast(factors + (j * together + t))
                    for tap, value in seen.items():
                        totals[t, tap].set(f.fma(factor, value, totals[t, tap].get()))
        return [{tap: totals[t, tap].get() for tap in windows.taps} for t in range(together)]

    def _place(self, ahead: int) -> Number:
        """Where in a packed row the column lies that is so far right of a pooled column's first."""
        many, phase = divmod(ahead, self.windows.pooled_columns.stride)
        return phase * self.pitch + many


class _Recorded(_Generator):
    """Planes of maxima, after an activation, and of their positions."""

    def __init__(self, isa: Isa, windows: Windows, index: str, activation: str) -> None:
        super().__init__(isa, windows)
        self.index, self.activation = index, activation

    def ask(self) -> None:
        self.positions = self.f.pointer("positions", self.index)

    def write(self, totals: Totals, image: Number, first: Number, row: Number, column: Number) -> None:
        f, plane = self.f, (image * self.outer + first) * self.pooled_rows * self.pooled_width
        # What a whole vector writes beyond a row is a later row's, which is still to come.
        room = (self.stop - row) * self.pooled_width - column
        for t, values in enumerate(totals):
            # The last tile may reach beyond the channels; what was summed there is dropped.
            with f.when(f.less(first + t, self.outer)):
                value, position = self._largest(values, row, column)
                self._store(value, position, plane + (t * self.pooled_rows + row) * self.pooled_width + column, room)

    def _largest(self, values: dict[tuple[int, int], str], row: Number, column: Number) -> tuple[str, str]:
        f, windows = self.f, self.windows
        best = where = ""
        for (u, v), value in values.items():
            start = (row * windows.down + u) * self.map_width + (column * windows.along + v)
            here = f.positions(start, windows.along)
            if not best:
                best, where = value, here
                continue
            better = takes_over(f, value, best)
            best, where = f.select(better, value, best), f.select(better, here, where, "i32")
        return clamped(f, self.activation, best, where, self.index)

    def _store(self, value: str, position: str, place: Number, room: Number) -> None:
        f = self.f
        whole = f.less(f.lanes - 1, room)
        for masked, condition in ((False, whole), (True, f.negation(whole))):
            with f.when(condition):
                mask = f.inside(0, room) if masked else ""
                f.store(value, self.y + place, mask)
                f.store(position, self.positions + place, mask, self.index)


class _Nhwc(_Generator):
    """Maxima after an epilogue, with channels side by side."""

    def __init__(self, isa: Isa, windows: Windows, epilogue: Epilogue) -> None:
        super().__init__(isa, windows)
        self.epilogue = epilogue

    def write(self, totals: Totals, image: Number, first: Number, row: Number, column: Number) -> None:
        f = self.f
        kept = self.behind + -(self.together * f.lanes)
        for t, values in enumerate(totals):
            best = reduce(partial(larger_of, f), values.values())
            f.store(self.epilogue.apply(f, best, None), kept + t * f.lanes)
        place = self.y + (((image * self.pooled_rows + row) * self.pooled_width + column) * self.outer + first)
        columns, channels = f.smaller(self.pooled_width - column, f.lanes), f.smaller(self.outer - first, self.together)
        with f.loop(0, columns) as lane, f.loop(0, channels) as channel:
            f.put(f.scalar(kept + (channel * f.lanes + lane)), place + (lane * self.outer + channel))


def generate(isa: Isa, windows: Windows, index: str, activation: str) -> Function:
    """The kernel that records positions; ``index`` is their type, ``i16`` or ``i32``."""
    return _Recorded(isa, windows, index, activation).emit()


def generate_nhwc(isa: Isa, windows: Windows, epilogue: Epilogue) -> Function:
    """Maxima alone, with channels side by side. A thread's scratch memory ends with a tile's vectors."""
    return _Nhwc(isa, windows, epilogue).emit()
