"""The input gradient of a convolution from gradients that have come back through max pooling. See sparse.py.

    for every item: an image, a block of input rows
        list for every output position that reaches the block its gradients that aren't zero: (channel, gradient)
        for R kernel rows, for V vectors of their (column, channel)
            for every output position
                total[R][V] = packed[place of the position's window, rows, vectors]
                for every (channel, gradient) of the position: total[r][v] += gradient * weight[channel, r, v]
                packed[place of the position's window, rows, vectors] = total
        write the block's rows

Every position has room for as many gradients as there are channels, times the pooling windows that share a position.

What is computed of rows beyond the block, since a window reaches across, is dropped.
"""

from __future__ import annotations

from striate.engine.llvm.codegen.ir import Function, Int, Number
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.conv_pool.sparse import Geometry, KernelRows, Pixels, arrays


class _Generator:
    def __init__(self, isa: Isa, geometry: Geometry, kernel_rows: KernelRows) -> None:
        self.f, self.geometry, self.kernel_rows = Function("sparse_input", isa), geometry, kernel_rows

    def emit(self) -> Function:
        f, geometry = self.f, self.geometry
        axis, pool = geometry.rows, geometry.pool_rows
        reach, pool_reach = (axis.kernel - 1) * axis.dilation, (pool.kernel - 1) * pool.dilation
        x, self.g = map(f.pointer, ("x", "g"))
        self.positions, memory = f.pointer("positions", geometry.index), f.pointer("memory")
        kinds = {"taps": "float", "scratch": "float", "counts": "i32", "list_weights": "i32", "list_values": "float"}
        self.weight, scratch, counts, list_weights, list_values = arrays(memory, kinds)
        pixels = Pixels(f, geometry, x)
        self.outer, out_height, self.out_width = map(f.size, ("outer", "out_height", "out_width"))
        pooled_rows, self.pooled_width = map(f.size, ("pooled_rows", "pooled_width"))
        g_image, self.g_channel, self.g_step = map(f.size, ("g_image", "g_channel", "g_step"))
        block, blocks, deep, self.row_size = map(f.size, ("block", "blocks", "deep", "row_size"))
        scratch_size, counts_size = map(f.size, ("scratch_size", "counts_size"))
        list_size, self.most = map(f.size, ("list_size", "most"))
        self.packed, self.counts = scratch + f.thread * scratch_size, counts + f.thread * counts_size
        self.list_weights, self.list_values = list_weights + f.thread * list_size, list_values + f.thread * list_size
        with f.loop(f.first, f.last) as item:
            image, start = item // blocks, (item % blocks) * block
            stop = f.smaller(start + block, pixels.height)
            # The output rows that see the block, and the pooled rows that see those.
            top = f.ceil_div(start + (axis.before - reach), axis.stride)
            bottom = f.smaller((stop + (axis.before - 1)) // axis.stride + 1, out_height)
            first = f.ceil_div(top + (pool.before - pool_reach), pool.stride)
            last = f.smaller((bottom + (pool.before - 1)) // pool.stride + 1, pooled_rows)
            self.at, self.pooled = image * g_image, (first * self.pooled_width, last * self.pooled_width)
            self.low, self.positions_here = top * self.out_width, f.larger(bottom - top, 0) * self.out_width
            self._list()
            with f.loop(0, scratch_size, f.lanes) as place:
                f.store(f.zeros(), self.packed + place)
            for rows, vectors in self.kernel_rows.tiles():
                with f.loop(0, f.larger(bottom - top, 0)) as row:
                    self._tile(rows, vectors, row)
            above = top * axis.stride - axis.before
            with f.loop(start, stop) as row:
                there = f.both(f.less(-1, row - above), f.less(row - above, deep))
                # A row that no window sees is one that was cleared and nothing added to: the last one.
                line = f.value(f"select i1 {there}, i64 {row - above}, i64 {deep}")
                pixels.unpack(image, row, self.packed + Int(f, line) * self.row_size, self.row_size)
        return f

    def _list(self) -> None:
        """Lists the gradients of every position, those of no position here behind them all."""
        f = self.f
        with f.loop(0, self.positions_here + 1, f.lanes) as count:
            f.store("zeroinitializer", self.counts + count, kind="i32")
        row_numbers = self.kernel_rows.count * self.kernel_rows.vectors * f.lanes
        first, last = self.pooled
        with f.loop(0, self.outer) as channel:
            at = self.at + channel * self.g_channel
            with f.loop(first, last) as each:
                place = at + each * self.g_step
                value = f.scalar(self.g + place)
                position = f.widened(f.scalar(self.positions + place), self.geometry.index) - self.low
                here = f.both(f.less(-1, position), f.less(position, self.positions_here))
                there = f.both(here, f.value(f"fcmp une float {value}, 0.0"))
                # No branch: which gradients are zero can't be foreseen.
                list_ = Int(f, f.value(f"select i1 {there}, i64 {position}, i64 {self.positions_here}"))
                taken = f.widened(f.scalar(self.counts + list_), "i32")
                f.put(f.narrow(taken + 1), self.counts + list_)
                free = list_ * self.most + taken
                f.put(f.narrow(channel * row_numbers), self.list_weights + free)
                f.put(value, self.list_values + free)

    def _tile(self, rows: range, vectors: range, output_row: Number) -> None:
        f, axis, kernel_rows = self.f, self.geometry.rows, self.kernel_rows
        step = self.geometry.columns.stride * self.geometry.channels
        lines = [self.packed + (output_row * axis.stride + row * axis.dilation) * self.row_size for row in rows]
        beyond = kernel_rows.numbers % f.lanes
        # Neighbours share inputs, and what has just been written can't be read at once; so never one after the other.
        apart = self.geometry.columns.kernel
        with f.loop(0, apart) as first, f.loop(first, self.out_width, apart) as column:
            position = output_row * self.out_width + column
            start = position * self.most
            stop = start + f.widened(f.scalar(self.counts + position), "i32")
            with f.when(f.less(start, stop)):
                starts = {r: line + column * step for r, line in zip(rows, lines, strict=True)}
                places = {(r, v): start + v * f.lanes for r, start in starts.items() for v in vectors}
                before = {each: f.load(place) for each, place in places.items()}
                totals = {each: f.variable(value) for each, value in before.items()}
                with f.loop(start, stop) as each:
                    value = f.broadcast(self.list_values + each)
                    factors = self.weight + f.widened(f.scalar(self.list_weights + each), "i32")
                    for r, v in places:
                        factor = f.load(factors + (r * kernel_rows.vectors + v) * f.lanes)
                        totals[r, v].set(f.fma(value, factor, totals[r, v].get()))
                for (r, v), place in places.items():
                    made = totals[r, v].get()
                    if beyond and v == kernel_rows.vectors - 1:
                        # Other positions' numbers, to which a gradient that is no number must not get.
                        made = f.select(f.inside(0, beyond), made, before[r, v])
                    f.store(made, place)


def generate(isa: Isa, geometry: Geometry, kernel_rows: KernelRows) -> Function:
    return _Generator(isa, geometry, kernel_rows).emit()
