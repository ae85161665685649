"""What the kernels of both layouts compute for a channel, and for each number of it.

    forward     y = act((x - centre) * scale + shift + residual)
                    scale = weight / deviation,  shift = bias - offset * scale
    backward    g' = g * act'(...),  two sums a channel: g' and g' * (x - centre), then
                grad_input = g' * scale + (x - centre) * tilt + level

Mean and variance come from sums of (x - centre) and its square, the centre being the mean of a few of the channel's
numbers. The mean is centre + offset, the variance the mean square less the offset's. Little is lost in that difference
wherever the numbers lie: the squared offset is at most the variance times (numbers / numbers sampled). Centre and
offset stay apart, since their sum, rounded to float32, would be off by a good part of a small deviation.

Of the forward pass centre, scale, shift, offset and 1 / deviation of every channel are kept. In evaluation they follow
from the running statistics and are constants: tilt and level are 0.

A channel's numbers are in all lanes (planes) or a lane each (channels side by side); the arithmetic is the same.

Source: Ioffe & Szegedy, "Batch Normalization" (2015), algorithm 1 and section 3; shifted sums: Chan, Golub & LeVeque,
"Algorithms for computing the sample variance" (1983).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from striate.engine.llvm.activations import SLOPE_FROM_RESULT, activated, sent_back
from striate.engine.llvm.emit import Function, Number, Pointer

#: What is kept of a channel: centre, scale, shift, offset, 1 / deviation.
KEPT = 5


class Form(NamedTuple):
    """What a kernel is generated for."""

    activation: str
    residual: bool
    training: bool

    @property
    def keeps(self) -> bool:
        """Whether the way back takes the activation's slope from the result, which with a residual input and gradient
        don't tell. Of the other activations with a residual there is none.
        """
        return self.residual and self.activation in SLOPE_FROM_RESULT

    @property
    def behind(self) -> Form:
        """What remains to be undone once the gradient has been sent back through the activation."""
        return Form("", False, self.training) if self.keeps else self


@dataclass(frozen=True)
class OneChannel:
    """A channel whose numbers are in all lanes."""

    f: Function
    channel: Number

    def get(self, table: Pointer) -> str:
        return self.f.broadcast(table + self.channel)

    def put(self, table: Pointer, value: str) -> None:
        one = self.f.value(f"extractelement {self.f.vector} {value}, i64 0")
        self.f.line(f"store float {one}, ptr {(table + self.channel).text}")


@dataclass(frozen=True)
class Channels:
    """Channels side by side, one a lane; lanes outside the mask are none."""

    f: Function
    channel: Number
    mask: str

    def get(self, table: Pointer) -> str:
        return self.f.load(table + self.channel, self.mask)

    def put(self, table: Pointer, value: str) -> None:
        self.f.store(value, table + self.channel, self.mask)


Place = OneChannel | Channels


@dataclass(frozen=True)
class Scaling:
    """What brings numbers of a channel to their normalised ones."""

    centre: str
    scale: str
    shift: str

    def apart(self, f: Function, x: str) -> str:
        """x - centre."""
        return f.arithmetic("fsub", x, self.centre)

    def of(self, f: Function, x: str) -> str:
        return f.fma(self.apart(f, x), self.scale, self.shift)


class Statistics:
    """What is kept of every channel, (KEPT, C); the kernel's arguments in this order."""

    def __init__(self, f: Function) -> None:
        kept, self.count = f.pointer(), f.size()
        rows = [kept + row * self.count for row in range(KEPT)]
        self.centre, self.scale, self.shift, self.offset, self.inverse = rows

    def scaling(self, place: Place) -> Scaling:
        return Scaling(*(place.get(table) for table in (self.centre, self.scale, self.shift)))


