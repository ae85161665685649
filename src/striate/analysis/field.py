"""Receptive fields: which part of the input every tensor of a network sees."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from striate.analysis import arguments, support
from striate.analysis.dependence import Dependence, Maybe, Misalignment, Notes, Track
from striate.analysis.examples import InputSize, chosen
from striate.analysis.following import dependences
from striate.analysis.trace import Trace, Value, trace
from striate.errors import AnalysisError

Stride: TypeAlias = int | Fraction | None


@dataclass(frozen=True)
class FieldRow:
    """The receptive field of one tensor, one entry an axis of the input.

    Position ``o`` sees ``start + o * stride`` to ``start + o * stride + size - 1``. ``size`` runs from the first to the
    last position seen, gaps included, padding too; where the phases of an enlargement differ it is the largest one, and
    ``start`` is position 0's.

    Args:
        name: the layer, or layer and operator (``"layer1.0:add"``); of several calls the last has the plain name, the
            k-th one ``@k`` after it.
        kind: the layer's class, or the operator.
        level: ``"layer"``, ``"block"`` (a layer that calls others) or ``"operation"`` (a functional call).
        shape: the tensor's.
        size, stride, start: whole numbers, strides below 1 fractions; None where nothing is known, the stride also
            where no rule holds for all positions.
        whole: where the whole input is seen (global pooling, attention): size is the input's, stride and start are 0.
        local: size without what was seen globally, as a squeeze and excitation gate.
        note: why something is not known, or holds for no rule.
    """

    name: str
    kind: str
    level: str
    shape: tuple[int, ...]
    size: tuple[int | None, ...]
    stride: tuple[Stride, ...]
    start: tuple[int | None, ...]
    whole: tuple[bool, ...]
    local: tuple[int | None, ...]
    note: str = ""

    @property
    def padding(self) -> tuple[int | None, ...]:
        """Cells before the input that position 0 sees: ``-start``, the effective padding."""
        return tuple(None if first is None else -first for first in self.start)

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON; strides below 1 as decimal fractions."""
        return {
            "name": self.name,
            "kind": self.kind,
            "level": self.level,
            "shape": list(self.shape),
            "size": list(self.size),
            "stride": [float(each) if isinstance(each, Fraction) else each for each in self.stride],
            "start": list(self.start),
            "whole": list(self.whole),
            "local": list(self.local),
            "note": self.note,
        }


