"""Dependence of a tensor's elements on the input: the exact sets, and a rule for each input axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from striate.analysis import support
from striate.analysis.lines import Line
from striate.analysis.support import Boxes, TooMany
from striate.geometry import Window


@dataclass(frozen=True)
class Track:
    """How one input axis is represented in a tensor.

    Args:
        dim: the dimension whose positions correspond to the axis; None if there is only one position.
        line: the rule of the positions; None if no rule holds for all of them.
        whole: whether the tensor also depends on something that saw the whole map.
        inner: dimensions with further positions, such as the channels after space-to-depth; ``line`` is their union.
        why: the reason why there is no rule.
        fold: if ``dim`` consists of several flattened dimensions, their lengths; the positions of the axis run along
            number ``part``.
        part: number of this dimension.
    """

    dim: int | None
    line: Line | None
    whole: bool = False
    inner: frozenset[int] = frozenset()
    why: str = ""
    fold: tuple[int, ...] = ()
    part: int = 0

    def moved(self, place: Callable[[int], int | None]) -> Track:
        """The same with dimensions renamed."""
        inner = frozenset(new for old in self.inner if (new := place(old)) is not None)
        return replace(self, dim=None if self.dim is None else place(self.dim), inner=inner)

    def lost(self, why: str) -> Track:
        return replace(self, dim=None, line=None, inner=frozenset(), why=self.why or why, fold=())

    def drawn(self, line: Line | None, why: str) -> Track:
        """The same with another rule, unless there was none to start with."""
        return self if self.line is None else replace(self, line=line) if line is not None else self.lost(why)


@dataclass(frozen=True, eq=False)
class Dependence:
    """The dependence of a tensor's elements on the input.

    Args:
        shape: the tensor's shape.
        boxes: the exact sets; None if they became too many.
        tracks: one for each input axis.
        unknown: the reason why nothing is known; boxes and tracks are then meaningless.
    """

    shape: tuple[int, ...]
    boxes: Boxes | None
    tracks: tuple[Track, ...]
    unknown: str = ""

    @classmethod
    def unclear(cls, why: str) -> Dependence:
        return cls((), None, (), why)

    def same(self, other: Dependence) -> bool:
        """Whether both describe the same dependence of tensors of one shape."""
        if self is other or self.boxes is None or other.boxes is None or self.tracks != other.tracks:
            return self is other
        return len(self.boxes) == len(other.boxes) and all(
            a is b
            for mine, theirs in zip(self.boxes, other.boxes, strict=True)
            for a, b in zip(mine, theirs, strict=True)
        )

    def _exact(self, act: Callable[[Boxes], Boxes]) -> Boxes | None:
        if self.boxes is None:
            return None
        try:
            return act(self.boxes)
        except TooMany:
            return None

    # ---------------------------------------------------------------- along one dimension

    def looking(
        self, dim: int, taps: Sequence[Sequence[int]], draw: Callable[[Line], Line | None], why: str
    ) -> Dependence:
        """The dependence of outputs that see ``taps`` along ``dim``; ``draw`` transforms a rule accordingly."""
        size = self.shape[dim]
        shape = (*self.shape[:dim], len(taps), *self.shape[dim + 1 :])
        boxes = self._exact(lambda known: support.gather(known, dim, size, taps))
        tracks = []
        for track in self.tracks:
            if track.dim == dim and track.fold:
                track = track.lost("positions are folded together with others")
            elif track.dim == dim and track.line is not None:
                track = track.drawn(draw(track.line), why)
            elif dim in track.inner:
                track = track.lost("positions lie folded into a dimension that a window runs along")
            tracks.append(track)
        return Dependence(shape, boxes, tuple(tracks))

    def mixed(self, *dims: int) -> Dependence:
        """The dependence of an output that sees all positions along some dimensions, which keep one position."""
        shape, boxes = list(self.shape), self.boxes
        for dim in dims:
            boxes = Dependence(tuple(shape), boxes, ())._exact(lambda known, at=dim: support.mixed(known, at))  # type: ignore[misc]
            shape[dim] = 1
        tracks = []
        for track in self.tracks:
            if track.dim in dims and self.shape[track.dim] > 1:
                track = Track(None, None, True)
            tracks.append(replace(track, inner=track.inner - set(dims)))
        return Dependence(tuple(shape), boxes, tuple(tracks))

    # ---------------------------------------------------------------- the same elements, elsewhere

    def expanded(self, shape: Sequence[int]) -> Dependence:
        """Broadcast to a larger shape, new dimensions in front."""
        more = len(shape) - len(self.shape)
        boxes = self._exact(lambda known: tuple(tuple(a.reshape((1,) * more + a.shape) for a in box) for box in known))
        moved = tuple(track.moved(lambda dim: dim + more) for track in self.tracks)
        stretched = tuple(
            replace(track, dim=None)
            if track.dim is not None and self.shape[track.dim - more] != shape[track.dim]
            else track
            for track in moved
        )
        return Dependence(tuple(shape), boxes, stretched)

    def permuted(self, order: Sequence[int]) -> Dependence:
        """Dimensions in another order."""
        boxes = self._exact(lambda known: tuple(tuple(a.transpose(order) for a in box) for box in known))
        place = {old: new for new, old in enumerate(order)}
        return Dependence(
            tuple(self.shape[old] for old in order), boxes, tuple(track.moved(place.get) for track in self.tracks)
        )

    def reshaped(self, shape: Sequence[int]) -> Dependence:
        """The same elements in the same order under another shape."""
        shape = tuple(shape)
        if shape == self.shape:
            return self
        groups = _groups(self.shape, shape)
        boxes = self._exact(lambda known: support.reshaped(known, self.shape, shape, groups))
        return Dependence(shape, boxes, tuple(self._refolded(track, shape, groups) for track in self.tracks))

    def _refolded(self, track: Track, shape: tuple[int, ...], groups: list[tuple[range, range]]) -> Track:
        carrying = {each.dim for each in self.tracks} | {d for each in self.tracks for d in each.inner}
        kept = track
        inner: set[int] = set()
        for olds, news in groups:
            real_old = [d for d in olds if self.shape[d] > 1]
            real_new = [d for d in news if shape[d] > 1]
            inside = [d for d in real_old if d in track.inner]
            if track.dim in olds:
                if track.dim not in real_old:  # one position, which needs no dimension
                    kept = replace(kept, dim=None)
                elif track.fold and tuple(shape[d] for d in real_new) == track.fold:
                    kept = replace(kept, dim=real_new[track.part], fold=(), part=0)
                elif track.fold and (len(real_old) > 1 or len(real_new) > 1):
                    return kept.lost("positions are folded together with others")
                elif len(real_old) == 1 and len(real_new) == 1:  # only ones come or go
                    kept = replace(kept, dim=real_new[0])
                elif len(real_old) == 1:  # split: the first part strides, the others hold what lies between
                    rest = math.prod(shape[d] for d in real_new[1:])
                    line = None if track.line is None else track.line.through(Window(rest, rest))
                    kept = replace(kept, dim=real_new[0], line=line)
                    inner |= set(real_new[1:])
                elif real_old[0] == track.dim and len(real_new) == 1 and not carrying & set(real_old[1:]):
                    factor = math.prod(self.shape[d] for d in real_old[1:])  # depth to space
                    line = None if track.line is None else track.line.repeated(((0,),) * factor)
                    kept = replace(kept, dim=real_new[0], line=line)
                elif len(real_new) == 1 and not any(each.fold for each in self.tracks):
                    lengths = tuple(self.shape[d] for d in real_old)
                    kept = replace(kept, dim=real_new[0], fold=lengths, part=real_old.index(track.dim))
                else:
                    return kept.lost("positions are folded together with others")
            if inside:
                inner |= set(real_new)
        return replace(kept, inner=frozenset(inner))


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """The shortest runs of dimensions with equal products, in order."""
    groups, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        left, right = 1, 1
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        groups.append((range(start_i, i), range(start_j, j)))
    # What is left over is ones: they belong to no other run.
    return groups


@dataclass
class Misalignment:
    """Branches that are joined although their fields have different centres."""

    where: str
    axis: int
    strides: tuple[str, ...]
    centres: tuple[str, ...]


@dataclass
class Notes:
    """Findings of an analysis."""

    misaligned: list[Misalignment] = field(default_factory=list)


Maybe: TypeAlias = Dependence | None


def union(parts: Sequence[Dependence], shape: Sequence[int], notes: Notes, where: str) -> Dependence:
    """The dependence of an elementwise function of several tensors, broadcast to ``shape``."""
    wide = [each if each.shape == tuple(shape) else each.expanded(shape) for each in parts]
    if len(wide) == 1 or all(each.same(wide[0]) for each in wide[1:]):
        return wide[0]
    tracks = _united(wide, notes, where)
    if any(each.boxes is None for each in wide):
        return Dependence(tuple(shape), None, tracks)
    boxes = Dependence(tuple(shape), (), ())._exact(
        lambda _: support.simplified(box for each in wide for box in each.boxes or ())
    )
    return Dependence(tuple(shape), boxes, tracks)


def concatenated(
    parts: Sequence[Maybe], dim: int, sizes: Sequence[int], shape: Sequence[int], notes: Notes, where: str
) -> Dependence:
    """The dependence of a concatenation; None is a part that depends on no input."""
    known = [each for each in parts if each is not None]
    if all(each is not None and each.boxes is not None for each in known):
        listed = [() if each is None else each.boxes or () for each in parts]
        boxes = Dependence(tuple(shape), (), ())._exact(
            lambda _: support.joined(listed, dim, sizes) if any(listed) else ()
        )
    else:
        boxes = None
    tracks = list(_united(known, notes, where))
    for axis, track in enumerate(tracks):
        if all(each.tracks[axis].dim != dim for each in known):
            continue
        # Along the concatenated axis: one map and constants beside it are a padding, two maps have no common rule.
        places = [place for place, each in enumerate(parts) if each is not None]
        one = known[0].tracks[axis]
        if len(known) == 1 and one.line is not None and not one.fold:
            tracks[axis] = replace(one, line=one.line.shifted(-sum(sizes[: places[0]])))
        else:
            tracks[axis] = track.lost("maps are put side by side along the axis")
    return Dependence(tuple(shape), boxes, tuple(tracks))


def _united(wide: Sequence[Dependence], notes: Notes, where: str) -> tuple[Track, ...]:
    return tuple(
        _together([each.tracks[axis] for each in wide], axis, notes, where) for axis in range(len(wide[0].tracks))
    )


def _together(tracks: Sequence[Track], axis: int, notes: Notes, where: str) -> Track:
    whole = any(track.whole for track in tracks)
    inner = frozenset().union(*(track.inner for track in tracks))
    local = [track for track in tracks if track.line is not None]
    why = next((track.why for track in tracks if track.why), "")
    if not local or why:
        return Track(None, None, whole, frozenset(), why)
    first = local[0]
    if any((track.dim, track.fold, track.part) != (first.dim, first.fold, first.part) for track in local[1:]):
        return Track(None, None, whole, frozenset(), "branches lie along different dimensions")
    line = first.line
    assert line is not None
    lines = list(dict.fromkeys(track.line for track in local if track.line is not None))
    if len({each.stride for each in lines}) > 1 or len({each.centre for each in lines}) > 1:
        notes.misaligned.append(
            Misalignment(
                where, axis, tuple(str(each.stride) for each in lines), tuple(str(each.centre) for each in lines)
            )
        )
    for each in lines[1:]:
        united = line.union(each)
        if united is None:
            return Track(None, None, whole, frozenset(), "branches of different strides meet")
        line = united
    return replace(first, line=line, whole=whole, inner=inner)
