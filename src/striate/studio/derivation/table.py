"""Which function derives a number of which operator: a table, and what each of these functions is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from striate.analysis.operators import Operation, Value
from striate.studio.derivation.result import Check, Derivation, Hop, Number, Strand, number_of, rounding
from striate.studio.recording import Recording


@dataclass(frozen=True, eq=False)
class Question:
    """One element of one result of an operation.

    Args:
        recording: the run.
        operation: the operator that made the value.
        rank: which of the operation's results the value is.
        value: the value.
        place: of the element in it.
    """

    recording: Recording
    operation: Operation
    rank: int
    value: Value
    place: tuple[int, ...]

    @property
    def name(self) -> str:
        """``"relu"``, of the operator that writes in place as well."""
        return plain_name(self.operation)

    def number(self, value: Value) -> int:
        return self.recording.number_of(value)

    def tensor(self, value: Value) -> Tensor:
        """What a value held when the operator read it."""
        return self.recording.numbers[self.recording.number_of(value)]

    @property
    def recorded(self) -> Number:
        """The number that is asked about."""
        return number_of(self.tensor(self.value)[self.place])

    def hop(self, value: Value, place: Sequence[int], name: str, contribution: float | None = None) -> Hop:
        """An operand's element."""
        where = tuple(int(each) for each in place)
        return Hop(self.number(value), where, name, number_of(self.tensor(value)[where]), contribution)

    def strand(self, value: Value, name: str, places: Tensor) -> Strand:
        """An operand's elements at int64 places (T, dims)."""
        numbers = self.tensor(value).detach()
        picked = numbers[tuple(places.T)] if numbers.dim() else numbers.expand(len(places))
        return Strand(self.number(value), name, places, wide(picked))

    def check(self, computed: float, terms: int, size: float) -> Check:
        """The recorded number beside one that was worked out; ``size`` is the sum of the terms' absolute values."""
        return Check(computed, self.recorded, rounding(self.value.dtype, terms, size))


Derive: TypeAlias = Callable[[Question], Derivation]
TABLE: Final[dict[str, Derive]] = {}


def derives(*names: str) -> Callable[[Derive], Derive]:
    """Enters a function for these operators; the one that writes in place (``relu_``) goes by the same name."""

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
    """The numbers in float64, on the CPU."""
    return (tensor.real if tensor.is_complex() else tensor).detach().to("cpu", torch.float64)


def grid(axes: Sequence[Sequence[int]]) -> Tensor:
    """All places of a product of positions along axes, int64 (T, len(axes)), the last axis fastest."""
    if not axes:
        return torch.zeros(1, 0, dtype=torch.int64)
    columns = torch.meshgrid(*(torch.tensor(list(each), dtype=torch.int64) for each in axes), indexing="ij")
    return torch.stack([column.reshape(-1) for column in columns], 1)


def strongest(question: Question, value: Value, strand: Strand, products: Tensor, most: int = 12) -> tuple[Hop, ...]:
    """The operand's elements that contribute most."""
    order = products.abs().nan_to_num(math.inf, math.inf).topk(min(most, len(products))).indices.tolist()
    return tuple(question.hop(value, strand.places[row].tolist(), strand.name, float(products[row])) for row in order)


def as_value(argument: Any) -> Value:
    """An argument that has to be a tensor."""
    assert isinstance(argument, Value)
    return argument
