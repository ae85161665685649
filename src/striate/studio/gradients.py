"""The backward pass: gradients of a loss, or of one number of the network, by every value and every parameter.

The network runs again with autograd on, under the same recorder, which notes the place of each value in autograd's
graph. So gradients are autograd's own: to the last bit those of the plain network, with custom backward functions and
in-place operators.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import engine
from striate.analysis.examples import InputSize
from striate.analysis.operators import Operation, Value
from striate.analysis.running import Run, run
from striate.errors import StudioError, is_out_of_memory
from striate.studio.recording import Recording, record

#: The most steps of gradient descent.
MOST_STEPS = 50
#: Numbers whose squares are added up in float32.
_ROW: Final = 1024


@dataclass(frozen=True)
class Target:
    """The number that is differentiated.

    Args:
        value: number of the value in the recording.
        place: the element's place in the value; for logits (N, K) with a label only the row, by default row 0.
        label: the class of the cross entropy; None to differentiate the element itself.
    """

    value: int
    place: tuple[int, ...] = ()
    label: int | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """The number, as a function of the value.

        Raises:
            StudioError: no such place or class, or the value has no gradient.
        """
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point():
            raise StudioError("target", f"value {self.value} is {tensor.dtype}", "needed floating-point numbers")
        if self.label is None:
            if len(self.place) != len(shape) or any(
                not 0 <= at < length for at, length in zip(self.place, shape, strict=True)
            ):
                raise StudioError("target", f"got place {self.place}", f"needed one in {shape}")
            return tensor[self.place]
        row = self.place[0] if self.place else 0
        if len(shape) != 2 or not 0 <= row < shape[0]:
            raise StudioError("target", f"value {self.value} is {shape}", "needed logits, (N, classes), for a loss")
        if not 0 <= self.label < shape[1]:
            raise StudioError("label", f"got {self.label}", f"needed 0 to {shape[1] - 1}")
        return F.cross_entropy(tensor[row : row + 1], torch.tensor([self.label], device=tensor.device))


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of one number.

    Args:
        target: the differentiated number.
        number: its value.
        of: the gradients by the numbers of values.
    """

    target: Target
    number: float
    of: Mapping[int, Tensor]

    @property
    def bytes(self) -> int:
        """Memory of all gradients."""
        return sum(each.nbytes for each in self.of.values())


class Backward:
    """A recording with its backward pass: autograd's graph of the same run.

    Args:
        model: the network of the recording.
        inputs: the inputs of the recording.
        recording: the run that defines the numbers of values.

    Raises:
        AnalysisError: the network doesn't run with gradients on.
    """

    def __init__(self, model: torch.nn.Module, inputs: InputSize, recording: Recording) -> None:
        self.recording = recording
        done = run(model, inputs, training=recording.training, gradients=True, seed=recording.seed)
        self._edges = {
            number: done.edges[value] for number, value in aligned(recording, done).items() if value in done.edges
        }

    @property
    def differentiable(self) -> frozenset[int]:
        """The values through which gradients can flow."""
        return frozenset(self._edges)

    def default(self) -> int:
        """The value that is differentiated by default: the first output with gradients.

        Raises:
            StudioError: there is no such output.
        """
        outputs = [self.recording.number_of(value) for value in self.recording.trace.outputs]
        known = [number for number in outputs if number in self._edges and self.recording.values[number].numel]
        if not known:
            raise StudioError("gradients", "no output has a gradient", "needed one that depends on weights or input")
        return next((number for number in known if len(self.recording.values[number].shape) == 2), known[0])

    def of(self, target: Target, wanted: Collection[int] | None = None) -> Gradients:
        """The gradients of a number by all values on which it depends, or only by the ``wanted`` ones.

        Raises:
            StudioError: no such number, or it has no gradient.
        """
        if not 0 <= target.value < len(self.recording.values):
            raise StudioError("target", f"got {target.value}", f"needed 0 to {len(self.recording.values) - 1}")
        leaf = self.recording.numbers[target.value].detach().clone()
        edge = self._edges.get(target.value)
        if edge is None:
            raise StudioError(
                "target",
                f"{self.recording.names[target.value]} has no gradient",
                "needed a value that depends on weights or input",
            )
        # Use the same kernels as the run itself.
        with torch.enable_grad(), engine.use("aten"):
            number = target.of(leaf.requires_grad_())
            (first,) = torch.autograd.grad(number, leaf)
            numbers = [each for each in self._edges if wanted is None or each in wanted]
            try:
                found: Sequence[Tensor | None] = torch.autograd.grad(
                    [edge],
                    [self._edges[each] for each in numbers],
                    [first],
                    retain_graph=True,
                    allow_unused=True,
                )
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                line = str(error).strip().splitlines()[0]
                raise StudioError("gradients", f"the network refuses them ({line})") from error
        gradients = {each: tensor.detach() for each, tensor in zip(numbers, found, strict=True) if tensor is not None}
        gradients[target.value] = first
        return Gradients(target, float(number.detach()), gradients)


