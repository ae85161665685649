"""Pooling of interleaved channels (channels last): lanes over channels.

    forward, for every item: an image n, an output row
        for every column, for every vector of channels
            for every tap on the input
                maximum: where the input is larger than the best one so far, or NaN, it and its position become the best
                average: total += input
            write the best and its position (or, where nobody wants positions, its epilogue), or total / cells

    backward, for every item: an image n, an input row
        for every column, for every vector of channels
            for every output whose window reaches here
                maximum: where the output's position is this one, total += its gradient
                average: total += its gradient / its cells
            write total

Averages and gradients get everything passed, so one piece of code serves every geometry; for maxima the windows are
generated. See pooling.py for positions and cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import astuple

from striate.engine.llvm.emit import Function, Number, Pointer
from striate.engine.llvm.epilogue import PLAIN, Epilogue
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.packing import Axis
from striate.engine.llvm.pooling import clamped, larger_of

#: Taps of a window up to which one that lies on the input is written out tap by tap.
_WRITTEN_OUT = 16
_LOWEST = "0xFFF0000000000000"  # -infinity


class _Axis:
    """A window along one axis, of which all is known only when the kernel runs, or all but the sizes before."""

    kernel: Number
    stride: Number
    before: Number
    dilation: Number

    def __init__(self, f: Function, known: Axis | None) -> None:
        self.f = f
        if known is None:
            self.kernel, self.stride, self.before, self.dilation = (f.size() for _ in range(4))
        else:
            self.kernel, self.stride, self.before, self.dilation = astuple(known)
        self.size, self.outputs = f.size(), f.size()

    def taps(self, output: Number) -> tuple[Number, Number]:
        """The taps (from, to) of an output that fall on the input."""
        f, first = self.f, output * self.stride - self.before
        start = f.smaller(f.ceil_div(0 - first, self.dilation), self.kernel)
        return start, f.smaller(f.ceil_div(self.size - first, self.dilation), self.kernel)

    def position(self, output: Number, tap: Number) -> Number:
        return output * self.stride - self.before + tap * self.dilation

    def seers(self, position: Number) -> tuple[Number, Number]:
        """The outputs (from, to) between whose first and last tap an input position lies."""
        f, ahead = self.f, position + self.before
        reach = (self.kernel - 1) * self.dilation
        return f.ceil_div(ahead - reach, self.stride), f.smaller(ahead // self.stride + 1, self.outputs)

    def sees(self, output: Number, position: Number) -> str:
        """Whether one of the output's taps, which may lie apart, is at a position between its ends."""
        return self.f.same((position + self.before - output * self.stride) % self.dilation, 0)


class _Kernel:
    """The loops that all four share: over items, columns, vectors of channels."""

    def __init__(self, name: str, isa: Isa, rows: Axis | None = None, columns: Axis | None = None) -> None:
        f = self.f = Function(name, isa)
        self.rows, self.columns = _Axis(f, rows), _Axis(f, columns)
        self.channels = f.size()

    def walk(
        self, rows: Number, columns: Number, write: Callable[[Number, Number, Number, Number, str], None]
    ) -> Function:
        """Calls for every image, row, column, first channel and mask of the channels there are."""
        f = self.f
        with f.loop(f.first, f.last) as item, f.loop(0, columns) as column:
            image, row = item // rows, item % rows
            with f.loop(0, self.channels, f.lanes) as channel:
                whole = f.less(channel + (f.lanes - 1), self.channels)
                for masked, condition in ((False, whole), (True, f.negation(whole))):
                    with f.when(condition):
                        mask = f.inside(channel, self.channels) if masked else ""
                        write(image, row, column, channel, mask)
        return f


def _wide(f: Function, kind: str) -> str:
    return f"<{f.lanes} x {kind}>"


