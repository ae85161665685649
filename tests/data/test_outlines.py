from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from striate.data.outlines import Polygons, Runs, box_of, filled, packed, read_runs, runs_of
from striate.errors import DataError

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20)))


@settings(max_examples=50)
@given(MASKS)
def test_runs_and_their_text_are_those_of_pycocotools(mask: np.ndarray) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    runs = runs_of(mask)
    assert np.array_equal(filled(runs, mask.shape), mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert packed(runs) == theirs["counts"].decode()
    back = read_runs(packed(runs), list(mask.shape))
    assert back.counts.tolist() == runs.counts.tolist()
    assert read_runs(runs.counts.tolist(), list(mask.shape)).counts.tolist() == runs.counts.tolist()
    if mask.any():
        x, y, width, height = coco.toBbox(theirs)
        assert box_of(runs) == (x, y, x + width, y + height)


def inside(ring: np.ndarray, x: float, y: float) -> bool | None:
    """Whether a point is in a polygon: an odd number of edges lies to its left. None for one next to an edge."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
        if min(y0, y1) <= y < max(y0, y1):
            at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
            if abs(at - x) < 1e-3:
                return None
            crossings += at < x
    return crossings % 2 == 1


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(-3, 25), st.integers(-3, 25)), min_size=3, max_size=8), st.floats(0, 1, width=16))
def test_a_pixel_is_in_a_polygon_by_its_middle(corners: list[tuple[int, int]], shift: float) -> None:
    ring = (np.array(corners) / 2 + shift).astype(np.float32)
    mask = filled(Polygons((ring,)), (11, 9))
    for row in range(11):
        for column in range(9):
            assert inside(ring, column + 0.5, row + 0.5) in (None, mask[row, column])


def test_polygons_of_an_object_are_one_mask_and_may_reach_outside() -> None:
    left, right = (
        np.array(ring, dtype=np.float32)
        for ring in ([(-3, -3), (2, -3), (2, 9), (-3, 9)], [(4, 1), (9, 1), (9, 3), (4, 3)])
    )
    mask = filled(Polygons((left, right)), (5, 6))
    assert mask.astype(int).tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 1],
        [1, 1, 0, 0, 1, 1],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
    ]
    assert box_of(Polygons((left, right))) == (-3, -3, 9, 9)


def test_polygons_are_those_of_pycocotools_but_for_the_border() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = np.stack([50 + 30 * np.cos(angle), 40 + 25 * np.sin(angle)], 1).astype(np.float32)
    ours = filled(Polygons((ring,)), (90, 100))
    theirs = coco.decode(coco.frPyObjects([ring.reshape(-1).tolist()], 90, 100))[..., 0].astype(bool)
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95
    assert abs(ours.sum() - np.pi * 30 * 25) < 20


@pytest.mark.parametrize(
    ("counts", "size", "told"),
    [
        ([3, 4], [2, 3], "7 pixels; needed 6"),
        ([3, -1, 4], [2, 3], "neither a list"),
        ([3.5], [2, 3], "neither a list"),
        (None, [2, 3], "neither a list"),
        ("", [2, 3], "0 pixels"),
        ("o", [2, 3], "cut off"),
        ("\x10", [2, 3], "cut off"),
        ("oooooooooooooooo0", [2, 3], "50 bits"),
        ([6], [2], "size [2]"),
        ([6], "2x3", "size '2x3'"),
    ],
)
def test_broken_runs(counts: object, size: object, told: str) -> None:
    with pytest.raises(DataError) as error:
        read_runs(counts, size)
    assert told in str(error.value)


def test_a_mask_without_a_pixel_has_no_box() -> None:
    with pytest.raises(DataError, match="without a pixel"):
        box_of(Runs(np.array([6], dtype=np.uint32), (2, 3)))
