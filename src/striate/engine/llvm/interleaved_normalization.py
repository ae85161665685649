"""Normalisation of interleaved channels (channels last): lanes over channels, rows being the positions of all images.

    forward, three kernels
        sums, for every chunk of rows
            centre = mean of the chunk's first rows
            for every few of its rows, for every V vectors of channels, for every row: add x - centre and its square
        settle, for every vector of channels: the chunks' sums brought to the first one's centre, and together
        apply, for every row, for every V vectors of channels: y = act((x - centre) * scale + shift + residual)

    backward, three kernels
        sums, for every chunk of rows, for every few of its rows, for every V vectors of channels
            for every row: g' = g * act'(...), add g' and g' * (x - centre)
        settle, for every vector of channels: the chunks' sums together, the gradients of weight and bias
        apply, for every row, for every V vectors of channels: grad_input = g' * scale + (x - centre) * tilt + level

All go through memory in its order, and what belongs to a channel comes from the first-level cache, sums included. To
keep that in registers over many rows means striding through memory, at half the speed. What comes next is asked for in
advance, which processors don't do well by themselves for several streams of this kind.

Chunks follow from the sizes alone, so a result doesn't hang on the number of threads. For g' and what is kept see
planar_normalization.py and normalization.py.
"""

from __future__ import annotations

from collections.abc import Callable

from striate.engine.llvm.emit import AHEAD, LINE, Function, Number, Pointer
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.normalization import (
    Channels,
    Channelwise,
    Form,
    Gradients,
    Statistics,
    before_activation,
    forward,
    grad_input,
)

#: Rows of a work item that writes.
BLOCK = 32
#: Rows that are summed in registers before they are added to the chunk's sums.
_SUMMED = 4
#: Rows of a chunk that its centre is the mean of.
_SAMPLE = 16
#: Vectors of channels that are held at once: their sums and what they are brought to their centre by.
_MOST_VECTORS = 4


