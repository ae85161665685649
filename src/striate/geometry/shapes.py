"""Whole problems: a convolution or a pooling with its sizes and one window for each axis.

A problem is what travels: operations make one from their arguments, backends accept or refuse it, the reference
computes it, a benchmark times it, and a failing test prints it, as one line that reads like the call.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias, cast

from striate.errors import GeometryError
from striate.geometry.calls import AXES, Blame, Ints, joined, padding_word, per_axis, product, windows
from striate.geometry.window import Padding, Window, whole_number


class _Sized:
    """What every problem has: sizes and windows along the same axes, and what follows from them.

    What follows is worked out when the problem is made, so an impossible problem can't be made, and one that is looked
    up again costs nothing. (No ``cached_property``: compilers can't trace its lock.)
    """

    size: tuple[int, ...]
    windows: tuple[Window, ...]

    dims: int  #: number of spatial axes
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]  #: cells (before, after) on each axis
    output_size: tuple[int, ...]

    def __hash__(self) -> int:
        # Problems are looked up at every call, and hashing one means hashing all its windows.
        known: int | None = self.__dict__.get("_hash")
        if known is None:
            known = hash(tuple(getattr(self, field.name) for field in fields(self)))  # type: ignore[arg-type]
            object.__setattr__(self, "_hash", known)
        return known

    def _settle(self, *counts: str) -> None:
        """Sizes and the named counts as int; symbols, which stand for sizes while a compiler traces, as they are."""
        object.__setattr__(self, "size", tuple(_length(length) for length in self.size))
        object.__setattr__(self, "windows", tuple(self.windows))
        for name in counts:
            object.__setattr__(self, name, _length(getattr(self, name)))

    def _derive(self, name: str, ceil_mode: bool = False) -> None:
        outputs = []
        for axis, (window, size) in enumerate(zip(self.windows, self.size, strict=True)):
            with Blame(name, len(self.size), axis):
                outputs.append(window.output_size(size, ceil_mode))
        derived = {
            "dims": len(self.size),
            "kernel": tuple(window.kernel for window in self.windows),
            "stride": tuple(window.stride for window in self.windows),
            "dilation": tuple(window.dilation for window in self.windows),
            "pads": tuple(window.pads(size) for window, size in zip(self.windows, self.size, strict=True)),
            "output_size": tuple(outputs),
        }
        for key, value in derived.items():
            object.__setattr__(self, key, value)

    def _window_words(self, *, padding_default: str = "0") -> list[str]:
        """``stride=2 padding=1:2x0`` ...: what differs from the default."""
        padding = joined([padding_word(window.padding) for window in self.windows])
        words = [("stride", joined(self.stride), "1"), ("padding", padding, padding_default)]
        words.append(("dilation", joined(self.dilation), "1"))
        return [f"{name}={text}" for name, text, default in words if text != default]


@dataclass(frozen=True)
class ConvShape(_Sized):
    """A convolution problem.

    The trilinear form that all of a convolution comes from is, with windows giving the input position of (o, t),

        T(x, w, g) = sum over n, c_out, c_in, o, t of  x[n, c_in, position(o, t)] * w[c_out, c_in, t] * g[n, c_out, o]

    Its derivative by g is the output, by x the input gradient (which is also transposed convolution), by w the
    weight gradient; all three have the same shape object and the same number of MACs.

    Args:
        batch, in_channels, out_channels: N, C_in, C_out.
        size: input positions along each axis, ``(H, W)`` in 2-D.
        windows: one window for each axis.
        groups: blocks of channels that don't see each other.

    Raises:
        GeometryError: sizes, channels and groups that don't fit together.

    >>> shape = ConvShape.parse("conv2d 1x3x224x224 64x3x7x7 stride=2 padding=3")
    >>> shape.output_shape, shape.macs, shape.in_bounds_macs
    ((1, 64, 112, 112), 118013952, 116214528)
    """

    batch: int
    in_channels: int
    out_channels: int
    size: tuple[int, ...]
    windows: tuple[Window, ...]
    groups: int = 1

    __hash__ = _Sized.__hash__

    def __post_init__(self) -> None:
        if len(self.size) not in AXES or len(self.size) != len(self.windows):
            raise GeometryError(
                "convolution", f"{len(self.size)} sizes and {len(self.windows)} windows", "needed 1, 2 or 3 of each"
            )
        self._settle("batch", "in_channels", "out_channels")
        object.__setattr__(self, "groups", whole_number(self.groups, "groups", 1, self.name))
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise GeometryError(
                self.name,
                f"{self.groups} groups for {self.in_channels} input and {self.out_channels} output channels",
                "needed a number of groups that divides both",
            )
        if self.out_channels < 1 or any(length < 0 for length in self.input_shape):
            raise GeometryError(
                self.name,
                f"input {product((self.batch, self.in_channels, *self.size))} and {self.out_channels} output channels",
                "needed sizes of 0 or more and at least one output channel",
            )
        self._derive(self.name)

    @classmethod
    def of(
        cls,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
    ) -> ConvShape:
        """The problem of a call with input (N, C_in, ...) and weight (C_out, C_in / groups, ...)."""
        dims = len(weight_shape) - 2
        call = f"conv{dims}d"
        if dims not in AXES or len(input_shape) != dims + 2:
            raise GeometryError(
                "convolution",
                f"input of shape {tuple(input_shape)} and weight of shape {tuple(weight_shape)}",
                "needed (N, C_in, ...) and (C_out, C_in / groups, ...) with the same 1, 2 or 3 axes",
            )
        groups = whole_number(groups, "groups", 1, call)
        if input_shape[1] != weight_shape[1] * groups:
            raise GeometryError(
                call,
                f"an input of {input_shape[1]} channels, a weight of shape {tuple(weight_shape)} and {groups} groups",
                f"needed an input of {weight_shape[1]} * {groups} = {weight_shape[1] * groups} channels",
            )
        made = windows(call, dims, weight_shape[2:], stride, padding, dilation)
        return cls(input_shape[0], input_shape[1], weight_shape[0], tuple(input_shape[2:]), made, groups)

    @classmethod
    def of_transposed(
        cls,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        stride: Ints = 1,
        padding: Padding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        dilation: Ints = 1,
    ) -> ConvShape:
        """The problem whose input gradient is the transposed convolution of a call.

        The call has input (N, C_in, ...) and weight (C_in, C_out / groups, ...).

        Seen from this problem the roles are swapped: its input is what the transposed convolution makes.
        """
        dims = len(weight_shape) - 2
        call = f"conv_transpose{dims}d"
        if dims not in AXES or len(input_shape) != dims + 2:
            raise GeometryError(
                "transposed convolution",
                f"input of shape {tuple(input_shape)} and weight of shape {tuple(weight_shape)}",
                "needed (N, C_in, ...) and (C_in, C_out / groups, ...) with the same 1, 2 or 3 axes",
            )
        if input_shape[1] != weight_shape[0]:
            raise GeometryError(
                call,
                f"an input of {input_shape[1]} channels and a weight of shape {tuple(weight_shape)}",
                f"needed an input of {weight_shape[0]} channels",
            )
        groups = whole_number(groups, "groups", 1, call)
        made = windows(call, dims, weight_shape[2:], stride, padding, dilation)
        extra = per_axis(output_padding, dims, "output_padding", call)
        size = []
        for axis, (window, outputs, more) in enumerate(zip(made, input_shape[2:], extra, strict=True)):
            with Blame(call, dims, axis):
                _check_output_padding(window, more)
                size.append(window.input_size(outputs, more))
        return cls(input_shape[0], weight_shape[1] * groups, weight_shape[0], tuple(size), made, groups)

    @classmethod
    def parse(cls, line: str) -> ConvShape:
        """The problem that ``str`` wrote as ``line``."""
        # The notation knows all kinds of problems, so it can only be asked once they exist.
        from striate.geometry.notation import parse

        problem = parse(line)
        if not isinstance(problem, cls):
            raise GeometryError("parse", f"got the pooling {line!r}", "needed a convolution")
        return problem

    def __str__(self) -> str:
        words = [self.name, product(self.input_shape), product(self.weight_shape)]
        words += self._window_words()
        if self.groups != 1:
            words.append(f"groups={self.groups}")
        return " ".join(words)

    @property
    def name(self) -> str:
        """The operation's name, ``"conv2d"`` for two axes."""
        return f"conv{len(self.size)}d"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(N, C_in, ...)."""
        return (self.batch, self.in_channels, *self.size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(C_out, C_in / groups, ...)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, C_out, ...)."""
        return (self.batch, self.out_channels, *self.output_size)

    def parameters(self, bias: bool = True) -> int:
        """Numbers to learn: ``C_out * C_in / groups * taps``, and ``C_out`` biases.

        Formula: F27, W9, W11, W12, W15.
        """
        return math.prod(self.weight_shape) + bias * self.out_channels

    @property
    def macs(self) -> int:
        """Nominal multiply-accumulates of one pass, those with padding included: the figure papers print."""
        return math.prod(self.output_shape) * math.prod(self.weight_shape[1:])

    @property
    def in_bounds_macs(self) -> int:
        """Multiply-accumulates of one pass that really have an input to multiply, padding not counted."""
        taps = (window.in_bounds_taps(size) for window, size in zip(self.windows, self.size, strict=True))
        return self.batch * self.out_channels * (self.in_channels // self.groups) * math.prod(taps)


@dataclass(frozen=True)
class PoolShape(_Sized):
    """A pooling problem: over every window the maximum or the average of what lies inside.

    Args:
        kind: ``"max"`` or ``"avg"``.
        batch, channels: N, C.
        size: input positions along each axis.
        windows: one window for each axis.
        ceil_mode: round the output size up, so that the last window may hang over the end.
        count_include_pad: an average divides by the padded cells, too (never by cells beyond the padding).
        divisor: what an average divides by instead of the number of cells.

    Raises:
        GeometryError: sizes that don't fit, or a window that lies wholly in the padding and so has nothing to pool.

    >>> PoolShape.of("max", (8, 64, 112, 112), kernel=3, stride=2).output_shape
    (8, 64, 55, 55)
    """

    kind: Literal["max", "avg"]
    batch: int
    channels: int
    size: tuple[int, ...]
    windows: tuple[Window, ...]
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None

    __hash__ = _Sized.__hash__

    _divisors: ClassVar[tuple[tuple[int, ...], ...]]

    def __post_init__(self) -> None:
        if len(self.size) not in AXES or len(self.size) != len(self.windows):
            raise GeometryError(
                "pooling", f"{len(self.size)} sizes and {len(self.windows)} windows", "needed 1, 2 or 3 of each"
            )
        if self.kind not in ("max", "avg"):
            raise GeometryError("pooling", f"got kind {self.kind!r}", "needed max or avg")
        self._settle("batch", "channels")
        if self.divisor is not None:
            object.__setattr__(self, "divisor", whole_number(self.divisor, "divisor", -(2**63), self.name))
        if self.divisor == 0:
            raise GeometryError(self.name, "a divisor of 0", "needed any other number, or None for the number of cells")
        if self.batch < 0 or self.channels < 0 or any(length < 1 for length in self.size):
            raise GeometryError(
                self.name,
                f"input {product(self.input_shape)}",
                "needed at least one position on each axis",
            )
        self._derive(self.name, self.ceil_mode)
        object.__setattr__(self, "_divisors", ())
        for axis, (window, size, outputs) in enumerate(zip(self.windows, self.size, self.output_size, strict=True)):
            resolved = window.resolve(size)
            # Between the ends only taps that lie further apart than the input is long can miss it.
            places = range(outputs) if window.dilation > size else (0, outputs - 1)
            empty = [output for output in places if not resolved.taps_inside(output, size)]
            if empty and not self._averages_padding:
                raise GeometryError(
                    f"{self.name}, axis {AXES[self.dims][axis]}",
                    f"window {empty[0]} of {window} lies wholly in the padding of {size} positions",
                    "needed something to pool in every window",
                    "make the dilation smaller" if window.dilation > size else "pad by less than the kernel",
                )

    @property
    def _averages_padding(self) -> bool:
        return self.kind == "avg" and (self.count_include_pad or self.divisor is not None)

    @classmethod
    def of(
        cls,
        kind: Literal["max", "avg"],
        input_shape: Sequence[int],
        kernel: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> PoolShape:
        """The problem of a call with input (N, C, ...); without a stride the windows lie side by side."""
        dims = len(input_shape) - 2
        call = f"{kind}_pool{dims}d"
        if dims not in AXES:
            raise GeometryError(
                "pooling", f"input of shape {tuple(input_shape)}", "needed (N, C, ...) with 1, 2 or 3 axes"
            )
        side_by_side = stride is None or (isinstance(stride, Sequence) and not stride)
        made = windows(call, dims, kernel, kernel if side_by_side else cast(Ints, stride), padding, dilation)
        size = tuple(input_shape[2:])
        return cls(
            kind,
            input_shape[0],
            input_shape[1],
            size,
            made,
            bool(ceil_mode),
            bool(count_include_pad),
            divisor,
        )

    @classmethod
    def parse(cls, line: str) -> PoolShape:
        """The problem that ``str`` wrote as ``line``."""
        from striate.geometry.notation import parse

        problem = parse(line)
        if not isinstance(problem, cls):
            raise GeometryError("parse", f"got the convolution {line!r}", "needed a pooling")
        return problem

    def __str__(self) -> str:
        words = [
            self.name,
            product(self.input_shape),
            f"kernel={joined(self.kernel)}",
            *self._window_words(),
        ]
        words += [
            word for word, said in (("ceil_mode", self.ceil_mode), ("exclude_pad", not self.count_include_pad)) if said
        ]
        if self.divisor is not None:
            words.append(f"divisor={self.divisor}")
        return " ".join(words)

    @property
    def name(self) -> str:
        """The operation's name, ``"max_pool2d"`` for maxima over two axes."""
        return f"{self.kind}_pool{len(self.size)}d"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(N, C, ...)."""
        return (self.batch, self.channels, *self.size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, C, ...)."""
        return (self.batch, self.channels, *self.output_size)

    @property
    def divisors(self) -> tuple[tuple[int, ...], ...]:
        """For each axis the number of cells in each output's window; an average divides by their product."""
        if self._divisors:
            return self._divisors
        counts = []
        for window, size, outputs in zip(self.windows, self.size, self.output_size, strict=True):
            before, after = window.pads(size)
            # Padding counts as cells of a longer input; what hangs over its end (ceil_mode) never counts.
            lead, length = (0, before + size + after) if self.count_include_pad else (before, size)
            framed = Window(window.kernel, window.stride, (lead, 0), window.dilation)
            counts.append(tuple(len(framed.taps_inside(output, length)) for output in range(outputs)))
        object.__setattr__(self, "_divisors", tuple(counts))
        return self._divisors


Problem: TypeAlias = ConvShape | PoolShape


def _length(value: Any) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if hasattr(type(value), "__index__"):
        return cast(int, value)
    raise GeometryError("shape", f"a size is {value!r}", "needed a whole number")


def _check_output_padding(window: Window, output_padding: int) -> None:
    whole_number(output_padding, "output_padding", -(2**63), "transposed window")
    limit = max(window.stride, window.dilation)
    if not 0 <= output_padding < limit:
        raise GeometryError(
            "transposed window",
            f"output_padding is {output_padding}",
            f"needed 0 to {limit - 1} (less than stride or dilation)",
        )
    if output_padding and isinstance(window.padding, str):
        raise GeometryError(
            "transposed window",
            f"output_padding {output_padding} beside padding {window.padding!r}, which fixes the output size",
            "needed an output_padding of 0",
        )
