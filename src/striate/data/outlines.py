"""Outlines of objects as stored in data sets, polygons or runs of pixels, and conversion to masks.

Runs are COCO's: column after column from the left, how many pixels are outside, then inside, outside, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from striate.errors import DataError

#: Bits of a number in each letter of a compressed outline; a further bit says that the number continues.
_BITS = 5
_FIRST_LETTER = 48


@dataclass(frozen=True, eq=False)
class Runs:
    """Pixels of an object as lengths of runs.

    Args:
        counts: uint32, outside and inside in turn, outside first.
        size: (H, W) of the picture.
    """

    counts: NDArray[np.uint32]
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Polygons:
    """An object's outline: the pixels whose middle is in any of these polygons, by the even-odd rule.

    Args:
        rings: float32 (K, 2) each, x and y in pixels, K at least 3.
    """

    rings: tuple[NDArray[np.float32], ...]


Outline = Runs | Polygons


def filled(outline: Outline, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) that an outline stands for."""
    if isinstance(outline, Runs):
        inside = np.repeat(np.arange(len(outline.counts)) % 2 == 1, outline.counts)
        return np.ascontiguousarray(inside.reshape(size[1], size[0]).T)
    mask = np.zeros(size, dtype=bool)
    for ring in outline.rings:
        _fill(ring, mask)
    return mask


def _fill(ring: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
    """Sets the pixels of a polygon, row by row between the edges that the row's middle line crosses."""
    height, width = mask.shape
    points = ring.astype(np.float64)
    first = max(0, int(np.floor(points[:, 1].min())))
    last = min(height, int(np.ceil(points[:, 1].max())) + 1)
    if first >= last:
        return
    middles = np.arange(first, last)[:, None] + 0.5
    x0, y0 = points.T
    x1, y1 = np.roll(points, -1, axis=0).T
    crosses = (np.minimum(y0, y1) <= middles) & (middles < np.maximum(y0, y1))
    rows, edges = np.nonzero(crosses)
    slope = (x1[edges] - x0[edges]) / (y1[edges] - y0[edges])
    at = x0[edges] + (rows + first + 0.5 - y0[edges]) * slope
    changes = np.zeros((last - first, width + 1), dtype=np.int32)
    np.add.at(changes, (rows, np.ceil(at - 0.5).clip(0, width).astype(np.int64)), 1)
    mask[first:last] |= (np.cumsum(changes, axis=1)[:, :width] % 2).astype(bool)


def runs_of(mask: NDArray[np.bool_]) -> Runs:
    """The runs of a mask (H, W).

    >>> runs_of(np.array([[False, True], [True, True]])).counts.tolist()
    [1, 3]
    """
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return Runs(np.diff([0, *changes.tolist(), flat.size]).astype(np.uint32), (mask.shape[0], mask.shape[1]))


def box_of(outline: Outline) -> tuple[float, float, float, float]:
    """The smallest box around an outline, x0 y0 x1 y1: around polygons to the fraction of a pixel.

    Raises:
        DataError: runs without a pixel.
    """
    if isinstance(outline, Polygons):
        points = np.concatenate(outline.rings)
        (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
        return x0, y0, x1, y1
    mask = filled(outline, outline.size)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise DataError("outline", "has a mask without a pixel")
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def read_runs(counts: object, size: object) -> Runs:
    """Runs as COCO writes them: a list of numbers, or compressed as text.

    Raises:
        DataError: anything else, or runs that aren't as many pixels as ``size`` has.
    """
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(each, int) and each > 0 for each in size)):
        raise DataError("outline", f"has a mask of size {size!r}", "needed [height, width]")
    if isinstance(counts, str):
        numbers = _unpacked(counts)
    elif isinstance(counts, list) and all(isinstance(each, int) and 0 <= each < 1 << 32 for each in counts):
        numbers = np.array(counts, dtype=np.int64)
    else:
        raise DataError("outline", "has a mask that is neither a list of lengths nor text", "needed COCO's runs")
    height, width = size
    if (len(numbers) and numbers.min() < 0) or numbers.sum() != height * width:
        raise DataError(
            "outline", f"has a mask of {numbers.sum()} pixels", f"needed {height * width} ({height}x{width})"
        )
    return Runs(numbers.astype(np.uint32), (height, width))


def _unpacked(text: str) -> NDArray[np.int64]:
    """Lengths of runs from COCO's text: five bits a letter, the lowest first, with the sign in the last letter. From
    the fourth number on, the text contains the difference from the number two places before."""
    letters = np.frombuffer(text.encode("latin-1", "replace"), dtype=np.uint8).astype(np.int64) - _FIRST_LETTER
    if not len(letters):
        return letters
    goes_on = (letters & 32) != 0
    if goes_on[-1] or letters.min() < 0 or letters.max() > 63:
        raise DataError("outline", "has a compressed mask that is cut off or isn't one", "needed COCO's runs")
    ends = np.flatnonzero(~goes_on)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 10:
        raise DataError("outline", "has a compressed mask with a number of more than 50 bits", "needed COCO's runs")
    shifts = _BITS * (np.arange(len(letters)) - np.repeat(starts, ends - starts + 1))
    numbers = np.add.reduceat((letters & 31) << shifts, starts)
    negative = (letters[ends] & 16) != 0
    numbers = numbers - np.where(negative, np.int64(1) << (shifts[ends] + _BITS), 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def packed(runs: Runs) -> str:
    """Runs as COCO's compressed text.

    >>> packed(Runs(np.array([6, 1, 40, 4], dtype=np.uint32), (3, 17)))
    '61X13'
    """
    counts = runs.counts.astype(np.int64).tolist()
    letters = []
    for place, count in enumerate(counts):
        rest = count - counts[place - 2] if place > 2 else count
        while True:
            bits, rest = rest & 31, rest >> _BITS
            done = rest == (-1 if bits & 16 else 0)
            letters.append(chr(_FIRST_LETTER + bits + (0 if done else 32)))
            if done:
                break
    return "".join(letters)
