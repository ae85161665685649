"""What each operator does to dependence: a table of rules, a few lines each.

A rule gets the operation, its tensors' dependences (None: on no input) and the notes, and gives the output's. An
operator without a rule makes whatever depends on it unknown, with the operator as the reason.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from striate.analysis.dependence import Dependence, Maybe, Notes, concatenated, union
from striate.analysis.lines import Line, sources
from striate.analysis.trace import Operation, Value
from striate.geometry import Window

Rule: TypeAlias = Callable[[Operation, Callable[[Value], Maybe], Notes, str], Maybe]
RULES: Final[dict[str, Rule]] = {}


class Unclear(Exception):  # noqa: N818 - a signal inside this package
    """A rule doesn't hold for these arguments; the message says why."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(function: Rule) -> Rule:
        for name in names:
            assert f"aten.{name}" not in RULES, name
            RULES[f"aten.{name}"] = function
        return function

    return enter


def follow(operation: Operation, lookup: Callable[[Value], Maybe], notes: Notes, where: str) -> Maybe:
    """The dependence of an operation's outputs."""
    parts = [part for value in operation.inputs if (part := lookup(value)) is not None]
    if not parts:
        return None
    unknown = next((part for part in parts if part.unknown), None)
    if unknown is not None:
        return unknown
    act = RULES.get(operation.name)
    if act is None and _is_pointwise(operation):
        act = _pointwise
    if act is None:
        return Dependence.unclear(f"{operation.name} in {where} has no rule")
    try:
        return act(operation, lookup, notes, where)
    except Unclear as reason:
        return Dependence.unclear(f"{operation.name} in {where}: {reason}")


_POINTWISE: Final = ("add_", "hardswish", "hardswish_", "dropout", "native_dropout", "bernoulli", "rrelu_with_noise")


def _is_pointwise(operation: Operation) -> bool:
    return torch.Tag.pointwise in operation.target.tags or operation.name in {f"aten.{name}" for name in _POINTWISE}


