"""The derivation of one number of a recording: its operands, and how it was computed from them.

There is a file for each family of operators: ``products`` (convolution, matrix products), ``pools`` (pooling, means,
interpolation), ``norms`` (normalisation, softmax), ``pointwise``, ``moves`` (numbers that are only moved) and
``general`` (all others). Each operator has one function, which is registered in :data:`table.TABLE`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from striate.errors import StudioError
from striate.studio.derivation import code, moves, norms, pointwise, pools, products
from striate.studio.derivation.general import general
from striate.studio.derivation.result import Derivation
from striate.studio.derivation.table import TABLE, Question
from striate.studio.recording import Recording

__all__ = ["TABLE", "Derivation", "Question", "derive", "position"]

# Importing these modules registers their operators.
_FAMILIES = (moves, norms, pointwise, pools, products)
#: Those of them whose sums are of real numbers.
_REAL = frozenset(each.__name__ for each in (norms, pools, products))


def position(recording: Recording, value: int, place: Sequence[int]) -> tuple[int, ...]:
    """Checks a place in a value.

    Raises:
        StudioError: no such value, or no such place in it.
    """
    if not 0 <= value < len(recording.values):
        raise StudioError("value", f"got {value}", f"needed 0 to {len(recording.values) - 1}")
    shape = recording.values[value].shape
    if len(place) != len(shape) or any(not 0 <= at < length for at, length in zip(place, shape, strict=True)):
        got = ",".join(map(str, place)) or "no place"
        needed = ",".join(f"0-{length - 1}" for length in shape) if 0 not in shape else "a tensor that isn't empty"
        raise StudioError("place", f"got {got}", f"needed {needed or 'no place: it is one number'}")
    return tuple(int(at) for at in place)


def derive(recording: Recording, value: int, place: Sequence[int]) -> Derivation:
    """Derives one number of a recording.

    Args:
        recording: a recording.
        value: the tensor's number in it.
        place: the place of the element, one index for each axis.

    Raises:
        StudioError: no such value or place.

    >>> import torch
    >>> from striate.studio.recording import record
    >>> layer = torch.nn.Conv2d(1, 1, 2, bias=False)
    >>> recording = record(layer, torch.ones(1, 1, 3, 3))
    >>> found = derive(recording, recording.outputs, (0, 0, 1, 1))
    >>> found.title, len(found.terms.products), found.check.holds
    ('convolution', 4, True)
    """
    where = position(recording, value, place)
    origin = recording.origins.get(value)
    if origin is None:
        return _source(recording, value, where)
    place_, rank = origin
    operation = recording.trace.operations[place_]
    question = Question(recording, operation, max(rank, 0), recording.values[value], where)
    if rank < 0:
        found = moves.aliased(question)
        return dataclasses.replace(found, call=code.looked_up(value, where))
    act = TABLE.get(question.name)
    if act is None:
        act = pointwise.pointwise if pointwise.is_pointwise(operation) else general
    if act.__module__ in _REAL and any(each.dtype.is_complex for each in (question.value, *operation.inputs)):
        act = general
    return dataclasses.replace(act(question), call=code.call(question))


def _source(recording: Recording, value: int, place: tuple[int, ...]) -> Derivation:
    """The derivation of a number that wasn't computed: of an input, a weight, a buffer or a constant."""
    kind = recording.values[value].kind
    name = recording.names[value]
    words = {
        "input": f"A number of the network's input {name}: the walk ends at the picture.",
        "parameter": f"A number of {name}, which training learns.",
        "buffer": f"A number of {name}, which the network keeps beside its weights.",
    }.get(kind, "A constant, written in the network's code.")
    return Derivation("source", kind if kind != "activation" else "constant", words, call=code.looked_up(value, place))
