"""Winograd's convolution fused with an activation and 2x2 max pooling: the map between them is never written.

Tiles of outputs begin at even rows and columns and have an even number of each, so a tile holds whole windows. When the
sums of a tile are complete, for every vector of channels

    y = A' sums A + bias,  and the activation of the largest value of every window of y is the result

It is written with its position if gradients are needed; without positions, any increasing function may follow. Outputs
that don't fill a window are dropped. See kernels.py for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce
from itertools import product

from striate.engine.llvm.codegen.ir import Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.convolution.nhwc import ChannelTile
from striate.engine.llvm.functions.epilogue import Epilogue
from striate.engine.llvm.pooling.nchw import clamped, larger_of, takes_over
from striate.engine.llvm.winograd.forms import TileValues, WinogradForm
from striate.engine.llvm.winograd.kernels import Generator, KeptOutputs, Put, places

#: Rows and columns of a window.
WINDOW = 2


class _Windows(Generator):
    def places(self, table: Pointer, image: Number, top: Number, left: Number, size: int) -> list[list[Pointer]]:
        """The addresses, in a map of the pooled size, of the windows of a square of outputs."""
        height, width = self.out_height // WINDOW, self.out_width // WINDOW
        waste, corner = Pointer(self.f, self.waste.text, table.element), (top // WINDOW, left // WINDOW)
        strides = width * self.outer, self.outer
        return places(
            self.f, table + image * height * strides[0], waste, corner, (height, width), strides, size // WINDOW
        )

    def summed(self, direct: str, zeros: Number, every: int) -> str:
        # A window is written as a whole: if only some of its outputs are the bias, all are summed directly.
        mixed = self.f.both(self.f.less(0, zeros), self.f.less(zeros, every))
        return self.f.value(f"or i1 {direct}, {mixed}")


def windows(square: TileValues) -> Iterator[tuple[int, int, dict[tuple[int, int], str]]]:
    """The windows of a square of outputs by row and column, with their taps."""
    for i, j in product(range(len(square) // WINDOW), repeat=2):
        taps = product(range(WINDOW), repeat=2)
        yield i, j, {(u, v): square[i * WINDOW + u][j * WINDOW + v] for u, v in taps}


@dataclass
class _Recorded(_Windows):
    """The kernel that writes maxima after an activation, and their positions."""

    activation: str
    index: str

    def ask(self) -> None:
        self.positions = self.f.pointer("positions", self.index)

    def put(self, image: Number, top: Number, left: Number, size: int, kept: KeptOutputs | None = None) -> Put:
        f, corner = self.f, (image, top, left, size)
        values, positions = self.places(self.y, *corner), self.places(self.positions, *corner)

        def put(channel: Number, square: TileValues) -> None:
            for i, j, taps in windows(square):
                first = (top + i * WINDOW) * self.out_width + (left + j * WINDOW)
                value, position = self._largest(taps, first)
                f.store(value, values[i][j] + channel)
                f.store(position, positions[i][j] + channel, kind=self.index)

        return put

    def _largest(self, taps: dict[tuple[int, int], str], first: Number) -> tuple[str, str]:
        """The maximum of a window and its position; ``first`` is the window's first position in the plane."""
        f, wide = self.f, f"<{self.f.lanes} x i32>"
        best, ahead = "", f.zeros()
        for (u, v), value in taps.items():
            if not best:
                best = value
                continue
            better = takes_over(f, value, best)
            best = f.select(better, value, best)
            ahead = f.select(better, f.splat(f.narrow(u * self.out_width + v), "i32"), ahead, "i32")
        where = f.value(f"add {wide} {f.splat(f.narrow(first), 'i32')}, {ahead}")
        return clamped(f, self.activation, best, where, self.index)


@dataclass
class _Largest(_Windows):
    """The kernel that writes maxima after an epilogue, without positions."""

    epilogue: Epilogue

    def put(self, image: Number, top: Number, left: Number, size: int, kept: KeptOutputs | None = None) -> Put:
        f, values = self.f, self.places(self.y, image, top, left, size)

        def put(channel: Number, square: TileValues) -> None:
            for i, j, taps in windows(square):
                best = reduce(partial(larger_of, f), taps.values())
                f.store(self.epilogue.apply(f, best, None), values[i][j] + channel)

        return put


def generate(isa: Isa, form: WinogradForm, tile: ChannelTile, activation: str, index: str) -> Function:
    """The kernel with positions of type ``index``."""
    return _Recorded(Function("winograd_pooled", isa), form, tile, activation, index).emit()


def generate_largest(isa: Isa, form: WinogradForm, tile: ChannelTile, epilogue: Epilogue) -> Function:
    """The kernel without positions."""
    return _Largest(Function("winograd_largest", isa), form, tile, epilogue).emit()
