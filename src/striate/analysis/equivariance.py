"""Equivariance under shifts: the difference between a layer's map of a moved image and its moved map of the image."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from striate.analysis import arguments
from striate.analysis.dependence import Maybe, Notes
from striate.analysis.following import dependences
from striate.analysis.lines import Line
from striate.analysis.probing import Images, Subject, evaluating, maps_of
from striate.analysis.shifts import CircularBorders, shifted
from striate.analysis.trace import ROOT, Call, Trace, Value, trace
from striate.errors import AnalysisError

Borders: TypeAlias = Literal["circular", "zeros"]
#: (dy, dx) in pixels, or one number for both.
Shift: TypeAlias = float | tuple[float, float]

#: By default: half a pixel, one, two, three and four, along both axes.
SHIFTS: Final = (0.5, 1, 2, 3, 4)


@dataclass(frozen=True)
class EquivarianceRow:
    """How one tensor of a network follows a shift of the image. One number for each shift; None if it is undefined.

    Args:
        name: the layer's path; of several calls the last has the plain name, the k-th one ``@k`` after it.
        kind: the layer's class.
        level: ``"layer"``, or ``"block"`` for one that calls others.
        shape: of its output.
        stride: input pixels for one position, along each axis; 0 if the output has one position, which should then stay
            the same (invariance).
        region: the compared positions: ``"circle"`` (all), ``"interior"`` (those that see only the image, before and
            after the shift), ``"whole"`` (an output without positions), or ``""``.
        error: || L(move x) - move L(x) || / || L(x) || over the region, mean over images, where the map moves by the
            image's shift divided by the stride.
        aligned: the same error if each image's map may move by the next whole number of positions below or above,
            whichever fits better.
        alone: the error of the layer alone, whose own input is moved by the corresponding positions.
        note: the reason why there are no numbers.
    """

    name: str
    kind: str
    level: str
    shape: tuple[int, ...]
    stride: tuple[Fraction, ...]
    region: str
    error: tuple[float | None, ...]
    aligned: tuple[float | None, ...]
    alone: tuple[float | None, ...]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON; strides as decimal fractions."""
        return {
            **vars(self),
            "shape": list(self.shape),
            "stride": [float(each) for each in self.stride],
            **{name: list(getattr(self, name)) for name in ("error", "aligned", "alone")},
        }


@dataclass(frozen=True)
class Equivariance:
    """The rows of all layers, in the order in which they are computed.

    Args:
        model: the network's name, its class by default.
        input_shape: (N, C, H, W) of the images.
        borders: ``"circular"`` or ``"zeros"``.
        shifts: (dy, dx) in pixels.
        rows: one for each call of a layer.
    """

    model: str
    input_shape: tuple[int, ...]
    borders: str
    shifts: tuple[tuple[float, float], ...]
    rows: tuple[EquivarianceRow, ...]

    def __iter__(self) -> Iterator[EquivarianceRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, name: str) -> EquivarianceRow:
        """The row of a layer by its path.

        Raises:
            AnalysisError: no such layer, or one that isn't called.
        """
        for row in self.rows:
            if row.name == name:
                return row
        known = [row.name for row in self.rows]
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.3) or known[-3:]
        raise AnalysisError(
            "layer", f"got {name!r}", f"needed a layer that {self.model} calls", "near: " + ", ".join(near)
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "model": self.model,
            "input_shape": list(self.input_shape),
            "borders": self.borders,
            "shifts": [list(shift) for shift in self.shifts],
            "rows": [row.to_dict() for row in self.rows],
        }