def aligned(recording: Recording, done: Run) -> dict[int, Value]:
    """Maps the numbers of a recording to the values of another run of the same network.

    With gradients on, autograd recreates views after their memory has been written, which a recording doesn't contain.
    So operators are matched in order, and values with different contents are left out. Where another operator computes
    than without gradients, as for an LSTM, it is passed over; outputs are matched by their place as well.
    """
    found: dict[int, Value] = {}
    for mine, theirs in (
        (recording.trace.inputs, done.trace.inputs),
        (recording.trace.parameters, done.trace.parameters),
        (recording.trace.buffers, done.trace.buffers),
    ):
        for name, value in mine.items():
            found[recording.number_of(value)] = theirs[name]
    others, begin = done.trace.operations, 0
    for operation in recording.trace.operations:
        place = next((at for at in range(begin, len(others)) if _same(operation, others[at])), None)
        if place is None:
            continue
        other, begin = others[place], place + 1
        pairs = [
            *zip(operation.inputs, other.inputs, strict=False),
            *zip(operation.outputs, other.outputs, strict=False),
            *zip((new for _, new in operation.written), (new for _, new in other.written), strict=False),
        ]
        for one, twin in pairs:
            if one.shape == twin.shape and one.dtype == twin.dtype:
                found.setdefault(recording.number_of(one), twin)
    for one, twin in zip(recording.trace.outputs, done.trace.outputs, strict=False):
        if one.shape == twin.shape and one.dtype == twin.dtype:
            found.setdefault(recording.number_of(one), twin)
    return {number: twin for number, twin in found.items() if _equal(recording.numbers[number], done.numbers[twin])}


def _same(one: Operation, other: Operation) -> bool:
    return (
        one.target is other.target
        and one.call == other.call
        and [each.shape for each in one.outputs] == [each.shape for each in other.outputs]
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    # The same kernels mostly give the same bits, and comparing these takes a tenth of the time.
    if torch.equal(one, other):
        return True
    if one.is_floating_point():
        return torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
    return False


# ---------------------------------------------------------------------- what a page says of them


@dataclass(frozen=True)
class Strength:
    """The magnitudes of a value and of its gradient.

    Args:
        value: number in the recording.
        name: of the layer, parameter or input.
        kind: the value's.
        shape: the value's.
        norm: Euclidean norm of the gradient; ``rms`` the same, divided by the root of the number of elements.
        size: root mean square of the value itself.
        largest: absolute value.
        zeros: share of the gradient's elements that are exactly zero.
    """

    value: int
    name: str
    kind: str
    shape: tuple[int, ...]
    norm: float
    rms: float
    size: float
    largest: float
    zeros: float

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"shape": list(self.shape)}


def strength(recording: Recording, number: int, gradient: Tensor) -> Strength:
    """The magnitudes of one value and its gradient."""
    gradient = gradient.detach().cpu()
    value = recording.values[number]
    count = max(gradient.numel(), 1)
    norm, largest = _size(gradient)
    return Strength(
        number,
        recording.names[number],
        value.kind,
        value.shape,
        norm,
        norm / math.sqrt(count),
        _size(recording.numbers[number].detach().cpu())[0] / math.sqrt(count),
        largest,
        (gradient.numel() - int(gradient.count_nonzero())) / count,
    )


def _size(tensor: Tensor) -> tuple[float, float]:
    """Euclidean norm and largest absolute value."""
    if not tensor.numel():
        return 0.0, 0.0
    flat = tensor.reshape(-1)
    if flat.dtype != torch.float32:
        flat = flat.abs().double() if flat.is_complex() else flat.double()
    largest = max(map(abs, map(float, flat.aminmax())))
    whole = len(flat) // _ROW * _ROW
    if flat.dtype == torch.float64 or not 1e-15 < largest < 1e15 or not whole:  # squares leave float32's range
        return float(flat.double().norm()), largest
    # Copies in float64 would take most of a page's time. Short rows lose nothing in float32.
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1)
    return math.hypot(float(rows.double().norm()), float(flat[whole:].double().norm())), largest


