"""Normalisation of planes (NCHW): lanes along a plane.

    forward, for every channel
        for every image, for every vector of the plane: add x and its square; repeat about the mean if digits were lost
        compute the channel's statistics
        for every image, for every vector: y = act((x - centre) * scale + shift + residual)

    backward, for every channel
        for every image, for every vector: g' = g * act'(...), add g' and g' * (x - centre)
        compute the gradients of weight and bias
        for every image, for every vector: grad_input = (g' - level + (x - centre) * tilt) * scale

A channel is one work item, so its planes are still in the second-level cache when they are read again, and results
don't depend on the number of threads. The second pass goes from the last image to the first, because the cache holds
the last ones if they don't all fit. While the kernel reads one plane, it prefetches the plane of the next image: planes
are short, and far from one another. If the activation's slope depends on more than x, the first pass writes g', which
is also the residual's gradient, and the second pass reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from striate.engine.llvm.codegen.ir import LINE, Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.normalization.formulas import (
    AffineGradients,
    Channelwise,
    GradientSums,
    NormVariant,
    OneChannel,
    Statistics,
    before_activation,
    forward,
    grad_input,
)
from striate.engine.llvm.normalization.moments import Doubles, Shifted, VectorSums, centre, lost, squares, variance

#: Vectors per iteration of the innermost loop; gradients are summed in 32 bits within an iteration, in 64 bits across.
_TOGETHER = 4
#: The same for gradients on planes of at least this many vectors, where the remainder of the loop matters little.
_MORE, _LONG = 8, 128
#: The number of gradients per lane that are summed in 32 bits in the remainder of the loop.
_FEW = 16


def vectors_together(size: int, lanes: int) -> int:
    """Vectors per iteration for summing gradients of planes of ``size`` numbers.

    >>> vectors_together(28 * 28, 16), vectors_together(56 * 56, 16)
    (4, 8)
    """
    return _MORE if size >= _LONG * lanes else _TOGETHER


class _Planes:
    """The planes of a channel; reads the number of images and the size of a plane from the kernel's next arguments."""

    def __init__(self, f: Function, channels: Number) -> None:
        self.f, self.channels = f, channels
        self.images, self.size = f.size("images"), f.size("size")

    def start(self, image: Number, channel: Number) -> Number:
        return (image * self.channels + channel) * self.size

    @contextmanager
    def of(self, channel: Number) -> Iterator[Number]:
        """Runs the block for the offset of each plane of a channel."""
        with self.f.loop(0, self.images) as image:
            yield self.start(image, channel)

    @contextmanager
    def back(self, channel: Number) -> Iterator[Number]:
        """Like :meth:`of`, from the last plane to the first."""
        with self.f.loop(0, self.images) as image:
            yield self.start(self.images - 1 - image, channel)

    def ask(self, places: list[Number], *tables: Pointer, ahead: int = 1) -> None:
        """Prefetches the same places in the plane of the next image, or with ``ahead`` -1 of the previous one."""
        for at in places[:: max(1, LINE // self.f.lanes)]:
            for table in tables:
                self.f.prefetch(table + (at + ahead * (self.channels * self.size)))

    def vectors(self, start: Number, write: Callable[[list[Number], str], None], together: int = _TOGETHER) -> None:
        """Calls ``write`` with places and mask for every few vectors of a plane, then for single remaining vectors."""
        f, turn = self.f, together * self.f.lanes
        turns, whole = self.size // turn * turn, self.size // f.lanes * f.lanes
        with f.loop(0, turns, turn) as at:
            write([start + at + which * f.lanes for which in range(together)], "")
        with f.loop(turns, whole, f.lanes) as at:
            write([start + at], "")
        with f.when(f.less(whole, self.size)):
            write([start + whole], f.inside(whole, self.size))


def _moments(f: Function, planes: _Planes, channel: Number, x: Pointer, share: str) -> tuple[str, str]:
    """The mean and variance of a channel."""
    one, lanes = Doubles(f, 1), Doubles(f, f.lanes)

    def summed(about: str) -> list[str]:
        """T and Q about a number, or about 0."""
        sums = Shifted(lanes, lanes.splat(about) if about else "", _TOGETHER)
        # Lanes beyond a plane have this value, and so contribute 0.
        beyond = f.splat(one.rounded(about)) if about else f.zeros()

        def add(places: list[Number], mask: str) -> None:
            planes.ask(places, x)
            for part, at in enumerate(places):
                sums.add(f.load(x + at, mask, beyond), part)

        with planes.of(channel) as start:
            planes.vectors(start, add)
        return list(map(lanes.total, sums.totals()))

    plain, square = summed("")
    mean = one.variable(one.arithmetic("fmul", plain, share))
    about_mean = one.variable(squares(one, plain, square, share))
    with f.when(lost(one, plain, square, share)):
        about = centre(one, plain, share)
        plain, square = summed(about)
        mean.set(one.fma(plain, share, about))
        about_mean.set(squares(one, plain, square, share))
    return mean.get(), variance(one, about_mean.get(), share)


def generate_forward(isa: Isa, form: NormVariant) -> Function:
    f = Function("nchw_normalization", isa)
    x, y, residual = map(f.pointer, ("x", "y", "residual"))
    statistics, channelwise = Statistics(f), Channelwise(f)
    planes, share = _Planes(f, statistics.count), f.double("share")  # 1 / numbers per channel
    with f.loop(f.first, f.last) as channel:
        place = OneChannel(f, channel)
        if form.training:
            channelwise.settle(statistics, place, *_moments(f, planes, channel, x, share))
        else:
            channelwise.take(statistics, place)
        scaling = statistics.scaling(place)

        def write(places: list[Number], mask: str) -> None:
            planes.ask(places, y, *([residual] if form.residual else []), ahead=-1)
            for at in places:
                added = f.load(residual + at, mask) if form.residual else ""
                f.store(forward(f, form, scaling, f.load(x + at, mask), added), y + at, mask)

        with planes.back(channel) as start:
            planes.vectors(start, write)
    return f


def generate_backward(isa: Isa, form: NormVariant, together: int) -> Function:
    f = Function("nchw_normalization_grad", isa)
    g, x, y, middle, grad = map(f.pointer, ("g", "x", "y", "middle", "grad"))
    statistics, gradients = Statistics(f), AffineGradients(f)
    planes = _Planes(f, statistics.count)
    with f.loop(f.first, f.last) as channel:
        place = OneChannel(f, channel)
        scaling = statistics.scaling(place)
        lanes = Doubles(f, f.lanes)
        sums = VectorSums(lanes, 2)
        images = f.larger(1, _FEW // (planes.size % (together * f.lanes) // f.lanes + 1))
        with f.loop(0, planes.images, images) as image:
            rest = GradientSums(f)

            def add(places: list[Number], mask: str, rest: GradientSums = rest) -> None:
                planes.ask(places, x, g, *([y] if form.keeps else []))
                few = rest if len(places) == 1 else GradientSums(f, 2)
                for which, at in enumerate(places):
                    value = f.load(x + at, mask, scaling.centre)
                    other = f.load(y + at, mask) if form.keeps else ""
                    sent = before_activation(f, form, scaling, f.load(g + at, mask), value, other)
                    if form.keeps:
                        f.store(sent, middle + at, mask)
                    few.add(sent, scaling.apart(f, value), which % len(few.parts))
                if few is not rest:
                    sums.put(few.widened())

            with f.loop(image, f.smaller(image + images, planes.images)) as each:
                planes.vectors(planes.start(each, channel), add, together)
            sums.put(rest.widened())
        settled = gradients.settle(statistics, place, *map(lanes.total, sums.totals()))
        tilt, level = (f.splat(place.wide.rounded(each)) for each in settled)

        def write(places: list[Number], mask: str) -> None:
            planes.ask(places, grad, ahead=-1)
            for at in places:
                value = f.load(x + at, mask)
                sent = f.load((middle if form.keeps else g) + at, mask)
                sent = before_activation(f, form.behind, scaling, sent, value, "")
                f.store(grad_input(f, form, scaling, sent, value, tilt, level), grad + at, mask)

        with planes.back(channel) as start:
            planes.vectors(start, write)
    return f
