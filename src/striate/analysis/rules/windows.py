"""Rules for operators with sliding windows: convolution, pooling, interpolation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from striate.analysis.dependence import Dependence, Maybe, Notes, union
from striate.analysis.lines import sources
from striate.analysis.rules.table import first, rule
from striate.analysis.trace import Operation
from striate.geometry import Window


def windows_of(operation: Operation, dims: int, kernel: Sequence[int]) -> list[tuple[Window, int, int]]:
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
        for axis, (window, _, _) in enumerate(windows_of(operation, dims, weight.shape[2:]), start=2):
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
    part, shape = first(operation, lookup), operation.outputs[0].shape
    dims = int(operation.name.partition("pool")[2][0])
    kernel = list(operation.argument("kernel_size"))
    kernel = kernel * dims if len(kernel) == 1 else kernel
    for axis, (window, before, _) in enumerate(windows_of(operation, dims, kernel), start=len(shape) - dims):
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
    part, shape = first(operation, lookup), operation.outputs[0].shape
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
    part, shape = first(operation, lookup), operation.outputs[0].shape
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
