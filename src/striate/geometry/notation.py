"""Parses the line that ``str(problem)`` prints.

    conv2d 8x64x56x56 128x64x3x3 stride=2 padding=1
    max_pool2d 8x64x112x112 kernel=3 stride=2 padding=1
    batch_norm 8x64x56x56 relu residual training
    conv_max_pool2d 8x1x28x28 6x1x5x5 padding=2 then kernel=2 stride=2 relu

The shapes are those of the input and, for a convolution, of the weight. Lengths along the axes are joined by ``x`` (one
number stands for all axes), the two sides of a padding by ``:``. Omitted settings have their defaults.
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeAlias, cast

from striate.errors import GeometryError
from striate.geometry.blocks import ConvPoolShape, NormShape
from striate.geometry.shapes import ConvShape, PoolShape, Problem
from striate.geometry.window import AxisPadding

#: Everything that the engine computes: a windowed operation, or several operations as one.
AnyProblem: TypeAlias = ConvShape | PoolShape | NormShape | ConvPoolShape

_FLAGS = ("ceil_mode", "exclude_pad")


def parse_any(line: str) -> AnyProblem:
    """:func:`parse` of every kind of problem, also of several operations that are computed as one.

    Raises:
        GeometryError: a line that no problem prints as.

    >>> for line in (
    ...     "batch_norm 8x64x56x56 leaky_relu:0.1 training",
    ...     "conv_max_pool2d 8x1x28x28 6x1x5x5 padding=2 then kernel=2 stride=2 relu",
    ... ):
    ...     assert str(parse_any(line)) == line
    """
    name, *words = line.split() or [""]
    made: AnyProblem
    if name == "batch_norm" and words:
        flags = {word for word in words[1:] if word in ("residual", "training")}
        activation = [word for word in words[1:] if word not in flags]
        shape = tuple(_lengths(words[0], line))
        made = NormShape(shape, " ".join(activation), "residual" in flags, "training" in flags)
        if len(shape) < 2 or min(shape) < 0 or len(activation) > 1:
            raise _unreadable(line)
        return made
    if name.startswith("conv_max_pool") and "then" in words:
        dims, split = name.removeprefix("conv_max_pool"), words.index("then")
        conv = parse(" ".join([f"conv{dims}", *words[:split]]))
        window = [word for word in words[split + 1 :] if "=" in word or word in _FLAGS]
        activation = [word for word in words[split + 1 :] if word not in window]
        shape_word = "x".join(map(str, conv.output_shape))
        pool = parse(" ".join([f"max_pool{dims}", shape_word, *window]))
        made = ConvPoolShape(cast(ConvShape, conv), cast(PoolShape, pool), " ".join(activation))
        if len(activation) > 1:
            raise _unreadable(line)
        return made
    return parse(line)


def parse(line: str) -> Problem:
    """The problem that ``str(problem)`` wrote as ``line``.

    Raises:
        GeometryError: a line that no problem prints as.

    >>> parse("conv2d 8x64x56x56 128x64x3x3 stride=2 padding=1").output_shape
    (8, 128, 28, 28)
    >>> line = "avg_pool2d 1x1x5x5 kernel=3x2 stride=2 padding=same ceil_mode"
    >>> str(parse(line)) == line
    True
    """
    name, *words = line.split() or [""]
    pairs = [word.split("=", 1) for word in words if "=" in word]
    said = dict(pairs)
    flags = {word for word in words if word in _FLAGS}
    shapes = [_lengths(word, line) for word in words if "=" not in word and word not in _FLAGS]
    each: dict[str, Any] = {
        key: _lengths(said.pop(key), line) for key in ("kernel", "stride", "dilation") if key in said
    }
    each["padding"] = [_padding(word, line) for word in said.pop("padding", "0").split("x")]
    single = {key: _number(said.pop(key), line) for key in ("groups", "divisor") if key in said}
    problem: Problem | None = None
    if name.startswith("conv") and len(shapes) == 2 and "kernel" not in each and not flags and "divisor" not in single:
        problem = ConvShape.of(shapes[0], shapes[1], groups=single.get("groups", 1), **each)
    elif name.startswith(("max_pool", "avg_pool")) and len(shapes) == 1 and "kernel" in each and "groups" not in single:
        each.setdefault("stride", 1)  # an omitted stride is 1 here; in a call it would be the kernel
        problem = PoolShape.of(
            cast(Literal["max", "avg"], name[:3]),
            shapes[0],
            ceil_mode="ceil_mode" in flags,
            count_include_pad="exclude_pad" not in flags,
            divisor=single.get("divisor"),
            **each,
        )
    if problem is None or problem.name != name or said or len({key for key, _ in pairs}) < len(pairs):
        raise _unreadable(line)
    return problem


def _unreadable(line: str) -> GeometryError:
    return GeometryError(
        "parse",
        f"got {line!r}",
        "needed a line such as 'conv2d 8x64x56x56 128x64x3x3 stride=2 padding=1' "
        "or 'max_pool2d 8x64x112x112 kernel=3 stride=2 padding=1'",
    )


def _number(word: str, line: str) -> int:
    # Stricter than int(), which takes 1_000, +1 and the digits of every script.
    if not re.fullmatch("-?[0-9]+", word):
        raise _unreadable(line)
    return int(word)


def _lengths(word: str, line: str) -> list[int]:
    return [_number(number, line) for number in word.split("x")]


def _padding(word: str, line: str) -> AxisPadding:
    if word.isidentifier():
        return word
    sides = [_number(number, line) for number in word.split(":")]
    return sides[0] if len(sides) == 1 else cast(AxisPadding, tuple(sides))
