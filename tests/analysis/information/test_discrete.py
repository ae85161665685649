"""Counting: against scikit-learn, scipy and closed forms, and the laws of information on random symbols."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mutual_info_score

from striate.analysis.information import Binning, entropy, mutual_information
from striate.errors import AnalysisError

SYMBOLS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60)


@pytest.mark.formula("F44", "F45")
@given(SYMBOLS)
def test_plug_in_is_scikit_learns_and_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs).T
    assert mutual_information(x, y) == pytest.approx(mutual_info_score(x, y), abs=1e-12)
    assert entropy(x) == pytest.approx(stats.entropy(np.bincount(x)), abs=1e-12)
    assert entropy(x, unit="bits") == pytest.approx(stats.entropy(np.bincount(x), base=2), abs=1e-12)


@pytest.mark.formula("F44", "F45")
@given(SYMBOLS)
def test_laws(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs).T
    assert mutual_information(x, y) == pytest.approx(mutual_information(y, x), abs=1e-12)
    assert -1e-12 <= mutual_information(x, y) <= min(entropy(x), entropy(y)) + 1e-12
    assert mutual_information(x, x) == pytest.approx(entropy(x), abs=1e-12)
    assert entropy(x) <= math.log(len(set(x.tolist()))) + 1e-12
    # a function of x holds no more
    assert mutual_information(x // 2, y) <= mutual_information(x, y) + 1e-12


@pytest.mark.formula("F44", "F45")
def test_rows_are_symbols_and_the_correction_is_millers() -> None:
    rows = [[0, 1], [0, 1], [1, 0], [2, 2]]
    assert entropy(rows) == pytest.approx(entropy(["a", "a", "b", "c"]))
    assert entropy(rows, corrected=True) - entropy(rows) == pytest.approx(2 / 8)
    joint = entropy([[0, 0], [0, 1], [1, 0], [1, 0]], corrected=True)
    apart = entropy([0, 0, 1, 1], corrected=True) + entropy([0, 1, 0, 0], corrected=True)
    assert mutual_information([0, 0, 1, 1], [0, 1, 0, 0], corrected=True) == pytest.approx(apart - joint)


@pytest.mark.parametrize("count", [2, 7, 64])
def test_uniform_entropy(count: int) -> None:
    assert entropy(np.arange(10 * count) % count, unit="bits") == pytest.approx(math.log2(count))


def test_equal_widths_are_numpys_histogram() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    found = Binning(12, "width", None)(values)
    assert np.bincount(found)[1:].tolist() == np.histogram(values, 12)[0].tolist()


def test_quantiles_fill_bins_alike_and_zero_has_its_own() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=1000), 0)
    found = Binning(5, "quantile")(values)
    assert (found == 0).tolist() == (values == 0).tolist()
    counts = np.bincount(found)[1:]
    assert len(counts) == 5
    assert np.abs(counts - counts.mean()).max() < 1.5
    # Without a bin of its own, zero shares one with small positive values.
    assert ((Binning(5, "width", None)(values) == 1) & (values > 0)).any()


def test_span_is_kept() -> None:
    assert Binning(4, span=(0.0, 4.0), atom=None)([-9.0, 0.5, 1.5, 3.9, 99.0]).tolist() == [1, 1, 2, 4, 4]


def test_constants_are_one_symbol() -> None:
    assert set(Binning(5, "width", None)([2.0, 2.0]).tolist()) == {5}
    assert set(Binning(5, "quantile")([2.0, 2.0]).tolist()) == {2}
    assert entropy(Binning(5)([0.0, 0.0])) == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: entropy([]), "shape"),
        (lambda: entropy(np.zeros((2, 2, 2))), "shape"),
        (lambda: entropy([1], unit="hartleys"), "needed nats or bits"),
        (lambda: mutual_information([1, 2], [1]), "2 and 1 samples"),
        (lambda: Binning(1), "needed 2 or more"),
        (lambda: Binning(3, "log"), "needed width or quantile"),
        (lambda: Binning(3, span=(1.0, 1.0)), "above the beginning"),
        (lambda: Binning(3)([float("nan")]), "finite"),
    ],
)
def test_mistakes(call: object, says: str) -> None:
    with pytest.raises(AnalysisError, match=says):
        call()  # type: ignore[operator]
