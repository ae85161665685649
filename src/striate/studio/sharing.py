"""The gradient of one weight as the sum over all places that share it, and the share of one use of a value."""

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

#: The most contributions that are listed, the largest first.
MOST: Final = 64
_VIEWS: Final = frozenset(
    ("t", "transpose", "permute", "view", "_unsafe_view", "reshape", "expand", "alias", "unsqueeze")
)


@dataclass(frozen=True, eq=False)
class Use:
    """One operator that uses a weight.

    Args:
        operation: its index in the trace.
        name: the name of the layer or operator.
        result: number of the value that it computes.
        formula: the contribution of each place.
        places: int64 (T, dims), the places in the result to which the weight contributes.
        upstream: float64 (T,), the gradient of the result at these places.
        factors: float64 (T,), the factors by which the weight is multiplied.
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
    """The gradient of one weight.

    Args:
        value: the parameter's number in the recording.
        place: the place of the weight in it.
        gradient: the gradient by autograd.
        uses: the operators that use the weight; the sum over their contributions is the gradient.
        others: the contribution of operators whose places aren't listed.
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
    """Splits the gradient of one weight into the contributions of the places that share it.

    Raises:
        StudioError: there is no such weight, or it has no gradient.
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
    """The operators that use a weight, with the place of the weight in the view that they read."""
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
    """The places in a view at which an element of the tensor appears."""
    flat = int(torch.arange(value.numel).view(value.shape)[place]) if value.shape else 0
    marks = torch.arange(value.numel, dtype=torch.float64).view(value.shape)
    arguments = tree_map_only(
        Value, lambda each: marks if each is value else recording.numbers[recording.number_of(each)], operation.args
    )
    with torch.no_grad():
        result = operation.target(*arguments, **operation.kwargs)
    return [tuple(each) for each in (result == flat).nonzero().tolist()] if seen.shape else [()]


def _shared(recording: Recording, gradients: Gradients, at: int, operand: Value, place: tuple[int, ...]) -> Use | None:
    """The contributions of one use, for operators that are sums of products; None for others."""
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
    """The places of all results to which a weight of a convolution contributes, and the inputs that it multiplies."""
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
    """The contribution of one use to a value's gradient: the operator's backward pass on the gradients of its results.

    Returns:
        A tensor of the operand's shape; None if the operator has no gradient, or no gradient reaches it.
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
