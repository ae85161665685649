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


def _seers(axis: Axis, phase: int) -> list[int]:
    """The outputs that see input ``place * stride + phase``, counted from ``place``, whatever place that is."""
    ahead = [phase + axis.before - tap * axis.dilation for tap in range(axis.kernel)]
    return sorted(distance // axis.stride for distance in ahead if distance % axis.stride == 0)


def generate_maximum_grad(isa: Isa, seen_rows: Axis, seen_columns: Axis, rest: int, index: str) -> Function:
    """Every input's sum of the gradients whose positions are its own.

    An item is a stride's rows of an image, and is gone through in blocks of a stride's columns. Which outputs see which
    input of a block is known, so they are read once for the whole block.
    """
    kernel = _Kernel("interleaved_maximum_grad", isa, seen_rows, seen_columns)
    f, rows, columns = kernel.f, kernel.rows, kernel.columns
    g, positions, grad = f.pointer(), f.pointer(index), f.pointer()
    both = (seen_rows, seen_columns)
    seers = [[_seers(axis, phase) for phase in range(axis.stride)] for axis in both]
    small = max(seen_rows.kernel * seen_columns.kernel, seen_rows.stride * seen_columns.stride) <= _WRITTEN_OUT

    def read(image: Number, i: Number, j: Number, channel: Number, mask: str) -> tuple[str, str]:
        place = ((image * rows.outputs + i) * columns.outputs + j) * kernel.channels + channel
        return f.load(g + place, mask), f.load_as(positions + place, mask)

    def share(read: tuple[str, str], row: Number, column: Number) -> str:
        here = str(row * columns.size + column)
        own = f.splat(here if index == "i64" else f.value(f"trunc i64 {here} to {index}"), index)
        ours = f.value(f"icmp eq {_wide(f, index)} {read[1]}, {own}")
        return f.select(ours, read[0], f.zeros())

    def put(total: str, image: Number, row: Number, column: Number, channel: Number, mask: str) -> None:
        place = grad + (((image * rows.size + row) * columns.size + column) * kernel.channels + channel)
        if mask:
            f.store_first(total, place, rest)
        else:
            f.store(total, place)

    def one_by_one(image: Number, row: Number, column: Number, channel: Number, mask: str) -> None:
        total = f.variable(f.zeros())
        with f.loop(*rows.seers(row)) as i, f.loop(*columns.seers(column)) as j:
            found = share(read(image, i, j, channel, mask), row, column)
            total.set(f.arithmetic("fadd", total.get(), found))
        put(total.get(), image, row, column, channel, mask)

    def there(place: Number, axis: _Axis) -> str:
        return f.both(f.less(-1, place), f.less(place, axis.outputs))

    def together(image: Number, down: Number, along: Number, channel: Number, mask: str, whole: bool) -> None:
        """``whole``: the block lies on the input, and all outputs exist that see it."""
        loaded = {}
        for i, j in sorted(itertools.product(*({distance for each in axis for distance in each} for axis in seers))):
            if whole:
                loaded[i, j] = read(image, down + i, along + j, channel, mask)
                continue
            slots = f.variable(f.zeros()), f.variable(f.zeros(), _wide(f, index))
            with f.when(f.both(there(down + i, rows), there(along + j, columns))):
                for slot, value in zip(slots, read(image, down + i, along + j, channel, mask), strict=True):
                    slot.set(value)
            loaded[i, j] = (slots[0].get(), slots[1].get())
        for phase in itertools.product(range(seen_rows.stride), range(seen_columns.stride)):
            row, column = down * seen_rows.stride + phase[0], along * seen_columns.stride + phase[1]
            total = f.zeros()
            for pair in itertools.product(seers[0][phase[0]], seers[1][phase[1]]):
                total = f.arithmetic("fadd", total, share(loaded[pair], row, column))
            exists = "true" if whole else f.both(f.less(row, rows.size), f.less(column, columns.size))
            with f.when(exists):
                put(total, image, row, column, channel, mask)

    def has_all(place: Number, axis: _Axis, stride: int, seers: list[list[int]]) -> str:
        every = [distance for each in seers for distance in each]
        inside = f.less(place * stride + (stride - 1), axis.size)
        return f.both(inside, f.both(f.less(-1, place + min(every)), f.less(place + max(every), axis.outputs)))

    def write(image: Number, down: Number, along: Number, channel: Number, mask: str) -> None:
        if small:
            inside = zip((down, along), (rows, columns), (axis.stride for axis in both), seers, strict=True)
            all_there = f.both(*(has_all(*each) for each in inside))
            for whole, condition in ((True, all_there), (False, f.negation(all_there))):
                with f.when(condition):
                    together(image, down, along, channel, mask, whole)
            return
        top, left = down * seen_rows.stride, along * seen_columns.stride
        bottom, right = (
            f.smaller(top + seen_rows.stride, rows.size),
            f.smaller(left + seen_columns.stride, columns.size),
        )
        with f.loop(top, bottom) as row, f.loop(left, right) as column:
            one_by_one(image, row, column, channel, mask)

    blocks = [(axis.size + (seen.stride - 1)) // seen.stride for axis, seen in zip((rows, columns), both, strict=True)]
    return kernel.walk(blocks[0], blocks[1], write)


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
