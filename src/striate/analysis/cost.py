"""What a network costs: parameters, arithmetic, memory, layer by layer, with what was not counted."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from striate.analysis import memory
from striate.analysis.counting import Work, moves_only, problem, work
from striate.analysis.examples import InputSize, prepared
from striate.analysis.trace import ROOT, Call, Operation, Trace, Value, trace
from striate.engine.timing import Roofline
from striate.errors import AnalysisError
from striate.geometry import ConvShape


@dataclass(frozen=True)
class CostRow:
    """The costs of one layer over all its calls, without those of the layers that it calls.

    Args:
        name: the layer's path, ``(network)`` for what the network's own ``forward`` does.
        kind: the layer's class.
        calls: number of its calls.
        output_shape: of its last call.
        parameters: its own, each counted once in the whole network, at the first layer that has it.
        macs, in_bounds_macs: multiply-accumulates forward, with those that meet padding, and without.
        flops: floating-point operations forward: 2 * macs and everything else.
        backward_macs: multiply-accumulates of the required gradients by inputs and weights.
        output_bytes: of new memory that its operators write.
        moved_bytes: read and written by operators that compute something.
        dense_parameters: parameters of a fully connected layer between the same maps (0 if it isn't a convolution).
        problem: its convolution or pooling as a line that ``ConvShape.parse`` reads, with kernel, stride, padding,
            dilation and groups; for a transposed one the convolution that it transposes.
        transposed: whether it is transposed.
    """

    name: str
    kind: str
    calls: int
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    in_bounds_macs: int
    flops: int
    backward_macs: int
    output_bytes: int
    moved_bytes: int
    dense_parameters: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    problem: str = ""
    transposed: bool = False

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: FLOPs for each byte read or written, if nothing stays in a cache between operators."""
        return self.flops / self.moved_bytes if self.moved_bytes else 0.0

    @property
    def backward_flops(self) -> int:
        """Floating-point operations of the same gradients."""
        return 2 * self.backward_macs


@dataclass(frozen=True)
class Summary:
    """What a network costs.

    Args:
        model: its name, its class by default.
        input_shape: (N, C, ...) of the first input; all figures are for this batch.
        rows: one a layer, in the order in which layers first run.
        trainable: trainable parameters.
        buffers: numbers that belong to the state but aren't parameters (statistics of batch normalisation).
        inference_peak_bytes: most activations alive at once, each freed after its last use.
        saved_bytes: activations that autograd saves for the backward pass; None if the network can't run in training.
        training_peak_bytes: most activations alive at once in the forward pass of training.
        not_counted: operators without a count, with how often and where they run, and other omissions.
        unused: parameters that no operator reads.
        notes: reasons why libraries give different figures for this network.
        roofline: of the machine, if given.
        at_least: whether operators without a count ran, so that MACs and FLOPs are at least what the figures say.
        inputs: the shapes of all inputs by name.
    """

    model: str
    input_shape: tuple[int, ...]
    rows: tuple[CostRow, ...]
    trainable: int
    buffers: int
    inference_peak_bytes: int
    saved_bytes: int | None
    training_peak_bytes: int | None
    not_counted: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...]
    roofline: Roofline | None = None
    at_least: bool = False
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[CostRow]:
        return iter(self.rows)

    def _sum(self, name: str) -> int:
        return sum(getattr(row, name) for row in self.rows)

    @property
    def parameters(self) -> int:
        """All parameters, shared ones once.

        Formula: F51, W10, W14.
        """
        return self._sum("parameters")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a forward pass, nominal: what papers print as GMAC (or, wrongly, GFLOPs)."""
        return self._sum("macs")

    @property
    def in_bounds_macs(self) -> int:
        """Multiply-accumulates of a forward pass that have an input to multiply."""
        return self._sum("in_bounds_macs")

    @property
    def flops(self) -> int:
        """Floating-point operations of a forward pass."""
        return self._sum("flops")

    @property
    def backward_macs(self) -> int:
        """Multiply-accumulates of a backward pass."""
        return self._sum("backward_macs")

    @property
    def backward_flops(self) -> int:
        """Floating-point operations of a backward pass, of convolutions and matrix products."""
        return self._sum("backward_flops")

    @property
    def output_bytes(self) -> int:
        """All activations that are written, one after the other."""
        return self._sum("output_bytes")

    @property
    def dense_parameters(self) -> int:
        """Parameters if every convolution were a fully connected layer."""
        return sum(row.dense_parameters or row.parameters for row in self.rows)

    @property
    def intensity(self) -> float:
        """FLOPs for each byte read or written."""
        moved = self._sum("moved_bytes")
        return self.flops / moved if moved else 0.0

    def bound(self, row: CostRow) -> str:
        """``"compute"`` or ``"memory"``: what limits a layer, by the roofline."""
        if self.roofline is None or not row.moved_bytes:
            return ""
        return "compute" if row.intensity >= self.roofline.ridge else "memory"

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        totals = (
            "parameters", "macs", "in_bounds_macs", "flops", "backward_macs", "backward_flops", "output_bytes",
            "dense_parameters", "intensity",
        )  # fmt: skip
        fields = dataclasses.asdict(self)
        fields["rows"] = [
            dataclasses.asdict(row)
            | {"intensity": row.intensity, "backward_flops": row.backward_flops, "bound": self.bound(row)}
            for row in self.rows
        ]
        return fields | {name: getattr(self, name) for name in totals}


def summarize(
    model: torch.nn.Module, input_size: InputSize, *, roofline: Roofline | None = None, name: str | None = None
) -> Summary:
    """The costs of any network: parameters, MACs, FLOPs and memory, a row for each layer, without running it.

    Args:
        model: any network; it is left as it is.
        input_size: (C, L), (C, H, W), a whole shape with the batch in front, or example inputs: a tensor or array, a
            list of positional inputs, or a dictionary. Entries of the latter are inputs by name if ``forward`` has
            parameters of these names; if not, it is the one argument of a ``forward`` that takes one.
        roofline: of a machine, to tell which layers are limited by its memory.
        name: of the network, for tables and pictures; its class by default.

    Raises:
        AnalysisError: a size that doesn't fit, values that steer the computation.

    >>> summary = summarize(torch.nn.Conv2d(3, 64, 7, stride=2, padding=3), (3, 224, 224))
    >>> summary.parameters, summary.macs, summary.in_bounds_macs
    (9472, 118013952, 116214528)
    """
    if roofline is not None and not isinstance(roofline, Roofline):
        raise AnalysisError("roofline", f"got {type(roofline).__name__}", "needed a Roofline")
    name = name or type(model).__name__
    model, example = prepared(model, input_size)
    traced = trace(model, example)
    training: Trace | None = None
    reason = ""
    try:
        training = trace(model, example, training=True)
    except AnalysisError as error:
        # Batch normalisation can't train on one value a channel, but the costs of inference are still useful.
        reason = str(error)
    rows, uncounted, biases = _rows(traced)
    at_least = bool(uncounted)
    if training is None:
        uncounted.append(f"memory in training: {reason}")
    uncounted.append("gradients of operators other than convolutions and matrix products")
    distinct = {id(value): value for value in traced.parameters.values()}
    read = {value.storage for operation in traced.operations for value in operation.inputs}
    unused = tuple(path for path, value in traced.parameters.items() if value.storage not in read)
    buffers = sum(value.numel for value in {id(value): value for value in traced.buffers.values()}.values())
    return Summary(
        name,
        next(iter(traced.inputs.values())).shape,
        tuple(rows),
        sum(value.numel for value in distinct.values() if value.learns),
        buffers,
        memory.peak(traced),
        None if training is None else memory.saved(training),
        None if training is None else memory.peak(training),
        tuple(uncounted),
        unused,
        _notes(traced, buffers, biases),
        roofline,
        at_least,
        {each: value.shape for each, value in traced.inputs.items()},
    )


def _rows(traced: Trace) -> tuple[list[CostRow], list[str], int]:
    """The rows, what wasn't counted, and the FLOPs of biases."""
    parameters = _owned(traced)
    paths = dict.fromkeys(call.path for call in traced.calls)
    own: dict[str, list[Operation]] = {path: [] for path in paths}
    for operation in traced.operations:
        own[traced.calls[operation.call].path].append(operation)
    calls: dict[str, list[Call]] = {path: [] for path in paths}
    for call in traced.calls:
        calls[call.path].append(call)
    uncounted: Counter[tuple[str, str]] = Counter()
    written = _written(traced)
    rows, biases = [], 0
    for path in paths:
        total = Work()
        output_bytes = moved = 0
        for operation in own[path]:
            done = work(operation)
            if done is None:
                uncounted[operation.name, path or ROOT] += 1
                done = Work()
            total = total + done
            output_bytes += written[operation]
            if not moves_only(operation):
                moved += sum(_bytes(value) for value in (*operation.inputs, *operation.outputs))
        biases += total.bias_flops
        last = calls[path][-1]
        if not last.leaf and not parameters[path] and not total.flops and not output_bytes:
            continue  # only calls others
        shape = last.outputs[0].shape if last.outputs else ()
        rows.append(
            CostRow(
                path or ROOT,
                type(last.layer).__name__,
                len(calls[path]),
                shape,
                parameters[path],
                total.macs,
                total.in_bounds_macs,
                total.flops,
                total.backward_macs,
                output_bytes,
                moved,
                **_geometry(own[path]),
            )
        )
    listed = [f"{name} x{count} in {where}" for (name, where), count in uncounted.items()]
    return rows, listed, biases


