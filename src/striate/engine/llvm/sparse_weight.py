"""The weight and bias gradients of a convolution from gradients that have come back through max pooling. See sparse.py.

    for every item: an image, a block of pooled rows
        copy the input rows that the block sees: packed[row][column][channel]
        for every output channel
            list the block's gradients that aren't zero, each with the place in packed where its window starts
            for R kernel rows, for V vectors of their (column, channel)
                for every (place, gradient) of the list
                    total[r][v] += gradient * packed[place, row r, vector v]
            bias[channel] += the sum of the list

Where a tile holds all rows of the kernel and is small, a list costs more than it saves: zeros are added as well then,
and gradients that come after one another go to two tiles, so that one sum doesn't wait for the one before.

Sums of the items that a thread does are kept in its own ``partial``, so that their order is fixed.
"""

from __future__ import annotations

from typing import TypeAlias

from striate.engine.llvm.emit import Function, Int, Number, Pointer, Variable
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.sparse import Geometry, Pixels

#: Vectors of a tile that is small.
_SMALL = 6
#: By kernel row and vector.
Totals: TypeAlias = dict[tuple[int, int], Variable]


class _Generator:
    def __init__(self, isa: Isa, geometry: Geometry) -> None:
        self.f, self.geometry = Function("sparse_weight", isa), geometry
        self.kernel_rows = geometry.kernel_rows(isa)

    def emit(self) -> Function:
        f, geometry, kernel_rows = self.f, self.geometry, self.kernel_rows
        pixels = Pixels(f, geometry, f.pointer())
        self.g, self.positions, self.places = f.pointer(), f.pointer(geometry.index), f.pointer("i32")
        partial, bias, scratch = f.pointer(), f.pointer(), f.pointer()
        list_places, list_values = f.pointer("i32"), f.pointer()
        outer, pooled_rows, pooled_width = f.size(), f.size(), f.size()
        g_image, g_channel, self.g_step = f.size(), f.size(), f.size()
        block, blocks, deep, self.row_size, sums_size, scratch_size, list_size = (f.size() for _ in range(7))
        row_numbers = kernel_rows.vectors * f.lanes
        sums, biases = partial + f.thread * sums_size, bias + f.thread * outer
        self.packed = scratch + f.thread * scratch_size
        self.list_places, self.list_values = list_places + f.thread * list_size, list_values + f.thread * list_size
        with f.loop(0, sums_size, f.lanes) as place:
            f.store(f.zeros(), sums + place)
        with f.loop(0, outer) as channel:
            f.put("0.0", biases + channel)
        with f.loop(f.first, f.last) as item:
            image, start = item // blocks, (item % blocks) * block
            stop = f.smaller(start + block, pooled_rows)
            top = start * geometry.pool_rows.stride - geometry.pool_rows.before
            first_row = top * geometry.rows.stride
            pixels.pack(image, first_row - geometry.rows.before, deep, self.packed, self.row_size)
            # From here on packed begins where position 0 would be.
            self.seen = self.packed + (0 - first_row * self.row_size)
            with f.loop(0, outer) as channel:
                at = image * g_image + channel * g_channel
                self.at, size = at + start * pooled_width * self.g_step, (stop - start) * pooled_width
                mine = sums + channel * (kernel_rows.count * row_numbers)
                self._read(size, biases + channel)
                if len(kernel_rows.tiles()) == 1 and kernel_rows.count * kernel_rows.vectors <= _SMALL:
                    self._all(size, mine)
                else:
                    count = self._list(size)
                    for rows, vectors in kernel_rows.tiles():
                        self._tile(rows, vectors, count, mine)
        return f

    def _read(self, size: Number, bias: Pointer) -> None:
        """Reads the block's gradients and positions of a channel; those of a shut activation are zero, anywhere."""
        f, index = self.f, self.geometry.index
        wide = f"<{f.lanes} x i32>"
        total = f.variable(f.zeros())
        # Vectors, where gradients lie side by side.
        near = f.same(self.g_step, 1)
        whole = Int(f, f.value(f"select i1 {near}, i64 {size // f.lanes * f.lanes}, i64 0"))
        with f.loop(0, whole, f.lanes) as each:
            positions = f.load_as(self.positions + (self.at + each))
            if index != "i32":
                change = "sext" if index == "i16" else "trunc"
                positions = f.value(f"{change} <{f.lanes} x {index}> {positions} to {wide}")
            there = f.value(f"icmp sgt {wide} {positions}, {f.splat('-1', 'i32')}")
            values = f.select(there, f.load(self.g + (self.at + each)), f.zeros())
            f.store(f.select(there, positions, f.zeros(), "i32"), self.list_places + each, kind="i32")
            f.store(values, self.list_values + each)
            total.set(f.arithmetic("fadd", total.get(), values))
        f.add_to(bias, f.total(total.get()))
        with f.loop(whole, size) as each:
            place = self.at + each * self.g_step
            position = f.widened(f.scalar(self.positions + place), index)
            value = f.value(f"select i1 {f.less(-1, position)}, float {f.scalar(self.g + place)}, float 0.0")
            f.put(f.narrow(f.larger(position, 0)), self.list_places + each)
            f.put(value, self.list_values + each)
            f.add_to(bias, value)

    def _place(self, each: Number) -> Int:
        """Where the window of a gradient that has been read starts in packed."""
        f = self.f
        position = f.widened(f.scalar(self.list_places + each), "i32")
        return f.widened(f.scalar(self.places + position), "i32")

    def _list(self, size: Number) -> Number:
        """Keeps the gradients that aren't zero, with their places; how many there are."""
        f = self.f
        count = f.variable("0", "i64")
        with f.loop(0, size) as each:
            place, value = self._place(each), f.scalar(self.list_values + each)
            now = Int(f, count.get())
            f.put(f.narrow(place), self.list_places + now)
            f.put(value, self.list_values + now)
            there = f.value(f"fcmp une float {value}, 0.0")
            count.set(f.value(f"add i64 {now}, {f.value(f'zext i1 {there} to i64')}"))
        return Int(f, count.get())

    def _totals(self, rows: range, vectors: range) -> Totals:
        return {(row, v): self.f.variable(self.f.zeros()) for row in rows for v in vectors}

    def _multiply(self, totals: Totals, start: Number, value: str) -> None:
        f = self.f
        for (row, v), total in totals.items():
            seen = self.seen + (row * self.geometry.rows.dilation * self.row_size + start + v * f.lanes)
            total.set(f.fma(value, f.load(seen), total.get()))

    def _add(self, totals: Totals, sums: Pointer) -> None:
        f = self.f
        for (row, v), total in totals.items():
            place = sums + (row * self.kernel_rows.vectors + v) * f.lanes
            f.store(f.arithmetic("fadd", f.load(place), total.get()), place)

    def _tile(self, rows: range, vectors: range, count: Number, sums: Pointer) -> None:
        f, totals = self.f, self._totals(rows, vectors)
        with f.loop(0, count) as each:
            place = f.widened(f.scalar(self.list_places + each), "i32")
            self._multiply(totals, place, f.broadcast(self.list_values + each))
        self._add(totals, sums)

    def _all(self, size: Number, sums: Pointer) -> None:
        """One tile from all gradients, without listing them."""
        f = self.f
        ((rows, vectors),) = self.kernel_rows.tiles()
        both = [self._totals(rows, vectors) for _ in range(2)]
        whole = size // 2 * 2
        with f.loop(0, whole, 2) as pair:
            for which, totals in enumerate(both):
                self._multiply(totals, self._place(pair + which), f.broadcast(self.list_values + (pair + which)))
        with f.loop(whole, size) as each:
            self._multiply(both[0], self._place(each), f.broadcast(self.list_values + each))
        for totals in both:
            self._add(totals, sums)


def generate(isa: Isa, geometry: Geometry) -> Function:
    """The kernel; its arguments in the order in which they are asked for above."""
    return _Generator(isa, geometry).emit()
