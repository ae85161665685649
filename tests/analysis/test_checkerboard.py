"""Checkerboards: counted by hand, as gradients of ones, and with weights."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import striate.nn as snn
from striate import Window
from striate.analysis import checkerboard
from striate.analysis.checkerboard import coverage
from striate.errors import AnalysisError


@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 3), st.integers(0, 3))
def test_coverage_is_the_gradient_of_ones(kernel: int, stride: int, dilation: int, padding: int) -> None:
    window = Window(kernel, stride, padding, dilation)
    x = torch.zeros(1, 1, 80, requires_grad=True)
    F.conv1d(x, torch.ones(1, 1, kernel), None, stride, padding, dilation).sum().backward()
    assert x.grad is not None
    middle = 30 // stride * stride
    assert coverage(window) == tuple(int(count) for count in x.grad[0, 0, middle : middle + stride])


@pytest.mark.formula("S19")
@given(st.integers(1, 8), st.integers(1, 5))
def test_coverage_is_even_just_where_the_stride_divides_the_kernel(kernel: int, stride: int) -> None:
    rows = checkerboard(nn.ConvTranspose1d(1, 1, kernel, stride), (1, 9)).rows
    assert len(rows) == (stride > 1)
    for row in rows:
        assert (row.unevenness == 0) == (kernel % stride == 0)
        assert (row.missed > 0) == (kernel < stride)


def test_measured_is_what_the_layer_makes_of_a_constant() -> None:
    torch.manual_seed(1)
    up = nn.ConvTranspose2d(3, 2, (3, 5), (2, 3), padding=1, bias=False)
    (row,) = checkerboard(up, (3, 12, 12))
    assert (row.kind, row.where, row.coverage) == ("transposed convolution", "output", ((1, 2), (2, 1, 2)))
    period = up(torch.ones(1, 3, 12, 12))[0, :, 8:10, 9:12].detach().double()
    deviation = period.flatten(1).var(1, correction=0).mean().sqrt()
    assert row.measured == pytest.approx(float(deviation / period.square().mean().sqrt()), rel=1e-5)
    nn.init.ones_(up.weight)
    (row,) = checkerboard(up, (3, 12, 12))
    assert row.measured == pytest.approx(row.unevenness)
    # a kernel that the stride divides is even as a window, and made uneven by its weights
    (row,) = checkerboard(nn.Conv2d(1, 1, 4, 2), (1, 9, 9))
    assert row.unevenness == 0 < row.measured


def test_any_network_is_read() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = snn.Conv2d(3, 4, 3, 2, "same")
            self.same = nn.Conv2d(4, 4, 3, padding=1)
            self.blur = snn.BlurPool2d(4, 4)
            self.up = nn.ConvTranspose2d(4, 2, 3, 2, dilation=2, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(self.same(self.same(self.down(x))), 3, 2)
            result: Tensor = self.up(self.blur(x))
            return result

    model = Network()
    found = checkerboard(model, (3, 32, 30))
    assert [(row.name, row.kind) for row in found] == [
        ("down", "convolution"),
        ("(network)", "pooling"),
        ("blur", "convolution"),
        ("up", "transposed convolution"),
    ]
    # taps 0, 2, 4 meet even positions only
    assert found.rows[3].coverage == ((3, 0), (3, 0))
    assert found.rows[3].missed == 0.75
    assert found.rows[1].measured is None
    assert found.rows[2].unevenness == 0
    json.dumps(found.to_dict(), allow_nan=False)


def test_one_pixel_kernels_miss_positions() -> None:
    (row,) = checkerboard(nn.Conv2d(1, 1, 1, 2), (1, 8, 8))
    assert (row.missed, row.unevenness) == (0.75, pytest.approx(0.75**0.5))


def test_mistakes() -> None:
    with pytest.raises(AnalysisError, match="doesn't go through"):
        checkerboard(nn.Conv2d(1, 1, 3, 2), (2, 8, 8))