@dataclass(frozen=True, eq=False)
class ReceptiveFields:
    """The receptive fields of all tensors of a network, in the order in which they are computed.

    Args:
        model: the network's name, its class by default.
        input_shape: (N, C, ...) that it was traced with.
        rows: one for each tensor.
        misaligned: branches that met with different strides or centres.
        input: the input that is looked at, of several.
        inputs: the shapes of all inputs by name.
    """

    model: str
    input_shape: tuple[int, ...]
    rows: tuple[FieldRow, ...]
    misaligned: tuple[Misalignment, ...]
    _found: dict[str, Maybe] = field(repr=False)
    input: str = ""
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[FieldRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, name: str) -> FieldRow:
        """The row of a layer's output by the layer's path, ``"layer4"``, or of any row by its name.

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

    def support(self, name: str, position: Sequence[int]) -> Tensor:
        """Which input positions a layer's output at ``position`` depends on, exactly: gaps and ends included.

        Args:
            name: as for :meth:`at`.
            position: along the tensor's last dimensions, (y, x) of a map. Those left out are all looked at.

        Returns:
            A mask of the input's size (H, W).

        Raises:
            AnalysisError: no such layer or position, or dependence that isn't known.

        Formula: S30.
        """
        row, found = self.at(name), self._found[name]
        return seen_by(name, row.shape, found, position, self.input_shape[2:])

    def box(self, name: str, position: Sequence[int]) -> tuple[tuple[int, int], ...] | None:
        """First and last input position along each axis of :meth:`support`; None if it depends on nothing."""
        places = self.support(name, position).nonzero()
        if not len(places):
            return None
        return tuple(zip(places.amin(0).tolist(), places.amax(0).tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """All rows, for JSON."""
        return {
            "model": self.model,
            "input_shape": list(self.input_shape),
            "input": self.input,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "rows": [row.to_dict() for row in self.rows],
            "misaligned": [vars(each) for each in self.misaligned],
        }


def receptive_field(
    model: torch.nn.Module, input_size: InputSize, *, input: str | int | None = None, name: str | None = None
) -> ReceptiveFields:
    """The exact receptive field of every tensor in a network, in evaluation mode, with respect to one input.

    Where padding takes positions from elsewhere (circular, reflected, replicated), a position at an end sees those
    too: :meth:`ReceptiveFields.support` has them, and of a field that wraps around
    :meth:`ReceptiveFields.box` spans all that lies between. The rule in the rows is that of the map without its ends.

    Args:
        model: any network; it is left as it is.
        input_size: (C, L), (C, H, W), a whole shape with the batch in front, or example inputs: a tensor or array, a
            list of positional inputs, or a dictionary. Entries of the latter are inputs by name if ``forward`` has
            parameters of these names; if not, it is the one argument of a ``forward`` that takes one.
        input: which input is looked at, by its name or number; by default the first that has axes to look along.
        name: of the network, for tables and pictures; its class by default.

    Raises:
        AnalysisError: an input without axes, a size that doesn't fit, values that steer the computation.

    Source: Araujo, Norris & Sim, "Computing receptive fields of convolutional neural networks", Distill 2019; for
    transposed windows, interpolation and branches the sets themselves are followed.

    >>> fields = receptive_field(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.MaxPool2d(2)), (1, 8, 8))
    >>> fields.at("1").size, fields.at("1").stride, fields.at("1").start
    ((4, 4), (2, 2), (0, 0))
    >>> fields.box("1", (1, 2))
    ((2, 5), (4, 7))
    """
    return fields_of(trace(model, input_size), name or type(model).__name__, input)


def fields_of(traced: Trace, name: str, input: str | int | None = None) -> ReceptiveFields:
    """The receptive fields of a network that is traced already."""
    shapes = {each: value.shape for each, value in traced.inputs.items()}
    looked_at = chosen(shapes, input)
    source = _looked_at(traced, name, input)
    notes = Notes()
    found = dependences(traced, source, notes)
    rows: list[FieldRow] = []
    kept: dict[str, Maybe] = {}
    entries = _entries(traced)
    total = Counter(base for base, *_ in entries)
    seen: Counter[str] = Counter()
    for base, kind, level, value in entries:
        seen[base] += 1
        label = base if seen[base] == total[base] else f"{base}@{seen[base]}"
        dependence = found.get(value)
        nothing = "depends on no input" if len(shapes) == 1 else f"doesn't depend on {looked_at}"
        rows.append(_row(label, kind, level, value, dependence, source.shape[2:], nothing))
        kept[label] = dependence
    return ReceptiveFields(name, source.shape, tuple(rows), tuple(notes.misaligned), kept, looked_at, shapes)


def _looked_at(traced: Trace, name: str, input: str | int | None) -> Value:
    """The input that is meant, if it has axes to look along."""
    shapes = {each: value.shape for each, value in traced.inputs.items()}
    looked_at = chosen(shapes, input)
    source = traced.inputs[looked_at]
    if len(source.shape) < 3:
        shape = "x".join(map(str, source.shape)) or "a number"
        raise AnalysisError(
            name,
            f"its input {looked_at}, {shape}, has no axes to look along",
            "needed (N, C, L), (N, C, H, W) or (N, C, D, H, W)",
            "name another input" if len(shapes) > 1 else "",
        )
    return source


def rows_by_value(traced: Trace, input: str | int | None = None) -> dict[Value, FieldRow]:
    """The receptive field of every tensor that depends on an input, by the tensor itself; their names are empty.

    Args:
        traced: operators with shapes.
        input: its name or number; by default the first that has axes to look along.

    Raises:
        AnalysisError: an input without axes.
    """
    shapes = {each: value.shape for each, value in traced.inputs.items()}
    source = _looked_at(traced, "network", input)
    found = dependences(traced, source, Notes())
    nothing = "depends on no input" if len(shapes) == 1 else "doesn't depend on this input"
    return {value: _row("", "", "tensor", value, each, source.shape[2:], nothing) for value, each in found.items()}


def seen_by(name: str, shape: Sequence[int], found: Maybe, position: Sequence[int], size: Sequence[int]) -> Tensor:
    """Which input positions one position of a tensor depends on, exactly.

    Args:
        name: of the tensor, for errors.
        shape: of the tensor.
        found: what the tensor depends on, of :func:`~striate.analysis.following.dependences`.
        position: along the tensor's last dimensions. Those left out are all looked at.
        size: (H, W) of the input.

    Returns:
        A mask of the input's size.

    Raises:
        AnalysisError: no such position, or dependence that isn't known.
    """
    mask = torch.zeros(tuple(size), dtype=torch.bool)
    if found is None:
        return mask
    if found.unknown or found.boxes is None:
        why = found.unknown or f"its support takes more than {support.MOST} boxes"
        raise AnalysisError(name, "the field isn't known", why)
    dims = max(len(shape) - len(arguments.items(position) or ()), 0)
    position = arguments.position(name, position, tuple(shape[dims:]))
    for box in found.boxes:
        arrays = []
        for array in box:
            places = zip(position, array.shape[dims:], strict=True)
            cut = (slice(None),) * dims + tuple(slice(p, p + 1) if n > 1 else slice(1) for p, n in places)
            # Of an array without axes, indexing gives the number in it.
            arrays.append(np.asarray(array[cut], dtype=object))
        # PyTorch's function of this name imports its symbolic shapes, which takes half a second.
        wide = np.broadcast_shapes(*(array.shape for array in arrays))
        flat = [np.broadcast_to(array, wide).ravel() for array in arrays]
        for sets in set(zip(*flat, strict=True)):
            part = torch.ones((), dtype=torch.bool)
            for bits_, length in zip(sets, size, strict=True):
                along = torch.tensor([bool(bits_ >> place & 1) for place in range(length)])
                part = part.unsqueeze(-1) & along
            mask |= part
    return mask


def _entries(traced: Trace) -> list[tuple[str, str, str, Value]]:
    """What gets a row, by when it was computed: name, kind, level, tensor."""
    timed: list[tuple[tuple[int, int], tuple[str, str, str, Value]]] = []
    for number, call in enumerate(traced.calls):
        if call.outputs and number:
            level = "layer" if call.leaf else "block"
            timed.append(((call.last, -number), (call.path, type(call.layer).__name__, level, call.outputs[0])))
    for place, operation in enumerate(traced.operations):
        call = traced.calls[operation.call]
        library = type(call.layer).__module__.startswith(("torch.nn.", "striate.nn."))
        if call.leaf and library and operation.call:
            continue
        kind = operation.name.removeprefix("aten.").rstrip("_")
        name = f"{call.path}:{kind}" if call.path else kind
        timed += [((place, 1), (name, kind, "operation", output)) for output in operation.outputs[:1]]
    return [entry for _, entry in sorted(timed, key=lambda each: each[0])]


def _row(name: str, kind: str, level: str, value: Value, found: Maybe, size: Sequence[int], nothing: str) -> FieldRow:
    axes = len(size)
    if found is None or (found.boxes == () and not found.unknown):
        zero = (0,) * axes
        return FieldRow(name, kind, level, value.shape, zero, zero, zero, (False,) * axes, zero, nothing)
    if found.unknown:
        none = (None,) * axes
        return FieldRow(name, kind, level, value.shape, none, none, none, (False,) * axes, none, found.unknown)
    entries = [
        _axis(track, found, axis, length) for axis, (track, length) in enumerate(zip(found.tracks, size, strict=True))
    ]
    columns = zip(*entries, strict=True)
    sizes, strides, starts, wholes, locals_ = columns
    note = next((track.why for track, known in zip(found.tracks, strides, strict=True) if known is None), "")
    return FieldRow(name, kind, level, value.shape, sizes, strides, starts, wholes, locals_, note)


def _axis(
    track: Track, found: Dependence, axis: int, length: int
) -> tuple[int | None, Stride, int | None, bool, int | None]:
    """Size, stride, start, whether all is seen, and the size of what is seen locally."""
    local = None if track.line is None else track.line.size
    sets = None
    if found.boxes is not None:
        sets = [int(each) for box in found.boxes for each in box[axis].ravel()]
    full = (1 << length) - 1
    everything = sets is not None and bool(sets) and all(each == full for each in sets)
    if track.whole or (track.dim is None and everything):
        return length, 0, 0, True, local
    if track.line is not None:
        stride = track.line.stride
        return track.line.size, int(stride) if stride.denominator == 1 else stride, track.line.start, False, local
    if not sets:
        return None, None, None, False, local
    extents = [(each.bit_length() - (each & -each).bit_length() + 1) for each in sets if each]
    first = next(((each & -each).bit_length() - 1 for each in sets if each), None)
    return max(extents, default=0), None, first, False, local