def equivariance(
    model: torch.nn.Module,
    images: Images,
    shifts: Sequence[Shift] = SHIFTS,
    *,
    borders: Borders = "circular",
    seed: int = 0,
    input: str | int | None = None,
    name: str | None = None,
) -> Equivariance:
    """The difference between each layer's map of a moved image and its moved map of the image.

    With circular borders, images are rolled, and every padding in the network is circular
    (:class:`~striate.analysis.shifts.CircularBorders`), so that convolution without stride is equivariant up to
    rounding. With zero borders, zeros enter the image and the network isn't changed. There, and where a map isn't
    circular (valid convolutions), only positions are compared whose exact receptive fields lie within the image.
    Fractional shifts rotate the phases of the Fourier transform on circles, and interpolate linearly elsewhere.

    Args:
        model: any network; it is left as it is.
        images: (N, C, H, W) as the network takes them, among other inputs as a list or a dictionary; or a size, for
            eight images of normal noise.
        shifts: pixels, one number for both axes or (dy, dx).
        borders: ``"circular"`` or ``"zeros"``.
        seed: of the noise.
        input: which input the images are, by its name or number; by default the first with axes to look along.
        name: of the network, for tables and pictures; its class by default.

    Raises:
        AnalysisError: images that don't fit, shifts as large as they are, a network that can't be traced.

    Source: Zhang, "Making convolutional networks shift-invariant again" (2019), section 3.1; ``aligned`` is what holds
    exactly for Chaman & Dokmanic, "Truly shift-invariant convolutional neural networks" (2021), section 4.

    >>> layers = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.MaxPool2d(2))
    >>> found = equivariance(layers, (1, 16, 16), [1, 2])
    >>> [error < 1e-6 for error in found.at("0").error], [error < 1e-6 for error in found.at("1").error]
    ([True, True], [False, True])

    Formula: F42, S3.
    """
    arguments.word("borders", borders, ("circular", "zeros"))
    subject = Subject(model, images, input=input, name=name, seed=seed)
    model, source = subject.model, maps_of(subject)
    moves = _pairs(shifts, source)
    around = CircularBorders if borders == "circular" else nullcontext
    traced = trace(model, subject.example)
    with evaluating(model), torch.no_grad():
        places = _places(traced, traced.inputs[subject.input], borders == "circular")
        probe = _Probe(places, moves, borders == "circular")
        with _watched(model, probe.before, probe.keep), around():
            subject.answer(source)
        for move in moves:
            moved = shifted(source, move, circular=(borders == "circular",) * 2)
            with _watched(model, None, functools.partial(probe.compare, move)), around():
                subject.answer(moved)
    return Equivariance(subject.name, tuple(source.shape), borders, moves, probe.rows())


def _pairs(shifts: Sequence[Shift], images: Tensor) -> tuple[tuple[float, float], ...]:
    pairs = []
    for each in arguments.several("shifts", shifts):
        pair = arguments.items(each)
        pair = [each, each] if pair is None else pair
        if len(pair) != 2:
            raise AnalysisError("shift", f"got {each!r}", "needed a number of pixels, or (dy, dx)")
        dy, dx = (arguments.number("shift", by) for by in pair)
        if any(abs(by) >= n for by, n in zip((dy, dx), images.shape[2:], strict=True)):
            raise AnalysisError(
                "shift",
                f"got {tuple(pair)}",
                f"needed (dy, dx) below the image's {images.shape[2]}x{images.shape[3]}",
            )
        pairs.append((dy, dx))
    return tuple(pairs)


#: A call of a layer: the layer's number among the network's, and which call of it.
_Key: TypeAlias = tuple[int, int]
_Errors: TypeAlias = tuple[float | None, float | None]


@dataclass(frozen=True)
class _Axis:
    """An axis of the image in a map.

    Args:
        number: 0 for y, 1 for x.
        dim: the map's dimension.
        positions, pixels: lengths of map and image.
        line: what each position sees; None if it isn't known, so that the map can be compared only on a circle.
    """

    number: int
    dim: int
    positions: int
    pixels: int
    line: Line | None

    @property
    def stride(self) -> Fraction:
        return Fraction(self.pixels, self.positions) if self.line is None else self.line.stride

    @property
    def closes(self) -> bool:
        """Whether the map covers the circle exactly once, as the image does."""
        return self.stride * self.positions == self.pixels

    def interior(self, move: float) -> range:
        """Positions that see only pixels that are there before and after the move, as do those which they came from."""
        assert self.line is not None
        by = move / float(self.stride)

        def sees(position: int, first: int, last: int) -> bool:
            span = self.line.span(position) if self.line is not None and 0 <= position < self.positions else None
            return span is not None and first <= span[0] and span[1] <= last

        there = max(0, math.ceil(move)), self.pixels - 1 + min(0, math.floor(move))
        kept = [
            position
            for position in range(self.positions)
            if sees(position, *there)
            and all(sees(position - whole, 0, self.pixels - 1) for whole in (math.floor(by), math.ceil(by)))
        ]
        return range(kept[0], kept[-1] + 1) if kept else range(0)


