"""How one number came about, as plain data: the operands that it was made of, the terms, and what they add up to."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

#: Terms that are sent one by one; of more than these the partial sums by channel, and the largest.
MOST_TERMS: Final = 1024
#: The largest terms that are sent where not all are.
_LARGEST: Final = 64
#: Places of shared weights that are listed.
MOST_PLACES: Final = 4096

Number = float | int | bool | str


def number_of(tensor: Tensor) -> Number:
    """A tensor of one element as a Python number; complex ones as text."""
    found = tensor.item()
    return str(found) if isinstance(found, complex) else found


@dataclass(frozen=True, eq=False)
class Strand:
    """One factor of every term.

    Args:
        value: the tensor's number in the recording.
        name: its name in the formula, ``"x"`` or ``"w"``.
        places: int64 (T, dims), where in that tensor each term's factor stands.
        numbers: float64 (T,).
    """

    value: int
    name: str
    places: Tensor
    numbers: Tensor

    @property
    def axes(self) -> list[list[int]]:
        """Along each dimension the places that occur: the window, as the product of these."""
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
    """Products that are added up.

    Args:
        strands: the factors.
        coefficients: float64 (T,), a further factor that is no tensor's (1/9 of an average); None for 1.
        groups: int64 (T,), by which terms are added up to partial sums.
        grouped: what a group is, ``"input channel"``.
        padded: taps of the window that fall on padding, which contribute nothing and aren't among the terms.
    """

    strands: tuple[Strand, ...]
    coefficients: Tensor | None = None
    groups: Tensor | None = None
    grouped: str = ""
    padded: int = 0

    @functools.cached_property
    def products(self) -> Tensor:
        """float64 (T,)."""
        found = self.coefficients if self.coefficients is not None else torch.ones((), dtype=torch.float64)
        for strand in self.strands:
            found = found * strand.numbers
        return found

    @property
    def total(self) -> float:
        return math.fsum(self.products.tolist())

    @property
    def partial(self) -> list[tuple[int, float, int]]:
        """For each group its number, the sum of its terms, and how many they are."""
        if self.groups is None or not len(self.products):
            return []
        known, inverse = self.groups.unique(return_inverse=True)
        sums = torch.zeros(len(known), dtype=torch.float64).index_add_(0, inverse, self.products)
        return list(zip(known.tolist(), sums.tolist(), inverse.bincount().tolist(), strict=True))

    def to_dict(self, group: int | None = None) -> dict[str, Any]:
        """For JSON: all terms, those of one group, or of very many the largest."""
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
class Step:
    """A number on the way to the result: ``Step("m", "max of the row", 3.5)``."""

    name: str
    formula: str
    number: Number


@dataclass(frozen=True)
class Hop:
    """An operand to walk on to.

    Args:
        value: the tensor's number in the recording.
        place: of the element.
        name: of the operand in the formula.
        number: what stands there.
        contribution: what it adds to the result, where the result is a sum.
    """

    value: int
    place: tuple[int, ...]
    name: str
    number: Number
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
    """The result worked out again in float64 beside the recorded number.

    Args:
        computed: from the operands that are shown.
        tolerance: by how much rounding can have moved the recorded number.
    """

    computed: Number
    recorded: Number
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
    """How one number of a recording came about.

    Args:
        kind: what the page draws: ``"sum"``, ``"maximum"``, ``"pointwise"``, ``"move"``, ``"normalisation"``,
            ``"softmax"``, ``"source"`` (an input, parameter, buffer or constant), ``"drawn"`` (noise) or
            ``"general"``.
        title: the operator, ``"convolution"``.
        words: one or two plain sentences.
        formula: with the names of the operands.
        hops: operands to walk on to, the most important ones first.
        terms: products that add up to the result, less ``added``, times ``scale``.
        added: further summands, a bias.
        scale: of the sum of all these.
        window: numbers that are looked at, of a maximum, a row of softmax or a mean.
        winner: of a maximum the row of ``window`` that won; of softmax the element's own.
        ties: rows of ``window`` that equal the winner.
        steps: numbers on the way.
        check: the result worked out again.
        facts: what the page says beside: sharing of weights, sparse connectivity, a grid of tokens.
        call: Python that prints the number, given ``recording``.
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
    steps: tuple[Step, ...] = ()
    check: Check | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    call: str = ""

    def to_dict(self, group: int | None = None) -> dict[str, Any]:
        """All of it for JSON; ``group`` names the partial sum whose terms are wanted one by one."""
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
    """By how much a sum of so many terms, whose absolute values add up to ``size``, may be off in a number format.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 4.2: n u / (1 - n u) times the sum
    of absolute values, whatever the order; u is doubled for kernels that transform their operands (Winograd).
    """
    if not (dtype.is_floating_point or dtype.is_complex):
        return 0.0
    unit = torch.finfo(dtype).eps
    worst = (terms + 4) * unit
    return size * (worst / (1 - worst) if worst < 0.5 else 1.0) + torch.finfo(dtype).tiny
