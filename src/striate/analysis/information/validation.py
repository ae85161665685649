"""Validation of estimators on closed forms: bias and spread, and whether the bias is within a stated bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from scipy.special import entr

from striate.analysis import arguments
from striate.analysis.information.continuous import gaussian_copula, ksg, ksg_labels
from striate.analysis.information.discrete import Binning, Symbols, mutual_information
from striate.errors import AnalysisError

#: From samples of X and Y to I(X; Y) in nats.
Estimator: TypeAlias = Callable[[Symbols, Symbols], float]


@dataclass(frozen=True)
class Case:
    """A pair of variables whose mutual information is known.

    Args:
        name: with its parameters.
        truth: I(X; Y) in nats.
        draw: from a generator and N to N samples of X and of Y.
    """

    name: str
    truth: float
    draw: Callable[[np.random.Generator, int], tuple[Symbols, Symbols]]


@dataclass(frozen=True)
class Validation:
    """An estimator's results for a case, in nats.

    Args:
        case: its name.
        truth: the closed form.
        samples: N, of each repetition.
        repeats: how many repetitions.
        bias: mean estimate less truth.
        spread: standard deviation of the estimates.
        bound: of the bias, as stated before.
    """

    case: str
    truth: float
    samples: int
    repeats: int
    bias: float
    spread: float
    bound: float

    @property
    def standard_error(self) -> float:
        """Of the bias, by the number of repetitions."""
        return self.spread / math.sqrt(self.repeats)

    @property
    def within(self) -> bool:
        """Whether the bias is within the bound even if it is two standard errors larger than it was found."""
        return abs(self.bias) + 2 * self.standard_error <= self.bound

    def to_dict(self) -> dict[str, Any]:
        """All fields and what follows from them, for JSON."""
        return asdict(self) | {"standard_error": self.standard_error, "within": self.within}


def validate(
    estimator: Estimator, case: Case, *, samples: int = 1000, repeats: int = 100, bound: float = 0.05, seed: int = 0
) -> Validation:
    """Bias and spread of an estimator of mutual information on a closed form.

    Args:
        estimator: from samples (N,) or (N, d) of X and of Y to nats.
        case: one of :func:`gaussian`, :func:`symmetric_channel`, :func:`erasure_channel`, ... or your own.
        samples: N, of each repetition.
        repeats: how often fresh samples are drawn.
        bound: of the bias, in nats.
        seed: of the samples.

    Raises:
        AnalysisError: less than two repetitions, or what the estimator refuses.

    >>> validate(mutual_information, symmetric_channel(0.1)).within
    True
    >>> validate(mutual_information, independent(50), samples=200).within  # too few samples for 2500 pairs of symbols
    False
    """
    given: tuple[object, object] = (estimator, case)
    if not callable(given[0]) or not isinstance(given[1], Case):
        got = " and ".join(type(each).__name__ for each in given)
        raise AnalysisError("validate", f"got {got}", "needed an estimator and a Case", "as ksg and gaussian(0.6)")
    bound = arguments.number("bound", bound)
    samples, repeats = arguments.whole("samples", samples, 1), arguments.whole("repeats", repeats, 2)
    generator = np.random.default_rng(arguments.whole("seed", seed, 0))
    found = [estimator(*case.draw(generator, samples)) for _ in range(repeats)]
    bias, spread = float(np.mean(found)) - case.truth, float(np.std(found, ddof=1))
    return Validation(case.name, case.truth, samples, repeats, bias, spread, bound)


def gaussian(correlation: float, dimensions: int = 1) -> Case:
    """Pairs of Gaussians, each axis of X correlated with the same axis of Y: -(d/2) ln(1 - rho^2) nats."""
    correlation, dimensions = _between("correlation", correlation, -1, 1), arguments.whole("dimensions", dimensions, 1)

    def draw(generator: np.random.Generator, n: int) -> tuple[Symbols, Symbols]:
        x, other = generator.normal(size=(2, n, dimensions))
        return x, correlation * x + math.sqrt(1 - correlation**2) * other

    name = f"Gaussians, rho {correlation:g}, {dimensions} dimension{'s' * (dimensions > 1)}"
    return Case(name, -dimensions / 2 * math.log(1 - correlation**2), draw)


def symmetric_channel(flipped: float) -> Case:
    """A fair bit that is flipped with a probability p: ln 2 - H(p) nats."""
    flipped = arguments.number("flipped", flipped, 0, 1)

    def draw(generator: np.random.Generator, n: int) -> tuple[Symbols, Symbols]:
        x = generator.integers(2, size=n)
        return x, x ^ (generator.random(n) < flipped)

    return Case(
        f"binary symmetric channel, p {flipped:g}", math.log(2) - float(entr(flipped) + entr(1 - flipped)), draw
    )


def erasure_channel(erased: float) -> Case:
    """A fair bit that is lost, and known to be lost, with a probability p: (1 - p) ln 2 nats."""
    erased = arguments.number("erased", erased, 0, 1)

    def draw(generator: np.random.Generator, n: int) -> tuple[Symbols, Symbols]:
        x = generator.integers(2, size=n)
        return x, np.where(generator.random(n) < erased, 2, x)

    return Case(f"binary erasure channel, p {erased:g}", (1 - erased) * math.log(2), draw)


def independent(symbols: int) -> Case:
    """Two uniform symbols that know nothing of each other: 0 nats."""
    symbols = arguments.whole("symbols", symbols, 1)
    return Case(
        f"independent, {symbols} x {symbols} symbols",
        0.0,
        lambda generator, n: (generator.integers(symbols, size=n), generator.integers(symbols, size=n)),
    )


def labelled_intervals(labels: int, overlap: float) -> Case:
    """A uniform label, and X uniform on an interval that shares a part with the next label's, around a circle.

    X in a shared part leaves two labels equally likely, elsewhere one: ln K - p ln 2 nats with p twice the overlap.

    Args:
        labels: K, at least 3.
        overlap: the share of an interval that the next one covers, at most 1/2.
    """
    labels, overlap = arguments.whole("labels", labels, 3), arguments.number("overlap", overlap, 0, 0.5)

    def draw(generator: np.random.Generator, n: int) -> tuple[Symbols, Symbols]:
        label = generator.integers(labels, size=n)
        return np.mod(label * (1 - overlap) + generator.random(n), labels * (1 - overlap)), label

    truth = math.log(labels) - 2 * overlap * math.log(2)
    return Case(f"{labels} labelled intervals, overlap {overlap:g}", truth, draw)


def _between(name: str, value: float, low: float, high: float) -> float:
    found = arguments.number(name, value)
    if not low < found < high:
        raise AnalysisError(name, f"got {found:g}", f"needed a number between {low:g} and {high:g}")
    return found


def binned(binning: Binning, *, corrected: bool = False) -> Estimator:
    """The estimator that bins X and Y, each by its own range, and counts."""
    return lambda x, y: mutual_information(binning(x), binning(y), corrected=corrected)


#: Each estimator with closed forms that it is made for, and a bound of its bias in nats at 1000 samples.
STANDARD: Final[tuple[tuple[str, Estimator, Case, float], ...]] = (
    ("plug-in", mutual_information, symmetric_channel(0.1), 0.01),
    ("plug-in", mutual_information, erasure_channel(0.3), 0.01),
    ("Miller-Madow", lambda x, y: mutual_information(x, y, corrected=True), symmetric_channel(0.1), 0.005),
    ("Miller-Madow", lambda x, y: mutual_information(x, y, corrected=True), independent(8), 0.01),
    ("16 bins of equal share", binned(Binning(16, "quantile", None), corrected=True), gaussian(0.6), 0.05),
    ("KSG, k 3", ksg, gaussian(0.6), 0.02),
    ("KSG, k 3", ksg, gaussian(0.9), 0.02),
    ("KSG, k 3", ksg, gaussian(0.6, 2), 0.05),
    ("KSG with labels, k 3", ksg_labels, labelled_intervals(4, 0.25), 0.02),
    ("Gaussian copula", gaussian_copula, gaussian(0.6), 0.02),
    ("Gaussian copula", gaussian_copula, gaussian(0.9, 3), 0.05),
)

#: Settings that are known to be biased: whatever passes these off as unbiased is broken.
BIASED: Final[tuple[tuple[str, Estimator, Case, float], ...]] = (
    ("plug-in, too few samples", mutual_information, independent(50), 0.05),
    ("64 bins, uncorrected", binned(Binning(64, "width", None)), gaussian(0.6), 0.05),
    ("KSG, k 300 of 1000", lambda x, y: ksg(x, y, neighbours=300), gaussian(0.9), 0.05),
)
