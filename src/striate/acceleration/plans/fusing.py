"""What a step takes along of what follows it, as long as nobody else looks at what lies between.

Batch normalisation and factors of channels change a sum's weights; functions of single numbers, and adding a branch
that is already there, are done before the sum is written (see striate.engine.llvm.functions.epilogue).
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
from striate.geometry import PoolShape
from striate.ops import pooling


class Fold(NamedTuple):
    """From what the model owns to a factor and a term for each channel; ``key`` tells folds apart."""

    key: Any
    of: Callable[[Owned], tuple[Tensor, Tensor]]


@dataclass
class Sum:
    """A sum over channels and taps that still takes along what follows."""

    place: Placement
    weight: Callable[[Owned], Tensor]
    key: Any  #: of the weight
    bias: Value | None
    channels: int
    epilogue: Epilogue
    added: Placement | None = None
    folded: list[Fold] = field(default_factory=list)

    @property
    def keys(self) -> Any:
        """What weight and bias follow from."""
        return self.key, None if self.bias is None else self.bias.key, tuple(fold.key for fold in self.folded)

    def numbers(self, owned: Owned) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as they are multiplied with."""
        weight, bias = self.weight(owned), None if self.bias is None else owned(self.bias)
        for fold in self.folded:
            factor, term = fold.of(owned)
            weight = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
            bias = (factor * bias if bias is not None else fresh.zeros(self.channels)) + term
        return weight, bias


class Followers:
    """What follows the values of a graph, and what of it steps have taken along: ``done``."""

    def __init__(self, graph: Graph, places: dict[Value, Placement]) -> None:
        self._results, self._places = graph.results, places
        self.done: set[Node] = set()

    def absorb(self, made: Sum, value: Value) -> Value:
        """Lets a sum take along what follows it; the last value that it makes."""
        while (user := self._only_user(value)) is not None:
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
        """A function that follows and can be taken along, and the value after it."""
        user = self._only_user(value)
        if user is None or epilogue.function or not is_function(user):
            return value, epilogue
        self.done.add(user)
        return user.results[0], function(user)

    def pooling(self, value: Value, made: Sum) -> Node | None:
        """Max pooling that follows a sum whose windows might as well be looked at before it is written."""
        user = self._only_user(value)
        whole = is_nhwc(made.place.meta) and made.place.shape == tuple(value.shape)
        if user is None or user.name != "max_pool2d_with_indices" or not whole or not made.epilogue.rises:
            return None
        return None if user.results[1].users else user

    def _only_user(self, value: Value) -> Node | None:
        if len(value.users) != 1 or value in self._results:
            return None
        (user,) = value.users
        numbers = all(each.dtype == torch.float32 for each in (*user.values(), user.results[0]))
        return user if numbers else None

    def _fold(self, node: Node, made: Sum) -> Fold | None:
        """What changes the weights instead: batch normalisation, or a factor of each channel."""
        meta = made.place.meta
        if node.name in ("native_batch_norm", "_native_batch_norm_legit_no_training"):
            # A view may have put another axis where the sum has its channels.
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

    def _addend(self, node: Node, value: Value, made: Sum) -> Placement | None:
        """The other operand of an addition, if it is there already and lies as the sum does."""
        if node.name != "add" or node.kwargs or len(node.args) != 2:
            return None
        other = node.args[1] if node.args[0] is value else node.args[0]
        if other is value or not isinstance(other, Value) or other.fixed or other not in self._places:
            return None
        place = self._places[other]
        fits = place.shape == tuple(made.place.meta.shape) and along(place.meta, made.place.meta)
        return place if fits else None


def max_pooling(node: Node) -> PoolShape:
    """The windows of a max pooling."""
    input, *given = node.args
    kernel, stride, padding, dilation, ceil_mode = filled(given, (None, None, 0, 1, False))
    return pooling.problem_of("max", input.shape, kernel, stride or None, padding, dilation, ceil_mode)


def filled(given: Sequence[Any], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments, with defaults for those that are left out."""
    return (*given, *defaults[len(given) :])


def normalisation(node: Node) -> Fold:
    _, weight, bias, mean, variance, *rest = node.args
    if node.name == "native_batch_norm" and rest[0]:
        raise Refusal("batch normalisation by the batch's own numbers")
    if mean is None or variance is None or any(value.users for value in node.results[1:]):
        raise Refusal("batch normalisation without numbers of its own")
    epsilon = rest[-1]

    def fold(owned: Owned) -> tuple[Tensor, Tensor]:
        factor = torch.rsqrt(owned(variance) + epsilon)
        if weight is not None:
            factor = factor * owned(weight)
        term = -factor * owned(mean)
        return factor, term if bias is None else term + owned(bias)

    told = tuple(None if value is None else value.key for value in (weight, bias, mean, variance))
    return Fold(("normalisation", told, epsilon), fold)
