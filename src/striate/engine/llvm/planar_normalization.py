"""Normalisation of planes (NCHW): lanes along a plane.

    forward, for every channel
        centre = mean of the first numbers of every image's plane
        for every image, for every vector of the plane: add x - centre and its square
        settle the channel's statistics
        for every image, for every vector: y = act((x - centre) * scale + shift + residual)

    backward, for every channel
        for every image, for every vector: g' = g * act'(...), add g' and g' * (x - centre)
        settle the gradients of weight and bias
        for every image, for every vector: grad_input = g' * scale + (x - centre) * tilt + level

A channel is one work item, so its planes are still in the second-level cache when they are met again, and a result
doesn't hang on the number of threads. While one image's plane is walked through, the next one's is asked for: planes
are short, and far from one another. Where the activation's slope needs more than x, g' is written on the first way,
since it is also the residual's gradient, and read on the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from striate.engine.llvm.emit import LINE, Function, Number, Pointer
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.normalization import (
    Channelwise,
    Form,
    Gradients,
    OneChannel,
    Statistics,
    before_activation,
    forward,
    grad_input,
)

#: Vectors in a turn of the innermost loop, each with sums of its own, so that no addition waits for the last one.
_TOGETHER = 2


class _Sum:
    """A sum over a channel: planes are summed by themselves first, which keeps the rounding of long sums small."""

    def __init__(self, f: Function) -> None:
        self.f = f
        self.parts = [f.variable(f.zeros()) for _ in range(_TOGETHER)]
        self.whole = f.variable(f.zeros())

    def end_plane(self) -> None:
        for part in self.parts:
            self.whole.set(self.f.arithmetic("fadd", self.whole.get(), part.get()))
            part.set(self.f.zeros())

    def total(self) -> str:
        """In all lanes."""
        return self.f.splat(self.f.total(self.whole.get()))


class _Planes:
    """Where a channel's planes are; sizes are the kernel's arguments, in this order."""

    def __init__(self, f: Function, channels: Number) -> None:
        self.f, self.channels = f, channels
        self.images, self.size = f.size(), f.size()

    @contextmanager
    def of(self, channel: Number) -> Iterator[Number]:
        """Runs the block for where each plane of the channel begins."""
        with self.f.loop(0, self.images) as image:
            yield (image * self.channels + channel) * self.size

    def ask(self, at: Number, which: int, *tables: Pointer) -> None:
        """Asks for the same place of the next image's plane, a line at a time."""
        if which % max(1, LINE // self.f.lanes) == 0:
            for table in tables:
                self.f.prefetch(table + (at + self.channels * self.size))

    def vectors(self, start: Number, write: Callable[[Number, str, int], None]) -> None:
        """Calls for every vector of a plane: where it is, the mask of what is there, and which of a turn it is."""
        f, turn = self.f, _TOGETHER * self.f.lanes
        turns, whole = self.size // turn * turn, self.size // f.lanes * f.lanes
        with f.loop(0, turns, turn) as at:
            for which in range(_TOGETHER):
                write(start + at + which * f.lanes, "", which)
        with f.loop(turns, whole, f.lanes) as at:
            write(start + at, "", 0)
        with f.when(f.less(whole, self.size)):
            write(start + whole, f.inside(whole, self.size), 0)


def generate_forward(isa: Isa, form: Form) -> Function:
    f = Function("planar_normalization", isa)
    x, y, residual = f.pointer(), f.pointer(), f.pointer()
    statistics, channelwise = Statistics(f), Channelwise(f)
    planes = _Planes(f, statistics.count)
    share, sampled_share = f.real(), f.real()  # 1 / the numbers of a channel, 1 / those of its sample
    with f.loop(f.first, f.last) as channel:
        place = OneChannel(f, channel)
        if form.training:
            sample = f.variable(f.zeros())
            with planes.of(channel) as start:
                sample.set(f.arithmetic("fadd", sample.get(), f.load(x + start, f.inside(0, planes.size))))
            centre = f.arithmetic("fmul", f.splat(f.total(sample.get())), sampled_share)
            plain, square = _Sum(f), _Sum(f)

            def add(at: Number, mask: str, which: int) -> None:
                planes.ask(at, which, x)
                apart = f.arithmetic("fsub", f.load(x + at, mask, centre), centre)
                plain.parts[which].set(f.arithmetic("fadd", plain.parts[which].get(), apart))
                square.parts[which].set(f.fma(apart, apart, square.parts[which].get()))

            with planes.of(channel) as start:
                planes.vectors(start, add)
                plain.end_plane()
                square.end_plane()
            offset = f.arithmetic("fmul", plain.total(), share)
            mean_square = f.arithmetic("fmul", square.total(), share)
            variance = f.arithmetic("fsub", mean_square, f.arithmetic("fmul", offset, offset))
            channelwise.settle(statistics, place, centre, offset, variance)
        else:
            channelwise.take(statistics, place)
        scaling = statistics.scaling(place)

        def write(at: Number, mask: str, which: int) -> None:
            planes.ask(at, which, y, *([residual] if form.residual else []))
            added = f.load(residual + at, mask) if form.residual else ""
            f.store(forward(f, form, scaling, f.load(x + at, mask), added), y + at, mask)

        with planes.of(channel) as start:
            planes.vectors(start, write)
    return f


def generate_backward(isa: Isa, form: Form) -> Function:
    f = Function("planar_normalization_grad", isa)
    g, x, kept, middle, grad = (f.pointer() for _ in range(5))
    statistics, gradients = Statistics(f), Gradients(f)
    planes = _Planes(f, statistics.count)
    with f.loop(f.first, f.last) as channel:
        place = OneChannel(f, channel)
        scaling = statistics.scaling(place)
        plain, product = _Sum(f), _Sum(f)

        def add(at: Number, mask: str, which: int) -> None:
            planes.ask(at, which, x, g, *([kept] if form.keeps else []))
            value = f.load(x + at, mask, scaling.centre)
            other = f.load(kept + at, mask) if form.keeps else ""
            sent = before_activation(f, form, scaling, f.load(g + at, mask), value, other)
            if form.keeps:
                f.store(sent, middle + at, mask)
            plain.parts[which].set(f.arithmetic("fadd", plain.parts[which].get(), sent))
            product.parts[which].set(f.fma(sent, scaling.apart(f, value), product.parts[which].get()))

        with planes.of(channel) as start:
            planes.vectors(start, add)
            plain.end_plane()
            product.end_plane()
        tilt, level = gradients.settle(statistics, place, plain.total(), product.total())

        def write(at: Number, mask: str, which: int) -> None:
            planes.ask(at, which, grad)
            value = f.load(x + at, mask)
            sent = f.load((middle if form.keeps else g) + at, mask)
            sent = before_activation(f, form.behind, scaling, sent, value, "")
            f.store(grad_input(f, form, scaling, sent, value, tilt, level), grad + at, mask)

        with planes.of(channel) as start:
            planes.vectors(start, write)
    return f
