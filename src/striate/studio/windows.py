"""Sequences of windows and their arithmetic: sizes, receptive fields, costs, and which output sees which input.

:mod:`striate.geometry` computes all numbers; this module arranges them for a page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from striate.errors import GeometryError
from striate.geometry import PADDING_WORDS, ConvShape, PoolShape, Window
from striate.geometry.window import AxisPadding

LayerKind = Literal["conv", "transposed", "max", "avg"]

#: The kinds of layers, with their names for display.
KINDS: Final[dict[str, str]] = {
    "conv": "convolution",
    "transposed": "transposed convolution",
    "max": "max pooling",
    "avg": "average pooling",
}
#: Limits of a page's requests. Lists of positions beyond the last limit would take seconds to draw.
MOST_SIZE: Final = 512
MOST_KERNEL: Final = 256
MOST_CHANNELS: Final = 65_536
MOST_LAYERS: Final = 24
MOST_PAIRS: Final = 150_000

_NUMBERS: Final = ("kernel", "stride", "dilation", "out", "groups", "extra")


@dataclass(frozen=True)
class Layer:
    """One layer, the same along every axis.

    Args:
        kind: one of :data:`KINDS`.
        kernel, stride, padding, dilation: as in :class:`striate.Window`.
        out: output channels of a convolution; pooling keeps its channels.
        groups: groups of a convolution.
        extra: ``output_padding`` of a transposed convolution.
        ceil_mode: whether the output size of a pooling is rounded up.

    Raises:
        GeometryError: a number is out of range, or the kind is unknown.
    """

    kind: LayerKind = "conv"
    kernel: int = 3
    stride: int = 1
    padding: AxisPadding = 0
    dilation: int = 1
    out: int = 1
    groups: int = 1
    extra: int = 0
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise GeometryError("layer", f"kind is {self.kind!r}", "needed " + ", ".join(KINDS))
        for name, most in (
            ("kernel", MOST_KERNEL),
            ("stride", MOST_KERNEL),
            ("dilation", MOST_KERNEL),
            ("out", MOST_CHANNELS),
            ("groups", MOST_CHANNELS),
        ):
            _bounded(name, getattr(self, name), 1, most)
        _bounded("extra", self.extra, 0, MOST_KERNEL)
        for cells in () if isinstance(self.padding, str) else _pair(self.padding):
            _bounded("padding", cells, 0, MOST_SIZE)
        if not isinstance(self.padding, str) and len(set(sides := _pair(self.padding))) == 1:
            object.__setattr__(self, "padding", sides[0])

    @property
    def pools(self) -> bool:
        """Whether it is a pooling."""
        return self.kind in ("max", "avg")

    @property
    def window(self) -> Window:
        """Its window along an axis."""
        return Window(self.kernel, self.stride, self.padding, self.dilation)

    @classmethod
    def parse(cls, text: str) -> Layer:
        """Parses a line such as ``conv kernel=3 stride=2 padding=same out=8``; missing fields have their defaults.

        Raises:
            GeometryError: the line doesn't describe a layer.

        >>> Layer.parse("conv kernel=7 stride=2 padding=1:2 out=64").padding
        (1, 2)
        >>> Layer.parse(str(Layer("max", 2, 2))) == Layer("max", 2, 2)
        True
        """
        kind, *words = text.split() or [""]
        given: dict[str, Any] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if name == "padding" and equals:
                given["padding"] = _padding(value)
            elif name in _NUMBERS and equals:
                given[name] = _number(name, value)
            elif word == "ceil_mode":
                given["ceil_mode"] = True
            else:
                needed = "needed " + ", ".join(f"{each}=" for each in (*_NUMBERS, "padding")) + " or ceil_mode"
                raise GeometryError("layer", f"got {word[:40]!r}", needed)
        return cls(cast(LayerKind, kind), **given)

    def __str__(self) -> str:
        padding = ":".join(map(str, self.padding)) if isinstance(self.padding, tuple) else str(self.padding)
        words = [f"kernel={self.kernel}", f"stride={self.stride}", f"padding={padding}", f"dilation={self.dilation}"]
        if not self.pools:
            words += [f"out={self.out}", f"groups={self.groups}"]
        if self.kind == "transposed":
            words.append(f"extra={self.extra}")
        if self.ceil_mode:
            words.append("ceil_mode")
        return " ".join([self.kind, *words])


@dataclass(frozen=True)
class LayerStep:
    """A layer applied to an input of a given size, with the results of :mod:`striate.geometry`.

    Args:
        layer: the layer.
        size: input positions along an axis.
        channels: input channels.
        outputs: output positions along an axis.
        problem: the whole problem; for a transposed convolution, the convolution whose input gradient it is.
        window: the window along an axis, with padding in cells.
    """

    layer: Layer
    size: int
    channels: int
    outputs: int
    problem: ConvShape | PoolShape
    window: Window

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.channels if self.layer.pools else self.layer.out

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        if isinstance(self.problem, PoolShape):
            return 0
        # The problem of a transposed convolution has input and output swapped, but there is a bias for each output.
        return self.problem.parameters(bias=False) + self.layer.out

    @property
    def macs(self) -> int:
        """Nominal multiply-accumulates for one picture; for pooling, the numbers that are read."""
        if isinstance(self.problem, ConvShape):
            return self.problem.macs
        return math.prod(self.problem.output_shape) * math.prod(self.problem.kernel)

    @property
    def in_bounds(self) -> int:
        """The part of :attr:`macs` that uses an input and not padding."""
        if isinstance(self.problem, ConvShape):
            return self.problem.in_bounds_macs
        taps = self.window.in_bounds_taps(self.size, self.layer.ceil_mode)
        return int(self.channels * taps**self.problem.dims)

    def sees(self) -> list[list[tuple[int, int]]]:
        """For each output, the pairs (input position, tap); positions outside the input are padding."""
        if self.layer.kind == "transposed":
            return _met(self.window, self.outputs, self.size)
        window = self.window
        return [[(window.position(output, tap), tap) for tap in range(window.kernel)] for output in range(self.outputs)]

    def seen_by(self) -> list[list[tuple[int, int]]]:
        """For each input, the pairs (output, tap)."""
        if self.layer.kind == "transposed":
            window = self.window
            return [[(window.position(o, t), t) for t in window.taps_inside(o, self.outputs)] for o in range(self.size)]
        return _met(self.window, self.size, self.outputs)


def _met(window: Window, size: int, outputs: int) -> list[list[tuple[int, int]]]:
    """For each of ``size`` input positions, the pairs (output, tap) that read it."""
    met: list[list[tuple[int, int]]] = [[] for _ in range(size)]
    for output in range(outputs):
        for tap in window.taps_inside(output, size):
            met[window.position(output, tap)].append((output, tap))
    return met


def steps(size: int, channels: int, layers: Sequence[Layer], dims: int = 2) -> list[LayerStep]:
    """Applies layers in sequence to an input of ``channels`` and ``size`` positions along each of ``dims`` axes.

    Raises:
        GeometryError: a layer doesn't fit, or a number is out of range; the message names the layer.

    >>> [step.outputs for step in steps(32, 1, [Layer("conv", 5, out=6), Layer("max", 2, 2)])]
    [28, 14]
    """
    _bounded("size", size, 1, MOST_SIZE)
    _bounded("channels", channels, 1, MOST_CHANNELS)
    _bounded("dims", dims, 1, 2)
    _bounded("number of layers", len(layers), 1, MOST_LAYERS)
    made: list[LayerStep] = []
    pairs = 0
    for number, layer in enumerate(layers, 1):
        try:
            step = _step(layer, size, channels, dims)
            _bounded("output size", step.outputs, 1, 2 * MOST_SIZE)
            pairs += max(step.outputs, step.size) * layer.kernel
            if pairs > MOST_PAIRS:
                raise GeometryError("windows", f"{pairs:,} pairs of an output and a tap", f"needed {MOST_PAIRS:,}")
        except GeometryError as error:
            where = f"layer {number}, {error.where}" if len(layers) > 1 else error.where
            raise GeometryError(where, error.got, error.needed, error.remedy) from None
        made.append(step)
        size, channels = step.outputs, step.out_channels
    return made


def _step(layer: Layer, size: int, channels: int, dims: int) -> LayerStep:
    padding = [layer.padding] * dims
    taps, places = (layer.kernel,) * dims, (1, channels, *(size,) * dims)
    stride, dilation, groups = layer.stride, layer.dilation, layer.groups
    problem: ConvShape | PoolShape
    if layer.kind == "max" or layer.kind == "avg":
        problem = PoolShape.of(layer.kind, places, taps, stride, padding, dilation, layer.ceil_mode)
    elif layer.kind == "conv":
        _divides(groups, channels)
        problem = ConvShape.of(places, (layer.out, channels // groups, *taps), stride, padding, dilation, groups)
    else:
        _divides(groups, layer.out)
        weight = (channels, layer.out // groups, *taps)
        problem = ConvShape.of_transposed(places, weight, stride, padding, layer.extra, groups, dilation)
        made = problem.size[0]
        return LayerStep(layer, size, channels, made, problem, layer.window.resolve(made))
    return LayerStep(layer, size, channels, problem.output_size[0], problem, layer.window.resolve(size))


def _divides(groups: int, channels: int) -> None:
    if channels % groups:
        raise GeometryError("layer", f"{groups} groups for {channels} channels", "needed a number that divides them")


def _bounded(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise GeometryError("geometry", f"{name} is {value:,}", f"needed {least} to {most:,}")


def _pair(padding: AxisPadding) -> tuple[int, int]:
    assert not isinstance(padding, str)
    return (padding, padding) if isinstance(padding, int) else (padding[0], padding[1])


def _number(name: str, text: str) -> int:
    # Stricter than int(), which accepts 1_000, +1 and the digits of every script.
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise GeometryError("layer", f"{name} is {text[:40]!r}", "needed a whole number")
    return int(text)


def _padding(text: str) -> AxisPadding:
    if text in PADDING_WORDS:
        return text
    sides = [_number("padding", side) for side in text.split(":")]
    if len(sides) > 2:
        raise GeometryError("layer", f"padding is {text[:40]!r}", "needed a number, BEFORE:AFTER or a word")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
