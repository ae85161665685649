"""The weight and bias gradients of a convolution from gradients that have come back through max pooling. See sparse.py.

    for every item: an image, a block of pooled rows
        copy the input rows that the block sees: packed[part of the channels][row][column][channel]
        for every output channel, read the block's gradients
            bias[channel] += their sum
            list those that aren't zero, each with the place in packed where its window starts
        for every part of the input channels                               its rows stay in the first-level cache
            for every output channel, for R kernel rows, for V vectors of their (column, channel)
                for every (place, gradient) of the list
                    total[r][v] += gradient * packed[part][place, row r, vector v]

Where a tile holds all rows of the kernel and is small, a list costs more than it saves: zeros are added as well then,
and gradients that come after one another go to two tiles, so that one sum doesn't wait for the one before.

Sums of the items that a thread does are kept in its own ``partial``, so that their order is fixed.
"""

from __future__ import annotations

from typing import TypeAlias

from striate.engine.llvm.codegen.ir import Function, Int, Number, Pointer, Variable
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.conv_pool.sparse import Geometry, Pixels, arrays

#: Vectors of a tile that is small, if two of it fit the registers: listing takes about five products a gradient.
_SMALL = 12
#: By kernel row and vector.
Totals: TypeAlias = dict[tuple[int, int], Variable]