def by_layer(recording: Recording, gradients: Gradients) -> list[Strength]:
    """The gradients by the input and each layer's output, in order, which shows vanishing and exploding gradients."""
    wanted = [recording.number_of(value) for value in recording.trace.inputs.values()]
    for call in sorted(recording.trace.calls, key=lambda each: each.last):
        if call.leaf and call.path:
            wanted += [recording.number_of(value) for value in call.outputs[:1]]
    if len(wanted) < 4:  # functional code has few layers, so show its operators
        wanted += [recording.number_of(each.outputs[0]) for each in recording.trace.operations if each.outputs]
    known = [number for number in dict.fromkeys(wanted) if number in gradients.of]
    return [strength(recording, number, gradients.of[number]) for number in known]


def by_parameter(recording: Recording, gradients: Gradients) -> list[Strength]:
    """The gradient of each parameter, in the network's order."""
    numbers = dict.fromkeys(recording.number_of(value) for value in recording.trace.parameters.values())
    return [strength(recording, each, gradients.of[each]) for each in numbers if each in gradients.of]


# ---------------------------------------------------------------------- gradient descent by hand


@dataclass(frozen=True)
class Descent:
    """Some steps of gradient descent on a copy of the weights.

    Args:
        rate: learning rate.
        numbers: the loss before the first step and after each step.
        expected: the change of the first step to first order: ``-rate * |gradient|²``.
        scores: for logits, the values of the differentiated row before and after.
        moved: the root mean square of each parameter's change, by name.
    """

    rate: float
    numbers: tuple[float, ...]
    expected: float
    scores: tuple[tuple[float, ...], ...] = ()
    moved: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"numbers": list(self.numbers), "scores": [list(each) for each in self.scores]}


def descend(
    model: torch.nn.Module,
    inputs: InputSize,
    target: Target,
    *,
    rate: float,
    steps: int = 1,
    training: bool = False,
    seed: int = 0,
) -> Descent:
    """Performs some steps of gradient descent on a copy of a network; the network itself is unchanged.

    Args:
        model: the network.
        inputs: the inputs of the loss.
        target: the loss, or another number to minimise.
        rate: each parameter changes by ``-rate * gradient``.
        steps: number of steps; 0 returns the current loss.
    """
    if not 0 <= steps <= MOST_STEPS:
        raise StudioError("steps", f"got {steps}", f"needed 0 to {MOST_STEPS}")
    twin = copy.deepcopy(model)
    before = {name: parameter.detach().clone() for name, parameter in twin.named_parameters()}
    numbers: list[float] = []
    scores: list[tuple[float, ...]] = []
    expected = 0.0
    for step in range(steps + 1):
        recording = record(twin, inputs, training=training, seed=seed)
        tensor = recording.numbers[target.value].detach()
        with torch.no_grad():
            numbers.append(float(target.of(tensor)))
        if target.label is not None:
            scores.append(tuple(tensor[target.place[0] if target.place else 0].softmax(-1).tolist()))
        if step == steps:
            break
        found = Backward(twin, inputs, recording).of(target)
        with torch.no_grad():
            for parameter, gradient in _parameters(twin, recording, found):
                parameter.sub_(gradient, alpha=rate)
                if step == 0:
                    expected -= rate * float(gradient.double().square().sum())
        del recording, found
    moved = {
        name: float((parameter.detach() - before[name]).double().square().mean().sqrt())
        for name, parameter in twin.named_parameters()
        if parameter.numel()
    }
    return Descent(rate, tuple(numbers), expected, tuple(scores), moved)


def _parameters(
    model: torch.nn.Module, recording: Recording, gradients: Gradients
) -> Iterator[tuple[torch.nn.Parameter, Tensor]]:
    """The parameters without duplicates, with their gradients."""
    for name, parameter in model.named_parameters():
        gradient = gradients.of.get(recording.number_of(recording.trace.parameters[name]))
        if gradient is not None and parameter.requires_grad:
            yield parameter, gradient
