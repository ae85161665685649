"""Labels on pictures: none over another, none outside, and near what they name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from striate.report.labels import place_labels

SIDE = 200.0
corner = st.tuples(st.floats(0, 180), st.floats(0, 180), st.floats(1, 100), st.floats(1, 100))
sizes = st.tuples(st.floats(5, 90), st.floats(4, 20))


@given(st.lists(st.tuples(corner, sizes), max_size=40))
def test_no_label_lies_over_another_or_outside(drawn: list[tuple[tuple[float, ...], tuple[float, float]]]) -> None:
    boxes = [(x, y, min(x + w, SIDE), min(y + h, SIDE)) for (x, y, w, h), _ in drawn]
    labels = [size for _, size in drawn]
    places = place_labels((SIDE, SIDE), boxes, labels)
    assert len(places) == len(drawn)
    there = [(place, size) for place, size in zip(places, labels, strict=True) if place is not None]
    for number, (place, (width, height)) in enumerate(there):
        assert 0 <= place.left < place.right <= SIDE
        assert 0 <= place.top < place.bottom <= SIDE
        assert abs(place.right - place.left - width) < 1e-6
        assert abs(place.bottom - place.top - height) < 1e-6
        for other, _ in there[:number]:
            apart = (
                other.right <= place.left
                or place.right <= other.left
                or other.bottom <= place.top
                or place.bottom <= other.top
            )
            assert apart


def test_a_label_goes_above_its_box_and_under_it_at_the_upper_edge() -> None:
    (above,) = place_labels((100, 100), [(10, 20, 50, 50)], [(30, 8)])
    (under,) = place_labels((100, 100), [(10, 2, 50, 50)], [(30, 8)])
    assert above is not None
    assert under is not None
    assert (above.left, above.bottom) == (10, 20)
    assert (under.left, under.top) == (10, 50)


def test_equal_boxes_have_labels_side_by_side_and_then_apart() -> None:
    places = place_labels((300, 300), [(100, 100, 160, 160)] * 12, [(50, 10)] * 12)
    assert all(place is not None for place in places)
    assert [place.apart for place in places if place is not None] == [False] * 4 + [True] * 8


def test_what_has_no_room_is_left_out() -> None:
    assert place_labels((20, 20), [(0, 0, 20, 20)] * 2, [(18, 18)] * 2).count(None) == 1
    assert place_labels((20, 20), [(0, 0, 20, 20)], [(30, 8)]) == [None]