class _Generator:
    def __init__(self, isa: Isa, geometry: Geometry) -> None:
        self.f, self.geometry = Function("sparse_weight", isa), geometry
        self.kernel_rows = geometry.kernel_rows(isa)
        tile = self.kernel_rows.count * self.kernel_rows.vectors
        self.lists = len(self.kernel_rows.tiles()) > 1 or tile > min(_SMALL, isa.tile(1) // 2)

    def emit(self) -> Function:
        f, geometry, kernel_rows = self.f, self.geometry, self.kernel_rows
        x, self.g = map(f.pointer, ("x", "g"))
        self.positions, memory = f.pointer("positions", geometry.index), f.pointer("memory")
        self.places = f.pointer("places", "i32")
        kinds = {"partial": "float", "bias": "float", "scratch": "float"}
        kinds |= {"list_places": "i32", "list_values": "float", "counts": "i32"}
        partial, bias, scratch, list_places, list_values, counts = arrays(memory, kinds)
        pixels = Pixels(f, geometry, x)
        self.outer, pooled_rows, pooled_width = map(f.size, ("outer", "pooled_rows", "pooled_width"))
        g_image, self.g_channel, self.g_step = map(f.size, ("g_image", "g_channel", "g_step"))
        block, blocks, deep, self.row_size = map(f.size, ("block", "blocks", "deep", "row_size"))
        sums_size, outers, scratch_size, list_size = map(f.size, ("sums_size", "outers", "scratch_size", "list_size"))
        self.room = block * pooled_width
        each_sum = kernel_rows.count * (kernel_rows.vectors * f.lanes)
        sums, self.biases = partial + f.thread * sums_size, bias + f.thread * outers
        packed = scratch + f.thread * scratch_size
        self.list_places, self.list_values = list_places + f.thread * list_size, list_values + f.thread * list_size
        self.counts = counts + f.thread * outers
        for table, numbers in ((sums, sums_size), (self.biases, outers)):
            with f.loop(0, numbers, f.lanes) as place:
                f.store(f.zeros(), table + place)
        with f.loop(f.first, f.last) as item:
            image, start = item // blocks, (item % blocks) * block
            stop = f.smaller(start + block, pooled_rows)
            top = start * geometry.pool_rows.stride - geometry.pool_rows.before
            first_row = top * geometry.rows.stride
            part_size = deep * self.row_size
            with f.loop(0, geometry.parts) as part:
                target = packed + part * part_size
                pixels.pack(image, first_row - geometry.rows.before, deep, target, self.row_size, part)
            at, size = image * g_image + start * pooled_width * self.g_step, (stop - start) * pooled_width
            self._read(at, size)
            with f.loop(0, geometry.parts) as part, f.loop(0, self.outer) as channel:
                # From here on packed begins where position 0 would be.
                self.seen = packed + (part * part_size - first_row * self.row_size)
                mine = sums + (channel * geometry.parts + part) * each_sum
                places, values = self._list(channel)
                if not self.lists:
                    self._all(places, values, size, mine)
                else:
                    count = f.widened(f.scalar(self.counts + channel), "i32")
                    for rows, vectors in kernel_rows.tiles():
                        self._tile(rows, vectors, places, values, count, mine)
        return f

    def _list(self, channel: Number) -> tuple[Pointer, Pointer]:
        """A channel's positions or places, and its gradients."""
        return self.list_places + channel * self.room, self.list_values + channel * self.room

    def _read(self, at: Number, size: Number) -> None:
        """Reads the block's gradients and positions; those of a shut activation are zero, anywhere."""
        f = self.f
        near = f.same(self.g_step, 1)
        with f.when(near), f.loop(0, self.outer) as channel:
            self._read_plane(at + channel * self.g_channel, channel, size)
        with f.when(f.negation(near)):
            self._read_across(at, size)
        if self.lists:
            with f.loop(0, self.outer) as channel:
                self._compact(channel, size)

    def _read_plane(self, at: Number, channel: Number, size: Number) -> None:
        """A channel whose gradients lie side by side."""
        f, index, (places, values) = self.f, self.geometry.index, self._list(channel)
        total, whole = f.variable(f.zeros()), size // f.lanes * f.lanes
        with f.loop(0, whole, f.lanes) as each:
            positions, gradients = self._opened(at + each, "")
            f.store(positions, places + each, kind="i32")
            f.store(gradients, values + each)
            total.set(f.arithmetic("fadd", total.get(), gradients))
        f.add_to(self.biases + channel, f.total(total.get()))
        with f.loop(whole, size) as each:
            position = f.widened(f.scalar(self.positions + (at + each)), index)
            value = f.value(f"select i1 {f.less(-1, position)}, float {f.scalar(self.g + (at + each))}, float 0.0")
            f.put(f.narrow(f.larger(position, 0)), places + each)
            f.put(value, values + each)
            f.add_to(self.biases + channel, value)

    def _read_across(self, at: Number, size: Number) -> None:
        """Vectors of channels that lie side by side; there is room for those that a last one hasn't."""
        f = self.f
        with f.loop(0, self.outer, f.lanes) as channel:
            mask, total = f.inside(channel, self.outer), f.variable(f.zeros())
            places, values = self._list(channel)
            with f.loop(0, size) as each:
                positions, gradients = self._opened(at + (each * self.g_step + channel), mask)
                total.set(f.arithmetic("fadd", total.get(), gradients))
                f.store_apart(positions, places + each, self.room)
                f.store_apart(gradients, values + each, self.room)
            biases = self.biases + channel
            f.store(f.arithmetic("fadd", f.load(biases), total.get()), biases)

    def _opened(self, at: Number, mask: str) -> tuple[str, str]:
        """A vector of positions and of gradients, both zero where the activation was shut."""
        f, index = self.f, self.geometry.index
        wide = f"<{f.lanes} x i32>"
        positions = f.load_as(self.positions + at, mask)
        if index != "i32":
            change = "sext" if index == "i16" else "trunc"
            positions = f.value(f"{change} <{f.lanes} x {index}> {positions} to {wide}")
        there = f.value(f"icmp sgt {wide} {positions}, {f.splat('-1', 'i32')}")
        gradients = f.select(there, f.load(self.g + at, mask), f.zeros())
        return f.select(there, positions, f.zeros(), "i32"), gradients

    def _place(self, positions: Pointer, each: Number) -> Int:
        """Where the window of a gradient that has been read starts in packed."""
        f = self.f
        position = f.widened(f.scalar(positions + each), "i32")
        return f.widened(f.scalar(self.places + position), "i32")

    def _compact(self, channel: Number, size: Number) -> None:
        """Keeps the gradients that aren't zero, with their places, and how many there are."""
        f, (places, values) = self.f, self._list(channel)
        count = f.variable("0", "i64")
        with f.loop(0, size) as each:
            place, value = self._place(places, each), f.scalar(values + each)
            now = Int(f, count.get())
            f.put(f.narrow(place), places + now)
            f.put(value, values + now)
            there = f.value(f"fcmp une float {value}, 0.0")
            count.set(f.value(f"add i64 {now}, {f.value(f'zext i1 {there} to i64')}"))
        f.put(f.narrow(Int(f, count.get())), self.counts + channel)

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

    def _tile(
        self, rows: range, vectors: range, places: Pointer, values: Pointer, count: Number, sums: Pointer
    ) -> None:
        f, totals = self.f, self._totals(rows, vectors)
        with f.loop(0, count) as each:
            self._multiply(totals, f.widened(f.scalar(places + each), "i32"), f.broadcast(values + each))
        self._add(totals, sums)

    def _all(self, positions: Pointer, values: Pointer, size: Number, sums: Pointer) -> None:
        """One tile from all gradients, without listing them."""
        f = self.f
        ((rows, vectors),) = self.kernel_rows.tiles()
        both = [self._totals(rows, vectors) for _ in range(2)]
        whole = size // 2 * 2
        with f.loop(0, whole, 2) as pair:
            for which, totals in enumerate(both):
                self._multiply(totals, self._place(positions, pair + which), f.broadcast(values + (pair + which)))
        with f.loop(whole, size) as each:
            self._multiply(both[0], self._place(positions, each), f.broadcast(values + each))
        for totals in both:
            self._add(totals, sums)


def generate(isa: Isa, geometry: Geometry) -> Function:
    return _Generator(isa, geometry).emit()
