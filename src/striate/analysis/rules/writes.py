"""Dependence of a tensor after a part of it was written through a view, as in circular padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from striate.analysis.dependence import Dependence, Maybe, Notes, Track, union
from striate.analysis.rules.moves import CUTS
from striate.analysis.rules.table import rule
from striate.analysis.trace import Operation, Value


class View(NamedTuple):
    """A tensor in the memory of another: output ``number`` of ``operation``, whose first input is ``behind``."""

    operation: Operation
    behind: Value
    number: int


@dataclass(frozen=True)
class Region:
    """Which positions of a tensor a view holds: the product of some of each dimension.

    Args:
        shape: the tensor's.
        picks: positions along each of its dimensions, in the view's order.
        dims: the tensor's dimension behind each of the view's; None for one that the view adds.
    """

    shape: tuple[int, ...]
    picks: tuple[range, ...]
    dims: tuple[int | None, ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Region:
        return cls(shape, tuple(map(range, shape)), tuple(range(len(shape))))

    @property
    def all(self) -> bool:
        """Whether it is the whole tensor."""
        return all(len(pick) == length for pick, length in zip(self.picks, self.shape, strict=True))

    def through(self, operation: Operation, number: int) -> Region | None:
        """The region of a view of the view, one of the operation's outputs; None where it is no product."""
        name, dims = operation.name.removeprefix("aten."), list(self.dims)
        if name in ("alias", "detach", "view", "_unsafe_view", "reshape", "expand", "as_strided"):
            return self if operation.outputs[0].shape == operation.inputs[0].shape else None
        if name in ("permute", "transpose", "t"):
            order = list(range(len(dims)))
            if name == "permute":
                order = [dim % len(dims) for dim in operation.argument("dims")]
            elif len(dims) > 1:
                one, two = (0, 1) if name == "t" else operation.args[1:3]
                order[one], order[two] = order[two], order[one]
            return replace(self, dims=tuple(dims[old] for old in order))
        if name == "unsqueeze":
            dims.insert(operation.argument("dim") % (len(dims) + 1), None)
            return replace(self, dims=tuple(dims))
        if name == "unbind":
            return self.cut(operation.argument("dim"), slice(number, number + 1), drop=True)
        if name in CUTS:
            dim = operation.argument("dim")
            start = sum(output.shape[dim] for output in operation.outputs[:number])
            return self.cut(dim, slice(start, start + operation.outputs[number].shape[dim]))
        if name in ("slice", "select"):
            return self.cut(operation.argument("dim"), _kept(operation), drop=name == "select")
        return None

    def cut(self, dim: int, kept: slice, *, drop: bool = False) -> Region | None:
        """The positions ``kept`` of the view along its dimension ``dim``, which goes if ``drop``."""
        dims, picks = list(self.dims), list(self.picks)
        behind = dims[dim]
        if behind is None:
            return None
        picks[behind] = picks[behind][kept]
        if drop:
            del dims[dim]
        return Region(self.shape, tuple(picks), tuple(dims))


def _kept(operation: Operation) -> slice:
    """The positions that slice and select, and scattering into these, take."""
    if operation.name.startswith("aten.select"):
        place = operation.argument("index")
        return slice(place, place + 1 or None)
    return slice(operation.argument("start"), operation.argument("end"), operation.argument("step"))


def region_of(target: Value, views: Mapping[Value, View]) -> tuple[Value, Region | None]:
    """The tensor that ``target`` is a view of, and which part of it; None for the part where it is no product."""
    chain = []
    while target in views:
        chain.append(views[target])
        target = views[target].behind
    region: Region | None = Region.whole(target.shape)
    for view in reversed(chain):
        region = None if region is None else region.through(view.operation, view.number)
    return target, region


def overwritten(old: Maybe, part: Maybe, region: Region, where: str) -> Maybe:
    """What a tensor depends on of which a region was written with something that depends on ``part``."""
    for each in (part, None if region.all else old):
        if each is not None and each.unknown:
            return each
    written = None if part is None else _placed(part, region)
    left = None if old is None or region.all else _around(old, region)
    if written is None or left is None:
        return written if left is None else left
    united = union([left, written], region.shape, Notes(), where)
    tracks = zip(left.tracks, written.tracks, united.tracks, strict=True)
    return replace(united, tracks=tuple(_rule(*each, region) for each in tracks))


def _placed(part: Dependence, region: Region) -> Dependence:
    """The written numbers where they lie, and nothing around them."""
    kept = [place for place, dim in enumerate(region.dims) if dim is not None]
    ordered = sorted(kept, key=lambda place: region.dims[place] or 0)
    part = part.permuted([*ordered, *(place for place in range(len(region.dims)) if place not in kept)])
    part = part.reshaped([len(pick) for pick in region.picks])
    for dim, pick in enumerate(region.picks):
        if len(pick) == region.shape[dim]:
            continue
        taps = [[pick.index(place)] if place in pick else [] for place in range(region.shape[dim])]
        start = pick.start if pick.step == 1 else None
        part = part.looking(
            dim,
            taps,
            lambda line, by=start: None if by is None else line.shifted(-by),  # type: ignore[misc]
            "positions are written with gaps between them",
        )
    return part


def _around(old: Dependence, region: Region) -> Dependence:
    """What was there before, without the region: all that lies outside of it along one dimension or another."""
    parts = []
    for dim, pick in enumerate(region.picks):
        if len(pick) < region.shape[dim]:
            taps = [[] if place in pick else [place] for place in range(region.shape[dim])]
            parts.append(old.looking(dim, taps, lambda line: line, ""))
    return replace(union(parts, region.shape, Notes(), ""), tracks=old.tracks)


def _rule(left: Track, written: Track, united: Track, region: Region) -> Track:
    """The rule of most positions; what lies at the ends, as padding does, has a say in the exact sets only."""
    if left.line == written.line or left.dim is None or left.dim != written.dim or not (left.line and written.line):
        return united
    larger = 2 * len(region.picks[left.dim]) > region.shape[left.dim]
    return written if larger else left


@rule("slice_scatter", "select_scatter")
def _scattered(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    into, source = operation.inputs[:2]
    drop = operation.name == "aten.select_scatter"
    region = Region.whole(into.shape).cut(operation.argument("dim"), _kept(operation), drop=drop)
    assert region is not None
    return overwritten(lookup(into), lookup(source), region, where)
