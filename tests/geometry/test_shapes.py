"""Problems: their numbers, their line, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import CONVOLUTIONS, POOLINGS, random_convolutions, random_poolings
from striate import ConvShape, PoolShape, Window
from striate.errors import GeometryError
from striate.geometry import parse

every_problem = st.one_of(random_convolutions(), random_poolings("max"), random_poolings("avg"))


def is_what_its_line_says(problem: ConvShape | PoolShape) -> None:
    line = str(problem)
    assert "\n" not in line
    assert parse(line) == problem
    assert str(parse(line)) == line
    assert pickle.loads(pickle.dumps(problem)) == problem


@given(every_problem)
@settings(max_examples=200)
def test_a_problem_is_what_its_line_says(problem: ConvShape | PoolShape) -> None:
    is_what_its_line_says(problem)


@pytest.mark.slow
@given(every_problem)
@settings(max_examples=1000)
def test_more_problems_are_what_their_lines_say(problem: ConvShape | PoolShape) -> None:
    is_what_its_line_says(problem)


@pytest.mark.parametrize("line", CONVOLUTIONS + POOLINGS)
def test_the_table_parses(line: str) -> None:
    assert parse(str(parse(line))) == parse(line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "conv2d",
        "conv2d 1x3x8x8",
        "conv4d 1x3x8x8 1x3x3x3",
        "conv1d 1x3x8x8 1x3x3x3",
        "conv2d 1x3x8x8 1x3x3x3 stride=two",
        "conv2d 1x3x8x8 1x3x3x3 padding=1:a",
        "conv2d 1x3x8x8 1x3x3x3 colour=2",
        "conv2d 1x3x8x8 1x3x3x3 kernel=3",
        "conv2d 1x3x8x8 1x3x3x3 ceil_mode",
        "conv2d 1x3x8x8 1x3x3x3 1x2",
        "max_pool2d 1x3x8x8",
        "max_pool2d 1x3x8x8 kernel=2 groups=3",
        "max_pool1d 1x3x8x8 kernel=2",
        "min_pool2d 1x3x8x8 kernel=2",
    ],
)
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(GeometryError):
        parse(line)


@pytest.mark.formula("F27", "W9", "W15")
def test_costs_of_the_textbooks() -> None:
    # a 3x3 convolution from 64 to 128 channels on 32x32, with its bias
    shape = ConvShape.parse("conv2d 1x64x32x32 128x64x3x3 padding=1")
    assert shape.parameters() == 73_856
    assert shape.macs == 128 * 64 * 9 * 32 * 32
    # each axis loses one tap at either end: (3 * 32 - 2)^2 of (3 * 32)^2
    assert shape.in_bounds_macs == 128 * 64 * 94 * 94
    assert ConvShape.parse("conv2d 1x3x28x28 8x3x5x5").parameters(bias=False) == 5 * 5 * 3 * 8
    assert ConvShape.parse("conv2d 1x3x224x224 64x3x7x7 stride=2 padding=3").output_shape == (1, 64, 112, 112)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvShape.of((1, 3, 8, 8), (4, 2, 3, 3)), "3 channels"),
        (lambda: ConvShape.of((1, 4, 8, 8), (4, 2, 3, 3), groups=3), "groups"),
        (lambda: ConvShape(1, 4, 3, (8,), (Window(3),), groups=2), "divides both"),
        (lambda: ConvShape(1, 4, 4, (8,), (Window(3),), groups=0), "needed 1 or more"),
        (lambda: ConvShape.of((1, 4, 8), (4, 4, 3, 3)), "same 1, 2 or 3 axes"),
        (lambda: ConvShape.of((1, 4, 8, 2), (4, 4, 3, 3)), "conv2d, axis W"),
        (lambda: ConvShape.of((1, 4, 8, 8), (4, 4, 3, 3), stride=(1, 2, 3)), "stride is"),
        (lambda: ConvShape.of((1, 4, 8, 8), (4, 4, 3, 3), stride=0), "conv2d, axis H"),
        (lambda: ConvShape.of((1, 4, 8), (4, 4, 3), padding=(1, 2)), r"\(\(1, 2\),\)"),
        (lambda: ConvShape.of_transposed((1, 4, 8), (3, 4, 3)), "4 channels"),
        (lambda: ConvShape.of_transposed((1, 4, 8), (4, 4, 3), output_padding=1), "0 to 0"),
        (lambda: ConvShape.of_transposed((1, 4, 2), (4, 4, 3), padding=3), "takes away"),
        (lambda: ConvShape.of_transposed((1, 4, 8), (4, 4, 3), 2, "same", 1), "fixes the output size"),
        (lambda: PoolShape.of("max", (1, 4, 8, 8), 9), "max_pool2d, axis H"),
        (lambda: PoolShape.of("max", (1, 4, 8, 8), 2, padding=2), "wholly in the padding"),
        (lambda: PoolShape.of("avg", (1, 4, 8, 8), 2, padding=2, count_include_pad=False), "wholly in the padding"),
        (lambda: PoolShape.of("avg", (1, 4, 8, 8), 2, divisor=0), "divisor of 0"),
        (lambda: PoolShape.of("avg", (1, 4, 0, 8), 2), "at least one position"),
    ],
)
def test_impossible_problems_are_refused_with_what_was_got(make, message: str) -> None:
    with pytest.raises(GeometryError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_divisors_count_the_cells_of_every_window() -> None:
    shape = parse("avg_pool1d 1x1x5 kernel=3 stride=2 padding=1 ceil_mode")
    assert isinstance(shape, PoolShape)
    assert shape.divisors == ((3, 3, 3),)
    assert PoolShape.of("avg", (1, 1, 5), 3, 2, 1, count_include_pad=False).divisors == ((2, 3, 2),)
    # what hangs over the padding's end counts for nothing
    assert PoolShape.of("avg", (1, 1, 6), 3, 2, ceil_mode=True).divisors == ((3, 3, 2),)


@pytest.mark.parametrize(
    "line",
    [
        "conv2d 1x4x5x5 4x2x3x3 groups=2x9",
        "conv2d 1x1x5x5 1x1x3x3 stride=1 stride=2",
        "conv2d 1x1x1_0x5 1x1x3x3",
        "conv2d 1x1x5x5 1x1x3x3 padding=+1",
        "conv2d 1x1x\u0665x5 1x1x3x3",
        "avg_pool2d 1x1x5x5 kernel=2 divisor=1.5",
    ],
)
def test_lines_that_only_look_like_problems(line: str) -> None:
    with pytest.raises(GeometryError, match=r"^parse: got"):
        parse(line)


def test_each_kind_parses_its_own() -> None:
    line = "max_pool2d 1x2x5x5 kernel=3"
    assert str(PoolShape.parse(line)) == line
    with pytest.raises(GeometryError, match="needed a pooling"):
        PoolShape.parse("conv1d 1x1x5 1x1x3")
    with pytest.raises(GeometryError, match="needed a convolution"):
        ConvShape.parse(line)


def test_sizes_of_any_integer_type_are_exact() -> None:
    """NumPy's integers wrap around where Python's don't."""
    big = ConvShape.of(np.array([2**12, 2**10, 2**8, 2**8], dtype=np.int32), (2**10, 2**10, 3, 3), padding=1)
    assert big.macs == 2**12 * 2**10 * 2**16 * 2**10 * 9
    assert {type(n) for n in (*big.input_shape, *big.weight_shape, big.groups)} == {int}
    grouped = ConvShape.of((1, 4, 5), (4, 2, 3), groups=np.int64(2))
    assert type(grouped.groups) is int


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvShape.of((1, 1, 5.0), (1, 1, 3)),
        lambda: ConvShape.of((1, 1, 5), (1, 1, 3), groups=1.0),
        lambda: ConvShape.of((1, 1, 5), (1, 1, 3), groups=None),
        lambda: ConvShape.of_transposed((1, 1, 5), (1, 1, 3), output_padding=0.5),
        lambda: PoolShape.of("avg", (1, 1, 5), 2, divisor=1.5),
        lambda: PoolShape.of("max", (1, "x", 5), 2),
    ],
)
def test_sizes_of_no_integer_type(make) -> None:
    with pytest.raises(GeometryError, match="needed a whole number"):
        make()


def test_a_pooling_is_a_maximum_or_an_average() -> None:
    with pytest.raises(GeometryError, match="got kind 'median'; needed max or avg"):
        PoolShape("median", 1, 1, (5,), (Window(2),))


def test_a_dilation_that_jumps_over_the_input() -> None:
    with pytest.raises(GeometryError, match="make the dilation smaller"):
        PoolShape.of("max", (1, 1, 2), 2, 1, padding=9, dilation=9)
