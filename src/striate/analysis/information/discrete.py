"""Entropy and mutual information of symbols, by counting; and how numbers become symbols.

The plug-in estimate takes observed shares for probabilities. It is too low for entropies, too high for mutual
information, by about (symbols seen - 1) / 2N nats, which the correction of Miller (1955) and Madow puts back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from striate.analysis import arguments
from striate.errors import AnalysisError

Unit: TypeAlias = Literal["nats", "bits"]
Numbers: TypeAlias = NDArray[np.float64]
Symbols: TypeAlias = NDArray[Any]

_NATS: Final = {"nats": 1.0, "bits": math.log(2)}


def in_unit(nats: float, unit: Unit) -> float:
    """Nats as ``unit``.

    Raises:
        AnalysisError: neither nats nor bits.

    >>> in_unit(math.log(8), "bits")
    3.0
    """
    return nats / _NATS[arguments.word("unit", unit, _NATS)]


def entropy(symbols: ArrayLike, *, corrected: bool = False, unit: Unit = "nats") -> float:
    """Entropy of symbols, by their shares among the samples.

    Args:
        symbols: (N,), or (N, d) where a row is one symbol.
        corrected: adds (symbols seen - 1) / 2N nats (Miller 1955).
        unit: ``"nats"`` or ``"bits"``.

    Raises:
        AnalysisError: no samples, or another shape.

    >>> entropy([0, 1, 2, 3], unit="bits")
    2.0

    Formula: F44.
    """
    _, counts = np.unique(_rows(symbols, "entropy"), axis=0, return_counts=True)
    shares = counts / counts.sum()
    nats = float(-(shares * np.log(shares)).sum()) + 0.0  # of one symbol not -0
    return in_unit(nats + ((len(counts) - 1) / (2 * counts.sum()) if corrected else 0.0), unit)


def mutual_information(x: ArrayLike, y: ArrayLike, *, corrected: bool = False, unit: Unit = "nats") -> float:
    """I(X; Y) = H(X) + H(Y) - H(X, Y) of symbols, each entropy by :func:`entropy`.

    Args:
        x: (N,), or (N, d) where a row is one symbol.
        y: likewise.
        corrected: each of the three entropies by Miller and Madow; the result may be negative then.
        unit: ``"nats"`` or ``"bits"``.

    Raises:
        AnalysisError: no samples, or x and y of different length.

    >>> mutual_information([0, 0, 1, 1], [0, 0, 1, 1], unit="bits")
    1.0

    Formula: F45.
    """
    one, other = (codes(_rows(each, "mutual_information")) for each in (x, y))
    same_length(one, other, "mutual_information")
    joint = entropy(np.stack([one, other], 1), corrected=corrected)
    return in_unit(entropy(one, corrected=corrected) + entropy(other, corrected=corrected) - joint, unit)


@dataclass(frozen=True)
class Binning:
    """How numbers become symbols.

    Args:
        count: bins, besides that of the atom.
        kind: ``"width"``: as wide as each other, from the least to the greatest value (or over ``span``);
            ``"quantile"``: as many values in each, as far as ties allow.
        atom: a value with a bin of its own, as 0 is for ReLU, which puts out many exact zeros; None: no such value.
        span: where equal widths begin and end; values beyond belong to the outer bins.

    Raises:
        AnalysisError: less than 2 bins, another kind, an empty span.

    >>> Binning(2)([0.0, 0.0, 0.1, 0.9, 1.0]).tolist()
    [0, 0, 1, 2, 2]
    """

    count: int = 30
    kind: Literal["width", "quantile"] = "width"
    atom: float | None = 0.0
    span: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        # The fields are Python's numbers, whatever they were given as.
        object.__setattr__(self, "count", arguments.whole("bins", self.count, 2))
        arguments.word("kind of bins", self.kind, ("width", "quantile"))
        if self.atom is not None:
            object.__setattr__(self, "atom", arguments.number("atom", self.atom))
        if self.span is not None:
            ends = arguments.items(self.span)
            if ends is None or len(ends) != 2:
                raise AnalysisError("Binning", f"got span {self.span!r}", "needed (beginning, end)")
            low, high = (arguments.number("span", end) for end in ends)
            if not low < high:
                raise AnalysisError("Binning", f"got span {(low, high)}", "needed an end above the beginning")
            object.__setattr__(self, "span", (low, high))

    def __call__(self, values: ArrayLike) -> NDArray[np.int64]:
        """The bin of each value, in the shape of the values; all values share the edges.

        Raises:
            AnalysisError: values that aren't finite, or none.
        """
        given = floats("Binning", values, "needed finite numbers")
        numbers = given.ravel()
        if not numbers.size or not np.isfinite(numbers).all():
            raise AnalysisError("Binning", "got no values, or such that aren't finite", "needed finite numbers")
        loose = numbers[numbers != self.atom] if self.atom is not None else numbers
        if not loose.size:
            return np.zeros(given.shape, np.int64)
        low, high = self.span or (float(loose.min()), float(loose.max()))
        shares = np.linspace(0, 1, self.count + 1)[1:-1]
        edges = low + shares * (high - low) if self.kind == "width" else np.unique(np.quantile(loose, shares))
        found = np.searchsorted(edges, numbers, side="right") + 1
        if self.atom is not None:
            found[numbers == self.atom] = 0
        return found.reshape(given.shape)

    def __str__(self) -> str:
        words = f"{self.count} bins of equal {'width' if self.kind == 'width' else 'share'}"
        return words + (f", and one for exactly {self.atom:g}" if self.atom is not None else "")


def floats(where: str, values: object, needed: str) -> Numbers:
    """Numbers as float64.

    Raises:
        AnalysisError: anything else.
    """
    found = arguments.array(where, values, needed)
    if found.dtype.kind not in "biuf":
        raise AnalysisError(where, f"got {found.dtype} of shape {found.shape}", needed)
    return found.astype(np.float64)


def codes(rows: Symbols) -> NDArray[np.int64]:
    """One integer for each different row: (N, d) to (N,)."""
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def same_length(x: Symbols, y: Symbols, where: str) -> None:
    """Refuses samples that don't come in pairs."""
    if len(x) != len(y):
        raise AnalysisError(where, f"got {len(x)} and {len(y)} samples", "needed pairs, as many of one as of the other")


def _rows(symbols: ArrayLike, where: str) -> Symbols:
    found = arguments.array(where, symbols, "needed (N,) or (N, d), N at least 1")
    if found.ndim not in (1, 2) or not found.size:
        raise AnalysisError(where, f"got shape {found.shape}", "needed (N,) or (N, d), N at least 1")
    return found.reshape(len(found), -1)
