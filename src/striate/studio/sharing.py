"""One weight's gradient as the sum over all places that share the weight; one use's share of a value's gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from striate.analysis.operators import Operation, Value
from striate.errors import StudioError
from striate.studio.derivation import position
from striate.studio.derivation.products import problem_of
from striate.studio.derivation.table import as_value, grid, plain_name, wide
from striate.studio.gradients import Gradients
from striate.studio.recording import Recording

#: The largest contributions that are listed.
MOST: Final = 64
_VIEWS: Final = frozenset(
    ("t", "transpose", "permute", "view", "_unsafe_view", "reshape", "expand", "alias", "unsqueeze")
)


@dataclass(frozen=True, eq=False)
class Use:
    """One operator that uses a weight.

    Args:
        operation: its place in the trace.
        name: of the layer or operator.
        result: number of the value that it makes.
        formula: what each place contributes.
        places: int64 (T, dims) in the result: where the weight has a say.
        upstream: float64 (T,), the result's gradient there.
        factors: float64 (T,), what the weight is multiplied by there.
    """

    operation: int
    name: str
    result: int
    formula: str
    places: Tensor
    upstream: Tensor
    factors: Tensor

    @property
    def products(self) -> Tensor:
        return self.upstream * self.factors

    def to_dict(self) -> dict[str, Any]:
        order = self.products.abs().topk(min(MOST, len(self.products))).indices
        return {
            "operation": self.operation,
            "name": self.name,
            "result": self.result,
            "formula": self.formula,
            "count": len(self.products),
            "sum": float(self.products.sum()),
            "largest": [
                {"place": place, "upstream": up, "factor": factor, "product": product}
                for place, up, factor, product in zip(
                    self.places[order].tolist(),
                    self.upstream[order].tolist(),
                    self.factors[order].tolist(),
                    self.products[order].tolist(),
                    strict=True,
                )
            ],
        }


@dataclass(frozen=True, eq=False)
class WeightGradient:
    """One weight's gradient.

    Args:
        value: the parameter's number in the recording.
        place: of the weight.
        gradient: autograd's.
        uses: the operators that use the weight; their sums add up to the gradient.
        others: the share of operators whose places aren't listed.
    """

    value: int
    place: tuple[int, ...]
    gradient: float
    uses: tuple[Use, ...]
    others: float

    @property
    def total(self) -> float:
        """The gradient as the sum over all places."""
        return sum(float(use.products.sum()) for use in self.uses) + self.others

    def to_dict(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "place": list(self.place),
            "gradient": self.gradient,
            "total": self.total,
            "others": self.others,
            "uses": [use.to_dict() for use in self.uses],
        }


def weight_gradient(recording: Recording, gradients: Gradients, value: int, place: tuple[int, ...]) -> WeightGradient:
    """One weight's gradient as the sum over the places that share the weight.

    Raises:
        StudioError: no such weight, or one without a gradient.
    """
    place = position(recording, value, place)
    found = gradients.of.get(value)
    if found is None:
        raise StudioError("weight", f"{recording.names[value]} has no gradient", "needed one that the loss depends on")
    uses: list[Use] = []
    others = 0.0
    for operation, operand, at in _uses(recording, recording.values[value], place):
        use = _shared(recording, gradients, operation, operand, at)
        if use is not None:
            uses.append(use)
        else:
            share = share_of(recording, gradients, operation, operand)
            others += float(share[at]) if share is not None else 0.0
    return WeightGradient(value, place, float(found[place]), tuple(uses), others)


def _uses(recording: Recording, value: Value, place: tuple[int, ...]) -> Iterator[tuple[int, Value, tuple[int, ...]]]:
    """Operators that compute with a weight, and where the weight stands in the view that they are given."""
    for at in recording.uses.get(recording.number_of(value), ()):
        operation = recording.trace.operations[at]
        if plain_name(operation) in _VIEWS and len(operation.outputs) == 1:
            seen = operation.outputs[0]
            for moved in _places_in(recording, operation, seen, value, place):
                yield from _uses(recording, seen, moved)
        else:
            yield at, value, place


def _places_in(
    recording: Recording, operation: Operation, seen: Value, value: Value, place: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """Where a view of a tensor has one of its elements."""
    flat = int(torch.arange(value.numel).view(value.shape)[place]) if value.shape else 0
    marks = torch.arange(value.numel, dtype=torch.float64).view(value.shape)
    arguments = tree_map_only(
        Value, lambda each: marks if each is value else recording.numbers[recording.number_of(each)], operation.args
    )
    with torch.no_grad():
        result = operation.target(*arguments, **operation.kwargs)
    return [tuple(each) for each in (result == flat).nonzero().tolist()] if seen.shape else [()]


def _shared(recording: Recording, gradients: Gradients, at: int, operand: Value, place: tuple[int, ...]) -> Use | None:
    """The places of one use, for operators that are sums of products; None for others."""
    operation = recording.trace.operations[at]
    name = plain_name(operation)
    if not operation.outputs:
        return None
    result = recording.number_of(operation.outputs[0])
    upstream = gradients.of.get(result)
    if upstream is None:
        return None
    if name == "convolution" and operand is operation.argument("weight"):
        places, seen = _convolved(recording, operation, place)
        factors = wide(recording.numbers[recording.number_of(as_value(operation.argument("input")))][tuple(seen.T)])
        formula = "∂L/∂w = Σ ∂L/∂y[place] · x[what the weight saw there]"
    elif name in ("mm", "addmm") and operand in operation.inputs[-1:]:
        left = operation.inputs[-2]
        places = grid([range(left.shape[0]), [place[1]]])
        factors = wide(recording.numbers[recording.number_of(left)][:, place[0]])
        if name == "addmm":
            factors = factors * float(operation.argument("alpha", 1))
        formula = "∂L/∂w = Σ ∂L/∂y[row] · x[row]"
    elif name in ("convolution", "addmm") and len(operand.shape) == 1:
        axis = 1
        shape = recording.values[result].shape
        places = grid([range(length) if dim != axis else [place[0]] for dim, length in enumerate(shape)])
        factor = float(operation.argument("beta", 1)) if name == "addmm" else 1.0
        factors = torch.full((len(places),), factor, dtype=torch.float64)
        formula = "∂L/∂b = Σ ∂L/∂y[place]"
    else:
        return None
    picked = wide(upstream[tuple(places.T)])
    path = recording.trace.calls[operation.call].path if recording.trace.calls else ""
    return Use(at, path or name, result, formula, places, picked, factors)


def _convolved(recording: Recording, operation: Operation, place: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """For one weight of a convolution all results that it makes, and the input that it multiplies for each."""
    shape = problem_of(operation)
    transposed = bool(operation.argument("transposed"))
    x = as_value(operation.argument("input"))
    groups = int(operation.argument("groups"))
    inside, outside = [], []
    outputs = x.shape[2:] if transposed else operation.outputs[0].shape[2:]
    for window, size, length, tap in zip(shape.windows, shape.size, outputs, place[2:], strict=True):
        resolved = window.resolve(size)
        near = list(resolved.outputs_inside(tap, size, length))
        outside.append(near)
        inside.append([resolved.position(each, tap) for each in near])
    pictures = range(x.shape[0])
    if transposed:
        deep = as_value(operation.argument("weight")).shape[1]
        channel, made = place[0], place[0] // (x.shape[1] // groups) * deep + place[1]
        seen = grid([pictures, [channel], *outside])
        results = grid([pictures, [made], *inside])
    else:
        wide_ = as_value(operation.argument("weight")).shape[0] // groups
        channel = place[0] // wide_ * (x.shape[1] // groups) + place[1]
        seen = grid([pictures, [channel], *inside])
        results = grid([pictures, [place[0]], *outside])
    return results, seen


def share_of(recording: Recording, gradients: Gradients, at: int, operand: Value) -> Tensor | None:
    """What one use sends back to a value: the operator's own gradient, given the gradients of its results.

    Returns:
        A tensor of the operand's shape; None where the operator has no gradient, or none reaches it.
    """
    operation = recording.trace.operations[at]
    upstream = [gradients.of.get(recording.number_of(value)) for value in operation.outputs]
    if all(each is None for each in upstream) or not operand.dtype.is_floating_point:
        return None
    leaf = recording.numbers[recording.number_of(operand)].detach().clone().requires_grad_()

    def own(value: Value) -> Tensor:
        if value is operand:
            return leaf.clone() if operation.written else leaf
        return recording.numbers[recording.number_of(value)].detach().clone()

    try:
        with torch.enable_grad():
            arguments: Any = tree_map_only(Value, own, operation.args)
            named: Any = tree_map_only(Value, own, operation.kwargs)
            result = operation.target(*arguments, **named)
            results = result if isinstance(result, tuple | list) else (result,)
            pairs = [
                (one, gradient)
                for one, gradient in zip(results, upstream, strict=False)
                if gradient is not None and one.requires_grad
            ]
            if not pairs:
                return None
            found: tuple[Tensor | None, ...] = torch.autograd.grad(
                [one for one, _ in pairs], [leaf], [gradient for _, gradient in pairs], allow_unused=True
            )
    except (RuntimeError, NotImplementedError):
        return None
    return found[0]