def generate_maximum(
    isa: Isa,
    seen_rows: Axis,
    seen_columns: Axis,
    rest: int,
    index: str = "",
    epilogue: Epilogue = PLAIN,
    activation: str = "",
) -> Function:
    """Values after their epilogue; or, with ``index``, ``i16`` or ``i32``, values and positions of that type.

    The windows are known, since dividing by numbers that aren't takes longer than a small window. ``rest`` is how many
    channels a last vector has that isn't full. See pooling.py for the activation that may follow with positions.
    """
    kernel = _Kernel("interleaved_maximum" if index else "interleaved_largest", isa, seen_rows, seen_columns)
    f, rows, columns = kernel.f, kernel.rows, kernel.columns
    x, values = f.pointer(), f.pointer()
    positions = f.pointer(index) if index else values
    x_image, x_row = f.size(), f.size()

    def beyond(i: Number, j: Number) -> str:
        """Positions of a tap, counted from that of the first one, be it on the input or not."""
        return f.splat(f.narrow(columns.size * (i * rows.dilation) + j * columns.dilation), "i32")

    def write(image: Number, row: Number, column: Number, channel: Number, mask: str) -> None:
        (top, bottom), (left, right) = rows.taps(row), columns.taps(column)
        best = f.variable(f.splat(_LOWEST))
        where = f.variable(beyond(top, left), _wide(f, "i32")) if index else best

        def take(i: Number, j: Number) -> None:
            at = image * x_image + rows.position(row, i) * x_row
            value = f.load(x + (at + columns.position(column, j) * kernel.channels + channel), mask)
            if index:
                larger = f.value(f"fcmp ogt {f.vector} {value}, {best.get()}")
                better = f.mask_or(larger, f.value(f"fcmp uno {f.vector} {value}, {value}"))
                where.set(f.select(better, beyond(i, j), where.get(), "i32"))
                best.set(f.select(better, value, best.get()))
            else:
                best.set(larger_of(f, best.get(), value))

        small = seen_rows.kernel * seen_columns.kernel <= _WRITTEN_OUT
        whole = f.both(f.same(bottom - top, seen_rows.kernel), f.same(right - left, seen_columns.kernel))
        if small:
            with f.when(whole):
                for tap in itertools.product(range(seen_rows.kernel), range(seen_columns.kernel)):
                    take(*tap)
        with f.when(f.negation(whole) if small else "true"), f.loop(top, bottom) as i, f.loop(left, right) as j:
            take(i, j)
        place = ((image * rows.outputs + row) * columns.outputs + column) * kernel.channels + channel
        value = epilogue.apply(f, best.get(), None)
        if index:
            first = rows.position(row, 0) * columns.size + columns.position(column, 0)
            position = f.value(f"add {_wide(f, 'i32')} {where.get()}, {f.splat(f.narrow(first), 'i32')}")
            value, position = clamped(f, activation, value, position)
            if index == "i16":
                position = f.value(f"trunc {_wide(f, 'i32')} {position} to {_wide(f, 'i16')}")
            f.store(position, positions + place, mask, index)
        if mask:
            f.store_first(value, values + place, rest)
        else:
            f.store(value, values + place)

    return kernel.walk(rows.outputs, columns.outputs, write)


def generate_maximum_grad(isa: Isa, index: str) -> Function:
    """Every input's sum of the gradients whose positions are its own."""
    kernel = _Kernel("interleaved_maximum_grad", isa)
    f, rows, columns = kernel.f, kernel.rows, kernel.columns
    g, positions, grad = f.pointer(), f.pointer(index), f.pointer()

    def write(image: Number, row: Number, column: Number, channel: Number, mask: str) -> None:
        total = f.variable(f.zeros())
        here = str(row * columns.size + column)
        if index != "i64":
            here = f.value(f"trunc i64 {here} to {index}")
        own = f.splat(here, index)
        with f.loop(*rows.seers(row)) as i, f.loop(*columns.seers(column)) as j:
            place = ((image * rows.outputs + i) * columns.outputs + j) * kernel.channels + channel
            ours = f.value(f"icmp eq {_wide(f, index)} {f.load_as(positions + place, mask)}, {own}")
            share = f.select(ours, f.load(g + place, mask), f.zeros())
            total.set(f.arithmetic("fadd", total.get(), share))
        place = ((image * rows.size + row) * columns.size + column) * kernel.channels + channel
        f.store(total.get(), grad + place, mask)

    return kernel.walk(rows.size, columns.size, write)


def _cells(f: Function, row_table: Pointer, column_table: Pointer, row: Number, column: Number) -> str:
    return f.arithmetic("fmul", f.broadcast(row_table + row), f.broadcast(column_table + column))


def generate_average(isa: Isa) -> Function:
    kernel = _Kernel("interleaved_average", isa)
    f, rows, columns = kernel.f, kernel.rows, kernel.columns
    x, values, row_table, column_table = f.pointer(), f.pointer(), f.pointer(), f.pointer()
    x_image, x_row = f.size(), f.size()

    def write(image: Number, row: Number, column: Number, channel: Number, mask: str) -> None:
        total = f.variable(f.zeros())
        with f.loop(*rows.taps(row)) as i, f.loop(*columns.taps(column)) as j:
            at = image * x_image + rows.position(row, i) * x_row
            value = f.load(x + (at + columns.position(column, j) * kernel.channels + channel), mask)
            total.set(f.arithmetic("fadd", total.get(), value))
        place = ((image * rows.outputs + row) * columns.outputs + column) * kernel.channels + channel
        mean = f.arithmetic("fdiv", total.get(), _cells(f, row_table, column_table, row, column))
        f.store(mean, values + place, mask)

    return kernel.walk(rows.outputs, columns.outputs, write)


def generate_average_grad(isa: Isa) -> Function:
    """Every input's sum of the gradients of the windows it is in, each divided by its window's cells."""
    kernel = _Kernel("interleaved_average_grad", isa)
    f, rows, columns = kernel.f, kernel.rows, kernel.columns
    g, grad, row_table, column_table = f.pointer(), f.pointer(), f.pointer(), f.pointer()

    def write(image: Number, row: Number, column: Number, channel: Number, mask: str) -> None:
        total = f.variable(f.zeros())
        between = (f.loop(*rows.seers(row)), f.loop(*columns.seers(column)))
        with between[0] as i, between[1] as j, f.when(f.both(rows.sees(i, row), columns.sees(j, column))):
            place = ((image * rows.outputs + i) * columns.outputs + j) * kernel.channels + channel
            share = f.arithmetic("fdiv", f.load(g + place, mask), _cells(f, row_table, column_table, i, j))
            total.set(f.arithmetic("fadd", total.get(), share))
        place = ((image * rows.size + row) * columns.size + column) * kernel.channels + channel
        f.store(total.get(), grad + place, mask)

    return kernel.walk(rows.size, columns.size, write)
