"""Layer normalisation of contiguous rows: the channels of a position, or the features of a token.

    for every item: a block of rows
        for every row
            centre = sum x / C,  offset = sum (x - centre) / C                  rows are short, and read twice
            variance = sum (x - centre)^2 / C - offset^2
            y = (x - centre - offset) / sqrt(variance + eps) * scale + shift

In exact arithmetic, centre is the mean and offset is 0. In float32, the rounding error of a mean far from 0 may be a
good part of a small deviation; offset corrects it.

Sources: Ba, Kiros & Hinton, "Layer normalization" (2016), equation 3; Chan, Golub & LeVeque, "Algorithms for computing
the sample variance" (1983), on reading twice and correcting the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from striate.engine.llvm.codegen.ir import Function, Number, Variable
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.codegen.launch import Kernel

#: Vectors that are summed separately, which keeps the rounding error of long sums small.
_STRETCH = 64


def generate(isa: Isa) -> Function:
    f = Function("layer_norm", isa)
    x, scale, shift, y = map(f.pointer, ("x", "scale", "shift", "y"))
    channels, rows, block = map(f.size, ("channels", "rows", "block"))
    epsilon = f.real("epsilon")
    whole = channels // f.lanes * f.lanes
    share = f.arithmetic("fdiv", f.constant(1.0), f.real_of(channels))

    def over(body: Callable[[Number, str], None], start: Number = 0, stop: Number = whole) -> None:
        """Calls ``body`` for every vector of a row, or of a part of it; with a mask for the row's last one."""
        with f.loop(start, stop, f.lanes) as channel:
            body(channel, "")
        with f.when(f.both(f.same(stop, whole), f.less(whole, channels))):
            body(whole, f.inside(whole, channels))

    def means(many: int, terms: Callable[[Number, str, list[Variable]], None]) -> list[str]:
        """The means of ``many`` terms over a row; terms are summed in stretches, and then over the stretches."""
        totals = [f.variable(f.zeros()) for _ in range(many)]
        # A row shorter than a vector is a stretch as well.
        with f.loop(0, f.larger(whole, 1), _STRETCH * f.lanes) as start:
            parts = [f.variable(f.zeros()) for _ in range(many)]
            over(lambda at, mask: terms(at, mask, parts), start, f.smaller(start + _STRETCH * f.lanes, whole))
            for total, part in zip(totals, parts, strict=True):
                total.set(f.arithmetic("fadd", total.get(), part.get()))
        return [f.arithmetic("fmul", f.splat(f.total(total.get())), share) for total in totals]

    with f.loop(f.first, f.last) as item, f.loop(item * block, f.smaller(item * block + block, rows)) as row:
        line, out = x + row * channels, y + row * channels

        def add(at: Number, mask: str, parts: list[Variable]) -> None:
            (plain,) = parts
            plain.set(f.arithmetic("fadd", plain.get(), f.load(line + at, mask)))

        (centre,) = means(1, add)

        def add_apart(at: Number, mask: str, parts: list[Variable]) -> None:
            plain, square = parts
            # Lanes beyond the row have the value of the centre, and so contribute 0.
            apart = f.arithmetic("fsub", f.load(line + at, mask, centre), centre)
            plain.set(f.arithmetic("fadd", plain.get(), apart))
            square.set(f.fma(apart, apart, square.get()))

        offset, mean_square = means(2, add_apart)
        variance = f.at_least(f.fma(f.negative(offset), offset, mean_square), f.zeros())
        factor = f.arithmetic("fdiv", f.constant(1.0), f.root(f.arithmetic("fadd", variance, epsilon)))
        rest = f.negative(f.arithmetic("fmul", offset, factor))

        def write(channel: Number, mask: str) -> None:
            made = f.fma(f.arithmetic("fsub", f.load(line + channel, mask), centre), factor, rest)
            f.store(f.fma(made, f.load(scale + channel, mask), f.load(shift + channel, mask)), out + channel, mask)

        over(write)
    return f


@cache
def kernel(isa: Isa) -> Kernel:
    return Kernel(generate(isa), isa)
