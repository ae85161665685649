"""The arithmetic that the kernels of both layouts share, for a channel and for each of its numbers.

    forward     y = act((x - centre) * scale + shift + residual)
                    scale = weight / deviation,  shift = bias - offset * scale
    backward    g' = g * act'(...),  two sums a channel: g' and g' * (x - centre), then
                grad_input = (g' - level + (x - centre) * tilt) * scale

Centre is the mean rounded to float32, and offset is the rounding error: without it, the result would be off by a good
part of a small deviation. moments.py computes mean and variance. The sums of the backward pass also have 64 bits,
because sums of gradients that nearly cancel would have few correct digits in 32 bits.

The forward pass saves centre, scale, shift, offset and 1 / deviation of every channel. In evaluation these follow from
the running statistics and are constants, so tilt and level are 0.

The numbers of a channel are in all lanes (planes) or in one lane each (channels last); the arithmetic is the same.

Source: Ioffe & Szegedy, "Batch Normalization" (2015), algorithm 1 and section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

from striate.engine.llvm.codegen.ir import Function, Number, Pointer
from striate.engine.llvm.functions.activations import SLOPE_FROM_RESULT, activated, sent_back
from striate.engine.llvm.normalization.moments import Doubles

#: The number of saved values per channel: centre, scale, shift, offset, 1 / deviation.
KEPT = 5


class NormVariant(NamedTuple):
    """The variant of batch normalisation for which a kernel is generated."""

    activation: str
    residual: bool
    training: bool

    @property
    def keeps(self) -> bool:
        """Whether the backward pass takes the activation's slope from the result.

        With a residual, input and gradient don't determine the slope. Other activations aren't fused with a residual.
        """
        return self.residual and self.activation in SLOPE_FROM_RESULT

    @property
    def behind(self) -> NormVariant:
        """The form that remains after the gradient has been propagated through the activation."""
        return NormVariant("", False, self.training) if self.keeps else self


@dataclass(frozen=True)
class OneChannel:
    """A channel whose numbers are in all lanes; ``wide`` computes single numbers."""

    f: Function
    channel: Number

    @property
    def wide(self) -> Doubles:
        return Doubles(self.f, 1)

    def get(self, table: Pointer) -> str:
        return self.f.broadcast(table + self.channel)

    def get_wide(self, table: Pointer) -> str:
        return self.wide.of(self.f.scalar(table + self.channel))

    def put_wide(self, table: Pointer, value: str) -> None:
        self.f.put(self.wide.rounded(value), table + self.channel)


@dataclass(frozen=True)
class Channels:
    """Adjacent channels, one in each lane; lanes outside the mask have no channel."""

    f: Function
    channel: Number
    mask: str

    @property
    def wide(self) -> Doubles:
        return Doubles(self.f, self.f.lanes)

    def get(self, table: Pointer) -> str:
        return self.f.load(table + self.channel, self.mask)

    def get_wide(self, table: Pointer) -> str:
        return self.wide.of(self.get(table))

    def put_wide(self, table: Pointer, value: str) -> None:
        self.f.store(self.wide.rounded(value), table + self.channel, self.mask)

    def get_double(self, table: Pointer) -> str:
        """Loads from a 64-bit table."""
        return self.f.load_as(table + self.channel, self.mask)

    def put_double(self, table: Pointer, value: str) -> None:
        self.f.store(value, table + self.channel, self.mask, "double")


ChannelPlace = OneChannel | Channels


@dataclass(frozen=True)
class Scaling:
    """The values that normalise the numbers of a channel."""

    centre: str
    scale: str
    shift: str

    def apart(self, f: Function, x: str) -> str:
        """x - centre."""
        return f.arithmetic("fsub", x, self.centre)

    def of(self, f: Function, x: str) -> str:
        return f.fma(self.apart(f, x), self.scale, self.shift)


class Statistics:
    """The saved values of every channel, (KEPT, C), from the kernel's next arguments."""

    def __init__(self, f: Function) -> None:
        kept, self.count = f.pointer("statistics"), f.size("channels")
        rows = [kept + row * self.count for row in range(KEPT)]
        self.centre, self.scale, self.shift, self.offset, self.inverse = rows

    def scaling(self, place: ChannelPlace) -> Scaling:
        return Scaling(*(place.get(table) for table in (self.centre, self.scale, self.shift)))