def _written(traced: Trace) -> dict[Operation, int]:
    """Bytes of memory that each operation is the first to write; views and writing in place take none."""
    known = {value.storage for value in traced.inputs.values()}
    written = {}
    for operation in traced.operations:
        new = {v.storage: v.bytes for v in operation.outputs if v.kind == "activation" and v.storage not in known}
        known |= new.keys()
        written[operation] = sum(new.values())
    return written


def _bytes(value: Value) -> int:
    return value.numel * value.dtype.itemsize


def _geometry(operations: list[Operation]) -> dict[str, Any]:
    """Kernel, stride and so on, of a layer with one convolution or pooling (or several calls of it).

    Formula: F28, W9.
    """
    found = [(operation, shape) for operation in operations if (shape := problem(operation)) is not None]
    if not found:
        return {"dense_parameters": 0}
    operation, shape = found[-1]
    known: dict[str, Any] = {
        "kernel": shape.kernel,
        "stride": shape.stride,
        "padding": shape.pads,
        "dilation": shape.dilation,
        "problem": str(shape),
        "dense_parameters": 0,
    }
    if isinstance(shape, ConvShape):
        inputs = math.prod(operation.inputs[0].shape[1:])
        outputs = math.prod(operation.outputs[0].shape[1:])
        biased = operation.args[2] is not None
        known |= {
            "groups": shape.groups,
            "transposed": bool(operation.argument("transposed")),
            "dense_parameters": inputs * outputs + biased * outputs,
        }
    return known


def _owned(traced: Trace) -> Counter[str]:
    """Parameters by the path of the layer that has them; of a layer that isn't called, its nearest caller does."""
    called = {call.path for call in traced.calls}
    seen: set[int] = set()
    owned: Counter[str] = Counter()
    for name, value in traced.parameters.items():
        if id(value) in seen:
            continue
        seen.add(id(value))
        path = name.rpartition(".")[0]
        while path not in called and path:
            path = path.rpartition(".")[0]
        owned[path] += value.numel
    return owned


def _notes(traced: Trace, buffers: int, biases: int) -> tuple[str, ...]:
    notes = []
    if buffers:
        notes.append(
            f"{buffers:,} numbers in buffers (statistics of batch normalisation and the like) belong to the state, "
            "not to the parameters; libraries that add them up say so many more"
        )
    if biases:
        notes.append(
            f"adding biases is {biases:,} FLOPs and no MACs; libraries that count them as MACs say so many more"
        )
    if len(traced.parameters) != len({id(value) for value in traced.parameters.values()}):
        notes.append("some parameters are shared and counted once; libraries that add up layers count them again")
    return tuple(notes)
