"""Pooling of channels last (NHWC): lanes over channels.

    forward, for every item: an image n, an output row
        for every column, for every vector of channels
            for every tap on the input
                maximum: if the input is larger than the best so far, or NaN, it and its position become the best
                average: total += input
            write the best and its position (or, without positions, its epilogue), or total / cells

    backward, for every item: an image n, an input row
        for every column, for every vector of channels
            for every output whose window contains this input
                maximum: if the output's position is this one, total += its gradient
                average: total += its gradient / its cells
            write total

Windows are compiled in, because a division by a variable takes longer than a small window; sizes are arguments. The
kernels prefetch the first reads and writes of the next row, because hardware prefetchers don't follow jumps between
rows. See nchw.py for positions and cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import astuple

from striate.engine.llvm.codegen.ir import Function, Number, Pointer, Variable
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.functions.epilogue import PLAIN, Epilogue
from striate.engine.llvm.memory.rows import Axis
from striate.engine.llvm.pooling.nchw import clamped, larger_of, takes_over

#: The most taps of a window that is unrolled where it lies inside the input.
_WRITTEN_OUT = 16
_LOWEST = "0xFFF0000000000000"  # -infinity


class _PoolAxis:
    """A window along one axis, compiled in; the sizes of input and output are arguments."""

    kernel: int
    stride: int
    before: int
    dilation: int

    def __init__(self, f: Function, known: Axis, size: str) -> None:
        """``size`` is the name of the argument with the length of the input, ``height`` or ``width``."""
        self.f = f
        self.kernel, self.stride, self.before, self.dilation = astuple(known)
        self.size, self.outputs = f.size(size), f.size(f"out_{size}")

    def taps(self, output: Number) -> tuple[Number, Number]:
        """The range of taps of an output that are inside the input."""
        f, first = self.f, output * self.stride - self.before
        start = f.smaller(f.ceil_div(0 - first, self.dilation), self.kernel)
        return start, f.smaller(f.ceil_div(self.size - first, self.dilation), self.kernel)

    def position(self, output: Number, tap: Number) -> Number:
        return output * self.stride - self.before + tap * self.dilation

    def seers(self, position: Number) -> tuple[Number, Number]:
        """The range of outputs for which an input position is between the first and the last tap."""
        f, ahead = self.f, position + self.before
        reach = (self.kernel - 1) * self.dilation
        return f.ceil_div(ahead - reach, self.stride), f.smaller(ahead // self.stride + 1, self.outputs)

    def sees(self, output: Number, position: Number) -> str:
        """Whether an output has a tap at a position between its first and last tap; with dilation it may have none."""
        return self.f.same((position + self.before - output * self.stride) % self.dilation, 0)


class _Kernel:
    """The common part of all kernels: the loops over work items, columns and vectors of channels, and the layout."""

    def __init__(self, name: str, isa: Isa, rows: Axis, columns: Axis, rest: int) -> None:
        f = self.f = Function(name, isa)
        self.rows, self.columns = _PoolAxis(f, rows, "height"), _PoolAxis(f, columns, "width")
        self.channels, self.rest = f.size("channels"), rest
        taps, strides = rows.kernel * columns.kernel, rows.stride * columns.stride
        #: Whether the taps of a window, and also the inputs of a stride, are few enough to unroll.
        self.few_taps, self.small = taps <= _WRITTEN_OUT, max(taps, strides) <= _WRITTEN_OUT

    def walk(
        self, rows: Number, columns: Number, write: Callable[[Number, Number, Number, Number, str], None]
    ) -> Function:
        """Loops over the work items, and calls ``write`` with image, row, column, first channel and channel mask."""
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

    def output(self, image: Number, row: Number, column: Number, channel: Number) -> Number:
        """The offset of a vector of the pooled map."""
        return ((image * self.rows.outputs + row) * self.columns.outputs + column) * self.channels + channel

    def put(self, value: str, place: Pointer, mask: str) -> None:
        if mask:
            self.f.store_first(value, place, self.rest)
        else:
            self.f.store(value, place)

    def each_tap(self, row: Number, column: Number, take: Callable[[Number, Number], None]) -> None:
        """Calls ``take`` for every tap inside the input; unrolled if the window is small and entirely inside."""
        f, rows, columns = self.f, self.rows, self.columns
        (top, bottom), (left, right) = rows.taps(row), columns.taps(column)
        if self.few_taps:
            whole = f.both(f.same(bottom - top, rows.kernel), f.same(right - left, columns.kernel))
            with f.when(whole):
                for tap in itertools.product(range(rows.kernel), range(columns.kernel)):
                    take(*tap)
        rest = f.when(f.negation(whole) if self.few_taps else "true")
        with rest, f.loop(top, bottom) as i, f.loop(left, right) as j:
            take(i, j)


class _Pooled(_Kernel):
    """The common part of the forward kernels."""

    def __init__(self, name: str, isa: Isa, rows: Axis, columns: Axis, rest: int) -> None:
        super().__init__(name, isa, rows, columns, rest)
        self.x, self.values = self.f.pointer("x"), self.f.pointer("values")

    def sizes(self) -> None:
        """Reads the strides of the input; a kernel calls this after all addresses have been read."""
        self.x_image, self.x_row = self.f.size("x_image"), self.f.size("x_row")

    def seen(self, image: Number, row: Number, column: Number, channel: Number) -> Pointer:
        """The address of a vector of the input."""
        return self.x + (image * self.x_image + row * self.x_row + column * self.channels + channel)

    def prefetch(self, image: Number, row: Number, column: Number, channel: Number) -> None:
        """Prefetches the first inputs of the window in the next row, and its result."""
        f, rows, columns = self.f, self.rows, self.columns
        newest, first = rows.position(row + 1, rows.kernel - 1), columns.position(column, 0)
        for up in range(min(rows.stride, rows.kernel)):
            for along in range(min(columns.stride, columns.kernel)):
                f.prefetch(self.seen(image, newest - up, first + along, channel))
        f.prefetch(self.values + self.output(image, row + 1, column, channel), write=True)


def _wide(f: Function, kind: str) -> str:
    return f"<{f.lanes} x {kind}>"


def generate_maximum(
    isa: Isa, rows: Axis, columns: Axis, rest: int, index: str = "", epilogue: Epilogue = PLAIN, activation: str = ""
) -> Function:
    """The kernel of max pooling: values after the epilogue, or with ``index`` (``i16``, ``i32``) values and positions.

    ``rest`` is the number of channels in a last vector that isn't full. See nchw.py for the activation, which only the
    kernel with positions applies.
    """
    kernel = _Pooled("nhwc_maximum" if index else "nhwc_largest", isa, rows, columns, rest)
    f, down, along = kernel.f, kernel.rows, kernel.columns
    positions = f.pointer("positions", index) if index else kernel.values
    kernel.sizes()

    def beyond(i: Number, j: Number) -> str:
        """The position of a tap relative to the first one, which may be outside the input."""
        return f.splat(f.narrow(along.size * (i * down.dilation) + j * along.dilation), "i32")

    def write(image: Number, row: Number, column: Number, channel: Number, mask: str) -> None:
        kernel.prefetch(image, row, column, channel)
        best = f.variable(f.splat(_LOWEST))
        where = f.variable(beyond(down.taps(row)[0], along.taps(column)[0]), _wide(f, "i32")) if index else best

        def take(i: Number, j: Number) -> None:
            value = f.load(kernel.seen(image, down.position(row, i), along.position(column, j), channel), mask)
            if index:
                better = takes_over(f, value, best.get())
                where.set(f.select(better, beyond(i, j), where.get(), "i32"))
                best.set(f.select(better, value, best.get()))
            else:
                best.set(larger_of(f, best.get(), value))

        kernel.each_tap(row, column, take)
        place = kernel.output(image, row, column, channel)
        value = epilogue.apply(f, best.get(), None)
        if index:
            first = down.position(row, 0) * along.size + along.position(column, 0)
            position = f.value(f"add {_wide(f, 'i32')} {where.get()}, {f.splat(f.narrow(first), 'i32')}")
            value, position = clamped(f, activation, value, position, index)
            f.store(position, positions + place, mask, index)
        kernel.put(value, kernel.values + place, mask)

    return kernel.walk(down.outputs, along.outputs, write)


def _cells(f: Function, row_table: Pointer, column_table: Pointer, row: Number, column: Number) -> str:
    return f.arithmetic("fmul", f.broadcast(row_table + row), f.broadcast(column_table + column))


def generate_average(isa: Isa, rows: Axis, columns: Axis, rest: int) -> Function:
    kernel = _Pooled("nhwc_average", isa, rows, columns, rest)
    f, down, along = kernel.f, kernel.rows, kernel.columns
    tables = f.pointer("row_table"), f.pointer("column_table")
    kernel.sizes()

    def write(image: Number, row: Number, column: Number, channel: Number, mask: str) -> None:
        kernel.prefetch(image, row, column, channel)
        total = f.variable(f.zeros())

        def take(i: Number, j: Number) -> None:
            value = f.load(kernel.seen(image, down.position(row, i), along.position(column, j), channel), mask)
            total.set(f.arithmetic("fadd", total.get(), value))

        kernel.each_tap(row, column, take)
        mean = f.arithmetic("fdiv", total.get(), _cells(f, *tables, row, column))
        kernel.put(mean, kernel.values + kernel.output(image, row, column, channel), mask)

    return kernel.walk(down.outputs, along.outputs, write)


class _Spread(_Kernel):
    """The common part of the backward kernels: each input sums its shares of the gradients of the windows it is in.

    A work item has the rows of one stride of an image, and is computed in blocks of the columns of one stride. It is
    known at compile time which outputs see which input of a block, so each output is read once for the whole block.
    """

    def __init__(self, name: str, isa: Isa, rows: Axis, columns: Axis, rest: int) -> None:
        super().__init__(name, isa, rows, columns, rest)
        self.windows = (rows, columns)
        self.g = self.f.pointer("g")
        self.maps = [self.g]  #: the maps that have the size of the output

    def read(self, image: Number, i: Number, j: Number, channel: Number, mask: str) -> tuple[str, ...]:
        """Loads the numbers of an output."""
        raise NotImplementedError

    def nothing(self) -> tuple[Variable, ...]:
        """Variables for the numbers of :meth:`read`, with values of which no input has a share."""
        return (self.f.variable(self.f.zeros()),)

    def share(self, read: tuple[str, ...], row: Number, column: Number) -> str:
        """The share of an input in the gradient of an output."""
        return read[0]

    def emit(self) -> Function:
        self.grad = self.f.pointer("grad")
        self.tables()
        both = zip((self.rows, self.columns), self.windows, strict=True)
        blocks = [(axis.size + (seen.stride - 1)) // seen.stride for axis, seen in both]
        self.seers = [[axis.seers(phase) for phase in range(axis.stride)] for axis in self.windows]
        return self.walk(blocks[0], blocks[1], self._write)

    def tables(self) -> None:
        """Reads the arguments that follow the maps."""

    def _put(self, total: str, image: Number, row: Number, column: Number, channel: Number, mask: str) -> None:
        self.put(total, self.grad + self._place(image, row, column, channel), mask)

    def _place(self, image: Number, row: Number, column: Number, channel: Number) -> Number:
        return ((image * self.rows.size + row) * self.columns.size + column) * self.channels + channel

    def _write(self, image: Number, down: Number, along: Number, channel: Number, mask: str) -> None:
        f, (rows, columns) = self.f, self.windows
        if self.small:
            each = zip((down, along), (self.rows, self.columns), (rows.stride, columns.stride), self.seers, strict=True)
            self._prefetch(image, down, along, channel)
            all_there = f.both(*(self._has_all(*axis) for axis in each))
            for whole, condition in ((True, all_there), (False, f.negation(all_there))):
                with f.when(condition):
                    self._together(image, down, along, channel, mask, whole)
            return
        top, left = down * rows.stride, along * columns.stride
        bottom = f.smaller(top + rows.stride, self.rows.size)
        right = f.smaller(left + columns.stride, self.columns.size)
        with f.loop(top, bottom) as row, f.loop(left, right) as column:
            self._one_by_one(image, row, column, channel, mask)

    def _prefetch(self, image: Number, down: Number, along: Number, channel: Number) -> None:
        """Prefetches the first reads and the results of the next row of blocks."""
        f, (rows, columns) = self.f, self.windows
        newest = [max((place for each in axis for place in each), default=0) for axis in self.seers]
        for each in self.maps:
            f.prefetch(each + self.output(image, down + (1 + newest[0]), along + newest[1], channel))
        for down_, along_ in itertools.product(range(rows.stride), range(columns.stride)):
            place = self._place(image, (down + 1) * rows.stride + down_, along * columns.stride + along_, channel)
            f.prefetch(self.grad + place, write=True)

    def _has_all(self, place: Number, axis: _PoolAxis, stride: int, seers: list[list[int]]) -> str:
        f, every = self.f, [distance for each in seers for distance in each]
        inside = f.less(place * stride + (stride - 1), axis.size)
        if not every:
            return inside
        return f.both(inside, f.both(f.less(-1, place + min(every)), f.less(place + max(every), axis.outputs)))

    def _together(self, image: Number, down: Number, along: Number, channel: Number, mask: str, whole: bool) -> None:
        """Computes a block; ``whole``: it is inside the input, and all outputs that could see it exist."""
        f, (rows, columns) = self.f, self.windows
        loaded: dict[tuple[int, ...], tuple[str, ...]] = {}
        for i, j in sorted(itertools.product(*({place for each in axis for place in each} for axis in self.seers))):
            if whole:
                loaded[i, j] = self.read(image, down + i, along + j, channel, mask)
                continue
            slots = self.nothing()
            with f.when(f.both(_there(f, down + i, self.rows), _there(f, along + j, self.columns))):
                for slot, value in zip(slots, self.read(image, down + i, along + j, channel, mask), strict=True):
                    slot.set(value)
            loaded[i, j] = tuple(slot.get() for slot in slots)
        for phase in itertools.product(range(rows.stride), range(columns.stride)):
            row, column = down * rows.stride + phase[0], along * columns.stride + phase[1]
            total = f.zeros()
            for pair in itertools.product(self.seers[0][phase[0]], self.seers[1][phase[1]]):
                total = f.arithmetic("fadd", total, self.share(loaded[pair], row, column))
            exists = "true" if whole else f.both(f.less(row, self.rows.size), f.less(column, self.columns.size))
            with f.when(exists):
                self._put(total, image, row, column, channel, mask)

    def _one_by_one(self, image: Number, row: Number, column: Number, channel: Number, mask: str) -> None:
        f, rows, columns = self.f, self.rows, self.columns
        total = f.variable(f.zeros())
        between = f.loop(*rows.seers(row)), f.loop(*columns.seers(column))
        with between[0] as i, between[1] as j, f.when(f.both(rows.sees(i, row), columns.sees(j, column))):
            found = self.share(self.read(image, i, j, channel, mask), row, column)
            total.set(f.arithmetic("fadd", total.get(), found))
        self._put(total.get(), image, row, column, channel, mask)


def _there(f: Function, place: Number, axis: _PoolAxis) -> str:
    return f.both(f.less(-1, place), f.less(place, axis.outputs))


class _MaximumGrad(_Spread):
    """The gradient of max pooling: an input gets the gradients whose positions are its own."""

    def __init__(self, isa: Isa, rows: Axis, columns: Axis, rest: int, index: str) -> None:
        super().__init__("nhwc_maximum_grad", isa, rows, columns, rest)
        self.index, self.positions = index, self.f.pointer("positions", index)
        self.maps.append(self.positions)

    def read(self, image: Number, i: Number, j: Number, channel: Number, mask: str) -> tuple[str, ...]:
        place = self.output(image, i, j, channel)
        return self.f.load(self.g + place, mask), self.f.load_as(self.positions + place, mask)

    def nothing(self) -> tuple[Variable, ...]:
        return *super().nothing(), self.f.variable(self.f.zeros(), _wide(self.f, self.index))

    def share(self, read: tuple[str, ...], row: Number, column: Number) -> str:
        f, here = self.f, str(row * self.columns.size + column)
        own = f.splat(here if self.index == "i64" else f.value(f"trunc i64 {here} to {self.index}"), self.index)
        ours = f.value(f"icmp eq {_wide(f, self.index)} {read[1]}, {own}")
        return f.select(ours, read[0], f.zeros())


class _AverageGrad(_Spread):
    """The gradient of average pooling: an input gets 1 / cells of the gradient of each window that it is in."""

    def __init__(self, isa: Isa, rows: Axis, columns: Axis, rest: int) -> None:
        super().__init__("nhwc_average_grad", isa, rows, columns, rest)

    def tables(self) -> None:
        self.row_table, self.column_table = self.f.pointer("row_table"), self.f.pointer("column_table")

    def read(self, image: Number, i: Number, j: Number, channel: Number, mask: str) -> tuple[str, ...]:
        value = self.f.load(self.g + self.output(image, i, j, channel), mask)
        return (self.f.arithmetic("fdiv", value, _cells(self.f, self.row_table, self.column_table, i, j)),)


def generate_maximum_grad(isa: Isa, rows: Axis, columns: Axis, rest: int, index: str) -> Function:
    return _MaximumGrad(isa, rows, columns, rest, index).emit()


def generate_average_grad(isa: Isa, rows: Axis, columns: Axis, rest: int) -> Function:
    return _AverageGrad(isa, rows, columns, rest).emit()
