"""Windows: pooling's entropies by counting, and filters that tell, or don't tell, one patch from another."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from striate.analysis.information import Binning, filter_match, pooling_entropy
from striate.errors import AnalysisError

TWO = Binning(2, atom=None)


@pytest.mark.formula("F46", "S14")
def test_fair_bits_by_hand() -> None:
    bits = (torch.rand(50, 1, 32, 32) > 0.5).double()
    found = pooling_entropy(bits, "max", binning=TWO, unit="bits")
    assert found.window == pytest.approx(4, abs=0.01)
    assert found.value == pytest.approx(1, abs=0.01)
    assert found.pooled == pytest.approx(stats.entropy([1 / 16, 15 / 16], base=2), abs=0.03)  # 12,800 windows
    average = pooling_entropy(bits, "avg", binning=TWO, unit="bits")
    assert average.pooled <= average.window
    with pytest.raises(AnalysisError, match="4000 windows for 512 states; needed 5120"):
        pooling_entropy(bits[:40], "max", size=3, binning=TWO)


@pytest.mark.formula("F46", "S14")
def test_a_pooled_value_can_have_more_entropy_than_one_value() -> None:
    rare = (torch.rand(50, 1, 32, 32) > 0.9).double()  # its maximum is 1 in a third of the windows
    found = pooling_entropy(rare, "max", binning=TWO, unit="bits")
    assert found.value < found.pooled < found.window


def test_windows_are_those_of_pooling() -> None:
    image = torch.rand(40, 2, 33, 47)
    found = pooling_entropy(image, "max", binning=TWO)
    bits = (image >= (image.min() + image.max()) / 2).float()
    share = float(torch.nn.functional.max_pool2d(bits, 2).mean())
    assert found.pooled == pytest.approx(stats.entropy([share, 1 - share]), abs=1e-6)
    assert found.windows == 40 * 2 * 16 * 23


@pytest.mark.formula("F47", "S15")
def test_a_filter_tells_its_own_pattern() -> None:
    generator = torch.Generator().manual_seed(0)
    edges = torch.zeros(600, 1, 3, 3)
    edges[:300, :, :, 2] = 1
    edges[300:, :, 2] = 1
    edges = edges + 0.01 * torch.rand(edges.shape, generator=generator)
    upright = torch.tensor([[-1.0, 0, 1]] * 3)
    found = filter_match(torch.stack([upright, torch.ones(3, 3)])[:, None], edges, classes=2, unit="bits")
    assert found.patches == 600
    assert found.class_entropy == pytest.approx(1)
    assert found.information[0] == pytest.approx(1, abs=0.02)
    assert found.information[1] == pytest.approx(0, abs=0.03)


@pytest.mark.formula("F47")
def test_flat_patches_are_left_out() -> None:
    images = torch.rand(20, 1, 8, 8, dtype=torch.float64)
    images[10:] = 0.3
    images[10:, :, 0, 0] += 1e-12  # a difference by rounding is no pattern either
    assert filter_match(torch.rand(1, 1, 3, 3), images, classes=2).patches == 360


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pooling_entropy(torch.rand(3, 8, 8), "max"), "needed .N, C, H, W."),
        (lambda: pooling_entropy(torch.rand(99, 1, 8, 8), "median"), "needed max or avg"),
        (lambda: pooling_entropy(torch.rand(4, 1, 8, 8), "max"), "64 windows for 256 states"),
        (lambda: filter_match(torch.rand(2, 3, 3, 3), torch.rand(9, 1, 8, 8)), "got kernels"),
        (lambda: filter_match(torch.rand(2, 1, 3, 3), torch.ones(99, 1, 8, 8)), "got 0 patches"),
        (lambda: filter_match(torch.rand(2, 1, 3, 3), torch.rand(1, 1, 8, 8)), "needed 400"),
    ],
)
def test_mistakes(call: object, says: str) -> None:
    with pytest.raises(AnalysisError, match=says):
        call()  # type: ignore[operator]


def test_nats_and_bits() -> None:
    maps = torch.rand(50, 1, 32, 32)
    nats, bits = (pooling_entropy(maps, "avg", binning=TWO, unit=unit).pooled for unit in ("nats", "bits"))
    assert nats / bits == pytest.approx(math.log(2))
