"""Neighbours, ranks and kernels: against other libraries, restated formulas and integrals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

from striate.analysis.information import gaussian_copula, kernel_bounds, ksg, ksg_labels, neighbour_entropy
from striate.errors import AnalysisError


def pairs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, z = np.random.default_rng(seed).normal(size=(2, n))
    return x, 0.7 * x + 0.5 * z


@pytest.mark.parametrize("neighbours", [1, 3, 7])
def test_ksg_is_scikit_learns(neighbours: int) -> None:
    x, y = pairs(400)
    x, y = x / x.std(), y / y.std()  # as scikit-learn does
    theirs = mutual_info_regression(x[:, None], y, n_neighbors=neighbours, random_state=0)[0]
    assert ksg(x, y, neighbours=neighbours) == pytest.approx(theirs, abs=1e-6)


def test_ksg_is_the_papers_formula() -> None:
    generator = np.random.default_rng(1)
    x, y, k, n = generator.normal(size=(60, 2)), generator.normal(size=(60, 3)), 4, 60
    x[:, 0] += y[:, 0]
    dx, dy = (np.abs(each[:, None] - each[None]).max(-1) for each in (x, y))
    total = 0.0
    for i in range(n):
        others = np.arange(n) != i
        epsilon = np.sort(np.maximum(dx, dy)[i][others])[k - 1]
        total += digamma((dx[i][others] < epsilon).sum() + 1) + digamma((dy[i][others] < epsilon).sum() + 1)
    assert ksg(x, y, neighbours=k) == pytest.approx(digamma(k) + digamma(n) - total / n)


@pytest.mark.parametrize("neighbours", [1, 3, 7])
def test_labels_are_scikit_learns(neighbours: int) -> None:
    generator = np.random.default_rng(2)
    labels = generator.integers(3, size=500)
    x = generator.normal(size=500) + labels
    x /= x.std()
    theirs = mutual_info_classif(x[:, None], labels, n_neighbors=neighbours, random_state=0)[0]
    assert ksg_labels(x, labels, neighbours=neighbours) == pytest.approx(theirs, abs=1e-6)


def test_entropy_is_near_scipys_and_the_closed_form() -> None:
    x = np.random.default_rng(3).normal(scale=2.0, size=4000)
    truth = 0.5 * math.log(2 * math.pi * math.e * 4)
    assert neighbour_entropy(x) == pytest.approx(truth, abs=0.05)
    assert neighbour_entropy(x) == pytest.approx(stats.differential_entropy(x), abs=0.05)
    wide = np.random.default_rng(4).normal(size=(4000, 3))
    assert neighbour_entropy(wide) == pytest.approx(1.5 * math.log(2 * math.pi * math.e), abs=0.1)


def test_copula_sees_ranks_alone() -> None:
    x, y = pairs(300)
    assert gaussian_copula(np.exp(x), y**3) == pytest.approx(gaussian_copula(x, y))
    correlation = stats.spearmanr(x, y)[0]
    by_rank = -0.5 * math.log(1 - (2 * math.sin(math.pi * correlation / 6)) ** 2)
    assert gaussian_copula(x, y) == pytest.approx(by_rank, abs=0.05)


def test_copula_of_strangers_is_unbiased() -> None:
    generator = np.random.default_rng(5)
    found = [gaussian_copula(generator.normal(size=(60, 4)), generator.normal(size=(60, 4))) for _ in range(200)]
    assert np.mean(found) == pytest.approx(0, abs=3 * np.std(found) / math.sqrt(200))
    # Without taking the bias off it would be about 16/120.
    assert abs(np.mean(found)) < 0.05


@pytest.mark.parametrize("distance", [0.0, 0.5, 2.0, 10.0])
def test_kernel_bounds_enclose_the_integral(distance: float) -> None:
    points, sigma = np.array([0.0, distance, 3 * distance]), 0.8

    def density(z: float) -> float:
        return float(stats.norm.pdf(z, points, sigma).mean())

    mixture = integrate.quad(
        lambda z: -density(z) * math.log(max(density(z), 1e-300)), -6, 3 * distance + 6, points=points, limit=400
    )[0]
    truth = mixture - 0.5 * math.log(2 * math.pi * math.e * sigma**2)
    bounds = kernel_bounds(points, sigma)
    assert bounds.lower - 1e-6 <= truth <= bounds.upper + 1e-6
    if distance == 10:
        assert bounds.lower == pytest.approx(math.log(3), abs=1e-6)
    if distance == 0:
        assert bounds.upper == 0


def test_kernel_bounds_are_the_papers_formula_in_chunks() -> None:
    x = np.random.default_rng(6).normal(size=(1100, 2))
    squared = ((x[:, None] - x[None]) ** 2).sum(-1) / 0.3**2
    bounds = kernel_bounds(x, 0.3)
    assert bounds.upper == pytest.approx(-np.log(np.exp(-squared / 2).mean(1)).mean())
    assert bounds.lower == pytest.approx(-np.log(np.exp(-squared / 8).mean(1)).mean())


def test_units() -> None:
    x, y = pairs(100)
    labels = x > 0
    for function, arguments in ((ksg, (x, y)), (gaussian_copula, (x, y)), (ksg_labels, (y, labels))):
        assert function(*arguments, unit="bits") == pytest.approx(function(*arguments) / math.log(2))
    assert kernel_bounds(x, 0.1, unit="bits").upper == pytest.approx(kernel_bounds(x, 0.1).upper / math.log(2))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ksg([1.0, 2.0], [1.0, 2.0]), "got 2 samples; needed more than 3"),
        (lambda: ksg(np.arange(9.0), np.arange(8.0)), "9 and 8"),
        (lambda: ksg(np.ones(9), np.ones(9)), "9 of 9 samples coincide"),
        (lambda: ksg(np.maximum(np.random.default_rng(0).normal(size=(2, 99)), 0)[0], np.zeros(99)), "coincide"),
        (lambda: ksg(np.arange(9.0), np.arange(9.0), neighbours=0), "needed 1 or more"),
        (lambda: ksg([float("inf")] * 9, np.arange(9.0)), "finite"),
        (lambda: ksg_labels(np.arange(9.0), [0] * 7 + [1] * 2), "label 1 has 2 samples"),
        (lambda: ksg_labels(np.arange(9.0), [0]), "9 and 1"),
        (lambda: gaussian_copula(np.ones(9), np.arange(9.0)), "constant"),
        (lambda: gaussian_copula(np.ones((5, 4)), np.arange(5.0)), "got 5 samples of 5 dimensions"),
        (lambda: kernel_bounds([1.0], 0.0), "above 0"),
        (lambda: neighbour_entropy(np.zeros(9)), "coincide"),
    ],
)
def test_mistakes(call: object, says: str) -> None:
    with pytest.raises(AnalysisError, match=says):
        call()  # type: ignore[operator]
