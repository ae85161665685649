"""The window's map and what follows from it, against counting by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import random_windows
from striate import Window
from striate.errors import GeometryError

one_axis = random_windows(1).map(lambda drawn: (drawn[0][0], drawn[1][0]))


def seen(window: Window, size: int) -> set[tuple[int, int]]:
    """The pairs (output, tap) inside the input, by walking over a padded line and looking at every cell."""
    before, after = window.pads(size)
    line = ["pad"] * before + ["cell"] * size + ["pad"] * after
    pairs, output, start = set(), 0, 0
    while start + window.dilation * (window.kernel - 1) < len(line):
        for tap in range(window.kernel):
            if line[start + tap * window.dilation] == "cell":
                pairs.add((output, tap))
        output, start = output + 1, start + window.stride
    return pairs


def taps_are_counted(size: int, window: Window) -> None:
    resolved, outputs = window.resolve(size), window.output_size(size)
    expected = seen(window, size)
    assert {(o, t) for o in range(outputs) for t in resolved.taps_inside(o, size)} == expected
    assert {(o, t) for t in range(window.kernel) for o in resolved.outputs_inside(t, size, outputs)} == expected
    assert {
        (o, t) for o in range(outputs) for t in range(window.kernel) if 0 <= resolved.position(o, t) < size
    } == expected
    assert window.in_bounds_taps(size) == len(expected)


@given(one_axis)
@settings(max_examples=200)
def test_taps_inside_are_those_counted_on_a_padded_line(drawn: tuple[int, Window]) -> None:
    taps_are_counted(*drawn)


@pytest.mark.slow
@given(one_axis)
@settings(max_examples=1000)
def test_taps_inside_of_more_windows(drawn: tuple[int, Window]) -> None:
    taps_are_counted(*drawn)


@pytest.mark.formula("F23", "F24", "F25")
@given(one_axis)
@settings(max_examples=500)
def test_words_mean_what_they_say(drawn: tuple[int, Window]) -> None:
    size, window = drawn
    ceiling = -(-size // window.stride)
    for word in ("same", "same_lower"):
        same = Window(window.kernel, window.stride, word, window.dilation)
        before, after = same.pads(size)
        assert same.output_size(size) == ceiling
        assert abs(before - after) <= 1
        assert before <= after if word == "same" else before >= after
        # Not a cell more than needed.
        assert before + after == max(0, (ceiling - 1) * window.stride + window.effective_kernel - size)
    full = Window(window.kernel, 1, "full", window.dilation)
    assert full.output_size(size) == size + window.effective_kernel - 1
    assert full.in_bounds_taps(size) == size * window.kernel
    assert Window(window.kernel, padding="valid") == Window(window.kernel, padding=0)


@given(one_axis)
@settings(max_examples=500)
def test_the_transposed_window_undoes_the_output_size(drawn: tuple[int, Window]) -> None:
    size, window = drawn
    outputs, resolved = window.output_size(size), window.resolve(size)
    assert resolved.input_size(outputs, resolved.output_padding(size)) == size
    adjoint = window.adjoint(size)
    assert adjoint.output_size(outputs) == size
    # The adjoint's position of (input, flipped tap) over spread outputs is the window's, solved for the output.
    for output in range(outputs):
        for tap in range(window.kernel):
            position = resolved.position(output, tap)
            flipped = window.kernel - 1 - tap
            assert position - adjoint.before + flipped * adjoint.dilation == output * adjoint.expansion


@pytest.mark.formula("F32", "F33", "F34", "F35")
@given(st.lists(random_windows(1, words=False).map(lambda drawn: drawn[1][0]), min_size=2, max_size=4))
@settings(max_examples=300)
def test_windows_in_a_row_are_one_window(path: list[Window]) -> None:
    whole = path[0]
    for window in path[1:]:
        whole = whole.then(window)
    size = whole.kernel + 7
    sizes = [size]
    for window in path:
        sizes.append(window.output_size(sizes[-1]))
    assert whole.output_size(size) == sizes[-1]
    # The field of an output, followed backwards through every window.
    for output in (0, sizes[-1] - 1):
        first = last = output
        for window in reversed(path):
            first, last = window.span(first)[0], window.span(last)[1]
        assert whole.span(output) == (first, last)


@pytest.mark.formula("F19", "F20", "W15", "W16")
@pytest.mark.parametrize(
    ("window", "size", "outputs"),
    [
        (Window(7, 2, 3), 224, 112),
        (Window(3, 2), 112, 55),
        (Window(3, 2, 1), 112, 56),
        (Window(3, 1), 5, 3),
        (Window(3, 2), 5, 2),
        (Window(5), 28, 24),
    ],
)
def test_sizes_of_the_textbooks(window: Window, size: int, outputs: int) -> None:
    assert window.output_size(size) == outputs


@pytest.mark.formula("F35", "W11")
def test_three_3x3_layers_see_7x7_with_fewer_weights() -> None:
    assert (Window(3) @ Window(3) @ Window(3)).kernel == 7
    assert 3 * 3 * 3 < 7 * 7


@pytest.mark.formula("F33", "F34")
def test_receptive_field_of_vgg16_is_196_at_its_last_convolution() -> None:
    field = Window(1)
    for block in (2, 2, 3, 3, 3):
        for _ in range(block):
            field = field @ Window(3, 1, 1)
        last_convolution = field
        field = field @ Window(2, 2)
    assert last_convolution.kernel == 196
    assert (field.kernel, field.stride, field.padding[0]) == (212, 32, 90)


@pytest.mark.parametrize(
    ("window", "size", "floor", "ceil"),
    [
        (Window(2, 2), 5, 2, 3),
        (Window(3, 2), 6, 2, 3),
        (Window(3, 2), 7, 3, 3),
        # longer than the input by less than the stride
        (Window(2, 2, 0), 2, 1, 1),
        # a third window would start at 4, where nothing is left but trailing padding
        (Window(2, 3, 1), 3, 2, 2),
        # the rule holds for whole windows, too: PyTorch drops the one that floor mode keeps
        (Window(1, 2, (0, 1)), 2, 2, 1),
    ],
)
def test_ceil_mode_adds_the_window_that_hangs_over_unless_it_starts_beyond(
    window: Window, size: int, floor: int, ceil: int
) -> None:
    assert window.output_size(size) == floor
    assert window.output_size(size, ceil_mode=True) == ceil


@pytest.mark.parametrize(
    "arguments",
    [
        (0,),
        (3, 0),
        (3, 1, -1),
        (3, 1, (1, -2)),
        (3, 1, 0, 0),
        (2.5,),
        ("3",),
        (3, 1, "sane"),
        (3, 1, (1, 2, 3)),
        (3, 1, None),
    ],
)
def test_impossible_windows_are_refused_in_one_line(arguments: tuple) -> None:
    with pytest.raises(GeometryError) as caught:
        Window(*arguments)
    assert "\n" not in str(caught.value)
    assert caught.value.needed


def test_a_window_longer_than_the_input_says_what_would_help() -> None:
    with pytest.raises(
        GeometryError, match=r"kernel 7 with dilation 2 spans 13 positions, the input has 9 .* pad by 2 more"
    ):
        Window(7, dilation=2).output_size(9)
    assert Window(7, padding=2, dilation=2).output_size(9) == 1


def test_same_with_a_stride_needs_a_size_before_it_has_positions() -> None:
    window = Window(3, 2, "same")
    with pytest.raises(GeometryError, match="resolve"):
        window.position(0, 0)
    with pytest.raises(GeometryError, match="resolve"):
        window.then(Window(3))
    assert window.resolve(5).position(0, 0) == -1