class Channelwise:
    """Weight, bias, and the running statistics, which training updates and evaluation uses: the next arguments."""

    def __init__(self, f: Function) -> None:
        self.f = f
        self.weight, self.bias, self.mean, self.variance = map(f.pointer, ("weight", "bias", "mean", "variance"))
        # The factors of the old running statistics, of the new mean, and of the new variance (unbiased).
        self.stays, self.comes, self.comes_unbiased = map(f.double, ("stays", "comes", "comes_unbiased"))
        self.eps = f.double("eps")

    def settle(self, to: Statistics, place: ChannelPlace, mean: str, variance: str) -> None:
        """Saves a channel's statistics, given in 64 bits, and updates the running statistics."""
        wide = place.wide
        self._keep(to, place, mean, variance)
        for table, now, share in ((self.mean, mean, self.comes), (self.variance, variance, self.comes_unbiased)):
            old = wide.arithmetic("fmul", place.get_wide(table), wide.splat(self.stays))
            place.put_wide(table, wide.fma(now, wide.splat(share), old))

    def take(self, to: Statistics, place: ChannelPlace) -> None:
        """Saves the running statistics as a channel's statistics."""
        self._keep(to, place, place.get_wide(self.mean), place.get_wide(self.variance))

    def _keep(self, to: Statistics, place: ChannelPlace, mean: str, variance: str) -> None:
        wide = place.wide
        centre = wide.of(wide.rounded(mean))
        offset = wide.arithmetic("fsub", mean, centre)
        inverse = wide.inverse(wide.root(wide.arithmetic("fadd", variance, wide.splat(self.eps))))
        scale = wide.arithmetic("fmul", place.get_wide(self.weight), inverse)
        shift = wide.arithmetic("fsub", place.get_wide(self.bias), wide.arithmetic("fmul", offset, scale))
        for table, value in (
            (to.centre, centre),
            (to.scale, scale),
            (to.shift, shift),
            (to.offset, offset),
            (to.inverse, inverse),
        ):
            place.put_wide(table, value)


class AffineGradients:
    """The gradients of weight and bias, from the kernel's next arguments."""

    def __init__(self, f: Function) -> None:
        self.weight, self.bias = f.pointer("grad_weight"), f.pointer("grad_bias")
        self.share = f.double("share")  # 1 / numbers per channel

    def settle(self, of: Statistics, place: ChannelPlace, plain: str, product: str) -> tuple[str, str]:
        """Writes a channel's gradients from the sums of g' and g' * (x - centre); returns tilt and level in 64 bits."""
        wide = place.wide
        offset, inverse, share = place.get_wide(of.offset), place.get_wide(of.inverse), wide.splat(self.share)
        about_mean = wide.arithmetic("fsub", product, wide.arithmetic("fmul", offset, plain))
        grad_weight = wide.arithmetic("fmul", about_mean, inverse)
        place.put_wide(self.weight, grad_weight)
        place.put_wide(self.bias, plain)
        through_deviation = wide.arithmetic("fmul", wide.arithmetic("fmul", share, inverse), grad_weight)
        tilt = wide.negative(through_deviation)
        return tilt, wide.fma(tilt, offset, wide.arithmetic("fmul", share, plain))


class GradientSums:
    """The sums of g' and g' * (x - centre) over a few vectors, in 32 bits and several parts; longer sums use 64 bits.

    With up to 16 numbers per lane and part, they lose about one rounding, and need half as many instructions.
    """

    def __init__(self, f: Function, parts: int = 1) -> None:
        self.f = f
        self.parts = [(f.variable(f.zeros()), f.variable(f.zeros())) for _ in range(parts)]

    def add(self, sent: str, apart: str, part: int = 0) -> None:
        """Adds vectors of g' and x - centre."""
        plain, product = self.parts[part]
        plain.set(self.f.arithmetic("fadd", plain.get(), sent))
        product.set(self.f.fma(sent, apart, product.get()))

    def widened(self) -> list[str]:
        """Both sums in 64 bits."""
        add, wide = partial(self.f.arithmetic, "fadd"), Doubles(self.f, self.f.lanes)
        return [wide.of(reduce(add, (part.get() for part in parts))) for parts in zip(*self.parts, strict=True)]


def forward(f: Function, form: NormVariant, scaling: Scaling, x: str, residual: str) -> str:
    """A vector of the result."""
    z = scaling.of(f, x)
    if form.residual:
        z = f.arithmetic("fadd", z, residual)
    return activated(f, form.activation, z)


def before_activation(f: Function, form: NormVariant, scaling: Scaling, g: str, x: str, kept: str) -> str:
    """A vector of g', computed from the result if the form saves it."""
    if not form.activation:
        return g
    assert form.keeps or not form.residual, form
    return sent_back(f, form.activation, g, kept if form.keeps else scaling.of(f, x))


def grad_input(f: Function, form: NormVariant, scaling: Scaling, g: str, x: str, tilt: str, level: str) -> str:
    """A vector of the input gradient, from a vector of g'."""
    if not form.training:
        return f.arithmetic("fmul", g, scaling.scale)
    return f.arithmetic("fmul", f.fma(scaling.apart(f, x), tilt, f.arithmetic("fsub", g, level)), scaling.scale)
