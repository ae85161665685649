"""Pooling of planes (NCHW): lanes along the width.

    for every item: a plane (an image's channel), a block of output rows
        pack the block's input rows, with padding -infinity for a maximum and 0 for a sum (see memory/rows.py)
        for every row of the block, for every vector of the row
            for every kernel row i, for every kernel column j (unrolled)
                maximum: if the input is larger than the best so far, or NaN, it becomes the best (and its position is
                    recorded, if positions are needed)
                average: total += input
            write the best (and its position), or total / cells

A position is an index into the plane, row by row, in the smallest integer type that holds it. If no input in a window
is larger than -infinity, the position is that of the window's first tap inside the input; the caller passes these in a
table of rows and a table of columns. The number of cells of a window is also the product of one number for its row and
one for its column.

The kernel may apply an activation that clamps the maximum. Where it clamps, the gradient is zero, and the position -1.

The gradient of small windows gathers (nchw_grad.py). For other windows, and for max pooling of rows shorter than a
vector, the kernels clear a plane and scatter the gradients into it. A plane usually fits into the first-level cache,
and no two threads share one.
"""

from __future__ import annotations

from typing import Final

from striate.engine.llvm.codegen.ir import AHEAD, Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.memory.rows import Axis, Rows, pack

#: The activations that may follow a maximum, with their lower and upper limit.
LIMITS: Final[dict[str, tuple[str | None, str | None]]] = {
    "": (None, None),
    "relu": ("0.0", None),
    "relu6": ("0.0", "6.0"),
}


def clamped(f: Function, activation: str, best: str, where: str, index: str) -> tuple[str, str]:
    """Applies an activation to maxima, and sets their positions to -1 where it clamps.

    32-bit positions are converted to the type ``index``.
    """
    for comparison, limit in zip(("ole", "oge"), LIMITS[activation], strict=True):
        if limit is not None:
            edge = f.splat(limit)
            shut = f.value(f"fcmp {comparison} {f.vector} {best}, {edge}")
            best, where = f.select(shut, edge, best), f.select(shut, f.splat("-1", "i32"), where, "i32")
    if index == "i16":
        where = f.value(f"trunc <{f.lanes} x i32> {where} to <{f.lanes} x i16>")
    return best, where


def takes_over(f: Function, value: str, best: str) -> str:
    """Where a value replaces the best so far: if it is larger or NaN. Of equal values, the first stays."""
    larger = f.value(f"fcmp ogt {f.vector} {value}, {best}")
    return f.mask_or(larger, f.value(f"fcmp uno {f.vector} {value}, {value}"))


def larger_of(f: Function, best: str, value: str) -> str:
    """The larger of two; NaN if one of them is NaN."""
    smaller = f.value(f"fcmp ole {f.vector} {value}, {best}")
    spoilt = f.value(f"fcmp uno {f.vector} {best}, {best}")
    return f.select(f.mask_or(smaller, spoilt), best, value)


