"""Winograd's convolution with an activation and max pooling of 2x2: the map between them is never written.

Tiles of outputs begin at even rows and columns and have an even number of each, so a tile holds whole windows: for
every tile, when its sums are complete, and for every vector of channels

    y = A' sums A + bias,  and of every window of y the largest and its position go through the activation to the result

Rows and columns of outputs that fill no window are dropped. See winograd.py for all else.
"""

from __future__ import annotations

from dataclasses import dataclass

from striate.engine.llvm.emit import Function, Number, Pointer
from striate.engine.llvm.interleaved import ChannelTile
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.pooling import clamped, takes_over
from striate.engine.llvm.winograd import Form, Generator, Tile, places

#: Rows and columns of a window.
WINDOW = 2


@dataclass
class _Pooled(Generator):
    activation: str
    index: str

    def ask(self) -> None:
        self.positions = self.f.pointer(self.index)

    def write(self, tile: Number, image: Number, top: Number, left: Number) -> None:
        f, across = self.f, self.form.outputs // WINDOW
        limits = self.out_height // WINDOW, self.out_width // WINDOW
        strides = limits[1] * self.outer, self.outer
        plane, corner = image * limits[0] * strides[0], (top // WINDOW, left // WINDOW)
        waste = Pointer(f, self.waste.text, self.index)
        values = places(f, self.y + plane, self.waste, corner, limits, strides, across)
        positions = places(f, self.positions + plane, waste, corner, limits, strides, across)
        with f.loop(0, self.outer, f.lanes) as channel:
            outputs = self.outputs(tile, channel)
            for i in range(across):
                for j in range(across):
                    first = (top + i * WINDOW) * self.out_width + (left + j * WINDOW)
                    value, position = self._largest(outputs, i * WINDOW, j * WINDOW, first)
                    f.store(value, values[i][j] + channel)
                    f.store(position, positions[i][j] + channel, kind=self.index)

    def _largest(self, outputs: Tile, row: int, column: int, first: Number) -> tuple[str, str]:
        """Of a window that begins there, at this position of the plane."""
        f, wide = self.f, f"<{self.f.lanes} x i32>"
        best, ahead = outputs[row][column], f.zeros()
        for u, v in ((0, 1), (1, 0), (1, 1)):
            value = outputs[row + u][column + v]
            better = takes_over(f, value, best)
            best = f.select(better, value, best)
            ahead = f.select(better, f.splat(f.narrow(u * self.out_width + v), "i32"), ahead, "i32")
        where = f.value(f"add {wide} {f.splat(f.narrow(first), 'i32')}, {ahead}")
        best, where = clamped(f, self.activation, best, where)
        if self.index == "i16":
            where = f.value(f"trunc {wide} {where} to <{f.lanes} x i16>")
        return best, where


def generate(isa: Isa, form: Form, tile: ChannelTile, activation: str, index: str) -> Function:
    """The kernel; its arguments are winograd.py's, with positions, ``i16`` or ``i32``, after the values."""
    return _Pooled(Function("winograd_pooled", isa), form, tile, activation, index).emit()
