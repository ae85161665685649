"""A derivation as plain data: the operands of a number, the terms, and their sum."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

#: The most terms that are sent one by one; if there are more, partial sums by channel are sent, and the largest terms.
MOST_TERMS: Final = 1024
#: The number of largest terms that are sent if not all are.
_LARGEST: Final = 64
#: The most places of shared weights that are listed.
MOST_PLACES: Final = 4096

RecordedNumber = float | int | bool | str


def number_of(tensor: Tensor) -> RecordedNumber:
    """A tensor of one element as a Python number; complex numbers as text."""
    found = tensor.item()
    return str(found) if isinstance(found, complex) else found


@dataclass(frozen=True, eq=False)
class Strand:
    """One factor of every term.

    Args:
        value: the tensor's number in the recording.
        name: its name in the formula, ``"x"`` or ``"w"``.
        places: int64 (T, dims), the place of each term's factor in that tensor.
        numbers: float64 (T,), the factors.
    """

    value: int
    name: str
    places: Tensor
    numbers: Tensor

    @property
    def axes(self) -> list[list[int]]:
        """The positions that occur along each dimension; the window is their product."""
        return [sorted(set(column)) for column in self.places.T.tolist()]

    def to_dict(self, rows: Tensor) -> dict[str, Any]:
        return {
            "value": self.value,
            "name": self.name,
            "places": self.places[rows].tolist(),
            "numbers": self.numbers[rows].tolist(),
            "axes": self.axes,
        }


@dataclass(frozen=True, eq=False)
class Terms:
    """The products in a sum.

    Args:
        strands: the factors.
        coefficients: float64 (T,), a constant factor of each term (1/9 in an average); None for 1.
        groups: int64 (T,), the group of each term, for partial sums.
        grouped: the meaning of a group, ``"input channel"``.
        padded: number of taps on padding, which contribute nothing and aren't among the terms.
    """

    strands: tuple[Strand, ...]
    coefficients: Tensor | None = None
    groups: Tensor | None = None
    grouped: str = ""
    padded: int = 0

    @functools.cached_property
    def products(self) -> Tensor:
        """The products, float64 (T,)."""
        found = self.coefficients if self.coefficients is not None else torch.ones((), dtype=torch.float64)
        for strand in self.strands:
            found = found * strand.numbers
        return found

    @property
    def total(self) -> float:
        return math.fsum(self.products.tolist())

    @property
    def partial(self) -> list[tuple[int, float, int]]:
        """For each group, its number, the sum of its terms, and the number of its terms."""
        if self.groups is None or not len(self.products):
            return []
        known, inverse = self.groups.unique(return_inverse=True)
        sums = torch.zeros(len(known), dtype=torch.float64).index_add_(0, inverse, self.products)
        return list(zip(known.tolist(), sums.tolist(), inverse.bincount().tolist(), strict=True))

    def to_dict(self, group: int | None = None) -> dict[str, Any]:
        """The terms for JSON: all, those of one group, or the largest if there are very many."""
        count = len(self.products)
        rows = torch.arange(count)
        if group is not None and self.groups is not None:
            rows = (self.groups == group).nonzero()[:, 0]
        if len(rows) > MOST_TERMS:
            rows = rows[self.products[rows].abs().topk(_LARGEST).indices.sort().values]
        return {
            "count": count,
            "shown": len(rows),
            "strands": [strand.to_dict(rows) for strand in self.strands],
            "coefficients": None if self.coefficients is None else self.coefficients[rows].tolist(),
            "products": self.products[rows].tolist(),
            "groups": None if self.groups is None else self.groups[rows].tolist(),
            "group": group,
            "grouped": self.grouped,
            "partial": [{"group": each, "sum": total, "terms": many} for each, total, many in self.partial],
            "padded": self.padded,
        }


@dataclass(frozen=True)
class DerivationStep:
    """An intermediate number: ``DerivationStep("m", "max of the row", 3.5)``."""

    name: str
    formula: str
    number: RecordedNumber


@dataclass(frozen=True)
class Hop:
    """An operand, whose derivation can be shown next.

    Args:
        value: the tensor's number in the recording.
        place: the place of the element.
        name: the operand's name in the formula.
        number: the element.
        contribution: its contribution to the result, if the result is a sum.
    """

    value: int
    place: tuple[int, ...]
    name: str
    number: RecordedNumber
    contribution: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "place": list(self.place),
            "name": self.name,
            "number": self.number,
            "contribution": self.contribution,
        }


@dataclass(frozen=True)
class Check:
    """The result computed again in float64, for comparison with the recorded number.

    Args:
        computed: the result from the operands that are shown.
        tolerance: the largest rounding error of the recorded number.
    """

    computed: RecordedNumber
    recorded: RecordedNumber
    tolerance: float

    @property
    def holds(self) -> bool:
        if isinstance(self.computed, str) or isinstance(self.recorded, str):
            return (
                self.computed == self.recorded or abs(complex(self.computed) - complex(self.recorded)) <= self.tolerance
            )
        if self.computed == self.recorded or (math.isnan(self.computed) and math.isnan(self.recorded)):
            return True
        return abs(self.computed - self.recorded) <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        return {
            "computed": self.computed,
            "recorded": self.recorded,
            "tolerance": self.tolerance,
            "holds": self.holds,
        }


@dataclass(frozen=True, eq=False)
class Derivation:
    """The derivation of one number of a recording.

    Args:
        kind: the kind of display on the page: ``"sum"``, ``"maximum"``, ``"pointwise"``, ``"move"``,
            ``"normalisation"``, ``"softmax"``, ``"source"`` (an input, parameter, buffer or constant), ``"drawn"``
            (random numbers) or ``"general"``.
        title: the operator, ``"convolution"``.
        words: a description in one or two sentences.
        formula: the formula with the names of the operands.
        hops: the operands, the most important ones first.
        terms: the products whose sum, plus ``added``, times ``scale`` is the result.
        added: further summands, such as a bias.
        scale: the factor of the whole sum.
        window: the numbers over which a maximum, a softmax or a mean is taken.
        winner: for a maximum, the index in ``window`` of the maximum; for softmax, that of the element itself.
        ties: indices in ``window`` of elements equal to the winner.
        steps: intermediate numbers.
        check: the result computed again.
        facts: additional information for the page: weight sharing, sparse connectivity, the grid of tokens.
        call: Python code that prints the number, given ``recording``.
    """

    kind: str
    title: str
    words: str
    formula: str = ""
    hops: tuple[Hop, ...] = ()
    terms: Terms | None = None
    added: tuple[Hop, ...] = ()
    scale: float = 1.0
    window: Strand | None = None
    winner: int | None = None
    ties: tuple[int, ...] = ()
    steps: tuple[DerivationStep, ...] = ()
    check: Check | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    call: str = ""

    def to_dict(self, group: int | None = None) -> dict[str, Any]:
        """The derivation for JSON; ``group`` selects the partial sum whose terms are listed one by one."""
        window = None
        if self.window is not None:
            count = len(self.window.numbers)
            window = self.window.to_dict(torch.arange(min(count, MOST_TERMS * 2))) | {"count": count}
        return {
            "kind": self.kind,
            "title": self.title,
            "words": self.words,
            "formula": self.formula,
            "hops": [hop.to_dict() for hop in self.hops],
            "terms": None if self.terms is None else self.terms.to_dict(group),
            "added": [hop.to_dict() for hop in self.added],
            "scale": self.scale,
            "window": window,
            "winner": self.winner,
            "ties": list(self.ties),
            "steps": [vars(step) for step in self.steps],
            "check": None if self.check is None else self.check.to_dict(),
            "facts": self.facts,
            "call": self.call,
        }


def rounding(dtype: torch.dtype, terms: int, size: float) -> float:
    """The largest rounding error in a dtype of a sum of this many terms, whose absolute values add up to ``size``.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 4.2: n u / (1 - n u) times the sum
    of absolute values, whatever the order; u is doubled for kernels that transform their operands (Winograd).
    """
    if not (dtype.is_floating_point or dtype.is_complex):
        return 0.0
    unit = torch.finfo(dtype).eps
    worst = (terms + 4) * unit
    return size * (worst / (1 - worst) if worst < 0.5 else 1.0) + torch.finfo(dtype).tiny