class _Planes:
    """The loops that the three forward kernels share: over planes, blocks, rows and vectors."""

    fill = "0xFFF0000000000000"  #: the value of padding: -infinity
    tables = ""  #: the element type of the tables of rows and columns; empty without tables

    def __init__(self, f: Function, rows: Axis, columns: Axis, index: str = "") -> None:
        self.f, self.rows, self.columns, self.index = f, rows, columns, index
        #: The maps that the kernel writes, with the types of their elements.
        self.out = {"values": "float"} | ({"positions": index} if index else {})

    def emit(self) -> None:
        f = self.f
        x, scratch = map(f.pointer, ("x", "scratch"))
        outputs = [f.pointer(name, kind) for name, kind in self.out.items()]
        if self.tables:
            self.row_table = f.pointer("row_table", self.tables)
            self.column_table = f.pointer("column_table", self.tables)
        channels, height, self.width = map(f.size, ("channels", "height", "width"))
        out_height, self.out_width = map(f.size, ("out_height", "out_width"))
        x_image, x_channel, x_row = map(f.size, ("x_image", "x_channel", "x_row"))
        block, blocks, deep = map(f.size, ("block", "blocks", "deep"))
        self.pitch, scratch_size = map(f.size, ("pitch", "scratch_size"))
        with f.loop(f.first, f.last) as item:
            start, plane = (item % blocks) * block, item // blocks
            self.top = start * self.rows.stride - self.rows.before
            place = x + ((plane // channels) * x_image + (plane % channels) * x_channel)
            own = scratch + f.thread * scratch_size
            packed = pack(
                f, self.columns, place, 1, 0, x_row, self.top, deep, height, self.width, own, self.pitch, self.fill
            )
            stop = f.smaller(start + block, out_height)
            with f.loop(start, stop) as row:
                places = [output + (plane * out_height + row) * self.out_width for output in outputs]
                line = packed.scratch + (row - start) * self.rows.stride * packed.row_size
                with f.loop(0, self.out_width, f.lanes) as column:
                    for place in places:
                        f.prefetch(place + (column + AHEAD), write=True)
                    values = self._pool(packed, line, row, column)
                    # A whole vector may write beyond the row, into a later row, which is computed afterwards.
                    room = (stop - row) * self.out_width - column
                    whole = f.less(f.lanes - 1, room)
                    for masked, condition in ((False, whole), (True, f.negation(whole))):
                        with f.when(condition):
                            mask = f.inside(0, room) if masked else ""
                            for value, where in zip(values, places, strict=True):
                                f.store(value, where + column, mask, where.element)

    def _pool(self, packed: Rows, line: Pointer, row: Number, column: Number) -> list[str]:
        raise NotImplementedError

    def _inputs(self, packed: Rows, line: Pointer, i: Number, column: Number) -> list[str]:
        """The inputs that a vector of outputs sees through the taps of kernel row i."""
        here = line + (i * self.rows.dilation * packed.row_size + column)
        return [self.f.load(here + self.columns.place(j, self.pitch)) for j in range(self.columns.kernel)]


class _Largest(_Planes):
    def _pool(self, packed: Rows, line: Pointer, row: Number, column: Number) -> list[str]:
        f = self.f
        best = f.variable(f.splat(self.fill))
        with f.loop(0, self.rows.kernel) as i:
            for value in self._inputs(packed, line, i, column):
                best.set(larger_of(f, best.get(), value))
        return [best.get()]


class _Maximum(_Planes):
    tables = "i32"
    activation = ""

    def _pool(self, packed: Rows, line: Pointer, row: Number, column: Number) -> list[str]:
        f, wide = self.f, f"<{self.f.lanes} x i32>"
        best = f.variable(f.splat(self.fill))
        first = f.value(f"mul i32 {f.scalar(self.row_table + row)}, {f.narrow(self.width)}")
        start = f.value(f"add {wide} {f.splat(first, 'i32')}, {f.load_as(self.column_table + column)}")
        where = f.variable(start, wide)
        corner = (row * self.rows.stride - self.rows.before) * self.width
        with f.loop(0, self.rows.kernel) as i:
            along = corner + i * self.rows.dilation * self.width
            for j, value in enumerate(self._inputs(packed, line, i, column)):
                origin = along + (column * self.columns.stride + (j * self.columns.dilation - self.columns.before))
                better = takes_over(f, value, best.get())
                where.set(f.select(better, f.positions(origin, self.columns.stride), where.get(), "i32"))
                best.set(f.select(better, value, best.get()))
        return list(clamped(f, self.activation, best.get(), where.get(), self.index))


class _Average(_Planes):
    fill, tables = "0.0", "float"

    def _pool(self, packed: Rows, line: Pointer, row: Number, column: Number) -> list[str]:
        f = self.f
        total = f.variable(f.zeros())
        with f.loop(0, self.rows.kernel) as i:
            for value in self._inputs(packed, line, i, column):
                total.set(f.arithmetic("fadd", total.get(), value))
        cells = f.arithmetic("fmul", f.broadcast(self.row_table + row), f.load(self.column_table + column))
        return [f.arithmetic("fdiv", total.get(), cells)]


def generate_maximum(isa: Isa, rows: Axis, columns: Axis, index: str, activation: str = "") -> Function:
    """The kernel of max pooling with positions; ``index`` is their type, ``i16`` or ``i32``."""
    f = Function("nchw_maximum", isa)
    kernel = _Maximum(f, rows, columns, index)
    kernel.activation = activation
    kernel.emit()
    return f


def generate_largest(isa: Isa, rows: Axis, columns: Axis) -> Function:
    """The kernel of max pooling without positions."""
    f = Function("nchw_largest", isa)
    _Largest(f, rows, columns).emit()
    return f


def generate_average(isa: Isa, rows: Axis, columns: Axis) -> Function:
    f = Function("nchw_average", isa)
    _Average(f, rows, columns).emit()
    return f


def _clear(f: Function, place: Pointer, size: Number) -> None:
    whole = size // f.lanes * f.lanes
    with f.loop(0, whole, f.lanes) as at:
        f.prefetch(place + (at + AHEAD), write=True)
        f.store(f.zeros(), place + at)
    with f.loop(whole, size) as at:
        f.line(f"store float 0.0, ptr {(place + at).text}")


def generate_maximum_grad(isa: Isa, index: str) -> Function:
    """The kernel that adds every gradient of a plane at its position."""
    f = Function("nchw_maximum_grad", isa)
    g, positions, grad = f.pointer("g"), f.pointer("positions", index), f.pointer("grad")
    size, outputs = map(f.size, ("size", "outputs"))
    with f.loop(f.first, f.last) as plane:
        mine = grad + plane * size
        _clear(f, mine, size)
        with f.loop(0, outputs) as output:
            at = plane * outputs + output
            position = f.widened(f.scalar(positions + at), index)
            # Positions come from the caller, so check that they are inside the plane.
            with f.when(f.both(f.less(-1, position), f.less(position, size))):
                f.add_to(mine + position, f.scalar(g + at))
    return f


def generate_average_grad(isa: Isa, rows: Axis, columns: Axis) -> Function:
    """The kernel that adds every gradient of a plane, divided by the cells of its window, to the window's inputs."""
    f = Function("nchw_average_grad", isa)
    g, grad, row_table, column_table = map(f.pointer, ("g", "grad", "row_table", "column_table"))
    height, width, out_height, out_width = map(f.size, ("height", "width", "out_height", "out_width"))
    with f.loop(f.first, f.last) as plane:
        mine = grad + plane * height * width
        _clear(f, mine, height * width)
        with f.loop(0, out_height) as row, f.loop(0, rows.kernel) as i:
            source = row * rows.stride - rows.before + i * rows.dilation
            with f.when(f.both(f.less(-1, source), f.less(source, height))):
                line, gradients = mine + source * width, g + (plane * out_height + row) * out_width
                many = f.scalar(row_table + row)
                with f.loop(0, out_width) as column:
                    cells = f.value(f"fmul float {many}, {f.scalar(column_table + column)}")
                    share = f.value(f"fdiv float {f.scalar(gradients + column)}, {cells}")
                    first = column * columns.stride - columns.before
                    for j in range(columns.kernel):
                        place = first + j * columns.dilation
                        with f.when(f.both(f.less(-1, place), f.less(place, width))):
                            f.add_to(line + place, share)
    return f
