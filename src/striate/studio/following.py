"""Compares the maps of a moved picture with those of the picture, to show whether a layer follows the move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from striate.analysis.field import rows_by_value
from striate.errors import AnalysisError, StudioError
from striate.studio.pictures import Moves
from striate.studio.recording import Recording
from striate.studio.tensors import MapForm, forms_of, maps_of

#: The most maps of one layer that are shown.
MOST_MAPS: Final = 12
_WITH_PLACES: Final = ("maps", "tokens", "maps_last")


@dataclass(frozen=True)
class Place:
    """A value with maps.

    Args:
        number: its number in recordings.
        name: its layer.
        form: the way in which it is displayed as maps.
        strides: (y, x), pixels of the picture from one position to the next; None if no rule gives them.
    """

    number: int
    name: str
    form: MapForm
    strides: tuple[float, float] | None

    def apart(self, size: tuple[int, int]) -> tuple[float, float]:
        """The pixels (y, x) between positions; without a rule, as if positions were spread evenly over (H, W)."""
        return self.strides or (size[0] / self.form.height, size[1] / self.form.width)

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {
            "number": self.number,
            "name": self.name,
            "channels": self.form.channels,
            "size": [self.form.height, self.form.width],
            "strides": None if self.strides is None else list(self.strides),
        }


def places(recording: Recording) -> list[Place]:
    """The values that have maps with more than one position, in the order of computation."""
    try:
        rows = rows_by_value(recording.trace)
    except AnalysisError:
        rows = {}
    found = []
    for number, value in enumerate(recording.values):
        if number not in recording.origins or len(value.shape) not in (3, 4) or 0 in value.shape:
            continue
        form = forms_of(tuple(value.shape))[0]
        if form.name not in _WITH_PLACES or form.height * form.width < 2:
            continue
        row = rows.get(value)
        known = row is not None and len(row.stride) == 2 and all(row.stride)
        strides = (float(row.stride[0] or 0), float(row.stride[1] or 0)) if known and row is not None else None
        found.append(Place(number, recording.names[number], form, strides))
    return found


def place_of(recording: Recording, number: int) -> Place:
    """The place with a value's number.

    Raises:
        StudioError: the value has no maps.
    """
    for place in places(recording):
        if place.number == number:
            return place
    raise StudioError("value", f"got {number}", "needed one with maps")


@dataclass(frozen=True, eq=False)
class Followed:
    """Maps of a picture and of a moved one.

    Args:
        channels: the channels shown, by falling mean of absolute values.
        before: (K, h, w), maps of the picture.
        along: (K, h, w), these maps moved like the picture: the result of an equivariant layer.
        after: (K, h, w), maps of the moved picture.
        error: norm of ``after - along`` over that of ``along``, over all channels, at positions where ``along`` uses
            nothing from outside; None if there are no such positions.
    """

    channels: tuple[int, ...]
    before: Tensor
    along: Tensor
    after: Tensor
    error: float | None


def follow(
    before: Recording, after: Recording, place: Place, moves: Moves, size: tuple[int, int], most: int = MOST_MAPS
) -> Followed:
    """Compares the maps of two recordings.

    Args:
        before, after: recordings of the picture and of the moved picture.
        place: the value whose maps are compared.
        moves: the moves between the two pictures.
        size: (H, W) of the picture.
        most: the largest number of maps.
    """
    one, other = (maps_of(each.numbers[place.number], place.form) for each in (before, after))
    strides = place.apart(size)
    along = moves.along(one[None], strides)[0]
    inside = moves.along(torch.ones(1, 1, *one.shape[1:], dtype=one.dtype), strides)[0, 0] > 1 - 1e-4
    apart, whole = ((each[:, inside]).double().norm().item() for each in (other - along, along))
    error = apart / whole if whole and math.isfinite(apart / whole) else None
    order = one.abs().mean((1, 2)).argsort(descending=True, stable=True)[:most].sort().values
    chosen = order.tolist()
    return Followed(tuple(chosen), one[order], along[order], other[order], error)


def likeliest(recording: Recording, classes: tuple[str, ...], most: int = 5) -> list[dict[str, Any]]:
    """The most likely classes of a recording whose output is one row of logits; empty for other outputs."""
    if not isinstance(recording.outputs, int):
        return []
    logits = recording.numbers[recording.outputs]
    if logits.dim() != 2 or len(logits) != 1 or not logits.is_floating_point() or logits.shape[1] < 2:
        return []
    shares = logits[0].detach().double().softmax(0)
    best = shares.topk(min(most, len(shares)))
    return [
        {"class": number, "name": classes[number] if number < len(classes) else f"class {number}", "probability": share}
        for share, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