@dataclass(frozen=True)
class _Place:
    """What one call of a layer makes, and along which dimensions the image runs in it, or why that isn't known.

    ``own_axes`` are those along which the layer's own input runs; None where that isn't one map.
    """

    name: str
    kind: str
    leaf: bool
    shape: tuple[int, ...]
    axes: tuple[_Axis, ...]
    note: str
    own_axes: tuple[_Axis, ...] | None

    def region(self, circular: bool) -> str:
        if self.note or not self.axes:
            return "" if self.note else "whole"
        return "circle" if circular and all(axis.closes for axis in self.axes) else "interior"


class _Probe:
    """Stores each layer's output for the unmoved images, and compares outputs for moved images with it."""

    def __init__(self, places: dict[_Key, _Place], moves: Sequence[tuple[float, float]], circular: bool) -> None:
        self._places, self._moves, self._circular = places, moves, circular
        self._kept: dict[_Key, Tensor] = {}
        self._found: dict[_Key, list[_Errors]] = {key: [] for key in places}
        self._alone: dict[_Key, list[float | None]] = {key: [] for key in places}

    def before(self, key: _Key, layer: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Measures the layer alone, on its current input."""
        place = self._places.get(key)
        if place is None or place.own_axes is None or len(inputs) != 1 or named:
            return
        maps = inputs[0].clone()
        output = layer.forward(maps.clone())
        for move in self._moves:
            error = None
            if all(abs(by) < n for by, n in zip(move, maps.shape[2:], strict=True)):
                moved = layer.forward(shifted(maps, move, circular=(self._circular,) * 2).clone())
                error, _ = _errors(place.own_axes, output, moved, move, self._circular)
            self._alone[key].append(error)

    def keep(self, key: _Key, output: Any) -> None:
        place = self._places.get(key)
        if place is not None and not place.note:
            # Later layers may overwrite it.
            self._kept[key] = _first_tensor(output).clone()

    def compare(self, move: tuple[float, float], key: _Key, output: Any) -> None:
        if key in self._kept:
            place = self._places[key]
            self._found[key].append(_errors(place.axes, self._kept[key], _first_tensor(output), move, self._circular))

    def rows(self) -> tuple[EquivarianceRow, ...]:
        nothing = [None] * len(self._moves)
        rows = []
        for key, place in self._places.items():
            error, aligned = zip(*self._found[key], strict=True) if self._found[key] else (nothing, nothing)
            note = place.note
            if not note and all(each is None for each in error):
                note = "no position sees only what is in the image before and after"
            rows.append(
                EquivarianceRow(
                    place.name,
                    place.kind,
                    "layer" if place.leaf else "block",
                    place.shape,
                    tuple(axis.stride for axis in place.axes) or (Fraction(0),) * 2,
                    place.region(self._circular),
                    tuple(error),
                    tuple(aligned),
                    tuple(self._alone[key] or nothing),
                    note,
                )
            )
        return tuple(rows)


def _errors(axes: Sequence[_Axis], before: Tensor, after: Tensor, move: tuple[float, float], circular: bool) -> _Errors:
    """The relative error after the map moved as the stride says, and after the whole shift that fits best.

    Formula: F42.
    """
    circles = tuple(circular and axis.closes for axis in axes)
    by = [move[axis.number] / float(axis.stride) for axis in axes]
    kept = []
    for axis, circle in zip(axes, circles, strict=True):
        if circle:
            continue
        pixels = move[axis.number]
        # What the Fourier transform does to the image reaches across the border.
        if axis.line is None or (circular and pixels != int(pixels)):
            return None, None
        kept.append((axis.dim, axis.interior(pixels)))

    def cut(maps: Tensor) -> Tensor:
        for dim, inside in kept:
            maps = maps.narrow(dim, inside.start, len(inside))
        return maps

    after, dims = cut(after), [axis.dim for axis in axes]
    if not after.numel():
        return None, None

    def against(shift: Sequence[float]) -> Tensor:
        return _relative(after, cut(shifted(before, shift, dims, circles)))

    whole = [against(shift) for shift in product(*({math.floor(each), math.ceil(each)} for each in by))]
    return _mean(against(by)), _mean(torch.stack(whole).amin(0))


def _places(traced: Trace, source: Value, circular: bool) -> dict[_Key, _Place]:
    """All calls that return a tensor, in the order in which they end; the network itself comes last."""
    found = dependences(traced, source, Notes())
    numbers = {id(layer): number for number, layer in enumerate(traced.calls[0].layer.modules())}
    begun: Counter[int] = Counter()
    ended = []
    for order, call in enumerate(traced.calls):
        number = numbers[id(call.layer)]
        begun[number] += 1
        if call.outputs:
            ended.append((call.last, -order, (number, begun[number]), call))
    total = Counter(call.path for *_, call in ended)
    seen: Counter[str] = Counter()
    places = {}
    for *_, key, call in sorted(ended, key=lambda each: each[:2]):
        seen[call.path] += 1
        last = seen[call.path] == total[call.path]
        name = (call.path or ROOT) + ("" if last else f"@{seen[call.path]}")
        output = call.outputs[0]
        axes, note = _axes(output.shape, found.get(output), source.shape, circular)
        places[key] = _Place(
            name, type(call.layer).__name__, call.leaf, output.shape, axes, note, _own_axes(traced, call, circular)
        )
    return places


def _own_axes(traced: Trace, call: Call, circular: bool) -> tuple[_Axis, ...] | None:
    """The axes of a layer's output with respect to its own input, if that is one map."""
    operations = traced.operations[call.first : call.last]
    made = {value for operation in operations for value in operation.outputs}
    read = {
        value
        for operation in operations
        for value in operation.inputs
        if value not in made and value.kind not in ("parameter", "buffer") and value.known is None
    }
    if not call.leaf or len(read) != 1:
        return None
    source = read.pop()
    if len(source.shape) != 4 or source.shape[2:] == (1, 1):
        return None
    part = dataclasses.replace(traced, operations=operations)
    seen = dependences(part, source, Notes()).get(call.outputs[0])
    axes, note = _axes(call.outputs[0].shape, seen, source.shape, circular)
    return None if note else axes


def _axes(
    shape: tuple[int, ...], found: Maybe, source: tuple[int, ...], circular: bool
) -> tuple[tuple[_Axis, ...], str]:
    """The axes along which a tensor has positions, or why it isn't known."""
    if found is None:
        return (), "depends on no input"
    if len(shape) == 2 or all(length == 1 for length in shape[2:]):
        folded = not found.unknown and any(track.fold for track in found.tracks)
        return (), "its positions are among its features" if folded else ""
    if found.unknown:
        # On a circle a map of whole strides can only lie in one way.
        if (
            not circular
            or len(shape) != 4
            or any(pixels % positions for pixels, positions in zip(source[2:], shape[2:], strict=True))
        ):
            return (), found.unknown
        pairs = enumerate(zip(shape[2:], source[2:], strict=True))
        return tuple(_Axis(n, n + 2, positions, pixels, None) for n, (positions, pixels) in pairs if positions > 1), ""
    axes = []
    for number, track in enumerate(found.tracks):
        if track.dim is None and not track.why:
            continue
        if track.fold or track.dim is None or track.line is None:
            return (), track.why or "its positions lie along no dimension of their own"
        if shape[track.dim] > 1:
            axes.append(_Axis(number, track.dim, shape[track.dim], source[number + 2], track.line))
    return tuple(axes), ""


@contextmanager
def _watched(
    model: torch.nn.Module,
    begin: Callable[[_Key, torch.nn.Module, tuple[Any, ...], dict[str, Any]], None] | None,
    end: Callable[[_Key, Any], None],
) -> Iterator[None]:
    """Tells of every call of a layer, by the layer and the number of its call, so that reused ones are told apart."""
    numbers = {id(layer): number for number, layer in enumerate(model.modules())}
    begun: Counter[int] = Counter()
    running: list[_Key] = []

    def enter(layer: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        number = numbers[id(layer)]
        begun[number] += 1
        running.append((number, begun[number]))
        if begin is not None:
            begin(running[-1], layer, inputs, named)

    def leave(layer: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        end(running.pop(), output)

    with ExitStack() as stack:
        for layer in model.modules():
            stack.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(leave).remove)
        yield


def _first_tensor(output: Any) -> Tensor:
    return next(leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor))


def _relative(one: Tensor, other: Tensor) -> Tensor:
    """|| one - other || / || other || of each image; 0 where both are 0, NaN where only the other is."""
    difference, size = ((each.double().flatten(1).norm(dim=1)) for each in (one - other, other))
    return torch.where(difference == 0, 0, difference / size.where(size > 0, torch.nan))


def _mean(errors: Tensor) -> float | None:
    known = errors[errors.isfinite()]
    return float(known.mean()) if len(known) else None
