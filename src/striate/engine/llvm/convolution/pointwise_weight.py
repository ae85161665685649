"""Weight gradient of windows that see one position (1x1), channels side by side: lanes over input channels.

    for every item: V vectors of input channels, a chunk of output channels
        for every block of positions, of all images
            copy the block's V vectors: packed[position][V * lanes]             stay in the first-level cache
            for every P output channels of the chunk
                total[P][V] = 0, or what the blocks before came to
                for every position of the block
                    total[p][v] += g[position, p] * packed[position, v]
                grad[p, v] = total[P][V]

A gradient is one number for all lanes. Every number of the weight is summed by one thread, in the order of positions,
and written where it belongs: other weight gradients sum apart for every thread, and have sums to add up and to put in
order, which costs as much as a few hundred positions do.

Rows of positions lie far apart in memory where there are many channels, so those of the next block are asked for ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from striate.engine.llvm.codegen.ir import LINE, Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.memory.rows import store_row

#: Numbers of a block's inputs, so that they and the gradients that are read beside stay in a first-level cache.
_BLOCK = 2560


def block_of(width: int) -> int:
    """Positions of a block of so many channels."""
    return max(1, _BLOCK // width)


@dataclass(frozen=True)
class PointTile:
    """What stays in registers: P output channels, V vectors of input channels."""

    outer: int
    vectors: int

    @classmethod
    @cache
    def choose(cls, isa: Isa, inner: int, outer: int, threads: int) -> PointTile:
        """The tile that should cost the fewest cycles for so many input and output channels."""
        across = -(-inner // isa.lanes)
        best: tuple[float, PointTile] | None = None
        for vectors in range(1, min(across, 8) + 1):
            if across % vectors:
                continue
            for together in range(1, min(outer, isa.tile(vectors + 1) // vectors) + 1):
                # Cycles a position: two products, or one of the longest vectors where processors split these; not
                # quite two loads; eight totals to wait for none; the loop; and a block's totals, read and written.
                products = vectors * together * (2 if isa.lanes == 16 else 1)
                cost = max(products, 1.1 * (vectors + together), 8) / 2 + 1
                cost += 4 * vectors * together / block_of(vectors * isa.lanes)
                tiles = across // vectors * -(-outer // together)
                cost *= -(-tiles // threads) * threads
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, cls(together, vectors))
        assert best is not None
        return best[1]


@dataclass
class _Generator:
    f: Function
    tile: PointTile
    rest: int

    def emit(self) -> None:
        f, tile = self.f, self.tile
        x, self.g, self.grad, scratch = (f.pointer() for _ in range(4))
        positions, self.inner, self.outer, chunk, chunks, self.deep, scratch_size = (f.size() for _ in range(7))
        self.width = tile.vectors * f.lanes
        self.packed = scratch + f.thread * scratch_size
        with f.loop(f.first, f.last) as item:
            self.column = item // chunks * self.width
            self.room = self.inner - self.column
            top = item % chunks * chunk
            bottom = f.smaller(top + chunk, self.outer)
            whole = bottom - (bottom - top) % tile.outer
            with f.loop(0, positions, self.deep) as start:
                stop = f.smaller(start + self.deep, positions)
                with f.loop(start, stop) as row:
                    self._pack(x + (row * self.inner + self.column), self.packed + (row - start) * self.width)
                with f.loop(top, whole, tile.outer) as first:
                    self._sum(first, tile.outer, start, stop)
                if self.rest:
                    with f.when(f.less(whole, bottom)):
                        self._sum(whole, self.rest, start, stop)

    def _pack(self, line: Pointer, target: Pointer) -> None:
        f = self.f
        for at in range(0, self.width, LINE):
            f.prefetch(line + (self.deep * self.inner + at))
        whole = f.less(self.width - 1, self.room)
        for condition, masked in ((whole, False), (f.negation(whole), True)):
            with f.when(condition):
                for at in range(0, self.width, f.lanes):
                    mask = f.inside(at, self.room) if masked else ""
                    f.store(f.load(line + at, mask), target + at)

    def _sum(self, first: Number, together: int, start: Number, stop: Number) -> None:
        f, vectors = self.f, self.tile.vectors
        places = [self.grad + ((first + p) * self.inner + self.column) for p in range(together)]
        totals = [[f.variable(f.zeros()) for _ in range(vectors)] for _ in range(together)]
        with f.when(f.less(0, start)):
            for place, row in zip(places, totals, strict=True):
                for v, total in enumerate(row):
                    total.set(f.load(place + v * f.lanes, f.inside(v * f.lanes, self.room)))
        with f.loop(start, stop) as position:
            line, seen = self.g + (position * self.outer + first), self.packed + (position - start) * self.width
            f.prefetch(line + self.deep * self.outer)
            held = [f.load(seen + v * f.lanes) for v in range(vectors)]
            for p, row in enumerate(totals):
                value = f.broadcast(line + p)
                for total, other in zip(row, held, strict=True):
                    total.set(f.fma(value, other, total.get()))
        for place, row in zip(places, totals, strict=True):
            store_row(f, [total.get() for total in row], place, self.room)


def generate(isa: Isa, tile: PointTile, rest: int = 0) -> Function:
    """The kernel; its arguments in the order in which they are asked for above.

    ``rest`` is the number of output channels in a last tile that isn't full.
    """
    f = Function("pointwise_weight", isa)
    _Generator(f, tile, rest).emit()
    return f