def vectors_together(channels: int, lanes: int) -> int:
    """V: as many as are held at once, or fewer where these leave no remainder.

    >>> [vectors_together(channels, 8) for channels in (3, 16, 24, 40, 144, 960)]
    [1, 2, 3, 4, 3, 4]
    """
    across = -(-channels // lanes)
    even = (many for many in range(min(across, _MOST_VECTORS), 1, -1) if across % many == 0)
    return next(even, min(across, _MOST_VECTORS))


class _Rows:
    """The loops that all kernels share; sizes are the kernel's arguments, in this order."""

    def __init__(self, f: Function, channels: Number, together: int) -> None:
        self.f, self.channels, self.together = f, channels, together
        self.rows, self.chunk = f.size(), f.size()

    def items(self, item: Number, size: Number) -> tuple[Number, Number]:
        """The rows from and to of a chunk or block of so many."""
        return item * size, self.f.smaller((item + 1) * size, self.rows)

    def tiles(self, write: Callable[[list[Channels]], None]) -> None:
        """Calls for every V vectors of channels, and what remains of them one by one."""
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
        """Asks for the memory that comes after the tile's, a line at a time."""
        for vector in tile[:: max(1, LINE // self.f.lanes)]:
            for table in tables:
                self.f.prefetch(table + self.place(row, vector) + AHEAD)


class _Partial:
    """Sums of every chunk, (chunks, sums, C)."""

    def __init__(self, f: Function, table: Pointer, sums: int, channels: Number) -> None:
        self.table, self.sums, self.channels = table, sums, channels

    def of(self, chunk: Number) -> list[Pointer]:
        return [self.table + (chunk * self.sums + which) * self.channels for which in range(self.sums)]


def _add_up(f: Function, vector: Channels, table: Pointer, more: str) -> None:
    vector.put(table, f.arithmetic("fadd", vector.get(table), more))


def generate_sums(isa: Isa, together: int) -> Function:
    """Forward: centre, sum and sum of squares of every chunk."""
    f = Function("interleaved_normalization_sums", isa)
    x, table, channels = f.pointer(), f.pointer(), f.size()
    rows = _Rows(f, channels, together)
    partial = _Partial(f, table, 3, channels)
    with f.loop(f.first, f.last) as chunk:
        start, stop = rows.items(chunk, rows.chunk)
        centres, plains, squares = partial.of(chunk)
        sampled = f.smaller(stop - start, _SAMPLE)
        share = f.arithmetic("fdiv", f.constant(1.0), f.real_of(sampled))

        def begin(tile: list[Channels]) -> None:
            sums = [f.variable(f.zeros()) for _ in tile]
            with f.loop(start, start + sampled) as row:
                for vector, total in zip(tile, sums, strict=True):
                    value = f.load(x + rows.place(row, vector), vector.mask)
                    total.set(f.arithmetic("fadd", total.get(), value))
            for vector, total in zip(tile, sums, strict=True):
                vector.put(centres, f.arithmetic("fmul", total.get(), share))
                vector.put(plains, f.zeros())
                vector.put(squares, f.zeros())

        rows.tiles(begin)
        with f.loop(start, stop, _SUMMED) as block:

            def add(tile: list[Channels], block: Number = block) -> None:
                held = [vector.get(centres) for vector in tile]
                sums = [(f.variable(f.zeros()), f.variable(f.zeros())) for _ in tile]
                with f.loop(block, f.smaller(block + _SUMMED, stop)) as row:
                    rows.ask(row, tile, x)
                    for vector, centre, (plain, square) in zip(tile, held, sums, strict=True):
                        value = f.load(x + rows.place(row, vector), vector.mask)
                        apart = f.arithmetic("fsub", value, centre)
                        plain.set(f.arithmetic("fadd", plain.get(), apart))
                        square.set(f.fma(apart, apart, square.get()))
                for vector, (plain, square) in zip(tile, sums, strict=True):
                    _add_up(f, vector, plains, plain.get())
                    _add_up(f, vector, squares, square.get())

            rows.tiles(add)
    return f


def generate_settle(isa: Isa, training: bool) -> Function:
    """Forward: the statistics of every channel; an item is all channels."""
    f = Function("interleaved_normalization_settle", isa)
    table, statistics, channelwise = f.pointer(), Statistics(f), Channelwise(f)
    rows, chunks = _Rows(f, statistics.count, 1), f.size()
    partial = _Partial(f, table, 3, statistics.count)
    share = f.arithmetic("fdiv", f.constant(1.0), f.real_of(rows.rows))

    def of_chunk(vector: Channels, chunk: Number, centre: str) -> tuple[str, str, str]:
        """The chunk's rows, its mean's distance from the centre, and its sum of squares about its mean."""
        centres, plains, squares = partial.of(chunk)
        start, stop = rows.items(chunk, rows.chunk)
        many, plain = f.real_of(stop - start), vector.get(plains)
        inside = f.arithmetic("fdiv", plain, many)
        distance = f.arithmetic("fadd", f.arithmetic("fsub", vector.get(centres), centre), inside)
        return many, distance, f.fma(f.negative(plain), inside, vector.get(squares))

    def settle(tile: list[Channels]) -> None:
        (vector,) = tile
        if not training:
            channelwise.take(statistics, vector)
            return
        centre = vector.get(table)
        offset, variance = f.variable(f.zeros()), f.variable(f.zeros())
        with f.loop(0, chunks) as chunk:
            many, distance, _ = of_chunk(vector, chunk, centre)
            offset.set(f.fma(distance, f.arithmetic("fmul", many, share), offset.get()))
        with f.loop(0, chunks) as chunk:
            many, distance, squares = of_chunk(vector, chunk, centre)
            from_mean = f.arithmetic("fsub", distance, offset.get())
            between = f.arithmetic("fmul", f.arithmetic("fmul", from_mean, from_mean), many)
            variance.set(f.fma(f.arithmetic("fadd", squares, between), share, variance.get()))
        channelwise.settle(statistics, vector, centre, offset.get(), variance.get())

    with f.loop(f.first, f.last):
        rows.vectors(0, statistics.count // f.lanes * f.lanes, settle)
    return f


def generate_forward(isa: Isa, form: Form, together: int) -> Function:
    """Forward: the result."""
    f = Function("interleaved_normalization", isa)
    x, y, residual, statistics = f.pointer(), f.pointer(), f.pointer(), Statistics(f)
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


def generate_grad_sums(isa: Isa, form: Form, together: int) -> Function:
    """Backward: the two sums of every chunk, and g' where the form has it written."""
    f = Function("interleaved_normalization_grad_sums", isa)
    g, x, kept, middle, table = (f.pointer() for _ in range(5))
    statistics = Statistics(f)
    rows = _Rows(f, statistics.count, together)
    partial = _Partial(f, table, 2, statistics.count)
    with f.loop(f.first, f.last) as chunk:
        start, stop = rows.items(chunk, rows.chunk)
        plains, products = partial.of(chunk)

        def begin(tile: list[Channels]) -> None:
            for vector in tile:
                vector.put(plains, f.zeros())
                vector.put(products, f.zeros())

        rows.tiles(begin)
        with f.loop(start, stop, _SUMMED) as block:

            def add(tile: list[Channels], block: Number = block) -> None:
                scalings = [statistics.scaling(vector) for vector in tile]
                sums = [(f.variable(f.zeros()), f.variable(f.zeros())) for _ in tile]
                with f.loop(block, f.smaller(block + _SUMMED, stop)) as row:
                    rows.ask(row, tile, x, g, *([kept] if form.keeps else []))
                    for vector, scaling, (plain, product) in zip(tile, scalings, sums, strict=True):
                        at = rows.place(row, vector)
                        value = f.load(x + at, vector.mask)
                        other = f.load(kept + at, vector.mask) if form.keeps else ""
                        sent = before_activation(f, form, scaling, f.load(g + at, vector.mask), value, other)
                        if form.keeps:
                            f.store(sent, middle + at, vector.mask)
                        plain.set(f.arithmetic("fadd", plain.get(), sent))
                        product.set(f.fma(sent, scaling.apart(f, value), product.get()))
                for vector, (plain, product) in zip(tile, sums, strict=True):
                    _add_up(f, vector, plains, plain.get())
                    _add_up(f, vector, products, product.get())

            rows.tiles(add)
    return f


def generate_grad_settle(isa: Isa) -> Function:
    """Backward: the gradients of weight and bias, and tilt and level, (2, C); an item is all channels."""
    f = Function("interleaved_normalization_grad_settle", isa)
    table, lines, statistics, gradients = f.pointer(), f.pointer(), Statistics(f), Gradients(f)
    rows, chunks = _Rows(f, statistics.count, 1), f.size()
    partial = _Partial(f, table, 2, statistics.count)

    def settle(tile: list[Channels]) -> None:
        (vector,) = tile
        sums = [f.variable(f.zeros()) for _ in range(2)]
        with f.loop(0, chunks) as chunk:
            for total, of_chunk in zip(sums, partial.of(chunk), strict=True):
                total.set(f.arithmetic("fadd", total.get(), vector.get(of_chunk)))
        tilt, level = gradients.settle(statistics, vector, *(total.get() for total in sums))
        vector.put(lines, tilt)
        vector.put(lines + statistics.count, level)

    with f.loop(f.first, f.last):
        rows.vectors(0, statistics.count // f.lanes * f.lanes, settle)
    return f


def generate_backward(isa: Isa, form: Form, together: int) -> Function:
    """Backward: the input's gradient, from g or, where the form has it written, g'."""
    f = Function("interleaved_normalization_grad", isa)
    g, x, grad, lines = (f.pointer() for _ in range(4))
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
