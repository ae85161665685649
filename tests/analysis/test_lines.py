"""Rules along one axis: windows as in the literature, phases, and where rules end."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from striate.analysis.lines import Line, hull, sources
from striate.geometry import Window

WINDOWS = st.builds(
    Window, st.integers(1, 5), st.integers(1, 4), st.tuples(st.integers(0, 4), st.integers(0, 4)), st.integers(1, 3)
)


@given(st.lists(WINDOWS, max_size=5))
def test_windows_in_a_row_are_their_composition(windows: list[Window]) -> None:
    line, whole = Line.identity(), Window(1)
    for window in windows:
        line, whole = line.through(window), whole @ window
    assert (line.size, line.stride) == (whole.effective_kernel, whole.stride)
    assert line.span(0) == whole.span(0)
    assert line.span(7) == whole.span(7)


@given(WINDOWS, WINDOWS, st.integers(-9, 30))
def test_transposed_windows_see_what_reaches_them(first: Window, second: Window, position: int) -> None:
    line = Line.identity().through(first).through_transposed(second)
    reaching = [o for o in range(-60, 60) if position in [second.position(o, tap) for tap in range(second.kernel)]]
    assert sorted(reaching) == sorted(sources(second, position))
    assert line.span(position) == hull([first.span(o) for o in reaching])


def test_enlargement_has_phases_and_a_fractional_stride() -> None:
    line = Line.identity().repeated(((0,), (0,), (0,)))
    assert line.stride == Fraction(1, 3)
    assert [line.span(o) for o in range(-1, 4)] == [(-1, -1), (0, 0), (0, 0), (0, 0), (1, 1)]
    assert line.through(Window(1, 3)) == Line.identity()  # undone, and known to be


def test_branches_that_drift_apart_have_no_rule() -> None:
    one = Line.identity()
    assert one.union(one.through(Window(1, 2))) is None
    assert one.union(one.through(Window(3, 1, 1))) == one.through(Window(3, 1, 1))
