"""Convolution of channels last (NHWC): lanes over channels. Outputs, and input gradients of stride 1.

Depthwise convolutions have kernels of their own (nhwc_depthwise.py).

    for every item: a share of the output channels, an image n, a block of output rows, a span of their columns
        pack the block's input rows with zeros for padding: packed[row][column][channel]
        for every V vectors of the share's channels, for every row of the block, for every P columns of the span
            total[P][V] = bias[V]
            for every kernel row i, for every kernel column j, for every input channel c
                total[p][v] += packed[row(i), column(p, j), c] * weight[i, j, c, v]
            (without column dilation, j and c are one loop over adjacent numbers)
            write the epilogue of total (see functions/epilogue.py) to y[n, row, column p, channels v]

An input is broadcast to all lanes, and a weight vector is used for all P columns. P * V totals, V weights and an input
have to fit into the registers. If the width isn't a multiple of P, the last tile of a row starts earlier and computes a
few columns again.

If no window reaches into padding, rows are read without packing (``direct``).

Results may have gaps (:class:`~striate.engine.llvm.memory.views.Strides`): the outputs of a phase of a transposed
convolution, or of some of the channels of a larger image. Tensors that are added lie like the results.

Only the tile, the epilogue, ``direct`` and the number of channels in a last vector that isn't full are compiled in.
Kernel, stride, dilation and all sizes are arguments: with the channels innermost, the loops over taps cost next to
nothing, so one kernel serves every geometry.

Packed weight: [V vectors of channels] of [V * lanes] biases and [kernel row][kernel column][C_in][V * lanes].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from striate.engine.llvm.codegen.ir import Function, Number, Pointer, Variable
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.functions.epilogue import PLAIN, Epilogue
from striate.engine.llvm.memory.rows import pack_row


@dataclass(frozen=True)
class ChannelTile:
    """The register tile: P columns of V vectors of channels."""

    columns: int
    vectors: int

    @classmethod
    @cache
    def choose(cls, isa: Isa, channels: int, width: int) -> ChannelTile:
        """The tile with the fewest estimated cycles for ``channels`` output channels and rows of ``width``."""
        across = -(-channels // isa.lanes)
        best: tuple[float, ChannelTile] | None = None
        for vectors in range(1, min(across, isa.registers) + 1):
            for columns in range(1, min(width, isa.registers) + 1):
                totals = columns * vectors
                if totals > isa.tile(vectors + 1):
                    break
                # See nchw.PlaneTile for the cost.
                loads = vectors + columns
                cost = max(totals, loads, 8) / 2 + 0.1 * loads
                cost *= -(-across // vectors) * -(-width // columns)
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, cls(columns, vectors))
        assert best is not None
        return best[1]


class Block:
    """The arguments of a kernel for blocks of rows in channels last; packs or finds the rows."""

    def __init__(self, f: Function, x: Pointer, scratch: Pointer) -> None:
        self.f, self.x, self.scratch = f, x, scratch
        self.kernel_rows, self.kernel_columns = f.size("kernel_rows"), f.size("kernel_columns")
        self.row_stride, self.column_stride = f.size("row_stride"), f.size("column_stride")
        self.row_before, self.column_before = f.size("row_before"), f.size("column_before")
        self.row_dilation, self.column_dilation = f.size("row_dilation"), f.size("column_dilation")
        self.inner, self.outer = f.size("inner"), f.size("outer")
        self.height, self.width = f.size("height"), f.size("width")
        self.out_height, self.out_width = f.size("out_height"), f.size("out_width")
        self.x_image, self.x_row = f.size("x_image"), f.size("x_row")
        self.block, self.blocks, self.deep = f.size("block"), f.size("blocks"), f.size("deep")
        self.row_size, self.scratch_size = f.size("row_size"), f.size("scratch_size")

    def pack(self, item: Number) -> tuple[Pointer, Number, Number, Number]:
        """Packs the input rows of a work item; returns their address, the image, and the first and last output row."""
        f = self.f
        image, start, stop = self.rows(item)
        packed = self.scratch + f.thread * self.scratch_size
        top = start * self.row_stride - self.row_before
        with f.loop(0, self.deep) as row:
            source, target = top + row, packed + row * self.row_size
            there = f.both(f.less(-1, source), f.less(source, self.height))
            with f.when(there):
                line = self.x + (image * self.x_image + source * self.x_row)
                before = self.column_before * self.inner
                pack_row(f, 1, before, line, self.width * self.inner, target, self.row_size, f.zeros())
            with f.when(f.negation(there)), f.loop(0, self.row_size, f.lanes) as place:
                f.store(f.zeros(), target + place)
        return packed, image, start, stop

    def rows(self, item: Number) -> tuple[Number, Number, Number]:
        """The image of a work item, and its first and last output row (exclusive)."""
        start = (item % self.blocks) * self.block
        return item // self.blocks, start, self.f.smaller(start + self.block, self.out_height)

    def find(self, item: Number) -> tuple[Pointer, Number, Number, Number]:
        """Like :meth:`pack`, for input rows that are read without packing."""
        image, start, stop = self.rows(item)
        top = start * self.row_stride - self.row_before
        corner = image * self.x_image + top * self.x_row - self.column_before * self.inner
        return self.x + corner, image, start, stop


@dataclass
class _Generator:
    f: Function
    tile: ChannelTile
    epilogue: Epilogue
    direct: bool
    rest: int

    def emit(self) -> None:
        f, tile = self.f, self.tile
        x, self.weight, y = f.pointer("x"), f.pointer("weight"), f.pointer("y")
        added = f.pointer("added") if self.epilogue.adds else None
        block = self.block = Block(f, x, x if self.direct else f.pointer("scratch"))
        share, places, span, spans = f.size("share"), f.size("places"), f.size("span"), f.size("spans")
        self.runs, self.run = f.size("runs"), f.size("run")
        y_start, y_image, y_row, self.y_column = (f.size(f"y_{name}") for name in ("start", "image", "row", "column"))
        group = tile.vectors * f.lanes
        self.weight_size = (block.kernel_rows * block.kernel_columns * block.inner + 1) * group
        self.pitch = block.x_row if self.direct else block.row_size
        with f.loop(f.first, f.last) as item:
            channels, place = (item // places) * share, item % places
            lines, image, start, stop = (block.find if self.direct else block.pack)(place // spans)
            left = (place % spans) * span
            right = f.smaller(left + span, block.out_width)
            with (
                f.loop(channels, f.smaller(channels + share, block.outer), group) as first,
                f.loop(start, stop) as row,
            ):
                offset = y_start + image * y_image + row * y_row + first
                line = lines + (row - start) * block.row_stride * self.pitch
                with f.loop(left, right, tile.columns) as next_:
                    column = f.smaller(next_, block.out_width - tile.columns)
                    self._tile(line, y + offset, None if added is None else added + offset, first, column)

    def _tile(self, lines: Pointer, out: Pointer, added: Pointer | None, first: Number, column: Number) -> None:
        f, tile, block = self.f, self.tile, self.block
        group = tile.vectors * f.lanes
        weights = self.weight + first // group * self.weight_size
        totals: dict[tuple[int, int], Variable] = {}
        for v in range(tile.vectors):
            bias = f.load(weights + v * f.lanes)
            for p in range(tile.columns):
                totals[p, v] = f.variable(bias)
        step = block.column_stride * block.inner
        with f.loop(0, block.kernel_rows) as i, f.loop(0, self.runs) as j:
            place = (column * block.column_stride + j * block.column_dilation) * block.inner
            seen = lines + (i * block.row_dilation * self.pitch + place)
            with f.loop(0, self.run) as c:
                factors = weights + ((i * self.runs + j) * self.run + c + 1) * group
                held = [f.load(factors + v * f.lanes) for v in range(tile.vectors)]
                for p in range(tile.columns):
                    value = f.broadcast(seen + p * step + c)
                    for v in range(tile.vectors):
                        totals[p, v].set(f.fma(value, held[v], totals[p, v].get()))
        for p in range(tile.columns):
            # The last tile may reach beyond the channels; its sums there are dropped.
            offset = (column + p) * self.y_column
            here = None if added is None else added + offset
            made = [totals[p, v].get() for v in range(tile.vectors)]
            self.epilogue.store_row(f, made, out + offset, here, block.outer - first, self.rest)


def generate(isa: Isa, tile: ChannelTile, epilogue: Epilogue = PLAIN, direct: bool = False, rest: int = 0) -> Function:
    """The kernel.

    ``rest`` is the number of channels in a last vector that isn't full.
    """
    f = Function("nhwc_output", isa)
    _Generator(f, tile, epilogue, direct, rest).emit()
    return f
