"""Normalisation in channels last (NHWC): lanes over channels; the positions of all images are rows.

    forward, three kernels
        sums, for every chunk of rows
            for every few of its rows, for every V vectors of channels, for every row: add x and its square
            repeat for these V vectors about their mean if digits were lost
        settle, for every vector of channels: combine the moments of the chunks
        apply, for every row, for every V vectors of channels: y = act((x - centre) * scale + shift + residual)

    backward, three kernels
        sums, for every chunk of rows, for every few of its rows, for every V vectors of channels
            for every row: g' = g * act'(...), add g' and g' * (x - centre)
        settle, for every vector of channels: add the sums of the chunks, compute the gradients of weight and bias
        apply, for every row, for every V vectors of channels: grad_input = (g' - level + (x - centre) * tilt) * scale

All kernels read memory in order; the values of channels, sums included, are in the first-level cache. Keeping them in
registers over many rows would mean strided access, at half the speed. The kernels prefetch, because hardware
prefetchers don't handle several such streams well.

Chunks depend only on the sizes, so results don't depend on the number of threads. For g' and the saved values see
nchw.py and formulas.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from striate.engine.llvm.codegen.ir import AHEAD, LINE, Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.normalization.formulas import (
    AffineGradients,
    Channels,
    Channelwise,
    GradientSums,
    NormVariant,
    Statistics,
    before_activation,
    forward,
    grad_input,
)
from striate.engine.llvm.normalization.moments import Doubles, Moments, Shifted, centre, lost

#: Rows of a work item of the kernels that apply.
BLOCK = 32
#: Rows that are summed in registers before the sums are added to those of the chunk.
_SUMMED = 8
#: The most vectors of channels whose sums and centres are in registers.
_MOST_VECTORS = 4


def vectors_together(channels: int, lanes: int) -> int:
    """V: the most vectors that are held at once, or fewer if that leaves no remainder.

    >>> [vectors_together(channels, 8) for channels in (3, 16, 24, 40, 144, 960)]
    [1, 2, 3, 4, 3, 4]
    """
    across = -(-channels // lanes)
    even = (many for many in range(min(across, _MOST_VECTORS), 1, -1) if across % many == 0)
    return next(even, min(across, _MOST_VECTORS))


class _Rows:
    """The loops that all kernels share; reads the numbers of rows from the kernel's next arguments."""

    def __init__(self, f: Function, channels: Number, together: int) -> None:
        self.f, self.channels, self.together = f, channels, together
        self.rows, self.chunk = f.size("rows"), f.size("chunk")

    def items(self, item: Number, size: Number) -> tuple[Number, Number]:
        """The first and last row (exclusive) of a chunk or block of ``size`` rows."""
        return item * size, self.f.smaller((item + 1) * size, self.rows)

    def tiles(self, write: Callable[[list[Channels]], None]) -> None:
        """Calls ``write`` for every V vectors of channels, then for single remaining vectors."""
        f, group = self.f, self.together * self.f.lanes
        groups, whole = self.channels // group * group, self.channels // f.lanes * f.lanes
        with f.loop(0, groups, group) as channel:
            write([Channels(f, channel + v * f.lanes, "") for v in range(self.together)])
        self.vectors(groups, whole, write)

    def vectors(self, start: Number, whole: Number, write: Callable[[list[Channels]], None]) -> None:
        f = self.f
        with f.loop(start, whole, f.lanes) as channel:
            write([Channels(f, channel, "")])
        with f.when(f.less(whole, self.channels)):
            write([Channels(f, whole, f.inside(whole, self.channels))])

    def place(self, row: Number, vector: Channels) -> Number:
        return row * self.channels + vector.channel

    def ask(self, row: Number, tile: list[Channels], *tables: Pointer) -> None:
        """Prefetches the memory after that of the tile, a cache line at a time."""
        for vector in tile[:: max(1, LINE // self.f.lanes)]:
            for table in tables:
                self.f.prefetch(table + self.place(row, vector) + AHEAD)


class _Partial:
    """The sums of every chunk in 64 bits, (chunks, sums, C)."""

    def __init__(self, table: Pointer, sums: int, channels: Number) -> None:
        self.table, self.sums, self.channels = table, sums, channels

    def of(self, chunk: Number) -> list[Pointer]:
        return [self.table + (chunk * self.sums + which) * self.channels for which in range(self.sums)]


def _add_up(wide: Doubles, vector: Channels, tables: list[Pointer], more: list[str]) -> None:
    for table, total in zip(tables, more, strict=True):
        vector.put_double(table, wide.arithmetic("fadd", vector.get_double(table), total))


def generate_sums(isa: Isa, together: int) -> Function:
    """Forward: the c of every chunk, and its sums about c."""
    f = Function("nhwc_normalization_sums", isa)
    wide, x, table, channels = Doubles(f, f.lanes), f.pointer("x"), f.pointer("partial", "double"), f.size("channels")
    rows = _Rows(f, channels, together)
    partial = _Partial(table, 3, channels)
    with f.loop(f.first, f.last) as chunk:
        start, stop = rows.items(chunk, rows.chunk)
        centres, *tables = partial.of(chunk)
        share = wide.inverse(wide.of_whole(stop - start))

        def begin(tile: list[Channels]) -> None:
            for vector in tile:
                for each in (centres, *tables):
                    vector.put_double(each, wide.constant(0.0))

        def add(tile: list[Channels], block: Number, about: list[str]) -> None:
            sums = [Shifted(wide, each) for each in about]
            with f.loop(block, f.smaller(block + _SUMMED, stop)) as row:
                rows.ask(row, tile, x)
                for vector, sum_ in zip(tile, sums, strict=True):
                    sum_.add(f.load(x + rows.place(row, vector), vector.mask))
            for vector, sum_ in zip(tile, sums, strict=True):
                _add_up(wide, vector, tables, sum_.totals())

        def again(tile: list[Channels]) -> None:
            known = [(vector.get_double(tables[0]), vector.get_double(tables[1])) for vector in tile]
            masks = [lost(wide, plain, square, share) for plain, square in known]
            with f.when(f.any(reduce(f.mask_or, masks))):
                for vector, (plain, _), mask in zip(tile, known, masks, strict=True):
                    # Other channels keep c = 0 and all their bits, so no channel depends on another.
                    vector.put_double(centres, wide.select(mask, centre(wide, plain, share), wide.constant(0.0)))
                    for each in tables:
                        vector.put_double(each, wide.constant(0.0))
                with f.loop(start, stop, _SUMMED) as block:
                    add(tile, block, [vector.get_double(centres) for vector in tile])

        rows.tiles(begin)
        with f.loop(start, stop, _SUMMED) as block:

            def first(tile: list[Channels], block: Number = block) -> None:
                add(tile, block, [""] * len(tile))

            rows.tiles(first)
        rows.tiles(again)
    return f


def generate_settle(isa: Isa, training: bool) -> Function:
    """Forward: the statistics of every channel; there is one work item."""
    f = Function("nhwc_normalization_settle", isa)
    table, statistics, channelwise = f.pointer("partial", "double"), Statistics(f), Channelwise(f)
    rows, chunks = _Rows(f, statistics.count, 1), f.size("chunks")
    partial = _Partial(table, 3, statistics.count)

    def settle(tile: list[Channels]) -> None:
        (vector,) = tile
        if not training:
            channelwise.take(statistics, vector)
            return
        found = Moments(vector.wide, vector.get_double(table))
        with f.loop(0, chunks) as chunk:
            start, stop = rows.items(chunk, rows.chunk)
            found.add(stop - start, *map(vector.get_double, partial.of(chunk)))
        channelwise.settle(statistics, vector, *found.found())

    with f.loop(f.first, f.last):
        rows.vectors(0, statistics.count // f.lanes * f.lanes, settle)
    return f


def generate_forward(isa: Isa, form: NormVariant, together: int) -> Function:
    """Forward: the result."""
    f = Function("nhwc_normalization", isa)
    x, y, residual = map(f.pointer, ("x", "y", "residual"))
    statistics = Statistics(f)
    rows = _Rows(f, statistics.count, together)
    with f.loop(f.first, f.last) as block, f.loop(*rows.items(block, BLOCK)) as row:

        def write(tile: list[Channels], row: Number = row) -> None:
            rows.ask(row, tile, x, y, *([residual] if form.residual else []))
            for vector in tile:
                at = rows.place(row, vector)
                added = f.load(residual + at, vector.mask) if form.residual else ""
                made = forward(f, form, statistics.scaling(vector), f.load(x + at, vector.mask), added)
                f.store(made, y + at, vector.mask)

        rows.tiles(write)
    return f


def generate_grad_sums(isa: Isa, form: NormVariant, together: int) -> Function:
    """Backward: the two sums of every chunk, and g' if the form requires that it is written."""
    f = Function("nhwc_normalization_grad_sums", isa)
    wide = Doubles(f, f.lanes)
    g, x, y, middle = map(f.pointer, ("g", "x", "y", "middle"))
    table, statistics = f.pointer("partial", "double"), Statistics(f)
    rows = _Rows(f, statistics.count, together)
    partial = _Partial(table, 2, statistics.count)
    with f.loop(f.first, f.last) as chunk:
        start, stop = rows.items(chunk, rows.chunk)
        tables = partial.of(chunk)

        def begin(tile: list[Channels]) -> None:
            for vector in tile:
                for each in tables:
                    vector.put_double(each, wide.constant(0.0))

        rows.tiles(begin)
        with f.loop(start, stop, _SUMMED) as block:

            def add(tile: list[Channels], block: Number = block) -> None:
                scalings = [statistics.scaling(vector) for vector in tile]
                sums = [GradientSums(f) for _ in tile]
                with f.loop(block, f.smaller(block + _SUMMED, stop)) as row:
                    rows.ask(row, tile, x, g, *([y] if form.keeps else []))
                    for vector, scaling, sum_ in zip(tile, scalings, sums, strict=True):
                        at = rows.place(row, vector)
                        value = f.load(x + at, vector.mask)
                        other = f.load(y + at, vector.mask) if form.keeps else ""
                        sent = before_activation(f, form, scaling, f.load(g + at, vector.mask), value, other)
                        if form.keeps:
                            f.store(sent, middle + at, vector.mask)
                        sum_.add(sent, scaling.apart(f, value))
                for vector, sum_ in zip(tile, sums, strict=True):
                    _add_up(wide, vector, tables, sum_.widened())

            rows.tiles(add)
    return f


def generate_grad_settle(isa: Isa) -> Function:
    """Backward: the gradients of weight and bias, and tilt and level, (2, C); there is one work item."""
    f = Function("nhwc_normalization_grad_settle", isa)
    table, lines = f.pointer("partial", "double"), f.pointer("lines")
    statistics, gradients = Statistics(f), AffineGradients(f)
    rows, chunks = _Rows(f, statistics.count, 1), f.size("chunks")
    partial = _Partial(table, 2, statistics.count)

    def settle(tile: list[Channels]) -> None:
        (vector,) = tile
        wide = vector.wide
        sums = [wide.variable(wide.constant(0.0)) for _ in range(2)]
        with f.loop(0, chunks) as chunk:
            for total, of_chunk in zip(sums, partial.of(chunk), strict=True):
                total.set(wide.arithmetic("fadd", total.get(), vector.get_double(of_chunk)))
        settled = gradients.settle(statistics, vector, *(total.get() for total in sums))
        for which, value in enumerate(settled):
            vector.put_wide(lines + which * statistics.count, value)

    with f.loop(f.first, f.last):
        rows.vectors(0, statistics.count // f.lanes * f.lanes, settle)
    return f


def generate_backward(isa: Isa, form: NormVariant, together: int) -> Function:
    """Backward: the input gradient, from g, or from g' if that was written."""
    f = Function("nhwc_normalization_grad", isa)
    g, x, grad, lines = map(f.pointer, ("g", "x", "grad", "lines"))
    statistics = Statistics(f)
    rows = _Rows(f, statistics.count, together)
    with f.loop(f.first, f.last) as block, f.loop(*rows.items(block, BLOCK)) as row:

        def write(tile: list[Channels], row: Number = row) -> None:
            rows.ask(row, tile, x, g, grad)
            for vector in tile:
                at, scaling = rows.place(row, vector), statistics.scaling(vector)
                tilt, level = (vector.get(lines + which * statistics.count) for which in range(2))
                value = f.load(x + at, vector.mask)
                sent = before_activation(f, form.behind, scaling, f.load(g + at, vector.mask), value, "")
                f.store(grad_input(f, form, scaling, sent, value, tilt, level), grad + at, vector.mask)

        rows.tiles(write)
    return f
