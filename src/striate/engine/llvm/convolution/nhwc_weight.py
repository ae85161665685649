"""Weight gradient with channels last (NHWC): lanes over output channels.

    for every item: an image n, a block of output rows
        copy the block's input rows with zeros for padding: packed[row][column][channel]
        for every V vectors of output channels, for every few rows and columns of the block
            for every kernel row i, for every kernel column j, for every P input channels
                (without column dilation, j and p are one loop over adjacent numbers)
                total[P][V] = partial[thread]
                for each of these rows and columns                          gradients stay in the first-level cache
                    total[p][v] += packed[row(i), column(j), p] * g[n, row, column, v]
                partial[thread] = total[P][V]

An input is broadcast to all lanes. Only the tile is compiled in; kernel, stride, dilation and sizes are arguments. Each
thread has its own sums, as in nchw_weight.py. Depthwise windows have a kernel of their own (nhwc_depthwise_weight.py).

Partial sums: [kernel row][kernel column][C_in, rounded up to P][C_out], or with [kernel column, C_in, rounded up].
The caller ensures that the output channels are whole groups of V vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from striate.engine.llvm.codegen.ir import Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.convolution.nhwc import Block


@dataclass(frozen=True)
class TapTile:
    """The register tile: P input channels, V vectors of output channels."""

    inner: int
    vectors: int

    @classmethod
    @cache
    def choose(cls, isa: Isa, channels: int, many: int) -> TapTile:
        """The tile with the fewest estimated cycles for ``channels`` output and ``many`` input channels."""
        across = channels // isa.lanes
        best: tuple[float, TapTile] | None = None
        for vectors in range(1, min(across, 8) + 1):
            if across % vectors:
                continue
            for inner in range(1, min(many, isa.registers) + 1):
                totals = inner * vectors
                if totals > isa.tile(vectors + 1):
                    continue
                # See nchw.PlaneTile for the cost.
                loads = vectors + inner
                cost = (max(totals, loads, 8) / 2 + 0.1 * loads) * (across // vectors) * -(-many // inner)
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, cls(inner, vectors))
        assert best is not None
        return best[1]


@dataclass
class _Generator:
    f: Function
    tile: TapTile

    def emit(self) -> None:
        f, tile = self.f, self.tile
        x, g, partial, scratch = f.pointer("x"), f.pointer("g"), f.pointer("partial"), f.pointer("scratch")
        self.block = Block(f, x, scratch)
        self.g_image, self.g_row, partial_size = f.size("g_image"), f.size("g_row"), f.size("partial_size")
        tall, wide, runs, run = f.size("tall"), f.size("wide"), f.size("runs"), f.size("run")
        block = self.block
        depth = (run + (tile.inner - 1)) // tile.inner * tile.inner
        own = partial + f.thread * partial_size
        with f.loop(f.first, f.last) as item:
            packed, image, start, stop = block.pack(item)
            with (
                f.loop(0, block.outer, tile.vectors * f.lanes) as first,
                f.loop(start, stop, tall) as top,
                f.loop(0, block.out_width, wide) as left,
            ):
                bottom, right = f.smaller(top + tall, stop), f.smaller(left + wide, block.out_width)
                gradients = g + (image * self.g_image + first)
                with (
                    f.loop(0, block.kernel_rows) as i,
                    f.loop(0, runs) as j,
                    f.loop(0, run, tile.inner) as c,
                ):
                    seen = packed + (i * block.row_dilation * block.row_size + j * block.column_dilation * block.inner)
                    place = own + (((i * runs + j) * depth + c) * block.outer + first)
                    self._sum(seen + c, gradients, place, start, (top, bottom, left, right))

    def _sum(
        self,
        seen: Pointer,
        gradients: Pointer,
        place: Pointer,
        start: Number,
        few: tuple[Number, Number, Number, Number],
    ) -> None:
        f, tile, block = self.f, self.tile, self.block
        each = [(p, v) for p in range(tile.inner) for v in range(tile.vectors)]
        places = {(p, v): place + (p * block.outer + v * f.lanes) for p, v in each}
        totals = {at: f.variable(f.load(where)) for at, where in places.items()}
        with f.loop(*few[:2]) as row, f.loop(*few[2:]) as column:
            here = seen + (row - start) * block.row_stride * block.row_size + column * block.column_stride * block.inner
            line = gradients + (row * self.g_row + column * block.outer)
            held = [f.load(line + v * f.lanes) for v in range(tile.vectors)]
            for p in range(tile.inner):
                value = f.broadcast(here + p)
                for v in range(tile.vectors):
                    totals[p, v].set(f.fma(value, held[v], totals[p, v].get()))
        for at, where in places.items():
            f.store(totals[at].get(), where)


def generate(isa: Isa, tile: TapTile) -> Function:
    """The kernel."""
    f = Function("nhwc_weight", isa)
    _Generator(f, tile).emit()
    return f
