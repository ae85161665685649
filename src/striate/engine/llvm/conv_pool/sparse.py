"""Gradients that have come back through max pooling: most of them are zero, and only the rest is worth computing with.

Max pooling sends each gradient to one position and leaves the others of its window zero: three quarters of the map for
windows of 2x2, and more where a ReLU was shut. So the two gradients of the convolution before it are sums over a list
of (position, gradient), no longer than the pooled map has numbers, instead of sums over the whole map.

Both walk kernel rows. With channels side by side the inputs that one row of a kernel sees lie in a row themselves,
kernel columns times input channels of them, and so do its weights:

    weight gradient   total[channel, i, :] += gradient * packed[place of the position + i rows, :]
    input gradient    packed[place of the position + i rows, :] += gradient * weight[channel, i, :]

Lanes lie along that row. A position is one of the convolution's output plane, counted row by row; -1 says that an
activation was shut there, so that nothing goes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from striate.engine.llvm.codegen.ir import Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.memory.rows import Axis, interleaved, pack_row, store_row, transposed_vectors

#: Channels up to which planes are interleaved in registers, where they are no whole vectors.
_FEW = 16


def held(isa: Isa) -> int:
    """Vectors that registers hold beside a gradient in all lanes."""
    return isa.tile(1) - 1


@dataclass(frozen=True)
class KernelRows:
    """The rows of a kernel: how many, how many numbers in each, and how many rows of how many vectors make a tile."""

    count: int
    numbers: int
    vectors: int  #: in a whole row
    rows_together: int
    vectors_together: int

    @classmethod
    def of(cls, isa: Isa, count: int, numbers: int, most: int) -> KernelRows:
        """In tiles of so many vectors at most."""
        vectors = -(-numbers // isa.lanes)
        across = -(-vectors // -(-vectors // most))
        down = max(1, min(count, most // across))
        return cls(count, numbers, vectors, -(-count // -(-count // down)), across)

    def tiles(self) -> list[tuple[range, range]]:
        """The rows and the vectors of each tile."""
        return [
            (
                range(row, min(row + self.rows_together, self.count)),
                range(at, min(at + self.vectors_together, self.vectors)),
            )
            for row in range(0, self.count, self.rows_together)
            for at in range(0, self.vectors, self.vectors_together)
        ]


@dataclass(frozen=True)
class Geometry:
    """What the kernels are generated for; sizes of maps are passed.

    ``side_by_side``: channels of the images lie side by side in memory (or there is one), so that rows can be copied.
    """

    rows: Axis
    columns: Axis
    pool_rows: Axis
    channels: int  #: of the convolution's input, or of a part of them
    side_by_side: bool
    index: str  #: the positions' type
    parts: int = 1  #: of so many channels, whole vectors where there are several, each packed by itself

    def parted(self, parts: int) -> Geometry:
        """With the channels in so many parts."""
        return replace(self, channels=self.channels // parts, parts=parts)

    def kernel_rows(self, isa: Isa) -> KernelRows:
        return KernelRows.of(isa, self.rows.kernel, self.columns.kernel * self.channels, held(isa))

    def row_size(self, outputs: int, lanes: int) -> int:
        """Numbers in a packed row that ``outputs`` positions see; a vector may read on beyond the last one."""
        numbers = self.columns.span(outputs) * self.channels
        return -(-numbers // lanes) * lanes + lanes


def arrays(base: Pointer, kinds: dict[str, str]) -> list[Pointer]:
    """Arrays in one piece of memory, from the types of their elements.

    The kernel's next arguments, each named after its array (``counts_start``), say where it begins, in numbers.
    """
    f = base.f
    return [Pointer(f, (base + f.size(f"{name}_start")).text, kind) for name, kind in kinds.items()]


class Pixels:
    """Images with channels, rows and columns at any stride, and their rows with channels side by side."""

    def __init__(self, f: Function, geometry: Geometry, base: Pointer) -> None:
        self.f, self.geometry, self.base = f, geometry, base
        self.height, self.width = map(f.size, ("height", "width"))
        self.image, self.channel, self.row = map(f.size, ("x_image", "x_channel", "x_row"))

    def pack(
        self, image: Number, top: Number, rows: Number, target: Pointer, row_size: Number, part: Number = 0
    ) -> None:
        """Copies rows of a part of the channels, with zeros for padding."""
        f = self.f
        with f.loop(0, rows) as row:
            source, line = top + row, target + row * row_size
            there = f.both(f.less(-1, source), f.less(source, self.height))
            with f.when(f.negation(there)):
                self.clear(line, row_size)
            with f.when(there):
                at = image * self.image + source * self.row + part * self.geometry.channels * self.channel
                self._pack_row(self.base + at, line, row_size)

    def clear(self, line: Pointer, size: Number) -> None:
        f = self.f
        with f.loop(0, size, f.lanes) as at:
            f.store(f.zeros(), line + at)

    def _pack_row(self, source: Pointer, line: Pointer, row_size: Number) -> None:
        f, channels, before = self.f, self.geometry.channels, self.geometry.columns.before
        if self.geometry.side_by_side and self.geometry.parts == 1:
            pack_row(f, 1, before * channels, source, self.width * channels, line, row_size, f.zeros())
            return
        self.clear(line, row_size)
        # Beyond the last column that a window sees nothing is kept, and there is no room.
        columns = f.smaller(self.width, row_size // channels - before)
        if self.geometry.side_by_side:
            with f.loop(0, columns) as each:
                here, there = source + each * (channels * self.geometry.parts), line + (each + before) * channels
                for at in range(0, channels, f.lanes):
                    f.store(f.load(here + at), there + at)
            return
        if channels % f.lanes and channels > _FEW:
            for channel, column, place in self._cells(columns):
                f.put(f.scalar(source + (channel * self.channel + column)), line + place)
            return
        with f.loop(0, columns, f.lanes) as first:
            mask, target = f.inside(first, columns), line + (first + before) * channels
            loaded = [f.load(source + (channel * self.channel + first), mask) for channel in range(channels)]
            if channels % f.lanes:
                store_row(f, interleaved(f, loaded), target, (columns - first) * channels)
            else:
                self._store_squares(loaded, target, columns - first)

    def _store_squares(self, loaded: list[str], target: Pointer, room: Number) -> None:
        """A vector of columns of every channel, as the channels of every column."""
        f = self.f
        made = [transposed_vectors(f, loaded[at : at + f.lanes]) for at in range(0, len(loaded), f.lanes)]
        for i, parts in enumerate(zip(*made, strict=True)):
            with f.when(f.less(i, room)):
                for v, part in enumerate(parts):
                    f.store(part, target + (i * len(loaded) + v * f.lanes))

    def unpack(self, image: Number, row: Number, line: Pointer, room: Number) -> None:
        """Writes a row from a packed one that has ``room`` numbers; what lies beyond is zero."""
        f, channels, before = self.f, self.geometry.channels, self.geometry.columns.before
        target = self.base + (image * self.image + row * self.row)
        seen = f.smaller(self.width, (room - before * channels) // channels)
        if self.geometry.side_by_side:
            whole = seen * channels // f.lanes * f.lanes
            with f.loop(0, whole, f.lanes) as at:
                f.store(f.load(line + (at + before * channels)), target + at)
            with f.loop(whole, seen * channels) as at:
                f.put(f.scalar(line + (at + before * channels)), target + at)
            with f.loop(seen * channels, self.width * channels) as at:
                f.put("0.0", target + at)
            return
        if channels % f.lanes:
            for channel, column, place in self._cells(seen):
                f.put(f.scalar(line + place), target + (channel * self.channel + column))
        else:
            self._unpack_squares(line + before * channels, target, seen)
        with f.loop(0, channels) as channel, f.loop(seen, self.width) as column:
            f.put("0.0", target + (channel * self.channel + column))

    def _unpack_squares(self, line: Pointer, target: Pointer, columns: Number) -> None:
        """The channels of every column, as vectors of columns of every channel."""
        f, channels = self.f, self.geometry.channels
        with f.loop(0, columns, f.lanes) as first:
            mask = f.inside(first, columns)
            # Beyond the last one there may be no memory.
            places = [line + f.smaller(first + i, columns - 1) * channels for i in range(f.lanes)]
            with f.loop(0, channels, f.lanes) as channel:
                rows = transposed_vectors(f, [f.load(place + channel) for place in places])
                for i, row in enumerate(rows):
                    f.store(row, target + ((channel + i) * self.channel + first), mask)

    def _cells(self, columns: Number) -> Iterator[tuple[Number, Number, Number]]:
        """Runs the body of a ``for`` over every channel, every column, and its place in a packed row."""
        f, channels, before = self.f, self.geometry.channels, self.geometry.columns.before
        whole = columns // f.lanes * f.lanes
        with f.loop(0, channels) as channel:
            with f.loop(0, whole, f.lanes) as first:
                start = (first + before) * channels + channel
                for lane in range(f.lanes):
                    yield channel, first + lane, start + lane * channels
            with f.loop(whole, columns) as column:
                yield channel, column, (column + before) * channels + channel


def generate_taps(isa: Isa) -> Function:
    """Weights as rows of taps: taps[o][i][j * channels + c] = weight[o, c, i, j], then zeros to whole vectors."""
    f = Function("rows_of_taps", isa)
    weight, taps = map(f.pointer, ("weight", "taps"))
    row_numbers, channels, rows, columns = map(f.size, ("row_numbers", "channels", "rows", "columns"))
    outer_step, channel_step = map(f.size, ("outer_step", "channel_step"))
    row_step, column_step = map(f.size, ("row_step", "column_step"))
    with f.loop(f.first, f.last) as outer, f.loop(0, rows) as i:
        line = taps + (outer * rows + i) * row_numbers
        with f.loop(0, columns) as j, f.loop(0, channels) as c:
            place = outer * outer_step + c * channel_step + i * row_step + j * column_step
            f.put(f.scalar(weight + place), line + (j * channels + c))
        with f.loop(columns * channels, row_numbers) as rest:
            f.put("0.0", line + rest)
    return f


def generate_sum(isa: Isa) -> Function:
    """The way back: weight[o, c, i, j] and bias[o] as sums of what every thread has of them, in the threads' order."""
    f = Function("sum_of_taps", isa)
    partial, weight, bias = map(f.pointer, ("partial", "weight", "bias"))
    partial_bias = partial + f.size("bias_start")
    threads, sums_size, outers = map(f.size, ("threads", "sums_size", "outers"))
    row_numbers, parts, channels = map(f.size, ("row_numbers", "parts", "channels"))
    rows, columns = map(f.size, ("rows", "columns"))

    def total(source: Pointer, step: Number) -> str:
        sum_ = f.variable("0.0", "float")
        with f.loop(0, threads) as thread:
            sum_.set(f.value(f"fadd float {sum_.get()}, {f.scalar(source + thread * step)}"))
        return sum_.get()

    with f.loop(f.first, f.last) as outer:
        f.put(total(partial_bias + outer, outers), bias + outer)
        with (
            f.loop(outer * parts, (outer + 1) * parts) as part,
            f.loop(0, channels) as c,
            f.loop(0, rows) as i,
            f.loop(0, columns) as j,
        ):
            source = partial + ((part * rows + i) * row_numbers + j * channels + c)
            place = ((part * channels + c) * rows + i) * columns + j
            f.put(total(source, sums_size), weight + place)
    return f
