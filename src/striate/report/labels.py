"""Places labels of boxes on a picture so that no two overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: How far from its box a label may be put, in its own heights.
_FAR: Final = 8


@dataclass(frozen=True)
class Placed:
    """A label's rectangle, x0 y0 x1 y1, and whether it stands apart from its box, which a line then joins to it."""

    left: float
    top: float
    right: float
    bottom: float
    apart: bool = False


def place_labels(
    size: tuple[float, float], boxes: Sequence[Sequence[float]], labels: Sequence[tuple[float, float]]
) -> list[Placed | None]:
    """A place for each label on a picture: no two overlap, none leaves the picture.

    A label is placed at a corner of its box, outside if possible, where it covers the least of the corners of other
    boxes. If all corners are occupied, it is placed apart, as near as there is space. Boxes are processed in order, so
    give the most important ones first.

    Args:
        size: height and width.
        boxes: N of x0, y0, x1, y1.
        labels: N of width and height, in the same unit.

    Returns:
        N places; None where there is no room within eight heights.

    >>> place_labels((100, 100), [(10, 20, 50, 50)], [(30, 8)])
    [Placed(left=10, top=12, right=40, bottom=20, apart=False)]
    """
    found: list[Placed | None] = []
    taken = np.zeros((0, 4))
    others = np.array(boxes, dtype=float).reshape(-1, 4)
    for number, (box, (width, height)) in enumerate(zip(boxes, labels, strict=True)):
        free = [
            each for each in _corners(box, width, height) if _inside(each, size) and not _overlaps(taken, each).any()
        ]
        best: Placed | None
        if free:
            rest = np.delete(others, number, axis=0)
            best = min(free, key=lambda each: float(_overlaps(rest, each).sum()))
        else:
            away = (each for each in _around(box, width, height) if _inside(each, size))
            best = next((each for each in away if not _overlaps(taken, each).any()), None)
        found.append(best)
        if best is not None:
            taken = np.vstack([taken, (best.left, best.top, best.right, best.bottom)])
    return found


def _corners(box: Sequence[float], width: float, height: float) -> Iterator[Placed]:
    """Above and below the box, then within it; at its left side, then at its right."""
    left, top, right, bottom = box
    for y in (top - height, bottom, top, bottom - height):
        for x in (left, right - width):
            yield Placed(x, y, x + width, y + height)


def _around(box: Sequence[float], width: float, height: float) -> Iterator[Placed]:
    """On rings around the box, ever farther."""
    left, top, right, bottom = box
    step = height * 0.75
    for ring in np.arange(1, _FAR / 0.75 + 1) * step:
        x0, y0, x1, y1 = left - width - ring, top - height - ring, right + ring, bottom + ring
        xs, ys = np.arange(x0, x1 + step, step), np.arange(y0, y1 + step, step)
        spots = [(x, y) for y in (y0, y1) for x in xs] + [(x, y) for x in (x0, x1) for y in ys]
        middle = ((left + right - width) / 2, (top + bottom - height) / 2)
        for x, y in sorted(spots, key=lambda spot: abs(spot[0] - middle[0]) + abs(spot[1] - middle[1])):
            yield Placed(float(x), float(y), float(x + width), float(y + height), apart=True)


def _inside(each: Placed, size: tuple[float, float]) -> bool:
    return each.left >= 0 and each.top >= 0 and each.right <= size[1] and each.bottom <= size[0]


def _overlaps(rectangles: NDArray[np.float64], each: Placed) -> NDArray[np.float64]:
    """The area that each of M rectangles shares with a label."""
    wide = np.minimum(rectangles[:, 2], each.right) - np.maximum(rectangles[:, 0], each.left)
    high = np.minimum(rectangles[:, 3], each.bottom) - np.maximum(rectangles[:, 1], each.top)
    shared: NDArray[np.float64] = wide.clip(0) * high.clip(0)
    return shared
