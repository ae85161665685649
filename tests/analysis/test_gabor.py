"""Gabor functions: the formula, fits that find what was made, and fits that admit that there is nothing to find."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from striate.analysis import Gabor, fit_gabor
from striate.analysis import gabor as fitting
from striate.errors import AnalysisError


def restated(gabor: Gabor, height: int, width: int) -> torch.Tensor:
    """A complex wave, turned as a complex number, pixel by pixel."""
    values = torch.empty(height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            place = complex(column - (width - 1) / 2 - gabor.centre[1], row - (height - 1) / 2 - gabor.centre[0])
            turned = place * cmath.exp(-1j * gabor.orientation)
            decay = (turned.real / gabor.along) ** 2 / 2 + (turned.imag / gabor.across) ** 2 / 2
            wave = cmath.exp(1j * (2 * math.pi * gabor.frequency * turned.real + gabor.phase) - decay)
            values[row, column] = gabor.amplitude * wave.real
    return values


GABORS = st.builds(
    Gabor,
    orientation=st.floats(0, math.pi),
    frequency=st.floats(0.08, 0.4),
    phase=st.floats(-3, 3),
    along=st.floats(1.2, 2.5),
    across=st.floats(1.2, 2.5),
    centre=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    amplitude=st.floats(0.1, 9),
)


@given(GABORS)
@settings(max_examples=20)
def test_samples_are_the_formula(gabor: Gabor) -> None:
    torch.testing.assert_close(gabor.sample((7, 10)), restated(gabor, 7, 10))


@pytest.mark.slow
@given(GABORS)
@settings(max_examples=25)
def test_a_made_one_is_found_again(gabor: Gabor) -> None:
    kernel = gabor.sample((11, 11))
    found = fit_gabor(kernel)
    assert found.r2 > 0.9999
    torch.testing.assert_close(found.gabor.sample((11, 11)), kernel, rtol=0, atol=2e-2 * gabor.amplitude)


@pytest.mark.formula("S10")
@pytest.mark.parametrize("orientation", [0.05, 0.3, 1.57, 2.2, 3.1])
@pytest.mark.parametrize("phase", [-2.0, 0.0, 1.5])
def test_parameters_are_found_again(orientation: float, phase: float) -> None:
    made = Gabor(orientation, 0.2, phase, 1.8, 2.3, (0.4, -0.7), 3.0)
    found = fit_gabor(made.sample((13, 11)))
    # A wave that runs the other way is the same wave: compare on the circle of half turns.
    angle = abs((found.gabor.orientation - orientation + math.pi / 2) % math.pi - math.pi / 2)
    assert angle < 1e-3
    assert 0 <= found.gabor.orientation <= math.pi
    assert found.gabor.phase == pytest.approx(phase, abs=5e-3)
    for name in ("frequency", "along", "across", "amplitude", "centre"):
        assert getattr(found.gabor, name) == pytest.approx(getattr(made, name), abs=5e-3)


def test_a_row_is_fitted_as_a_line() -> None:
    made = Gabor(frequency=0.15, phase=0.8, along=2.5, across=2.5, centre=(0.0, 0.6))
    found = fit_gabor(made.sample((1, 17))[0])
    assert found.r2 == pytest.approx(1)
    assert found.gabor.frequency == pytest.approx(0.15, abs=1e-4)
    assert found.gabor.orientation == 0


def test_noise_is_no_gabor() -> None:
    fits = [fit_gabor(torch.randn(11, 11)) for _ in range(6)]
    assert max(found.r2 for found in fits) < 0.35
    assert all(found.adjusted_r2 is not None and found.adjusted_r2 < found.r2 for found in fits)


def test_goodness_is_one_less_the_unexplained_share() -> None:
    kernel = Gabor(frequency=0.2).sample((9, 9)) + 0.1 * torch.randn(9, 9, dtype=torch.float64)
    found = fit_gabor(kernel)
    expected = 1 - (kernel - found.gabor.sample((9, 9))).square().sum() / (kernel - kernel.mean()).square().sum()
    assert found.r2 == pytest.approx(float(expected), abs=1e-9)
    assert 0.8 < found.r2 < 1


def test_few_pixels_tell_nothing() -> None:
    assert fit_gabor(torch.randn(3, 3)).adjusted_r2 is None


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (torch.rand(3, 3, 3), "needed \\(H, W\\)"),
        (torch.rand(2), "three pixels"),
        (torch.ones(5, 5), "values that differ"),
        (torch.full((5, 5), math.nan), "values that differ"),
    ],
)
def test_mistakes(kernel: torch.Tensor, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        fit_gabor(kernel)


def test_every_kernel_has_a_wave_to_start_from() -> None:
    """Also one that goes up and down from row to row, whose frequency is its own negative, and one that is rounded."""
    stripes = np.array([[1.0, 1, 1], [-1, -1, -1], [1, 1, 1]])
    random = np.random.default_rng(0)
    kernels = [stripes, stripes.T, *np.round(4 * random.standard_normal((1500, 3, 3))) / 4]
    for kernel in kernels:
        even = kernel - kernel.mean()
        assert not even.any() or list(fitting._starts(even, 2))
    assert fit_gabor(torch.from_numpy(stripes)).gabor.frequency == pytest.approx(0.5, abs=0.05)
