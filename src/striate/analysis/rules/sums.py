"""Rules for operators over whole dimensions: sums, normalisations, matrix products, attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from striate.analysis.dependence import Dependence, Maybe, Notes, union
from striate.analysis.rules.table import Unclear, first, pointwise, rule
from striate.analysis.trace import Operation


@rule(
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod", "norm", "logsumexp",
    "linalg_vector_norm", "any", "all", "median", "nansum", "aminmax",
)  # fmt: skip
def _reduced(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    if len(operation.inputs) > 1:
        return pointwise(operation, lookup, notes, where)  # the maximum of two tensors
    part = first(operation, lookup)
    dims = operation.argument("dim")
    if dims is None or dims == []:
        dims = range(len(part.shape))
    dims = [dims] if isinstance(dims, int) else dims
    return part.mixed(*(dim % len(part.shape) for dim in dims)).reshaped(operation.outputs[0].shape)


def _smeared(part: Dependence, dims: Sequence[int]) -> Dependence:
    """Every position along the dimensions sees what all of them see."""
    dims = [dim for dim in dims if part.shape[dim] > 1]
    return part.mixed(*dims).expanded(part.shape) if dims else part


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod", "_safe_softmax", "logcumsumexp")
def _normalised_along(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part = first(operation, lookup)
    dim = operation.argument("dim") % len(part.shape)
    if "cum" in operation.name:
        taps = [range(place + 1) for place in range(part.shape[dim])]
        return part.looking(dim, taps, lambda line: None, "positions add up along the axis")
    return _smeared(part, [dim])


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update", "miopen_batch_norm"
)
def _batch_normalised(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part = first(operation, lookup)
    if not operation.argument("training", operation.name == "aten._batch_norm_with_update"):
        return part
    return _smeared(part, [dim for dim in range(len(part.shape)) if dim != 1])


@rule("_native_batch_norm_legit_no_training", "_batch_norm_no_update")
def _batch_scaled(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    return first(operation, lookup)


@rule("native_layer_norm", "_fused_rms_norm")
def _layer_normalised(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, n = first(operation, lookup), len(operation.argument("normalized_shape"))
    return _smeared(part, range(len(part.shape) - n, len(part.shape)))


@rule("native_group_norm")
def _group_normalised(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, groups = first(operation, lookup), operation.argument("group")
    batch, channels, *rest = part.shape
    part = part.reshaped((batch, groups, channels // groups, *rest))
    return _smeared(part, range(2, len(part.shape))).reshaped((batch, channels, *rest))


@rule("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "addbmm")
def _multiplied(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    shape = operation.outputs[0].shape
    *added, one, two = operation.inputs
    parts = [part for value in added if (part := lookup(value)) is not None]
    left, right = lookup(one), lookup(two)
    if operation.name in ("aten.mv", "aten.dot", "aten.addmv", "aten.addbmm"):
        parts += [
            each.mixed(*range(len(each.shape))).reshaped((1,) * len(shape))
            for each in (left, right)
            if each is not None
        ]
        return union(parts, shape, notes, where)
    if left is not None:
        parts.append(left.mixed(len(left.shape) - 1))
    if right is not None:
        parts.append(right.mixed(len(right.shape) - 2))
    return union(parts, shape, notes, where)


@rule("_trilinear")
def _bilinear(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    """A sum of products of three operands, each broadcast along dimensions of its own."""
    shape, summed = operation.outputs[0].shape, operation.argument("sumdim")
    parts = []
    for operand, place in zip(operation.inputs[:3], ("expand1", "expand2", "expand3"), strict=True):
        if (part := lookup(operand)) is None:
            continue
        wide = list(operand.shape)
        for dim in operation.argument(place):
            wide.insert(dim, 1)
        part = part.reshaped(wide).mixed(*summed)
        parts.append(part.reshaped([length for dim, length in enumerate(part.shape) if dim not in summed]))
    return union(parts, shape, notes, where)


@rule("mkldnn_rnn_layer")
def _stepped(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    """Each step sees all before it, itself and the first state; in reverse all behind it."""
    shape, steps = operation.outputs[0].shape, range(operation.outputs[0].shape[0])
    parts = []
    if (part := lookup(operation.inputs[0])) is not None:
        part = part.mixed(len(part.shape) - 1)
        back = operation.argument("reverse")
        taps = [steps[place:] if back else steps[: place + 1] for place in steps]
        parts.append(part.looking(0, taps, lambda line: None, "states add up along the axis"))
    parts += [
        each.mixed(*range(len(each.shape))).reshaped((1, 1, 1))
        for value in operation.inputs[1:]
        if (each := lookup(value)) is not None
    ]
    return union(parts, shape, notes, where)


#: Operators that give the states of all steps, and the last one's beside them.
RECURRENT: Final = ("aten.mkldnn_rnn_layer",)


@rule(
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def _attended(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    query, key, value = operation.inputs[:3]
    shape = operation.outputs[0].shape
    if query.shape[:-2] != key.shape[:-2]:
        raise Unclear("heads that share keys")
    causal = operation.argument("is_causal", False)
    parts = []
    if (part := lookup(query)) is not None:
        parts.append(part.mixed(len(shape) - 1))
    for source, dims in ((key, (-1, -2)), (value, (-2,))):
        if (part := lookup(source)) is None:
            continue
        if -1 in dims:
            part = part.mixed(len(shape) - 1)
        if causal:
            taps = [range(min(place + 1, part.shape[-2])) for place in range(shape[-2])]
            part = part.looking(len(shape) - 2, taps, lambda line: None, "causal attention")
        else:
            part = part.mixed(len(shape) - 2)
        parts.append(part)
    return union(parts, shape, notes, where)
