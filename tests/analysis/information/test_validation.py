"""Estimators on closed forms: those that are good pass, and those that are known to be biased don't."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from scipy.integrate import dblquad

from striate.analysis.information import (
    Case,
    erasure_channel,
    gaussian,
    independent,
    labelled_intervals,
    mutual_information,
    symmetric_channel,
    validate,
)
from striate.analysis.information.validation import BIASED, STANDARD, Estimator
from striate.errors import AnalysisError


def table(rows: Iterable[tuple[str, Estimator, Case, float]]) -> list[Any]:
    """Estimates by neighbours are slow for two dimensions, and for many neighbours."""
    slow = ("2 dimensions", "k 300")
    return [
        pytest.param(*row, marks=[pytest.mark.slow] * any(word in f"{row[0]}, {row[2].name}" for word in slow))
        for row in rows
    ]


def name(value: object) -> str | None:
    return value if isinstance(value, str) else value.name if isinstance(value, Case) else None


@pytest.mark.parametrize(("label", "estimator", "case", "bound"), table(STANDARD), ids=name)
def test_within_the_stated_bound(label: str, estimator: Estimator, case: Case, bound: float) -> None:
    found = validate(estimator, case, bound=bound)
    assert found.within, found
    assert found.spread < 0.06


@pytest.mark.parametrize(("label", "estimator", "case", "bound"), table(BIASED), ids=name)
def test_a_biased_setting_does_not_pass(label: str, estimator: Estimator, case: Case, bound: float) -> None:
    found = validate(estimator, case, bound=bound)
    assert not found.within, found
    assert abs(found.bias) > 3 * found.standard_error


def test_the_plug_ins_bias_is_millers() -> None:
    # (49 * 49) / 2N to first order, where N is much larger than the number of pairs
    found = validate(mutual_information, independent(8), samples=4000, repeats=40)
    assert found.bias == pytest.approx(49 / 8000, rel=0.1)


@pytest.mark.parametrize(
    "case",
    [
        symmetric_channel(0.1),
        pytest.param(erasure_channel(0.3), marks=pytest.mark.slow),
        pytest.param(symmetric_channel(0.5), marks=pytest.mark.slow),
        pytest.param(erasure_channel(0.0), marks=pytest.mark.slow),
    ],
)
def test_channels_draw_what_they_claim(case: Case) -> None:
    assert mutual_information(*case.draw(np.random.default_rng(0), 200_000)) == pytest.approx(case.truth, abs=0.003)


def test_the_gaussians_closed_form_is_the_integral() -> None:
    rho = 0.6

    def integrand(y: float, x: float) -> float:
        exponent = (x * x - 2 * rho * x * y + y * y) / (2 * (1 - rho**2))
        density = math.exp(-exponent) / (2 * math.pi * math.sqrt(1 - rho**2))
        return density * (-exponent - 0.5 * math.log(1 - rho**2) + (x * x + y * y) / 2)

    assert dblquad(integrand, -8, 8, -8, 8)[0] == pytest.approx(gaussian(rho).truth, abs=1e-6)


@pytest.mark.slow
def test_intervals_draw_what_they_claim() -> None:
    case = labelled_intervals(4, 0.25)
    x, labels = case.draw(np.random.default_rng(0), 200_000)
    assert mutual_information(np.floor(x * 4), labels) == pytest.approx(case.truth, abs=0.003)


def test_repeats_need_a_spread_and_seeds_repeat() -> None:
    with pytest.raises(AnalysisError, match="needed 2 or more"):
        validate(mutual_information, symmetric_channel(0.1), repeats=1)
    once, again = (validate(mutual_information, symmetric_channel(0.1), samples=50) for _ in range(2))
    assert once == again
    assert once.to_dict()["within"] == once.within
