"""Weight gradient of 1x1 windows in channels last (NHWC): lanes over input channels.

    for every item: V vectors of input channels, a chunk of output channels
        for every block of positions, of all images
            pack the block's V vectors: packed[position][V * lanes]             stay in the first-level cache
            for every P output channels of the chunk
                total[P][V] = 0, or the sums of the blocks before
                for every position of the block
                    total[p][v] += g[position, p] * packed[position, v]
                grad[p, v] = total[P][V]

An output gradient is broadcast to all lanes. Each number of the weight is summed by one thread, in the order of
positions, and written to its final place. The kernels of other weight gradients have partial sums for each thread,
which have to be added and reordered; that costs as much as a few hundred positions.

With many channels, positions are far apart in memory, so the kernel prefetches those of the next block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from striate.engine.llvm.codegen.ir import LINE, Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.memory.rows import store_row

#: Numbers in the packed inputs of a block; with the gradients they fit into a first-level cache.
_BLOCK = 2560


def block_of(width: int) -> int:
    """The number of positions in a block of ``width`` channels."""
    return max(1, _BLOCK // width)


@dataclass(frozen=True)
class PointTile:
    """The register tile: P output channels, V vectors of input channels."""

    outer: int
    vectors: int

    @classmethod
    @cache
    def choose(cls, isa: Isa, inner: int, outer: int, threads: int) -> PointTile:
        """The tile with the fewest estimated cycles for these numbers of input and output channels."""
        across = -(-inner // isa.lanes)
        best: tuple[float, PointTile] | None = None
        for vectors in range(1, min(across, 8) + 1):
            if across % vectors:
                continue
            for together in range(1, min(outer, isa.tile(vectors + 1) // vectors) + 1):
                # Cycles per position: two products, or one with 512-bit vectors, which some processors split; slightly
                # fewer than two loads; at least eight independent totals; the loop; reading and writing a block's
                # totals.
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
        x, self.g, self.grad, scratch = f.pointer("x"), f.pointer("g"), f.pointer("grad"), f.pointer("scratch")
        positions, self.inner, self.outer = f.size("positions"), f.size("inner"), f.size("outer")
        chunk, chunks = f.size("chunk"), f.size("chunks")
        self.deep, scratch_size = f.size("deep"), f.size("scratch_size")
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
    """The kernel.

    ``rest`` is the number of output channels in a last tile that isn't full.
    """
    f = Function("pointwise_weight", isa)
    _Generator(f, tile, rest).emit()
    return f
