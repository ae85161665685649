"""The exact sets of input positions that a tensor's elements depend on: unions of boxes with gaps.

The positions that one element sees along one input axis are the bits of a Python integer. A box is one array of such
integers an input axis, each broadcast over the tensor's shape (most are long along one dimension and 1 along the
others), and an element sees the product of its axes' sets. A branch 1x3 beside a branch 3x1 sees a cross, which is no
product, so a support is a tuple of boxes. All that follows is exact; a union that takes too many boxes is given up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bits: TypeAlias = NDArray[Any]
Box: TypeAlias = tuple[Bits, ...]
Boxes: TypeAlias = tuple[Box, ...]

#: A support of more boxes than this isn't followed any further.
MOST: Final = 48

_known: dict[tuple[Any, ...], Bits] = {}


class TooMany(Exception):  # noqa: N818 - a signal inside this package
    """A union takes too many boxes."""


def bits(values: Sequence[int], shape: Sequence[int]) -> Bits:
    """An array of sets of positions."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def gather(boxes: Boxes, dim: int, size: int, taps: Sequence[Sequence[int]]) -> Boxes:
    """The support of outputs that see ``taps`` along one dimension of ``size``; taps outside of it see nothing."""
    inside = [[tap for tap in each if 0 <= tap < size] for each in taps]
    depth = max(map(len, inside), default=0)
    index = np.full((len(taps), max(depth, 1)), size)
    for output, each in enumerate(inside):
        index[output, : len(each)] = each
    blind = [not each for each in inside]
    made: list[Box] = []
    for box in boxes:
        along = [axis for axis, array in enumerate(box) if array.shape[dim] > 1]
        if len(along) <= 1:
            axis = along[0] if along else 0
            array = box[axis]
            if along:
                nothing = np.zeros_like(array.take([0], dim))
                longer = np.concatenate([array, nothing], dim)
                seen = longer.take(index[:, 0], dim)
                for rank in range(1, index.shape[1]):
                    seen = seen | longer.take(index[:, rank], dim)
            elif any(blind):
                mask = bits([0 if no else -1 for no in blind], [-1 if d == dim else 1 for d in range(array.ndim)])
                seen = array & mask
            else:
                seen = array
            made.append((*box[:axis], seen, *box[axis + 1 :]))
            continue
        for rank in range(index.shape[1]):
            # Axes that vary together make one box for each tap.
            ranked = []
            for array in box:
                if array.shape[dim] > 1:
                    longer = np.concatenate([array, np.zeros_like(array.take([0], dim))], dim)
                    array = longer.take(index[:, rank], dim)
                ranked.append(array)
            made.append(tuple(ranked))
    return simplified(made)


def mixed(boxes: Boxes, dim: int) -> Boxes:
    """The support of an output that sees all positions along one dimension, which keeps one position."""
    made: list[Box] = []
    for box in boxes:
        along = [axis for axis, array in enumerate(box) if array.shape[dim] > 1]
        if len(along) <= 1:
            made.append(tuple(np.bitwise_or.reduce(a, axis=dim, keepdims=True) if a.shape[dim] > 1 else a for a in box))
            continue
        slices: dict[tuple[bytes, ...], Box] = {}
        for place in range(box[along[0]].shape[dim]):
            part = tuple(a.take([place], dim) if a.shape[dim] > 1 else a for a in box)
            slices.setdefault(tuple(part[axis].tobytes() for axis in along), part)  # the bytes are object identities
        made += slices.values()
    return simplified(made)


def joined(parts: Sequence[Boxes], dim: int, sizes: Sequence[int]) -> Boxes:
    """The support of a concatenation; an empty part depends on no input."""
    made = []
    axes = next(len(boxes[0]) for boxes in parts if boxes)
    ndim = next(boxes[0][0].ndim for boxes in parts if boxes)
    for rank in range(max(map(len, parts))):
        box = []
        for axis in range(axes):
            arrays = [boxes[rank][axis] if rank < len(boxes) else bits([0], [1] * ndim) for boxes in parts]
            shape = np.broadcast_shapes(*(a.shape[:dim] + (1,) + a.shape[dim + 1 :] for a in arrays))
            pieces = [
                np.broadcast_to(a, (*shape[:dim], size, *shape[dim + 1 :]))
                for a, size in zip(arrays, sizes, strict=True)
            ]
            box.append(_compressed(np.concatenate(pieces, dim), dim))
        made.append(tuple(box))
    return simplified(made)


def reshaped(boxes: Boxes, old: Sequence[int], new: Sequence[int], groups: Sequence[tuple[range, range]]) -> Boxes:
    """The same elements in another shape; ``groups`` says which old dimensions become which new ones."""
    made = []
    for box in boxes:
        arrays = []
        for array in box:
            full, target, fresh = list(array.shape), list(new), []
            for olds, news in groups:
                if all(array.shape[d] == 1 for d in olds):
                    target[news.start : news.stop] = [1] * len(news)
                else:
                    full[olds.start : olds.stop] = old[olds.start : olds.stop]
                    fresh += [] if len(olds) == len(news) == 1 else list(news)
            array = np.broadcast_to(array, full).reshape(target)
            for dim in fresh:
                array = _compressed(array, dim)
            arrays.append(array)
        made.append(tuple(arrays))
    return simplified(made)


def simplified(boxes: Iterable[Box]) -> Boxes:
    """The same union in fewer boxes.

    Raises:
        TooMany: there are still more than ``MOST``.
    """
    kept = [tuple(map(_interned, box)) for box in boxes]
    kept = [box for box in kept if all(array.any() for array in box)]
    before = -1
    while before != len(kept):
        before = len(kept)
        for axis in range(len(kept[0]) if kept else 0):
            kept = _merged(kept, axis)
    for box in tuple(kept):
        others = [other for other in kept if other is not box]
        # One at a time, since one of two equal boxes has to stay.
        if any(_covers(other, box) for other in others):
            kept = others
    if len(kept) > MOST:
        raise TooMany
    return tuple(kept)


def _merged(boxes: list[Box], axis: int) -> list[Box]:
    """Joins boxes that differ in only one axis."""
    alike: dict[tuple[int, ...], list[Box]] = {}
    for box in boxes:
        alike.setdefault(tuple(id(array) for place, array in enumerate(box) if place != axis), []).append(box)
    merged = []
    for same in alike.values():
        array = same[0][axis]
        for box in same[1:]:
            array = array | box[axis]
        merged.append((*same[0][:axis], _interned(array), *same[0][axis + 1 :]))
    return merged


def _covers(other: Box, box: Box) -> bool:
    """Whether every element sees in ``other`` all that it sees in ``box``."""
    return all(a is b or not (a & ~b).any() for a, b in zip(box, other, strict=True))


def _compressed(array: Bits, dim: int) -> Bits:
    first = array.take([0], dim)
    return first if array.shape[dim] > 1 and bool((array == first).all()) else array


def _interned(array: Bits) -> Bits:
    """The one array with these contents, so that equal arrays are identical."""
    key = (array.shape, tuple(array.ravel()))
    return _known.setdefault(key, array)


def forget() -> None:
    """Drops the table of arrays; to be called when an analysis is done."""
    _known.clear()
