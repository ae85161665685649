"""Convolution of planes (NCHW): lanes along the width. Outputs, and input gradients of windows of stride 1.

    for every item: an image n, a block of output rows, a group g, a tile of T output channels
        for every R rows of the block, for every V vectors of a row
            total[T][R][V] = bias[T]
            for every input channel c of the group, for every kernel row i
                for every kernel column j                                             unrolled
                    for t in T, for r in R, for v in V                                unrolled, all in registers
                        total[t][r][v] += weight[t, c, i, j] * x[n, c, row(r, i), column(v, j)]
            write total to y[n, t, r, v]

A weight is one number for all lanes; an input is one vector for all T channels. T * R * V totals, V inputs and a weight
have to fit the registers. Channels innermost among the items: the rows they all read stay in the cache.

Kernel, stride, dilation, padding before and tile are generated; sizes and strides of tensors are passed, so an image of
another size runs the same code. Only the number of vectors in the last tile of a row (``tail``) depends on the width.

An input gradient of stride 1 is this same sum with the weight flipped and its channels swapped, over the adjoint
window's padding (see striate.geometry.Adjoint).

Packed weight: [group][tile of channels] of [T] biases and [C_in / groups][kernel row][kernel column][T] weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from striate.engine.llvm.emit import Function, Number, Pointer, Variable
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.rows import Axis, Columns, sees_no_padding, taps_inside


@dataclass(frozen=True)
class Tile:
    """What stays in registers: T output channels, R rows, V vectors of a row; ``tail`` vectors in a row's last tile."""

    channels: int
    rows: int
    vectors: int
    tail: int

    @classmethod
    def choose(cls, isa: Isa, channels: int, rows: int, width: int) -> Tile:
        """A tile for ``channels`` output channels of a group and outputs of ``rows`` x ``width``."""
        across = -(-width // isa.lanes)
        best: tuple[float, Tile] | None = None
        for vectors in range(1, min(across, 4) + 1):
            for tile in range(1, channels + 1):
                for deep in range(1, min(rows, 6) + 1):
                    totals = tile * deep * vectors
                    if totals > isa.tile(vectors + 1 if deep == 1 else tile + 1):
                        break
                    # A modern core does two loads and two multiplications a cycle, the latter with a latency of four:
                    # fewer than eight totals leave it waiting.
                    loads = tile + deep * vectors
                    cycles = max(totals, loads, 8) / 2 + 0.1 * loads
                    tiles = -(-channels // tile) * (across / vectors)
                    # Rows that see padding are done one by one, so a tall tile on a low image seldom runs.
                    alone = min(1.0, 2 * deep / rows) if deep > 1 else 0.0
                    single = max(tile * vectors, tile + vectors, 8) / 2
                    cost = tiles * ((1 - alone) * cycles / deep + alone * single)
                    if best is None or cost < best[0] - 1e-9:
                        best = (cost, cls(tile, deep, vectors, across % vectors))
        assert best is not None
        return best[1]


@dataclass
class _Generator:
    f: Function
    rows: Axis
    columns: Axis
    tile: Tile

    def emit(self) -> None:
        f, tile = self.f, self.tile
        x, weight, y = f.pointer(), f.pointer(), f.pointer()
        self.channels, groups, tiles, out_channels = f.size(), f.size(), f.size(), f.size()
        self.height, self.width, self.out_height, self.out_width = f.size(), f.size(), f.size(), f.size()
        x_image, self.x_channel, self.x_row = f.size(), f.size(), f.size()
        y_image, self.y_channel, self.y_row = f.size(), f.size(), f.size()
        block, blocks = f.size(), f.size()
        taps = self.rows.kernel * self.columns.kernel
        with f.loop(f.first, f.last) as item:
            which, rest = item % tiles, item // tiles
            group, rest = rest % groups, rest // groups
            start, image = (rest % blocks) * block, rest // blocks
            first = which * tile.channels
            self.here = f.smaller(out_channels - first, tile.channels)
            self.x = x + (image * x_image + group * self.channels * self.x_channel)
            self.y = y + (image * y_image + (group * out_channels + first) * self.y_channel)
            self.weight = weight + (group * tiles + which) * ((self.channels * taps + 1) * tile.channels)
            self._block(start, f.smaller(start + block, self.out_height))

    def _block(self, start: Number, stop: Number) -> None:
        """Output rows from start to stop, several at a time where none of them sees padding above or below."""
        f, deep = self.f, self.tile.rows
        if deep == 1:
            with f.loop(start, stop) as row:
                self._row(row, 1)
            return
        with f.loop(start, stop, deep) as row:
            unpadded = sees_no_padding(f, self.rows, row, deep, self.height)
            whole = f.both(unpadded, f.less(row + (deep - 1), stop))
            with f.when(whole):
                self._row(row, deep)
            with f.when(f.negation(whole)), f.loop(row, f.smaller(row + deep, stop)) as single:
                self._row(single, 1)

    def _row(self, row: Number, rows: int) -> None:
        """All columns of ``rows`` output rows; more than one only where none sees padding above or below."""
        f, tile = self.f, self.tile
        taps: tuple[Number, Number] = (0, self.rows.kernel)
        if rows == 1:
            taps = taps_inside(f, self.rows, row, self.height)
        whole = f.lanes * tile.vectors
        vectors = (self.out_width + (f.lanes - 1)) // f.lanes
        end = (vectors - tile.tail) * f.lanes
        with f.loop(0, end, whole) as column:
            self._tile(row, rows, column, tile.vectors, taps)
        if tile.tail:
            self._tile(row, rows, end, tile.tail, taps)

    def _tile(self, row: Number, rows: int, column: Number, vectors: int, taps: tuple[Number, Number]) -> None:
        f = self.f
        free = Columns.free(f, self.columns, column, vectors, self.width, self.out_width)
        with f.when(free):
            self._sum(row, rows, column, vectors, taps, masked=False)
        with f.when(f.negation(free)):
            self._sum(row, rows, column, vectors, taps, masked=True)

    def _sum(
        self, row: Number, rows: int, column: Number, vectors: int, taps: tuple[Number, Number], masked: bool
    ) -> None:
        f, deep = self.f, self.tile.channels
        columns = Columns(f, self.columns, column, vectors, self.width, self.out_width, masked)
        totals: dict[tuple[int, int, int], Variable] = {}
        for t in range(deep):
            bias = f.broadcast(self.weight + t)
            for r in range(rows):
                for v in range(vectors):
                    totals[t, r, v] = f.variable(bias)
        weight = self.weight + deep
        top = row * self.rows.stride - self.rows.before
        width = self.columns.kernel
        with f.loop(0, self.channels) as channel, f.loop(*taps) as i:
            plane = self.x + channel * self.x_channel
            factors = weight + (channel * self.rows.kernel + i) * (width * deep)
            readers = [columns.reader(self._x_row(plane, top, r, i)) for r in range(rows)]
            for j in range(width):
                # Whichever are fewer stay in registers, the weights or the inputs; the others come one by one.
                if rows > 1:
                    held = [f.broadcast(factors + (j * deep + t)) for t in range(deep)]
                    for r in range(rows):
                        for v in range(vectors):
                            value = readers[r].read(v, j)
                            for t in range(deep):
                                totals[t, r, v].set(f.fma(held[t], value, totals[t, r, v].get()))
                    continue
                inputs = [readers[0].read(v, j) for v in range(vectors)]
                for t in range(deep):
                    factor = f.broadcast(factors + (j * deep + t))
                    for v in range(vectors):
                        totals[t, 0, v].set(f.fma(factor, inputs[v], totals[t, 0, v].get()))
        for t in range(deep):
            # The last tile of a group may have fewer channels; what was summed for the others is dropped.
            with f.when(f.less(t, self.here)):
                for r in range(rows):
                    place = self.y + (t * self.y_channel + (row + r) * self.y_row + column)
                    for v in range(vectors):
                        f.store(totals[t, r, v].get(), place + v * f.lanes, columns.outputs[v])

    def _x_row(self, plane: Pointer, top: Number, r: int, i: Number) -> Pointer:
        return plane + (top + r * self.rows.stride + i * self.rows.dilation) * self.x_row


def generate(isa: Isa, rows: Axis, columns: Axis, tile: Tile) -> Function:
    """The kernel; its arguments in the order in which they are asked for above."""
    f = Function("planar_output", isa)
    _Generator(f, rows, columns, tile).emit()
    return f
