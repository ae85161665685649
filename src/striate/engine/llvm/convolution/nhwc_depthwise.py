"""Depthwise convolution in channels last (NHWC): lanes over channels, and no packing of rows.

    for every item: an image n, a row of the result
        for every T columns, for every vector of channels
            total[t] = bias
            for every kernel row i whose source row exists
                for every source column p that the T columns see and that exists (unrolled)
                    value = x[n, row(i), p, channels]
                    total[t] += value * weight[i, j, channels]    for every (t, j) that sees p there
            write the epilogue of total (see functions/epilogue.py) to y[n, row, column t, channels]

Several of the T columns see the same source column, which is loaded once. The result is either the output, whose column
c sees through tap j the input column c * stride - before + j * dilation; or the input gradient, whose column c sees the
column (c + before - j * dilation) / stride of the output gradient, if that is an integer. In both cases, the T columns
from c on see the same offsets from c * stride or c / stride; for the input gradient, T has to be a multiple of the
stride.

Packed weight: [vectors of channels] of [lanes] biases and [kernel row][kernel column][lanes].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from striate.engine.llvm.codegen.ir import Function, Number
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.functions.epilogue import PLAIN, Epilogue
from striate.engine.llvm.memory.rows import Axis


@dataclass(frozen=True)
class Columns:
    """T columns of a result; ``seers[p]`` has all pairs (column, tap) that see the source column at offset p."""

    together: int
    seers: dict[int, list[tuple[int, int]]]

    @classmethod
    def of(cls, axis: Axis, together: int, backwards: bool) -> Columns:
        """``together`` columns of the output, or with ``backwards`` of the input gradient."""
        seers: dict[int, list[tuple[int, int]]] = {}
        for t in range(together):
            for j in range(axis.kernel):
                place = t * axis.stride - axis.before + j * axis.dilation
                rest = 0
                if backwards:
                    place, rest = divmod(t + axis.before - j * axis.dilation, axis.stride)
                if rest == 0:
                    seers.setdefault(place, []).append((t, j))
        return cls(together, dict(sorted(seers.items())))

    @classmethod
    def choose(cls, isa: Isa, axis: Axis, width: int, backwards: bool) -> Columns:
        """The number of columns with the lowest estimated cost for rows of ``width``."""
        step = axis.stride if backwards else 1
        # Weights that don't fit into registers are memory operands of the multiplications.
        most = max(step, isa.tile(min(axis.kernel, isa.registers // 2) + 1))
        candidates = [cls.of(axis, together, backwards) for together in range(step, most + step, step)]
        return min(candidates, key=lambda each: (-(-width // each.together) * each._cost(axis.kernel), each.together))

    def _cost(self, kernel: int) -> int:
        """Loads and multiplications of one kernel row, and a constant for the rest of the tile."""
        return 4 + kernel + len(self.seers) + sum(map(len, self.seers.values()))


@dataclass
class _Generator:
    f: Function
    rows: Axis
    columns: Axis
    tile: Columns
    backwards: bool
    epilogue: Epilogue
    widths: tuple[int, int] | None

    def emit(self) -> None:
        f = self.f
        self.x, self.weight, self.y = f.pointer("x"), f.pointer("weight"), f.pointer("y")
        self.added = f.pointer("added") if self.epilogue.adds else None
        self.width: Number
        self.out_width: Number
        self.channels, self.height, self.width = f.size("channels"), f.size("height"), f.size("width")
        out_height, self.out_width = f.size("out_height"), f.size("out_width")
        self.x_image, self.x_row = f.size("x_image"), f.size("x_row")
        if self.widths is not None:
            self.width, self.out_width = self.widths
        with f.loop(f.first, f.last) as item:
            image, row = item // out_height, item % out_height
            line = item * self.out_width * self.channels
            for column in f.each(0, self.out_width, self.tile.together, self.widths is not None):
                first = column // self.columns.stride if self.backwards else column * self.columns.stride
                last = max(self.tile.seers)
                inside = f.both(f.less(-1, first + min(self.tile.seers)), f.less(first + last, self.width))
                whole = f.both(inside, f.less(column + (self.tile.together - 1), self.out_width))
                with f.loop(0, self.channels, f.lanes) as channel:
                    self._prefetch(image, row, first, column, channel, line)
                    full = f.less(channel + (f.lanes - 1), self.channels)
                    for guarded, masked, condition in (
                        (False, False, f.both(full, whole)),
                        (True, False, f.both(full, f.negation(whole))),
                        (True, True, f.negation(full)),
                    ):
                        with f.when(condition):
                            mask = f.inside(channel, self.channels) if masked else ""
                            self._tile(image, row, first, column, channel, line, guarded, mask)

    def _tile(
        self,
        image: Number,
        row: Number,
        first: Number,
        column: Number,
        channel: Number,
        line: Number,
        guarded: bool,
        mask: str,
    ) -> None:
        f, kernel = self.f, self.columns.kernel
        weights = self.weight + channel * (self.rows.kernel * kernel + 1)
        bias = f.load(weights)
        totals = [f.variable(bias) for _ in range(self.tile.together)]
        with f.loop(0, self.rows.kernel) as i:
            source, exists = self._source(row, i)
            with f.when(f.both(exists, f.both(f.less(-1, source), f.less(source, self.height)))):
                seen = self.x + (image * self.x_image + source * self.x_row + channel)
                factors = [f.load(weights + (i * kernel + j + 1) * f.lanes) for j in range(kernel)]
                for offset, seers in self.tile.seers.items():
                    place = first + offset
                    there = f.both(f.less(-1, place), f.less(place, self.width)) if guarded else "true"
                    with f.when(there):
                        value = f.load(seen + place * self.channels, mask)
                        for t, j in seers:
                            totals[t].set(f.fma(value, factors[j], totals[t].get()))
        for t, total in enumerate(totals):
            place = line + (column + t) * self.channels + channel
            with f.when(f.less(column + t, self.out_width) if guarded else "true"):
                added = None if self.added is None else self.added + place
                f.store(self.epilogue.apply(f, total.get(), added, mask), self.y + place, mask)

    def _prefetch(
        self, image: Number, row: Number, first: Number, column: Number, channel: Number, line: Number
    ) -> None:
        """Prefetches the first reads and writes of the same tile in the next row, which hardware doesn't prefetch."""
        f, axis, together = self.f, self.rows, self.tile.together
        stride = self.columns.stride
        newest, exists = self._source(row + 1, 0 if self.backwards else axis.kernel - 1)
        with f.when(exists):
            for up in range(1 if self.backwards else min(axis.stride, axis.kernel)):
                seen = self.x + (image * self.x_image + (newest - up) * self.x_row + channel)
                for t in range(together // stride if self.backwards else together * stride):
                    f.prefetch(seen + (first + t) * self.channels)
        below = self.y + (line + self.out_width * self.channels + channel)
        for t in range(together):
            f.prefetch(below + (column + t) * self.channels, write=True)

    def _source(self, row: Number, i: Number) -> tuple[Number, str]:
        """The source row that a row of the result sees through kernel row i, and whether there is one."""
        f, axis = self.f, self.rows
        if not self.backwards:
            return row * axis.stride - axis.before + i * axis.dilation, "true"
        ahead = row + axis.before - i * axis.dilation
        return ahead // axis.stride, f.same(ahead % axis.stride, 0)


@cache
def generate(
    isa: Isa,
    rows: Axis,
    columns: Axis,
    together: int,
    backwards: bool,
    epilogue: Epilogue = PLAIN,
    widths: tuple[int, int] | None = None,
) -> Function:
    """The kernel.

    ``widths`` are those of the operand and the result, if they are compiled in: all columns are then unrolled, and need
    no checks at the borders.
    """
    f = Function("nhwc_depthwise", isa)
    _Generator(f, rows, columns, Columns.of(columns, together, backwards), backwards, epilogue, widths).emit()
    return f
