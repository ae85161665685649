"""Checkerboards: how unevenly strided windows cover positions, by counting and with a layer's own weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from striate.analysis.examples import InputSize, prepared
from striate.analysis.rules.windows import windows_of
from striate.analysis.trace import ROOT, Operation, trace
from striate.geometry import Window


@dataclass(frozen=True)
class CheckerboardRow:
    """One strided operation. Its coverage repeats every ``stride`` positions, except at borders.

    Args:
        name: the layer's path.
        kind: ``"convolution"``, ``"transposed convolution"`` or ``"pooling"``.
        where: what is covered: the ``"output"`` of a transposed convolution, or the ``"input gradient"`` of the others.
        kernel, stride, dilation: one number an axis.
        coverage: for each axis, by how many windows the positions of one period are covered; for the whole grid their
            products.
        unevenness: standard deviation of the grid's coverage over its root mean square. It is 0 for even coverage, for
            example if the stride divides an undilated kernel, and near 1 if few positions are covered.
        measured: the unevenness of the layer's result for a constant input, root mean square over channels; None for
            an operation without weights.
    """

    name: str
    kind: str
    where: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    coverage: tuple[tuple[int, ...], ...]
    unevenness: float
    measured: float | None

    @property
    def missed(self) -> float:
        """Share of positions that no window covers: nothing comes out there, or no gradient gets there."""
        return 1 - math.prod(sum(count > 0 for count in axis) / len(axis) for axis in self.coverage)

    def to_dict(self) -> dict[str, Any]:
        """All fields and what follows from them, for JSON."""
        lists = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        return lists | {"coverage": [list(axis) for axis in self.coverage], "missed": self.missed}


@dataclass(frozen=True)
class Checkerboards:
    """All strided operations of a network, in the order in which they run.

    Args:
        model: the network's name, its class by default.
        input_shape: (N, C, ...) that it was traced with; of several inputs the first one's.
        rows: one for each.
    """

    model: str
    input_shape: tuple[int, ...]
    rows: tuple[CheckerboardRow, ...]

    def __iter__(self) -> Iterator[CheckerboardRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "model": self.model,
            "input_shape": list(self.input_shape),
            "rows": [row.to_dict() for row in self.rows],
        }


def coverage(window: Window) -> tuple[int, ...]:
    """By how many windows each position of one period is covered, away from borders.

    Position p is seen through tap t where p = output * stride - before + t * dilation has a solution.

    Source: Odena, Dumoulin & Olah, "Deconvolution and checkerboard artifacts", Distill 2016.

    >>> coverage(Window(3, stride=2)), coverage(Window(4, stride=2)), coverage(Window(1, stride=2))
    ((2, 1), (2, 2), (1, 0))

    Formula: S19.
    """
    counts = [0] * window.stride
    for tap in range(window.kernel):
        counts[window.position(0, tap) % window.stride] += 1
    return tuple(counts)


def checkerboard(model: torch.nn.Module, input_size: InputSize, *, name: str | None = None) -> Checkerboards:
    """How evenly the strided convolutions, transposed convolutions and poolings of a network cover positions.

    Args:
        model: any network; it is left as it is.
        input_size: (C, H, W), a whole shape with the batch in front, or example inputs: a tensor or array, a list of
            positional inputs, or a dictionary of inputs by name.
        name: of the network, for tables and pictures; its class by default.

    Raises:
        AnalysisError: a size that doesn't fit, values that steer the computation.

    Source: Odena, Dumoulin & Olah, "Deconvolution and checkerboard artifacts", Distill 2016.

    >>> up = torch.nn.Sequential(torch.nn.ConvTranspose2d(1, 1, 3, 2), torch.nn.ConvTranspose2d(1, 1, 4, 2))
    >>> [(row.coverage[0], round(row.unevenness, 3)) for row in checkerboard(up, (1, 8, 8))]
    [((2, 1), 0.436), ((2, 2), 0.0)]

    Formula: S19.
    """
    name = name or type(model).__name__
    model, example = prepared(model, input_size)
    traced = trace(model, example)
    weights = {value: model.get_parameter(path) for path, value in traced.parameters.items()}
    rows = []
    for operation in traced.operations:
        kernel = _kernel(operation)
        if not kernel:
            continue
        made = [window for window, _, _ in windows_of(operation, len(kernel), kernel)]
        transposed = bool(operation.argument("transposed", False))
        weight = weights.get(operation.args[1]) if operation.name == "aten.convolution" else None
        convolves = "transposed convolution" if transposed else "convolution"
        counts = tuple(coverage(window) for window in made)
        row = CheckerboardRow(
            traced.calls[operation.call].path or ROOT,
            convolves if operation.name == "aten.convolution" else "pooling",
            "output" if transposed else "input gradient",
            tuple(kernel),
            tuple(window.stride for window in made),
            tuple(window.dilation for window in made),
            counts,
            _unevenness(_grid(counts)[None]),
            None if weight is None else _unevenness(_answer(weight.detach(), made, operation.argument("groups"))),
        )
        # Further calls of a layer have the same coverage.
        if max(row.stride) > 1 and row not in rows:
            rows.append(row)
    shape = next(iter(traced.inputs.values())).shape
    return Checkerboards(name, shape, tuple(rows))


def _kernel(operation: Operation) -> list[int]:
    if operation.name == "aten.convolution":
        return list(operation.args[1].shape[2:])
    if "pool" in operation.name and "adaptive" not in operation.name:
        kernel, dims = list(operation.argument("kernel_size")), len(operation.outputs[0].shape) - 2
        return kernel * dims if len(kernel) == 1 else kernel
    return []


def _grid(counts: Sequence[Sequence[int]]) -> Tensor:
    grid = torch.ones((), dtype=torch.float64)
    for axis in counts:
        grid = grid.unsqueeze(-1) * torch.tensor(axis, dtype=torch.float64)
    return grid


def _answer(weight: Tensor, made: Sequence[Window], groups: int) -> Tensor:
    """One period, (C, ...), of what the transposed convolution makes of ones, far from its borders."""
    dims = len(made)
    reaches = [window.effective_kernel - 1 for window in made]
    lengths = [-(-reach // window.stride) + 2 for reach, window in zip(reaches, made, strict=True)]
    ones = torch.ones(1, weight.shape[0], *lengths, dtype=torch.float64)
    strides, dilations = [window.stride for window in made], [window.dilation for window in made]
    none = [0] * dims
    full = torch.convolution(ones, weight.double().cpu(), None, strides, none, dilations, True, none, groups)[0]
    for axis, (reach, window) in enumerate(zip(reaches, made, strict=True), start=1):
        full = full.narrow(axis, reach, window.stride)
    return full


def _unevenness(period: Tensor) -> float:
    """Deviation over root mean square of (C, ...), within channels."""
    flat = period.flatten(1)
    power = float(flat.square().mean())
    return math.sqrt(float(flat.var(1, correction=0).mean()) / power) if power else 0.0
