"""The gradient of pooling in NCHW by gathering: lanes along the width, the rows and columns of a stride at once.

A place is a rectangle of stride by stride inputs; an input's offset in its place is a phase.

    for every item: a plane, a block of rows of places
        pack the rows of gradients that see the block, with zeros around them; for averages, divided by the cells of the
        window; for maxima, pack the positions as well, with -1 around them
        for every row of places, for every vector of places
            for every phase
                total = 0
                for every output that sees the phase (known when the code is generated)
                    maximum: if the output's position is this input's, total += its gradient
                    average: total += its gradient
            store the column phases of a row, interleaved to whole vectors

Every input gradient is written once, so the memory needn't be cleared first. Positions come from the caller; a position
outside the plane matches no input.
"""

from __future__ import annotations

import itertools

from striate.engine.llvm.codegen.ir import AHEAD, LINE, Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.memory.rows import Axis, interleaved

#: The most inputs of a place, and the most taps of a window, for which this kernel is used.
_MOST = 16
#: The most outputs of a row for which scattering the gradients of maxima is as fast.
_SHORT = 8


class Reach:
    """The outputs that see each phase along one axis, relative to the place."""

    def __init__(self, axis: Axis) -> None:
        self.stride = axis.stride
        self.seers = [axis.seers(phase) for phase in range(axis.stride)]
        # The range always includes 0; if padding is wider than the windows, no output near 0 sees an input.
        every = [0, *(at for each in self.seers for at in each)]
        self.first, self.last = min(every), max(every)

    def places(self, size: int) -> int:
        """The number of places along an axis of ``size`` inputs."""
        return -(-size // self.stride)

    def outputs(self, places: int) -> int:
        """The number of outputs, from the first to the last, that see ``places`` consecutive places."""
        return places + self.last - self.first

    def pitch(self, size: int, outputs: int, lanes: int) -> int:
        """The length of a packed row: all outputs, and room for a whole vector at each of them."""
        most = max(-(-self.places(size) // lanes) * lanes + self.last, outputs + lanes) - self.first
        return -(-most // lanes) * lanes


def is_worth(rows: Axis, columns: Axis, out_width: int, index: str) -> bool:
    """Whether windows are small enough to unroll, and rows long enough for gathering to be faster than scattering."""
    few = max(rows.kernel * columns.kernel, rows.stride * columns.stride) <= _MOST
    return few and (not index or out_width > _SHORT)


def generate(isa: Isa, rows: Axis, columns: Axis, rest: int, index: str) -> Function:
    """The kernel.

    ``rest`` is the number of inputs in the last vector of places of a row, 0 if it is full. ``index`` is the type of
    the positions of max pooling, or empty for average pooling.
    """
    f = Function("nchw_maximum_spread" if index else "nchw_average_spread", isa)
    down, along = Reach(rows), Reach(columns)
    g, scratch = map(f.pointer, ("g", "scratch"))
    positions = f.pointer("positions", index) if index else g
    grad = f.pointer("grad")
    tables = (g, g) if index else (f.pointer("row_table"), f.pointer("column_table"))
    height, width, out_height, out_width = map(f.size, ("height", "width", "out_height", "out_width"))
    numbers, block, blocks, pitch, deep = map(f.size, ("numbers", "block", "blocks", "pitch", "deep"))
    wide = f"<{f.lanes} x i32>"
    places_down = (height + (down.stride - 1)) // down.stride
    own = scratch + f.thread * (deep * pitch * (2 if index else 1))
    own_positions = Pointer(f, (own + deep * pitch).text, "i32")

    def clear(at: Number, size: Number) -> None:
        """Fills packed rows with zeros and positions that match no input."""
        with f.loop(at, at + size, f.lanes) as place:
            f.store(f.zeros(), own + place)
            if index:
                f.store("splat (i32 -1)", own_positions + place, kind="i32")

    def pack(plane: Number, top: Number) -> None:
        with f.loop(0, deep) as row:
            source = top + row
            there = f.both(f.less(-1, source), f.less(source, out_height))
            with f.when(there):
                pack_row(
                    own + row * pitch, own_positions + row * pitch, source, (plane * out_height + source) * out_width
                )
            with f.when(f.negation(there)):
                clear(row * pitch, pitch)

    def pack_row(line: Pointer, marks: Pointer, source: Number, start: Number) -> None:
        """Packs a row of outputs by vectors; lanes beyond the end of the row are cleared."""
        whole = out_width // f.lanes * f.lanes
        cells = "" if index else f.scalar(tables[0] + source)

        def vector(at: Number, mask: str) -> None:
            f.prefetch(g + (start + at + AHEAD))
            value = f.load(g + (start + at))
            if index:
                f.prefetch(positions + (start + at + AHEAD))
                mark = _as_i32(f, f.load_as(positions + (start + at)), index, wide)
                mark = f.select(mask, mark, "splat (i32 -1)", "i32") if mask else mark
                f.store(mark, marks + (at - along.first), kind="i32")
            else:
                many = f.arithmetic("fmul", f.splat(cells), f.load(tables[1] + at))
                value = f.arithmetic("fdiv", value, many)
            f.store(f.select(mask, value, f.zeros()) if mask else value, line + (at - along.first))

        with f.loop(0, whole, f.lanes) as at:
            vector(at, "")
        # A vector may read beyond the end of a row, except in the last row of all.
        there = f.less(start + whole + (f.lanes - 1), numbers)
        with f.when(f.both(there, f.less(whole, out_width))):
            vector(whole, f.inside(whole, out_width))
        with f.when(f.negation(there)), f.loop(whole, out_width) as at:
            number = f.scalar(g + (start + at))
            if index:
                f.put(_as_i32(f, f.scalar(positions + (start + at)), index, "i32"), marks + (at - along.first))
            else:
                many = f.value(f"fmul float {cells}, {f.scalar(tables[1] + at)}")
                number = f.value(f"fdiv float {number}, {many}")
            f.put(number, line + (at - along.first))

    def total(here: Number, base: Number, phase: tuple[int, int]) -> str:
        """The sum of one phase of a vector of places; ``here`` is the packed position of the first place."""
        made = f.zeros()
        itself = f.positions(base + phase[1], along.stride) if index else ""
        for i, j in itertools.product(down.seers[phase[0]], along.seers[phase[1]]):
            place = here + ((i - down.first) * pitch + (j - along.first))
            value = f.load(own + place)
            if index:
                ours = f.value(f"icmp eq {wide} {f.load_as(own_positions + place)}, {itself}")
                value = f.select(ours, value, f.zeros())
            made = f.arithmetic("fadd", made, value)
        return made

    def write(plane: Number, down_: Number, along_: Number, here: Number, full: bool) -> None:
        """Stores the gradients of one vector of places; if it isn't ``full``, it is the last one of a row."""
        for up in range(down.stride):
            row = down_ * down.stride + up
            with f.when(f.less(row, height) if up else "true"):
                base = row * width + along_ * along.stride
                parts = [total(here, base, (up, phase)) for phase in range(along.stride)]
                place = grad + (plane * height * width + base)
                for at, value in enumerate(interleaved(f, parts)):
                    if at % max(1, LINE // f.lanes) == 0:
                        f.prefetch(place + (at * f.lanes + AHEAD), write=True)
                    if full or (at + 1) * f.lanes <= rest:
                        f.store(value, place + at * f.lanes)
                    elif at * f.lanes < rest:
                        f.store_first(value, place + at * f.lanes, rest - at * f.lanes)

    # The margins of the packed rows are never written again, so clear them once.
    clear(0, deep * pitch)
    with f.loop(f.first, f.last) as item:
        plane, start = item // blocks, item % blocks * block
        pack(plane, start + down.first)
        with f.loop(start, f.smaller(start + block, places_down)) as down_:
            line = (down_ - start) * pitch
            whole = width // (along.stride * f.lanes) * f.lanes
            with f.loop(0, whole, f.lanes) as along_:
                write(plane, down_, along_, line + along_, True)
            if rest:
                write(plane, down_, whole, line + whole, False)
    return f


def _as_i32(f: Function, value: str, index: str, kind: str) -> str:
    """Converts one position, or a vector of positions, of type ``index`` to ``kind``."""
    if index == "i32":
        return value
    lanes = kind.removesuffix("i32>")
    here = f"{lanes}{index}>" if lanes != kind else index
    return f.value(f"{'sext' if index == 'i16' else 'trunc'} {here} {value} to {kind}")
