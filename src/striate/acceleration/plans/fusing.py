"""Fuses operators into the step before them, if no other operator reads the values in between.

Batch normalisation and channel factors are folded into the weights of a sum. Elementwise functions, and the addition of
a branch that has already been computed, become the epilogue (see striate.engine.llvm.functions.epilogue).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from striate.acceleration.plans.capture import Graph, Node, Refusal, Value
from striate.acceleration.plans.constants import Owned
from striate.acceleration.plans.functions import function, is_function
from striate.acceleration.plans.placement import Placement, along, innermost, innermost_axes, is_nhwc, of_channels
from striate.engine import fresh
from striate.engine.llvm.functions.epilogue import Epilogue
from striate.engine.llvm.memory.views import Strides
from striate.geometry import PoolShape
from striate.ops import pooling


class Fold(NamedTuple):
    """A function from the model's tensors to a factor and a term for each channel; ``key`` identifies the fold."""

    key: Any
    of: Callable[[Owned], tuple[Tensor, Tensor]]


@dataclass
class FusedSum:
    """A sum over channels and taps, with the operators that have been fused into it."""

    place: Placement
    weight: Callable[[Owned], Tensor]
    key: Any  #: of the weight
    bias: Value | None
    channels: int
    epilogue: Epilogue
    added: Placement | None = None
    strides: Strides | None = None  #: where the result is written, if not densely
    folded: list[Fold] = field(default_factory=list)

    @property
    def keys(self) -> Any:
        """The keys on which weight and bias depend."""
        return self.key, None if self.bias is None else self.bias.key, tuple(fold.key for fold in self.folded)

    def numbers(self, owned: Owned) -> tuple[Tensor, Tensor | None]:
        """The weight and bias after all folds."""
        weight, bias = self.weight(owned), None if self.bias is None else owned(self.bias)
        for fold in self.folded:
            factor, term = fold.of(owned)
            weight = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
            bias = (factor * bias if bias is not None else fresh.zeros(self.channels)) + term
        return weight, bias


class Followers:
    """The operators that use each value of a graph, and those that have been fused already (``done``)."""

    def __init__(self, graph: Graph, places: dict[Value, Placement]) -> None:
        self._results, self._places = graph.results, places
        self.done: set[Node] = set()

    def absorb(self, made: FusedSum, value: Value) -> Value:
        """Fuses the operators that follow a sum into it, and returns the value that the sum then computes."""
        while (user := self.only_user(value)) is not None:
            if user.is_view:
                try:
                    meta = user.function(made.place.meta, *user.args[1:], **user.kwargs)
                except RuntimeError:
                    break
                made.place = Placement(made.place.buffer, meta)
            elif user.is_same:
                pass
            elif made.epilogue == Epilogue() and (fold := self._fold(user, made)) is not None:
                made.folded.append(fold)
            elif made.epilogue == Epilogue() and (added := self._addend(user, value, made)) is not None:
                made.epilogue, made.added = Epilogue(adds=True), added
            elif not made.epilogue.function and is_function(user):
                after = function(user)
                made.epilogue = Epilogue(after.function, after.numbers, made.epilogue.adds)
            else:
                break
            self.done.add(user)
            value = user.results[0]
        return value

    def functions(self, value: Value, epilogue: Epilogue) -> tuple[Value, Epilogue]:
        """Fuses an elementwise function that follows; returns the value after it and the epilogue."""
        user = self.only_user(value)
        if user is None or epilogue.function or not is_function(user):
            return value, epilogue
        self.done.add(user)
        return user.results[0], function(user)

    def pooling(self, value: Value, made: FusedSum) -> Node | None:
        """The max pooling that follows a sum, if it may be computed before the sum is written."""
        user = self.only_user(value)
        whole = is_nhwc(made.place.meta) and made.place.shape == tuple(value.shape)
        if user is None or user.name != "max_pool2d_with_indices" or not whole or not made.epilogue.rises:
            return None
        return None if user.results[1].users else user

    def only_user(self, value: Value) -> Node | None:
        """The operator that uses a value, if it is the only one and computes in float32."""
        if len(value.users) != 1 or value in self._results:
            return None
        (user,) = value.users
        numbers = all(each.dtype == torch.float32 for each in (*user.values(), user.results[0]))
        return user if numbers else None

    def _fold(self, node: Node, made: FusedSum) -> Fold | None:
        """The fold of an operator that can change the weights instead: batch normalisation, or channel factors."""
        meta = made.place.meta
        if node.name in ("native_batch_norm", "_native_batch_norm_legit_no_training"):
            # A view may have moved another axis to the place of the channels.
            in_place = meta.dim() > 1 and meta.stride(1) == 1 and meta.shape[1] == made.channels
            return normalisation(node) if in_place else None
        if node.name != "mul" or not isinstance(factor := node.args[1], Value) or not factor.fixed:
            return None
        if innermost(meta) != made.channels or node.results[0].shape != tuple(meta.shape):
            return None
        try:
            of_channels(fresh.empty(factor.shape), meta)
        except Refusal:
            return None
        key = ("factor", factor.key, innermost_axes(meta))
        return Fold(key, lambda owned: (of_channels(owned(factor), meta).clone(), fresh.zeros(())))

    def _addend(self, node: Node, value: Value, made: FusedSum) -> Placement | None:
        """The other operand of an addition, if it has been computed already and has the layout of the sum."""
        if node.name != "add" or node.kwargs or len(node.args) != 2:
            return None
        other = node.args[1] if node.args[0] is value else node.args[0]
        if other is value or not isinstance(other, Value) or other.fixed or other not in self._places:
            return None
        place = self._places[other]
        fits = place.shape == tuple(made.place.meta.shape) and along(place.meta, made.place.meta)
        return place if fits else None


def max_pooling(node: Node) -> PoolShape:
    """The problem of a max pooling operator."""
    input, *given = node.args
    kernel, stride, padding, dilation, ceil_mode = filled(given, (None, None, 0, 1, False))
    return pooling.problem_of("max", input.shape, kernel, stride or None, padding, dilation, ceil_mode)


def filled(given: Sequence[Any], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, completed by defaults."""
    return (*given, *defaults[len(given) :])


def normalisation(node: Node) -> Fold:
    _, weight, bias, mean, variance, *rest = node.args
    if node.name == "native_batch_norm" and rest[0]:
        raise Refusal("batch normalisation by statistics of the batch")
    if mean is None or variance is None or any(value.users for value in node.results[1:]):
        raise Refusal("batch normalisation without running statistics of the model")
    epsilon = rest[-1]

    def fold(owned: Owned) -> tuple[Tensor, Tensor]:
        factor = torch.rsqrt(owned(variance) + epsilon)
        if weight is not None:
            factor = factor * owned(weight)
        term = -factor * owned(mean)
        return factor, term if bias is None else term + owned(bias)

    told = tuple(None if value is None else value.key for value in (weight, bias, mean, variance))
    return Fold(("normalisation", told, epsilon), fold)
