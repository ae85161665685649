"""The window: the map between input and output positions that all spatial operations of a network use.

Along one axis, output position ``o`` sees through tap ``t`` the input position

    input position = o * stride - before + t * dilation,        t = 0 .. kernel-1

Only this file contains the formula. Output sizes, padding, the taps that fall inside the input, receptive fields and
the transposed map follow from it. The file uses integers only, no tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from striate.errors import GeometryError

#: Padding of one axis: the same on both sides, ``(before, after)``, or a word.
AxisPadding: TypeAlias = int | tuple[int, int] | str
#: Padding of a call: one for all axes or one per axis.
Padding: TypeAlias = AxisPadding | Sequence[AxisPadding]

PADDING_WORDS: Final = ("valid", "same", "same_lower", "full")


def whole_number(value: Any, name: str, minimum: int, where: str = "window") -> int:
    """The value, of any integer type, as an int.

    Raises:
        GeometryError: another type, or a number below ``minimum``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise GeometryError(where, f"{name} is {value!r}", "needed a whole number") from None
    if number < minimum:
        raise GeometryError(where, f"{name} is {number}", f"needed {minimum} or more")
    return number


@dataclass(frozen=True, slots=True)
class Window:
    """A window that slides along one axis.

    Args:
        kernel: number of taps.
        stride: input positions from one output to the next.
        padding: cells added around the input: an int for both sides, ``(before, after)``, or a word:
            ``"valid"`` none; ``"same"`` as many as make the output ``ceil(input / stride)`` long, an odd cell going to
            the end; ``"same_lower"`` the same with the odd cell at the start; ``"full"`` as many as let every tap
            meet every input.
        dilation: input positions from one tap to the next.

    ``padding`` is kept as ``(before, after)``. Only ``"same"`` with a stride above 1 depends on the input's size; it
    stays a word until :meth:`resolve` is given that size.

    Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016); for ``same`` with strides
    the ONNX operators' SAME_UPPER and SAME_LOWER.

    Raises:
        GeometryError: a kernel, stride or dilation below 1, a negative padding, an unknown word.

    >>> Window(7, stride=2, padding=3).output_size(224)
    112
    >>> Window(3, padding="same", dilation=2).padding
    (2, 2)
    >>> (Window(3) @ Window(3) @ Window(3)).kernel          # three 3x3 layers see 7x7
    7
    """

    kernel: int
    stride: int = 1
    padding: AxisPadding = 0
    dilation: int = 1

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name, minimum=1))
        object.__setattr__(self, "padding", self._settled(self.padding))

    def _settled(self, padding: AxisPadding) -> AxisPadding:
        """Padding as ``(before, after)`` where that doesn't depend on the input's size.

        Formula: F23, F24, F25.
        """
        reach = self.effective_kernel - 1
        if isinstance(padding, str):
            if padding not in PADDING_WORDS:
                raise GeometryError(
                    "window",
                    f"padding is {padding!r}",
                    "needed a number, (before, after) or one of " + ", ".join(PADDING_WORDS),
                )
            if padding == "valid":
                return 0, 0
            if padding == "full":
                return reach, reach
            return _shared(reach, padding) if self.stride == 1 else padding
        if isinstance(padding, Sequence):
            if len(padding) != 2:
                raise GeometryError("window", f"padding is {padding!r}", "needed two numbers, (before, after)")
            before, after = (whole_number(cells, "padding", minimum=0) for cells in padding)
            return before, after
        cells = whole_number(padding, "padding", minimum=0)
        return cells, cells

    # ---------------------------------------------------------------- sizes

    @property
    def effective_kernel(self) -> int:
        """Input positions from the first tap to the last: ``dilation * (kernel - 1) + 1``.

        Formula: F26.
        """
        return self.dilation * (self.kernel - 1) + 1

    def pads(self, size: int) -> tuple[int, int]:
        """Padding cells ``(before, after)`` for an input of ``size`` positions."""
        if isinstance(self.padding, tuple):
            return self.padding
        outputs = -(-size // self.stride)
        missing = (outputs - 1) * self.stride + self.effective_kernel - size
        return _shared(max(missing, 0), str(self.padding))

    def resolve(self, size: int) -> Window:
        """The same window with its padding in cells, for an input of ``size`` positions.

        >>> Window(3, stride=2, padding="same").resolve(224).padding
        (0, 1)
        """
        return Window(self.kernel, self.stride, self.pads(size), self.dilation)

    def output_size(self, size: int, ceil_mode: bool = False) -> int:
        """Number of outputs on an input of ``size`` positions: ``floor((size + pads - effective) / stride) + 1``.

        Args:
            size: input positions.
            ceil_mode: round up, so that the last window may extend beyond the end; a window that would start beyond
                input and leading padding is omitted (as in PyTorch and ONNX).

        Raises:
            GeometryError: the window is longer than the padded input (in ``ceil_mode`` by a stride or more).

        Formula: F19, F20, F21, F22, F52, W8, W13, W15, W16.
        """
        if size < 0:
            raise GeometryError("window", f"the input has {size} positions", "needed 0 or more")
        before, after = self.pads(size)
        spare = size + before + after - self.effective_kernel
        # Rounding up, even the first window may hang over the end, by less than a stride.
        if spare < (1 - self.stride if ceil_mode else 0):
            side = (1 - spare) // 2
            raise GeometryError(
                "window",
                f"kernel {self.kernel} with dilation {self.dilation} spans {self.effective_kernel} positions, "
                f"the input has {size} and {before}+{after} of padding",
                f"needed an input of {size - spare} or more",
                f"pad by {side} more on each side, or make kernel or dilation smaller",
            )
        if not ceil_mode:
            return spare // self.stride + 1
        outputs = -(-spare // self.stride) + 1
        return outputs - ((outputs - 1) * self.stride >= size + before)

    def output_padding(self, size: int) -> int:
        """Trailing input positions that no window reaches: what the transposed window must add to give ``size``."""
        before, after = self.pads(size)
        return (size + before + after - self.effective_kernel) % self.stride

    def input_size(self, outputs: int, output_padding: int = 0) -> int:
        """Size of the transposed window's result for ``outputs`` positions, plus ``output_padding`` at the end.

        This undoes :meth:`output_size`: ``window.input_size(window.output_size(n), window.output_padding(n)) == n``.
        """
        if outputs < 1:
            raise GeometryError("transposed window", f"got {outputs} positions", "needed 1 or more")
        if not isinstance(self.padding, tuple):
            return outputs * self.stride  # "same": of all inputs that have this many outputs, the longest
        before, after = self.padding
        size = (outputs - 1) * self.stride + self.effective_kernel - before - after + output_padding
        if size < 1:
            raise GeometryError(
                "transposed window",
                f"padding {before}+{after} takes away more than the {size + before + after} positions there are",
                f"needed a padding of {size + before + after - 1} in all or less",
            )
        return size

    # ---------------------------------------------------------------- positions

    def position(self, output: int, tap: int) -> int:
        """Input position that ``output`` sees through ``tap``; negative or past the end inside the padding."""
        return output * self.stride - self._before + tap * self.dilation

    def span(self, output: int) -> tuple[int, int]:
        """First and last input position that ``output`` sees: its receptive field along the axis."""
        return self.position(output, 0), self.position(output, self.kernel - 1)

    def taps_inside(self, output: int, size: int) -> range:
        """The taps of ``output`` that fall on one of ``size`` input positions rather than on padding."""
        first = self.position(output, 0)
        start = -(first // self.dilation) if first < 0 else 0
        stop = (size - 1 - first) // self.dilation + 1
        return range(min(start, self.kernel), max(min(stop, self.kernel), min(start, self.kernel)))

    def outputs_inside(self, tap: int, size: int, outputs: int) -> range:
        """Those of ``outputs`` output positions for which ``tap`` falls on one of ``size`` input positions."""
        first = self.position(0, tap)
        start = -(first // self.stride) if first < 0 else 0
        stop = (size - 1 - first) // self.stride + 1
        return range(min(start, outputs), max(min(stop, outputs), min(start, outputs)))

    def in_bounds_taps(self, size: int, ceil_mode: bool = False) -> int:
        """Number of pairs (output, tap) inside an input of ``size`` positions: the multiplications really needed.

        >>> Window(3, padding=1).in_bounds_taps(4)      # 4 outputs of 3 taps, less one at either end
        10
        """
        outputs = self.output_size(size, ceil_mode)
        window = self.resolve(size)
        return sum(len(window.outputs_inside(tap, size, outputs)) for tap in range(self.kernel))

    @property
    def _before(self) -> int:
        return self._pads_for("its positions")[0]

    def _pads_for(self, purpose: str) -> tuple[int, int]:
        if isinstance(self.padding, tuple):
            return self.padding
        raise GeometryError(
            "window",
            f"padding {self.padding!r} with stride {self.stride} depends on the input's size",
            f"needed cells, to tell {purpose}",
            "call .resolve(size) first",
        )

    # ---------------------------------------------------------------- other windows

    def then(self, following: Window) -> Window:
        """The composition of two windows as one window: ``window.then(next)``, or ``window @ next``.

        Its ``kernel`` is the size of the receptive field, its ``stride`` the jump from one output's field to the
        next one's, and ``-padding[0]`` is the start of the first field. Output sizes equal those of the two windows one
        after the other, if both have outputs; on an input too short for the first window alone, the padding of the
        second may make up for it. Positions between the taps of a dilated window count as seen.

        Source: Araujo, Norris & Sim, "Computing receptive fields of convolutional neural networks", Distill 2019.

        >>> Window(7, 2, 3).then(Window(3, 2, 1))
        Window(kernel=11, stride=4, padding=(5, 5), dilation=1)

        Formula: F32, F33, F34, F35, W11, W12, S9.
        """
        before, after = self._pads_for("what it becomes in a row")
        next_before, next_after = following._pads_for("what it becomes in a row")
        return Window(
            kernel=self.effective_kernel + (following.effective_kernel - 1) * self.stride,
            stride=self.stride * following.stride,
            padding=(before + next_before * self.stride, after + next_after * self.stride),
        )

    __matmul__ = then

    def adjoint(self, size: int) -> Adjoint:
        """The transposed window, which carries gradients from this window's outputs back to ``size`` inputs."""
        before, _ = self.pads(size)
        outputs = self.output_size(size)
        lead = self.effective_kernel - 1 - before
        spread = (outputs - 1) * self.stride + 1
        return Adjoint(
            kernel=self.kernel,
            expansion=self.stride,
            before=lead,
            after=size + self.effective_kernel - 1 - spread - lead,
            dilation=self.dilation,
        )


@dataclass(frozen=True, slots=True)
class Adjoint:
    """A transposed window: a full convolution with the flipped kernel over outputs set ``expansion`` apart.

    ``i = o * stride - before + t * dilation`` tells which (o, t) reach input i. With ``expansion - 1`` zeros between
    the outputs, o * stride becomes the position; flipping the kernel turns -t into +t. The result is an ordinary window
    of stride 1 with the padding given here. A negative padding cuts cells off.

    Source: Dumoulin & Visin 2016, relationship 14 (transposed convolution arithmetic).

    >>> Window(3, stride=2, padding=1).adjoint(8)
    Adjoint(kernel=3, expansion=2, before=1, after=2, dilation=1)
    """

    kernel: int
    expansion: int
    before: int
    after: int
    dilation: int

    def output_size(self, size: int) -> int:
        """Positions made of ``size``: the input size of the window that this is the adjoint of."""
        spread = (size - 1) * self.expansion + 1
        return spread + self.before + self.after - self.dilation * (self.kernel - 1)


def _shared(cells: int, word: str) -> tuple[int, int]:
    """``cells`` of padding on two sides; an odd one goes where the word says."""
    less, more = cells // 2, cells - cells // 2
    return (more, less) if word == "same_lower" else (less, more)
