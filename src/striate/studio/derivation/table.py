"""The table of functions that derive numbers, by operator, and the question that each function gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from striate.analysis.operators import Operation, Value
from striate.studio.derivation.result import Check, Derivation, Hop, RecordedNumber, Strand, number_of, rounding
from striate.studio.recording import Recording


@dataclass(frozen=True, eq=False)
class Question:
    """One element of one result of an operation.

    Args:
        recording: the run.
        operation: the operation that computed the value.
        rank: the index of the value among the operation's results.
        value: the value.
        place: the place of the element in it.
    """

    recording: Recording
    operation: Operation
    rank: int
    value: Value
    place: tuple[int, ...]

    @property
    def name(self) -> str:
        """The operator's name, ``"relu"``, also for the in-place operator."""
        return plain_name(self.operation)

    def number(self, value: Value) -> int:
        return self.recording.number_of(value)

    def tensor(self, value: Value) -> Tensor:
        """The contents of a value when the operator read it."""
        return self.recording.numbers[self.recording.number_of(value)]

    @property
    def recorded(self) -> RecordedNumber:
        """The number to derive."""
        return number_of(self.tensor(self.value)[self.place])

    def hop(self, value: Value, place: Sequence[int], name: str, contribution: float | None = None) -> Hop:
        """The hop to an operand's element."""
        where = tuple(int(each) for each in place)
        return Hop(self.number(value), where, name, number_of(self.tensor(value)[where]), contribution)

    def strand(self, value: Value, name: str, places: Tensor) -> Strand:
        """The strand of an operand's elements at int64 places (T, dims)."""
        numbers = self.tensor(value).detach()
        picked = numbers[tuple(places.T)] if numbers.dim() else numbers.expand(len(places))
        return Strand(self.number(value), name, places, wide(picked))

    def check(self, computed: float, terms: int, size: float) -> Check:
        """Compares the recorded number with a computed one; ``size`` is the sum of the terms' absolute values."""
        return Check(computed, self.recorded, rounding(self.value.dtype, terms, size))


Derive: TypeAlias = Callable[[Question], Derivation]
TABLE: Final[dict[str, Derive]] = {}


def derives(*names: str) -> Callable[[Derive], Derive]:
    """Registers a function for these operators and their in-place forms (``relu_``)."""

    def enter(function: Derive) -> Derive:
        for name in names:
            assert name not in TABLE, name
            TABLE[name] = function
        return function

    return enter


def plain_name(operation: Operation) -> str:
    """``"relu"`` for ``aten.relu`` and ``aten.relu_``."""
    name = operation.name.rpartition(".")[2]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def wide(tensor: Tensor) -> Tensor:
    """Converts a tensor to float64 on the CPU."""
    return (tensor.real if tensor.is_complex() else tensor).detach().to("cpu", torch.float64)


def grid(axes: Sequence[Sequence[int]]) -> Tensor:
    """The Cartesian product of positions along axes, int64 (T, len(axes)), with the last axis varying fastest."""
    if not axes:
        return torch.zeros(1, 0, dtype=torch.int64)
    columns = torch.meshgrid(*(torch.tensor(list(each), dtype=torch.int64) for each in axes), indexing="ij")
    return torch.stack([column.reshape(-1) for column in columns], 1)


def strongest(question: Question, value: Value, strand: Strand, products: Tensor, most: int = 12) -> tuple[Hop, ...]:
    """The elements of an operand with the largest contributions."""
    order = products.abs().nan_to_num(math.inf, math.inf).topk(min(most, len(products))).indices.tolist()
    return tuple(question.hop(value, strand.places[row].tolist(), strand.name, float(products[row])) for row in order)


def as_value(argument: Any) -> Value:
    """Checks that an argument is a tensor."""
    assert isinstance(argument, Value)
    return argument
