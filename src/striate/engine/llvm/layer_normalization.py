"""Layer normalisation of rows of numbers that lie side by side: the channels of a position, the features of a token.

    for every item: a block of rows
        for every row
            mean = sum x / C,  variance = sum (x - mean)^2 / C              rows are short: read twice they are exact
            y = (x - mean) / sqrt(variance + eps) * scale + shift

Source: Ba, Kiros & Hinton, "Layer normalization" (2016), equation 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from striate.engine.llvm.emit import Function, Number
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.launch import Kernel


def generate(isa: Isa) -> Function:
    """The kernel; its arguments in the order in which they are asked for."""
    f = Function("layer_norm", isa)
    x, scale, shift, y = (f.pointer() for _ in range(4))
    channels, rows, block = (f.size() for _ in range(3))
    epsilon = f.real()

    def over(body: Callable[[Number, str], None]) -> None:
        """Does a thing for every vector of a row, the last one with a mask."""
        whole = channels // f.lanes * f.lanes
        with f.loop(0, whole, f.lanes) as channel:
            body(channel, "")
        with f.when(f.less(whole, channels)):
            body(whole, f.inside(whole, channels))

    count = f.real_of(channels)
    with f.loop(f.first, f.last) as item, f.loop(item * block, f.smaller(item * block + block, rows)) as row:
        line, out = x + row * channels, y + row * channels
        total = f.variable(f.zeros())
        over(lambda c, mask: total.set(f.arithmetic("fadd", total.get(), f.load(line + c, mask))))
        mean = f.arithmetic("fdiv", f.splat(f.total(total.get())), count)
        total.set(f.zeros())

        def add_square(channel: Number, mask: str) -> None:
            # Lanes beyond the row count as being at the mean.
            apart = f.arithmetic("fsub", f.load(line + channel, mask, mean), mean)
            total.set(f.fma(apart, apart, total.get()))

        over(add_square)
        variance = f.arithmetic("fdiv", f.splat(f.total(total.get())), count)
        factor = f.arithmetic("fdiv", f.constant(1), f.root(f.arithmetic("fadd", variance, epsilon)))

        def write(channel: Number, mask: str) -> None:
            apart = f.arithmetic("fsub", f.load(line + channel, mask), mean)
            made = f.arithmetic("fmul", apart, factor)
            f.store(f.fma(made, f.load(scale + channel, mask), f.load(shift + channel, mask)), out + channel, mask)

        over(write)
    return f


@cache
def kernel(isa: Isa) -> Kernel:
    return Kernel(generate(isa), isa)
