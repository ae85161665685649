"""Operators that only move numbers: reshape, slice, concatenate, repeat, pad, gather, copy.

To find the source of a number, the operator is run on tensors whose elements are their own positions.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from striate.analysis.operators import Operation, Value
from striate.studio.derivation.result import Derivation, Hop
from striate.studio.derivation.table import Question, derives

#: The first position; it is large, so that constants which an operator fills in aren't mistaken for positions.
_BASE: Final = float(1 << 44)
#: Arguments that aren't moved, but control where numbers are moved.
_STEERING: Final = frozenset(("index", "indices", "condition", "mask"))

_TOLD: Final[dict[str, tuple[str, str]]] = {
    "cat": ("concatenation", "Tensors are put one after another"),
    "stack": ("concatenation", "Tensors are put one after another along a new axis"),
    "view": ("reshape", "The same numbers in another shape"),
    "_unsafe_view": ("reshape", "The same numbers in another shape"),
    "reshape": ("reshape", "The same numbers in another shape"),
    "_reshape_alias": ("reshape", "The same numbers in another shape"),
    "permute": ("permutation of axes", "The axes change places"),
    "transpose": ("transposition", "Two axes change places"),
    "t": ("transposition", "Rows become columns"),
    "slice": ("part", "A part of the tensor"),
    "select": ("part", "One entry along an axis"),
    "narrow": ("part", "A part of the tensor"),
    "split": ("part", "One of the parts that the tensor is cut into"),
    "split_with_sizes": ("part", "One of the parts that the tensor is cut into"),
    "chunk": ("part", "One of the parts that the tensor is cut into"),
    "unbind": ("part", "One entry along an axis"),
    "expand": ("repetition", "The same numbers are seen at several places"),
    "repeat": ("repetition", "The same numbers stand at several places"),
    "unsqueeze": ("reshape", "An axis of length 1 more"),
    "squeeze": ("reshape", "Axes of length 1 less"),
    "constant_pad_nd": ("padding", "The tensor with a margin around it"),
    "flip": ("reflection", "The order along an axis is turned"),
    "roll": ("rotation", "Numbers move along an axis, round its ends"),
    "pixel_shuffle": ("pixel shuffle", "Channels become positions"),
    "pixel_unshuffle": ("pixel unshuffle", "Positions become channels"),
    "channel_shuffle": ("channel shuffle", "Channels of the groups change places"),
    "native_channel_shuffle": ("channel shuffle", "Channels of the groups change places"),
    "embedding": ("embedding", "A row of the table of weights"),
    "where": ("choice", "One of two numbers, by a condition"),
    "masked_fill": ("mask", "A constant where the mask says so"),
    "tril": ("triangle", "Numbers above the diagonal become zero"),
    "triu": ("triangle", "Numbers below the diagonal become zero"),
}

#: Operators that keep each number at its place.
_SAME: Final = (
    "clone", "contiguous", "alias", "detach", "lift_fresh", "lift_fresh_copy", "_to_copy", "to", "positive", "_conj",
    "copy_to", "_copy_from", "view_as_real_copy", "real",
)  # fmt: skip

_MOVING: Final = (
    *(name for name in _TOLD if name != "where"),
    "index", "index_select", "gather", "take", "take_along_dim", "unfold", "im2col",
    "diagonal", "as_strided", "swapaxes", "movedim", "slice_scatter", "select_scatter", "index_put", "scatter", "rot90",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "masked_select", "index_copy", "diagonal_copy", "copy",
    "masked_scatter", "max_unpool2d", "max_unpool3d", "resize", "squeeze_copy", "view_copy", "expand_copy",
    "_index_put_impl", "_unsafe_index", "_fw_primal", "unflatten", "flatten", "ravel", "set",
)  # fmt: skip


@derives(*_SAME)
def _same(question: Question) -> Derivation:
    value = question.operation.inputs[0]
    hop = question.hop(value, question.place, "x")
    words = "The same number, at the same place."
    if value.dtype != question.value.dtype:
        words = f"The same number in another format: {question.value.dtype} instead of {value.dtype}."
    size = abs(float(hop.number)) if not isinstance(hop.number, str) else 0.0
    check = question.check(float(hop.number), 1, size) if not isinstance(hop.number, str) else None
    return Derivation("move", question.name.strip("_").replace("_", " "), words, "y = x", (hop,), check=check)


@derives(*dict.fromkeys(_MOVING))
def _moved(question: Question) -> Derivation:
    title, told = _TOLD.get(question.name, (question.name.strip("_").replace("_", " "), "Numbers are moved"))
    hop = origin(question)
    if hop is None:
        return Derivation("move", title, f"{told}; this number is filled in, no tensor's.", "y = constant")
    operation = question.operation
    words = f"{told}; this number comes from one place."
    facts: dict[str, Any] = {}
    if question.name in ("cat", "stack"):
        parts = [each for each in operation.args[0] if isinstance(each, Value)]
        part = next(rank for rank, each in enumerate(parts) if question.number(each) == hop.value)
        words = f"{told}; this number comes from part {part + 1} of {len(parts)}."
        facts = {"part": part, "parts": [{"value": question.number(each), "shape": list(each.shape)} for each in parts]}
    if "upsample" in question.name:
        title, words = "enlargement", "The nearest number is repeated."
    size = abs(float(hop.number)) if not isinstance(hop.number, str) else 0.0
    check = question.check(float(hop.number), 1, size) if not isinstance(hop.number, str) else None
    return Derivation("move", title, words, "y = x", (hop,), check=check, facts=facts)


def origin(question: Question) -> Hop | None:
    """The source element of a moved number; None if the operator filled in a constant."""
    found = _position(question)
    if found is None:
        return None
    value, flat = found
    place = tuple(int(each) for each in np.unravel_index(flat, value.shape)) if value.shape else ()
    return question.hop(value, place, "x")


def _position(question: Question) -> tuple[Value, int] | None:
    operation = question.operation
    moved = _moving_values(operation)
    firsts, total = {}, 0
    for value in moved:
        firsts[value] = total
        total += max(math.prod(value.shape), 1)

    def positions(value: Value) -> Tensor:
        if value not in firsts:
            return question.tensor(value)
        count = math.prod(value.shape)
        own = torch.arange(count, dtype=torch.float64) + (_BASE + firsts[value])
        if operation.name.startswith("aten.as_strided"):
            return _laid_out(own.view(value.shape), question.tensor(value))
        return own.view(value.shape)

    arguments = tree_map_only(Value, positions, operation.args)
    named = tree_map_only(Value, positions, operation.kwargs)
    with torch.no_grad():
        result = operation.target(*arguments, **named)
    picked = result[question.rank] if isinstance(result, tuple | list) else result
    at = float(picked[question.place])
    if not _BASE <= at < _BASE + total:
        return None
    at -= _BASE
    value = next(each for each in reversed(moved) if firsts[each] <= at)
    return value, int(at) - firsts[value]


def _moving_values(operation: Operation) -> list[Value]:
    """The tensors whose numbers are moved, without those that control where."""
    found: dict[Value, None] = {}
    schema = operation.target._schema.arguments

    def collect(argument: Any) -> None:
        if isinstance(argument, Value):
            found[argument] = None
        elif isinstance(argument, list | tuple):
            for each in argument:
                collect(each)

    for name, argument in [
        *zip((each.name for each in schema), operation.args, strict=False),
        *operation.kwargs.items(),
    ]:
        if name not in _STEERING:
            collect(argument)
    return list(found)


def _laid_out(own: Tensor, like: Tensor) -> Tensor:
    """A tensor of positions with the memory layout of another tensor."""
    made = torch.empty_strided(like.shape, like.stride(), dtype=torch.float64)
    made.copy_(own)
    return made


def aliased(question: Question) -> Derivation:
    """A number in memory that an operator wrote to through another view: overwritten, or unchanged."""
    recording, operation = question.recording, question.operation
    mine = question.tensor(question.value)
    address = mine.storage_offset() + sum(at * step for at, step in zip(question.place, mine.stride(), strict=True))
    old = next(before for before, after in operation.written if after is question.value)
    for target in operation.outputs:
        theirs = recording.numbers[recording.number_of(target)]
        if target.storage != question.value.storage:
            continue
        cells = torch.arange(mine.untyped_storage().nbytes() // mine.element_size())
        places: Tensor = cells.as_strided(theirs.shape, theirs.stride(), int(theirs.storage_offset()))
        found = places.eq(int(address)).nonzero()
        if len(found):
            hop = question.hop(target, found[0].tolist(), "x")
            words = f"Memory that another view wrote into ({question.name}): the number that was written there."
            return Derivation("move", "written through a view", words, "y = x", (hop,), check=_equal(question, hop))
    hop = question.hop(old, question.place, "x")
    words = f"Another part of the same memory was written ({question.name}); this number is as it was."
    return Derivation("move", "left as it was", words, "y = x", (hop,), check=_equal(question, hop))


def _equal(question: Question, hop: Hop) -> Any:
    return None if isinstance(hop.number, str) else question.check(float(hop.number), 1, 0.0)


@derives("sort", "topk", "cummax", "cummin")
def _ordered(question: Question) -> Derivation:
    """The element to which the other result, the indices, points."""
    operation = question.operation
    x = operation.inputs[0]
    dim = int(operation.argument("dim", -1)) % max(len(x.shape), 1)
    where = int(question.tensor(operation.outputs[1])[question.place])
    place = tuple(where if axis == dim else at for axis, at in enumerate(question.place))
    hop = question.hop(x, place, "x")
    words = "The numbers of a row are ordered; this one stood at another place."
    return Derivation(
        "move", question.name, words, "y = x", (hop,), check=_equal(question, hop) if not question.rank else None
    )
