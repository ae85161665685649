"""Convolution in groups of several channels, channels innermost (channels last): lanes over a group's channels.

    for every item: an image n, a block of output rows, a chunk of groups
        copy the chunk's channels of the block's input rows: packed[row][column][channel], zeros for padding
        for every V vectors of the chunk's output channels, for every row of the block, for every P columns
            total[P][V] = bias[V]
            for every kernel row i, for every kernel column j, for every input channel c of a group
                total[p][v] += input[p][v](c) * weight[i, j, c, v]
            write the epilogue of total (see functions/epilogue.py) to y[n, row, column p, channels v]

A group with more channels than half a vector is a chunk, and an input is broadcast to all lanes. Smaller groups share a
chunk, as many as fit into a vector; then V is 1, and the input of a lane is the c-th input of its own group. One vector
of inputs is loaded for each window position and permuted once for each c, so no lane multiplies by zero.

Packed weight: [blocks] of [V * lanes] biases and [kernel row][kernel column][C_in / groups][V * lanes].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from striate.engine.llvm.codegen.ir import Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.convolution.nhwc import ChannelTile
from striate.engine.llvm.functions.epilogue import PLAIN, Epilogue


@dataclass(frozen=True)
class GroupTile:
    """The register tile: P columns of V vectors, each of the channels of ``together`` groups.

    ``inner`` and ``outer`` are the channels of a group, and ``stride`` is that of the columns. They are compiled in, so
    the inputs of all columns are at constant offsets; there aren't enough registers for a pointer to each column.
    """

    inner: int
    outer: int
    stride: int
    columns: int
    vectors: int = 1
    together: int = 1

    @classmethod
    @cache
    def choose(cls, isa: Isa, inner: int, outer: int, stride: int, width: int) -> GroupTile:
        """The tile for groups with these numbers of channels, and rows of ``width``."""
        together = isa.lanes // max(inner, outer)
        if together < 2:
            tile = ChannelTile.choose(isa, outer, width)
            return cls(inner, outer, stride, tile.columns, tile.vectors)
        # Besides the totals, registers hold a weight for each input channel, an input and its permutation.
        most = max(1, min(width, isa.tile(min(inner, isa.registers // 2) + 1)))
        tiles = -(-width // most)
        return cls(inner, outer, stride, -(-width // tiles), 1, together)


def fitting(isa: Isa, inner: int, outer: int) -> Isa:
    """The vector length with which groups of these channels waste the fewest lanes."""
    shared = isa.shorter is not None and isa.shorter.lanes // max(inner, outer) > 1
    return isa if shared else isa.fitting(outer)


@dataclass
class _Generator:
    f: Function
    tile: GroupTile
    epilogue: Epilogue
    rests: tuple[int, ...]

    def emit(self) -> None:
        f, tile = self.f, self.tile
        self.x, self.weight, self.y = f.pointer("x"), f.pointer("weight"), f.pointer("y")
        self.added = f.pointer("added") if self.epilogue.adds else None
        scratch = f.pointer("scratch")
        self.kernel_rows, self.kernel_columns = f.size("kernel_rows"), f.size("kernel_columns")
        self.row_stride = f.size("row_stride")
        self.row_before, self.column_before = f.size("row_before"), f.size("column_before")
        self.row_dilation, self.column_dilation = f.size("row_dilation"), f.size("column_dilation")
        self.groups = f.size("groups")
        self.height, self.width = f.size("height"), f.size("width")
        self.out_height, self.out_width = f.size("out_height"), f.size("out_width")
        self.x_image, self.x_row = f.size("x_image"), f.size("x_row")
        self.block, self.blocks, self.deep = f.size("block"), f.size("blocks"), f.size("deep")
        self.pitch, self.row_size, self.scratch_size = f.size("pitch"), f.size("row_size"), f.size("scratch_size")
        self.chunk = tile.inner * tile.together
        chunks = (self.groups + (tile.together - 1)) // tile.together
        with f.loop(f.first, f.last) as item:
            start = (item % self.blocks) * self.block
            stop = f.smaller(start + self.block, self.out_height)
            at, image = (item // self.blocks) % chunks, item // self.blocks // chunks
            packed = scratch + f.thread * self.scratch_size
            self._pack(image, at, start, packed)
            self._compute(image, at, start, stop, packed)

    def _pack(self, image: Number, at: Number, start: Number, packed: Pointer) -> None:
        f = self.f
        top = start * self.row_stride - self.row_before
        first, channels = at * self.chunk, self.groups * self.tile.inner
        here = f.smaller(self.chunk, channels - first)
        left = f.smaller(f.larger(0, self.column_before), self.pitch)
        right = f.smaller(self.pitch, self.width + self.column_before)
        with f.loop(0, self.deep) as row:
            source, target = top + row, packed + row * self.row_size
            there = f.both(f.less(-1, source), f.less(source, self.height))
            with f.when(f.negation(there)), f.loop(0, self.row_size, f.lanes) as place:
                f.store(f.zeros(), target + place)
            with f.when(there):
                # Vectors overwrite the numbers that follow, so rows are written from left to right.
                with f.loop(0, left * self.chunk, f.lanes) as place:
                    f.store(f.zeros(), target + place)
                line = self.x + (image * self.x_image + source * self.x_row + first)
                with f.loop(left, right) as column:
                    seen, into = line + (column - self.column_before) * channels, target + column * self.chunk
                    whole = here // f.lanes * f.lanes
                    with f.loop(0, whole, f.lanes) as c:
                        f.store(f.load(seen + c), into + c)
                    with f.when(f.less(whole, here)):
                        f.store(f.load(seen + whole, f.inside(whole, here)), into + whole)
                # The last vectors of a row may reach up to a vector beyond it, before the next row begins.
                beyond = f.larger(right, left) * self.chunk
                with f.loop(beyond, self.row_size - f.lanes, f.lanes) as place:
                    f.store(f.zeros(), target + place)

    def _compute(self, image: Number, at: Number, start: Number, stop: Number, packed: Pointer) -> None:
        f, tile = self.f, self.tile
        group = tile.vectors * f.lanes
        weight_size = (self.kernel_rows * self.kernel_columns * tile.inner + 1) * group
        outer = tile.outer * tile.together
        parts = 1 if tile.together > 1 else -(-tile.outer // group)
        total_outer = self.groups * tile.outer
        with f.loop(0, parts) as part, f.loop(start, stop) as row:
            first = part * group
            weights = self.weight + (at * parts + part) * weight_size
            line = packed + (row - start) * self.row_stride * self.row_size
            offset = (image * self.out_height + row) * self.out_width * total_outer + at * outer + first
            room = f.smaller(outer, total_outer - at * outer) - first
            with f.loop(0, self.out_width, tile.columns) as next_:
                # The last tile starts earlier and writes a few columns again.
                column = f.smaller(next_, self.out_width - tile.columns)
                self._tile(line, weights, offset, total_outer, room, column)

    def _tile(
        self, lines: Pointer, weights: Pointer, offset: Number, pitch: Number, room: Number, column: Number
    ) -> None:
        f, tile = self.f, self.tile
        group = tile.vectors * f.lanes
        totals = {}
        for v in range(tile.vectors):
            bias = f.load(weights + v * f.lanes)
            for p in range(tile.columns):
                totals[p, v] = f.variable(bias)
        step = tile.stride * self.chunk
        left = column * tile.stride
        with f.loop(0, self.kernel_rows) as i, f.loop(0, self.kernel_columns) as j:
            place = (left + j * self.column_dilation) * self.chunk
            seen = lines + (i * self.row_dilation * self.row_size + place)
            factors = weights + ((i * self.kernel_columns + j) * tile.inner + 1) * group
            if tile.together > 1:
                held = [f.load(factors + c * f.lanes) for c in range(tile.inner)]
                for p in range(tile.columns):
                    inputs = f.load(seen + p * step)
                    for channel, weight in enumerate(held):
                        value = f.shuffle(inputs, inputs, self._inputs(channel))
                        totals[p, 0].set(f.fma(value, weight, totals[p, 0].get()))
            else:
                with f.loop(0, tile.inner) as c:
                    held = [f.load(factors + (c * group + v * f.lanes)) for v in range(tile.vectors)]
                    for p in range(tile.columns):
                        value = f.broadcast(seen + p * step + c)
                        for v in range(tile.vectors):
                            totals[p, v].set(f.fma(value, held[v], totals[p, v].get()))
        for p in range(tile.columns):
            here = offset + (column + p) * pitch
            added = None if self.added is None else self.added + here
            self._store([totals[p, v].get() for v in range(tile.vectors)], self.y + here, added, room)

    def _inputs(self, c: int) -> list[int]:
        """For each lane, the index of its group's c-th input in a vector of inputs."""
        tile = self.tile
        groups = (min(lane // tile.outer, tile.together - 1) for lane in range(self.f.lanes))
        return [group * tile.inner + c for group in groups]

    def _store(self, made: list[str], place: Pointer, added: Pointer | None, room: Number) -> None:
        f = self.f
        if self.tile.together == 1:
            self.epilogue.store_row(f, made, place, added, room, self.rests[0])
            return
        for count in self.rests:
            with f.when(f.same(room, count)):
                mask = "" if count == f.lanes else f.inside(0, count)
                value = self.epilogue.apply(f, made[0], added, mask)
                if mask:
                    f.store_first(value, place, count)
                else:
                    f.store(value, place)


def generate(isa: Isa, tile: GroupTile, epilogue: Epilogue = PLAIN, rests: tuple[int, ...] = (0,)) -> Function:
    """The kernel.

    ``rests``: for chunks of one group, the channels in a last vector that isn't full; for chunks of several groups, the
    possible numbers of output channels of a chunk, because the last chunk may have fewer groups.
    """
    f = Function("nhwc_grouped", isa)
    _Generator(f, tile, epilogue, rests).emit()
    return f
