"""Rules for operators that move elements without computing: padding, cutting, reshaping, concatenating."""

from __future__ import annotations

import math
from typing import Any, Final

import torch

from striate.analysis.dependence import Dependence, Maybe, Notes, concatenated
from striate.analysis.rules.table import RULES, Unclear, first, picked, rule
from striate.analysis.rules.windows import windows_of
from striate.analysis.trace import Operation, Value
from striate.geometry import Window

#: Operators that cut their input up.
CUTS: Final = (
    "split", "split_with_sizes", "unbind", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk",
)  # fmt: skip


@rule("constant_pad_nd")
def _padded(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, pad = first(operation, lookup), list(operation.argument("pad"))
    for place in range(len(pad) // 2):
        before, after = pad[2 * place : 2 * place + 2]
        dim = len(part.shape) - 1 - place
        picks = range(-before, part.shape[dim] + after)
        part = picked(part, dim, picks, lambda line, by=before: line.shifted(-by), "")  # type: ignore[misc]
    return part


@rule(
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d",
)  # fmt: skip
def _mirrored(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, pad = first(operation, lookup), list(operation.argument("padding"))
    mirror = "reflection" in operation.name
    for place in range(len(pad) // 2):
        before, after = pad[2 * place : 2 * place + 2]
        dim = len(part.shape) - 1 - place
        n = part.shape[dim]
        picks = range(-before, n + after)
        if mirror:
            picks = [abs(p) if p < n else 2 * (n - 1) - p for p in picks]  # type: ignore[assignment]
        else:
            picks = [min(max(p, 0), n - 1) for p in picks]  # type: ignore[assignment]
        # The rule is that of the map without its ends, as with zeros around it.
        part = picked(part, dim, picks, lambda line, by=before: line.shifted(-by), "")  # type: ignore[misc]
    return part


@rule("slice")
def _sliced(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, dim = first(operation, lookup), operation.argument("dim") % len(operation.inputs[0].shape)
    picks = range(part.shape[dim])[
        slice(operation.argument("start"), operation.argument("end"), operation.argument("step"))
    ]
    if picks == range(part.shape[dim]):
        return part
    window = Window(1, picks.step)
    return picked(part, dim, picks, lambda line: line.shifted(picks.start).through(window), "")


@rule("select")
def _selected(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, shape = first(operation, lookup), operation.outputs[0].shape
    dim = operation.argument("dim") % len(part.shape)
    pick = operation.argument("index") % part.shape[dim]
    return picked(part, dim, [pick], lambda line: line.shifted(pick), "").reshaped(shape)


@rule("flip")
def _flipped(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part = first(operation, lookup)
    for dim in operation.argument("dims"):
        picks = range(part.shape[dim])[::-1]
        part = picked(part, dim % len(part.shape), picks, lambda line: None, "the axis is flipped")
    return part


@rule("roll")
def _rolled(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, dims = first(operation, lookup), operation.argument("dims")
    if not dims:
        raise Unclear("rolls across rows")
    for by, dim in zip(operation.argument("shifts"), dims, strict=True):
        n = part.shape[dim]
        picks = [(place - by) % n for place in range(n)]
        part = picked(part, dim % len(part.shape), picks, lambda line: None, "positions are rolled around the ends")
    return part


@rule("index_select")
def _index_selected(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, dim, index = first(operation, lookup), operation.argument("dim"), operation.argument("index")
    return _indexed_along(part, dim % len(part.shape), index)


@rule("index")
def _indexed(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, indices = first(operation, lookup), operation.argument("indices")
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(given) != 1 or len(given[0][1].shape) != 1:
        raise Unclear("takes positions by several tensors at once")
    return _indexed_along(part, *given[0])


def _indexed_along(part: Dependence, dim: int, index: Value) -> Dependence:
    if index.known is None or index.known.dtype == torch.bool:
        raise Unclear("which positions it takes depends on values")
    n = part.shape[dim]
    picks = [int(pick) % n for pick in index.known.tolist()]
    return picked(part, dim, picks, lambda line: None, "positions are taken by index")


@rule("unfold")
def _unfolded(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, dim = first(operation, lookup), operation.argument("dimension") % len(operation.inputs[0].shape)
    size, step = operation.argument("size"), operation.argument("step")
    outputs = operation.outputs[0].shape[dim]
    picks = [output * step + tap for output in range(outputs) for tap in range(size)]
    wide = picked(part, dim, picks, lambda line: None, "windows are laid side by side")
    split = wide.reshaped((*part.shape[:dim], outputs, size, *part.shape[dim + 1 :]))
    order = [each for each in range(len(split.shape)) if each != dim + 1] + [dim + 1]
    return split.permuted(order)


@rule("im2col")
def _columns(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, out = first(operation, lookup), operation.outputs[0].shape
    kernel = operation.argument("kernel_size")
    places = []
    for axis, (window, _, _) in enumerate(windows_of(operation, 2, kernel), start=len(part.shape) - 2):
        count = window.output_size(part.shape[axis])
        picks = [window.position(output, tap) for tap in range(window.kernel) for output in range(count)]
        part = picked(part, axis, picks, lambda line: None, "windows are laid side by side")
        places += [window.kernel, count]
    lead = part.shape[:-2]
    n = len(lead)
    return part.reshaped((*lead, *places)).permuted([*range(n), n, n + 2, n + 1, n + 3]).reshaped(out)


@rule(
    "view",
    "squeeze_",
    "unsqueeze_",
    "_unsafe_view",
    "reshape",
    "squeeze",
    "unsqueeze",
    "flatten",
    "unflatten",
    "_reshape_alias",
    "view_copy",
)
def _reshaped(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    return first(operation, lookup).reshaped(operation.outputs[0].shape)


@rule("clone", "_to_copy", "alias", "detach", "contiguous", "lift_fresh", "lift_fresh_copy", "lift", "_conj")
def _same(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    return first(operation, lookup)


@rule(
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_empty", "new_zeros",
    "new_ones", "new_full", "new_empty_strided", "zero", "zero_", "fill", "fill_",
)  # fmt: skip
def _made_alike(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    return None


@rule("copy", "copy_")
def _copied(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part: Maybe = lookup(operation.inputs[1])
    return part if part is None else part.expanded(operation.outputs[0].shape)


@rule("expand")
def _expanded(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    return first(operation, lookup).expanded(operation.outputs[0].shape)


@rule("repeat")
def _repeated(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, times = first(operation, lookup), operation.argument("repeats")
    part = part.expanded((1,) * (len(times) - len(part.shape)) + part.shape)
    for dim, count in enumerate(times):
        if count > 1:
            picks = list(range(part.shape[dim])) * count
            part = picked(part, dim, picks, lambda line: None, "the map is repeated side by side")
    return part


@rule("as_strided", "as_strided_")
def _restrided(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, shape = first(operation, lookup), operation.outputs[0].shape
    if shape != part.shape or math.prod(shape[2:]) != 1:
        raise Unclear("memory is read in another order")
    return part  # adaptive pooling's result in another layout


@rule("permute")
def _permuted(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part = first(operation, lookup)
    return part.permuted([dim % len(part.shape) for dim in operation.argument("dims")])


@rule("transpose", "transpose_", "t", "t_")
def _swapped(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part = first(operation, lookup)
    order = list(range(len(part.shape)))
    one, two = (0, 1) if operation.name in ("aten.t", "aten.t_") else operation.args[1:3]
    if len(order) > 1:
        order[one], order[two] = order[two], order[one]
    return part.permuted(order)


@rule("cat", "stack")
def _concatenated(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    tensors, dim = operation.argument("tensors"), operation.argument("dim")
    shape = operation.outputs[0].shape
    dim %= len(shape)
    tensors = [tensor for tensor in tensors if tensor.numel]
    parts = [lookup(tensor) for tensor in tensors]
    if operation.name == "aten.stack":
        parts = [part and part.reshaped((*shape[:dim], 1, *shape[dim + 1 :])) for part in parts]
        sizes = [1] * len(parts)
    else:
        sizes = [tensor.shape[dim] for tensor in tensors]
    return concatenated(parts, dim, sizes, shape, notes, where)


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
def _shuffled(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, out = first(operation, lookup), operation.outputs[0].shape
    *lead, channels, height, width = part.shape
    n = len(lead)
    if operation.name.endswith("channel_shuffle"):
        groups = operation.argument("groups")
        split = part.reshaped((*lead, groups, channels // groups, height, width))
        return split.permuted([*range(n), n + 1, n, n + 2, n + 3]).reshaped(out)
    if operation.name == "aten.pixel_shuffle":
        r = operation.argument("upscale_factor")
        split = part.reshaped((*lead, channels // r**2, r, r, height, width))
        return split.permuted([*range(n), n, n + 3, n + 1, n + 4, n + 2]).reshaped(out)
    r = operation.argument("downscale_factor")
    split = part.reshaped((*lead, channels, height // r, r, width // r, r))
    return split.permuted([*range(n), n, n + 2, n + 4, n + 1, n + 3]).reshaped(out)


for _name in CUTS:
    RULES[f"aten.{_name}"] = lambda operation, lookup, notes, where: first(operation, lookup)


def parts_of(operation: Operation, whole: Dependence) -> list[Dependence]:
    """What each of several outputs of one of :data:`CUTS` depends on."""
    if whole.unknown:
        return [whole] * len(operation.outputs)
    dim = operation.argument("dim", 0) % len(whole.shape)
    parts, start = [], 0
    for output in operation.outputs:
        length = 1 if operation.name == "aten.unbind" else output.shape[dim]
        if math.prod(output.shape) == 0:
            length = 0
        picks = range(start, start + length)
        cut = picked(whole, dim, picks, lambda line, by=start: line.shifted(by), "")  # type: ignore[misc]
        parts.append(cut.reshaped(output.shape))
        start += length
    return parts