class Channelwise:
    """Weight, bias, and the running statistics, which training moves and evaluation takes; arguments in this order."""

    def __init__(self, f: Function) -> None:
        self.f = f
        self.weight, self.bias = f.pointer(), f.pointer()
        self.mean, self.variance = f.pointer(), f.pointer()
        # How much of the old ones stays, how much of the new ones comes in: of the mean and the unbiased variance.
        self.stays, self.comes, self.comes_unbiased = f.real(), f.real(), f.real()
        self.eps = f.real()

    def settle(self, to: Statistics, place: Place, centre: str, offset: str, variance: str) -> None:
        """Keeps a channel's statistics, and moves the running ones towards them."""
        f = self.f
        # A difference of sums may be below 0 by their rounding.
        variance = f.at_least(variance, f.zeros())
        self._keep(to, place, centre, offset, variance)
        for table, now, share in (
            (self.mean, f.arithmetic("fadd", centre, offset), self.comes),
            (self.variance, variance, self.comes_unbiased),
        ):
            old = f.arithmetic("fmul", place.get(table), self.stays)
            place.put(table, f.fma(now, share, old))

    def take(self, to: Statistics, place: Place) -> None:
        """Keeps the running statistics as a channel's."""
        self._keep(to, place, place.get(self.mean), self.f.zeros(), place.get(self.variance))

    def _keep(self, to: Statistics, place: Place, centre: str, offset: str, variance: str) -> None:
        f = self.f
        inverse = f.arithmetic("fdiv", f.constant(1.0), f.root(f.arithmetic("fadd", variance, self.eps)))
        scale = f.arithmetic("fmul", place.get(self.weight), inverse)
        shift = f.arithmetic("fsub", place.get(self.bias), f.arithmetic("fmul", offset, scale))
        for table, value in (
            (to.centre, centre),
            (to.scale, scale),
            (to.shift, shift),
            (to.offset, offset),
            (to.inverse, inverse),
        ):
            place.put(table, value)


class Gradients:
    """The gradients of weight and bias; the kernel's arguments in this order."""

    def __init__(self, f: Function) -> None:
        self.f = f
        self.weight, self.bias = f.pointer(), f.pointer()
        self.share = f.real()  # 1 / the numbers of a channel

    def settle(self, of: Statistics, place: Place, plain: str, product: str) -> tuple[str, str]:
        """Writes a channel's from the sums of g' and g' * (x - centre); tilt and level where statistics have moved."""
        f = self.f
        offset, inverse = place.get(of.offset), place.get(of.inverse)
        about_mean = f.arithmetic("fsub", product, f.arithmetic("fmul", offset, plain))
        grad_weight = f.arithmetic("fmul", about_mean, inverse)
        place.put(self.weight, grad_weight)
        place.put(self.bias, plain)
        share = f.arithmetic("fmul", place.get(of.scale), self.share)
        through_deviation = f.arithmetic("fmul", f.arithmetic("fmul", share, inverse), grad_weight)
        tilt = f.negative(through_deviation)
        return tilt, f.negative(f.fma(tilt, offset, f.arithmetic("fmul", share, plain)))


def forward(f: Function, form: Form, scaling: Scaling, x: str, residual: str) -> str:
    """A vector of the result."""
    z = scaling.of(f, x)
    if form.residual:
        z = f.arithmetic("fadd", z, residual)
    return activated(f, form.activation, z)


def before_activation(f: Function, form: Form, scaling: Scaling, g: str, x: str, kept: str) -> str:
    """A vector of g', from the result if the form keeps it."""
    if not form.activation:
        return g
    assert form.keeps or not form.residual, form
    return sent_back(f, form.activation, g, kept if form.keeps else scaling.of(f, x))


def grad_input(f: Function, form: Form, scaling: Scaling, g: str, x: str, tilt: str, level: str) -> str:
    """A vector of the input's gradient, from one of g'."""
    if not form.training:
        return f.arithmetic("fmul", g, scaling.scale)
    return f.fma(g, scaling.scale, f.fma(scaling.apart(f, x), tilt, level))