def _pointwise(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    parts = [part for value in operation.inputs if (part := lookup(value)) is not None]
    return union(parts, operation.outputs[0].shape, notes, where)


def _first(operation: Operation, lookup: Any) -> Dependence:
    part: Maybe = lookup(operation.inputs[0])
    if part is None:
        raise Unclear("the input reaches it through another operand than the first")
    return part


# -------------------------------------------------------------------- windows


def _windows(operation: Operation, dims: int, kernel: Sequence[int]) -> list[tuple[Window, int, int]]:
    """Each axis's window, and its numbers of cells before and of output padding."""

    def spread(value: Any, default: Sequence[int] | int) -> list[int]:
        given = default if value is None or value == [] else value
        given = [given] if isinstance(given, int) else list(given)
        return given * dims if len(given) == 1 else given

    stride = spread(operation.argument("stride"), list(kernel))
    padding = spread(operation.argument("padding"), 0)
    dilation = spread(operation.argument("dilation"), 1)
    extra = spread(operation.argument("output_padding"), 0)
    return [(Window(k, s, p, d), p, e) for k, s, p, d, e in zip(kernel, stride, padding, dilation, extra, strict=True)]


@rule("convolution")
def _convolution(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    input, weight = operation.args[:2]
    shape, dims = operation.outputs[0].shape, len(weight.shape) - 2
    part, kernel = lookup(input), lookup(weight)
    parts = []
    if part is not None:
        groups = operation.argument("groups")
        part = _mixed_channels(part, groups, shape[1], notes, where)
        transposed = operation.argument("transposed")
        for axis, (window, _, _) in enumerate(_windows(operation, dims, weight.shape[2:]), start=2):
            part = (_transposed if transposed else _slid)(part, axis, window, shape[axis])
        parts.append(part)
    if kernel is not None:  # weights made from the input act everywhere
        parts.append(kernel.mixed(*range(len(kernel.shape))).reshaped((1,) * len(shape)))
    return union(parts, shape, notes, where)


def _mixed_channels(part: Dependence, groups: int, channels: int, notes: Notes, where: str) -> Dependence:
    if groups == 1 or part.boxes is None or all(a.shape[1] == 1 for box in part.boxes for a in box):
        mixed = part.mixed(1)
        return mixed.expanded((mixed.shape[0], channels, *mixed.shape[2:]))
    batch, wide, *rest = part.shape
    split = part.reshaped((batch, groups, wide // groups, *rest)).mixed(2)
    split = split.expanded((batch, groups, channels // groups, *rest))
    return split.reshaped((batch, channels, *rest))


def _slid(part: Dependence, dim: int, window: Window, outputs: int) -> Dependence:
    taps = [[window.position(output, tap) for tap in range(window.kernel)] for output in range(outputs)]
    return part.looking(dim, taps, lambda line: line.through(window), "")


def _transposed(part: Dependence, dim: int, window: Window, outputs: int) -> Dependence:
    taps = [sources(window, position) for position in range(outputs)]
    return part.looking(dim, taps, lambda line: line.through_transposed(window), "")


@rule(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d",
    "max_pool1d", "max_pool3d",
)  # fmt: skip
def _pooling(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, shape = _first(operation, lookup), operation.outputs[0].shape
    dims = int(operation.name.partition("pool")[2][0])
    kernel = list(operation.argument("kernel_size"))
    kernel = kernel * dims if len(kernel) == 1 else kernel
    for axis, (window, before, _) in enumerate(_windows(operation, dims, kernel), start=len(shape) - dims):
        if shape[axis] == 1 and before == 0 and window.kernel >= part.shape[axis] > 1 and window.dilation == 1:
            part = part.mixed(axis)  # global pooling
        else:
            part = _slid(part, axis, window, shape[axis])
    return part


@rule(
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d", "adaptive_avg_pool1d",
)  # fmt: skip
def _adaptive(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    """Output i of m looks at floor(i n / m) to ceil((i + 1) n / m) - 1, as PyTorch's documentation has it."""
    part, shape = _first(operation, lookup), operation.outputs[0].shape
    dims = int(operation.name.partition("pool")[2][0])
    for axis in range(len(shape) - dims, len(shape)):
        n, m = part.shape[axis], shape[axis]
        if m == 1 < n:
            part = part.mixed(axis)
            continue
        taps = [range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        even = Window(n // m, n // m) if n % m == 0 else None
        part = part.looking(
            axis,
            taps,
            lambda line, window=even: None if window is None else line.through(window),  # type: ignore[misc]
            "adaptive pooling's windows differ where the sizes don't divide",
        )
    return part


@rule(
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
)  # fmt: skip
def _resized(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    """Its taps are measured: the operator itself is applied to unit impulses."""
    part, shape = _first(operation, lookup), operation.outputs[0].shape
    dims = len(shape) - 2
    name = operation.name.removeprefix("aten.").replace("exact", "")
    kind = next(word for word in ("nearest", "bicubic", "linear") if word in name)
    if "_exact" in operation.name:
        kind = "nearest-exact"
    corners, smooth = bool(operation.argument("align_corners", False)), operation.name.endswith("_aa")
    scales = operation.argument("scale_factors") or [
        operation.argument(f"scales{suffix}") for suffix in {1: ("",), 2: ("_h", "_w"), 3: ("_d", "_h", "_w")}[dims]
    ]
    for axis, scale in zip(range(2, 2 + dims), scales, strict=True):
        n, m = part.shape[axis], shape[axis]
        taps = _impulses(kind, corners, smooth, n, m, scale)
        even = None
        if m % n == 0 and not corners and scale in (None, m // n):
            # In the middle of a long axis the ends have no say.
            factor, middle = m // n, 8
            long = _impulses(kind, corners, smooth, 2 * middle, 2 * middle * factor, scale)
            even = tuple(tuple(tap - middle for tap in long[middle * factor + phase]) for phase in range(factor))
        part = part.looking(
            axis,
            taps,
            lambda line, even=even: None if even is None else line.repeated(even),  # type: ignore[misc]
            "interpolation whose phases don't repeat",
        )
    return part


@functools.lru_cache(maxsize=256)
def _impulses(
    kind: str, corners: bool, smooth: bool, n: int, m: int, scale: float | None
) -> tuple[tuple[int, ...], ...]:
    aten = torch.ops.aten
    eye = torch.eye(n, dtype=torch.float64)[:, None]
    if kind == "nearest":
        out: Tensor = aten.upsample_nearest1d(eye, [m], scale)
    elif kind == "nearest-exact":
        out = aten._upsample_nearest_exact1d(eye, [m], scale)
    elif kind == "linear" and not smooth:
        out = aten.upsample_linear1d(eye, [m], corners, scale)
    else:
        two = {("linear", True): aten._upsample_bilinear2d_aa, ("bicubic", True): aten._upsample_bicubic2d_aa}
        act = two.get((kind, smooth), aten.upsample_bicubic2d)
        out = act(eye[:, :, None], [1, m], corners, None, scale)[:, :, 0]
    seen = out[:, 0].abs().T > 1e-9
    return tuple(tuple(row.nonzero()[:, 0].tolist()) for row in seen)


# -------------------------------------------------------------------- padding, cutting, moving


def _picked(
    part: Dependence, dim: int, picks: Sequence[int], draw: Callable[[Line], Line | None], why: str
) -> Dependence:
    return part.looking(dim, [[pick] for pick in picks], draw, why)


@rule("constant_pad_nd")
def _padded(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, pad = _first(operation, lookup), list(operation.argument("pad"))
    for place in range(len(pad) // 2):
        before, after = pad[2 * place : 2 * place + 2]
        dim = len(part.shape) - 1 - place
        picks = range(-before, part.shape[dim] + after)
        part = _picked(part, dim, picks, lambda line, by=before: line.shifted(-by), "")  # type: ignore[misc]
    return part


@rule(
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d",
)  # fmt: skip
def _mirrored(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, pad = _first(operation, lookup), list(operation.argument("padding"))
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
        part = _picked(part, dim, picks, lambda line, by=before: line.shifted(-by), "")  # type: ignore[misc]
    return part


@rule("slice")
def _sliced(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, dim = _first(operation, lookup), operation.argument("dim") % len(operation.inputs[0].shape)
    picks = range(part.shape[dim])[
        slice(operation.argument("start"), operation.argument("end"), operation.argument("step"))
    ]
    if picks == range(part.shape[dim]):
        return part
    window = Window(1, picks.step)
    return _picked(part, dim, picks, lambda line: line.shifted(picks.start).through(window), "")


@rule("select")
def _selected(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, shape = _first(operation, lookup), operation.outputs[0].shape
    dim = operation.argument("dim") % len(part.shape)
    pick = operation.argument("index") % part.shape[dim]
    return _picked(part, dim, [pick], lambda line: line.shifted(pick), "").reshaped(shape)


@rule("flip")
def _flipped(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part = _first(operation, lookup)
    for dim in operation.argument("dims"):
        picks = range(part.shape[dim])[::-1]
        part = _picked(part, dim % len(part.shape), picks, lambda line: None, "the axis is flipped")
    return part


@rule("roll")
def _rolled(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, dims = _first(operation, lookup), operation.argument("dims")
    if not dims:
        raise Unclear("rolls across rows")
    for by, dim in zip(operation.argument("shifts"), dims, strict=True):
        n = part.shape[dim]
        picks = [(place - by) % n for place in range(n)]
        part = _picked(part, dim % len(part.shape), picks, lambda line: None, "positions are rolled around the ends")
    return part


@rule("index_select")
def _index_selected(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, dim, index = _first(operation, lookup), operation.argument("dim"), operation.argument("index")
    return _indexed_along(part, dim % len(part.shape), index)


@rule("index")
def _indexed(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, indices = _first(operation, lookup), operation.argument("indices")
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(given) != 1 or len(given[0][1].shape) != 1:
        raise Unclear("takes positions by several tensors at once")
    return _indexed_along(part, *given[0])


def _indexed_along(part: Dependence, dim: int, index: Value) -> Dependence:
    if index.known is None or index.known.dtype == torch.bool:
        raise Unclear("which positions it takes depends on values")
    n = part.shape[dim]
    picks = [int(pick) % n for pick in index.known.tolist()]
    return _picked(part, dim, picks, lambda line: None, "positions are taken by index")


@rule("unfold")
def _unfolded(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, dim = _first(operation, lookup), operation.argument("dimension") % len(operation.inputs[0].shape)
    size, step = operation.argument("size"), operation.argument("step")
    outputs = operation.outputs[0].shape[dim]
    picks = [output * step + tap for output in range(outputs) for tap in range(size)]
    wide = _picked(part, dim, picks, lambda line: None, "windows are laid side by side")
    split = wide.reshaped((*part.shape[:dim], outputs, size, *part.shape[dim + 1 :]))
    order = [each for each in range(len(split.shape)) if each != dim + 1] + [dim + 1]
    return split.permuted(order)


@rule("im2col")
def _columns(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, out = _first(operation, lookup), operation.outputs[0].shape
    kernel = operation.argument("kernel_size")
    places = []
    for axis, (window, _, _) in enumerate(_windows(operation, 2, kernel), start=len(part.shape) - 2):
        count = window.output_size(part.shape[axis])
        picks = [window.position(output, tap) for tap in range(window.kernel) for output in range(count)]
        part = _picked(part, axis, picks, lambda line: None, "windows are laid side by side")
        places += [window.kernel, count]
    lead = part.shape[:-2]
    n = len(lead)
    return part.reshaped((*lead, *places)).permuted([*range(n), n, n + 2, n + 1, n + 3]).reshaped(out)


# -------------------------------------------------------------------- shapes


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
    return _first(operation, lookup).reshaped(operation.outputs[0].shape)


@rule("clone", "_to_copy", "alias", "detach", "contiguous", "lift_fresh", "lift_fresh_copy", "lift", "_conj")
def _same(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    return _first(operation, lookup)


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
    return _first(operation, lookup).expanded(operation.outputs[0].shape)


@rule("repeat")
def _repeated(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, times = _first(operation, lookup), operation.argument("repeats")
    part = part.expanded((1,) * (len(times) - len(part.shape)) + part.shape)
    for dim, count in enumerate(times):
        if count > 1:
            picks = list(range(part.shape[dim])) * count
            part = _picked(part, dim, picks, lambda line: None, "the map is repeated side by side")
    return part


@rule("as_strided", "as_strided_")
def _restrided(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, shape = _first(operation, lookup), operation.outputs[0].shape
    if shape != part.shape or math.prod(shape[2:]) != 1:
        raise Unclear("memory is read in another order")
    return part  # adaptive pooling's result in another layout


@rule("permute")
def _permuted(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part = _first(operation, lookup)
    return part.permuted([dim % len(part.shape) for dim in operation.argument("dims")])


@rule("transpose", "transpose_", "t", "t_")
def _swapped(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part = _first(operation, lookup)
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
    part, out = _first(operation, lookup), operation.outputs[0].shape
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


# -------------------------------------------------------------------- sums, products, normalisations


@rule(
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod", "norm", "logsumexp",
    "linalg_vector_norm", "any", "all", "median", "nansum", "aminmax",
)  # fmt: skip
def _reduced(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    if len(operation.inputs) > 1:
        return _pointwise(operation, lookup, notes, where)  # the maximum of two tensors
    part = _first(operation, lookup)
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
    part = _first(operation, lookup)
    dim = operation.argument("dim") % len(part.shape)
    if "cum" in operation.name:
        taps = [range(place + 1) for place in range(part.shape[dim])]
        return part.looking(dim, taps, lambda line: None, "positions add up along the axis")
    return _smeared(part, [dim])


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update", "miopen_batch_norm"
)
def _batch_normalised(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part = _first(operation, lookup)
    if not operation.argument("training", operation.name == "aten._batch_norm_with_update"):
        return part
    return _smeared(part, [dim for dim in range(len(part.shape)) if dim != 1])


@rule("_native_batch_norm_legit_no_training", "_batch_norm_no_update")
def _batch_scaled(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    return _first(operation, lookup)


@rule("native_layer_norm", "_fused_rms_norm")
def _layer_normalised(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, n = _first(operation, lookup), len(operation.argument("normalized_shape"))
    return _smeared(part, range(len(part.shape) - n, len(part.shape)))


@rule("native_group_norm")
def _group_normalised(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    part, groups = _first(operation, lookup), operation.argument("group")
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


for _name in ("split", "split_with_sizes", "unbind", "chunk"):
    RULES[f"aten.{_name}"] = lambda operation, lookup, notes, where: _first(operation, lookup)


def parts_of(operation: Operation, whole: Dependence) -> list[Dependence]:
    """What each of several outputs depends on, of operators that cut their input up."""
    if whole.unknown:
        return [whole] * len(operation.outputs)
    dim = operation.argument("dim", 0) % len(whole.shape)
    parts, start = [], 0
    for output in operation.outputs:
        length = 1 if operation.name == "aten.unbind" else output.shape[dim]
        if math.prod(output.shape) == 0:
            length = 0
        picks = range(start, start + length)
        cut = _picked(whole, dim, picks, lambda line, by=start: line.shifted(by), "")  # type: ignore[misc]
        parts.append(cut.reshaped(output.shape))
        start += length
    return parts
