"""From the arguments of a call to one window for each axis, and from lengths along the axes to words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias, cast

from striate.errors import GeometryError
from striate.geometry.window import AxisPadding, Padding, Window

#: Names of the spatial axes by their number.
AXES: Final = {1: "L", 2: "HW", 3: "DHW"}

#: A length for all axes, or one for each.
Ints: TypeAlias = int | Sequence[int]


def per_axis(value: Any, dims: int, name: str, call: str) -> tuple[Any, ...]:
    """One value for each of ``dims`` axes from one value or a sequence of one or ``dims``."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (value,) * dims
    if len(value) == 1:
        return (value[0],) * dims
    if len(value) != dims:
        remedy = ""
        if name == "padding" and len(value) == 2:
            pairs = ", ".join([str(tuple(value))] * dims)
            remedy = f"write ({pairs}{',' * (dims == 1)}) for {value[0]} before and {value[1]} after"
        raise GeometryError(call, f"{name} is {value!r}", f"needed one number, or {dims} (one an axis)", remedy)
    return tuple(value)


def windows(
    call: str, dims: int, kernel: Ints, stride: Ints = 1, padding: Padding = 0, dilation: Ints = 1
) -> tuple[Window, ...]:
    """One window for each axis from a call's arguments; errors name the call and the axis."""
    arguments = (("kernel", kernel), ("stride", stride), ("padding", padding), ("dilation", dilation))
    axes = zip(*(per_axis(value, dims, name, call) for name, value in arguments), strict=True)
    made = []
    for axis, (axis_kernel, axis_stride, axis_padding, axis_dilation) in enumerate(axes):
        with Blame(call, dims, axis):
            sides = tuple(axis_padding) if isinstance(axis_padding, list) else axis_padding
            made.append(Window(axis_kernel, axis_stride, cast(AxisPadding, sides), axis_dilation))
    return tuple(made)


class Blame:
    """Lets a GeometryError of one window name the call and the axis it came from."""

    def __init__(self, call: str, dims: int, axis: int) -> None:
        self.where = f"{call}, axis {AXES[dims][axis]}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, GeometryError):
            raise GeometryError(self.where, error.got, error.needed, error.remedy) from None


def joined(lengths: Sequence[object]) -> str:
    """``2x3``; one number where all axes agree."""
    return str(lengths[0]) if len(set(lengths)) == 1 else product(lengths)


def product(lengths: Sequence[object]) -> str:
    """``8x64x56x56``."""
    return "x".join(str(length) for length in lengths)


def padding_word(padding: AxisPadding) -> str:
    """``1``, ``1:2`` or the word itself."""
    if isinstance(padding, tuple):
        return str(padding[0]) if padding[0] == padding[1] else f"{padding[0]}:{padding[1]}"
    return str(padding)
