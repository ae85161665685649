"""The checks are checked: a planted wrong kernel, a NaN, an edge shifted by one must each turn them red."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import test_convolution
import test_pooling
import torch
from torch import Tensor

from cases import CONVOLUTIONS, POOLINGS, assert_same, conv, image, pool
from striate.engine import FORM, Pass
from striate.engine.aten import AtenBackend
from striate.geometry import ConvShape, PoolShape, Window


def zero_last_cell(tensor: Tensor) -> Tensor:
    spoilt = tensor.clone()
    spoilt[..., -1] = 0
    return spoilt


def shift_by_one(tensor: Tensor) -> Tensor:
    return tensor.roll(1, -1)


def leave_unwritten(tensor: Tensor) -> Tensor:
    spoilt = torch.empty_like(tensor)  # filled with NaN by the fixture of every test
    spoilt[..., 1:] = tensor[..., 1:]
    return spoilt


def forget_a_channel(tensor: Tensor) -> Tensor:
    spoilt = tensor.clone()
    spoilt[:, -1] = 0
    return spoilt


def a_little_off(tensor: Tensor) -> Tensor:
    return tensor * (1 + 1e-9)


SPOILERS = [zero_last_cell, shift_by_one, leave_unwritten, forget_a_channel, a_little_off]


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("open_", FORM)
def test_a_wrong_contraction_is_seen(spoil: Callable[[Tensor], Tensor], open_: Pass, monkeypatch) -> None:
    real = AtenBackend.contract
    monkeypatch.setattr(AtenBackend, "contract", lambda *arguments: spoil(real(*arguments)))
    red = 0
    for line in CONVOLUTIONS:
        try:
            test_convolution.check_pass(conv(line), open_)
        except AssertionError:
            red += 1
    assert red >= len(CONVOLUTIONS) // 2


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_a_wrong_pooling_is_seen(spoil: Callable[[Tensor], Tensor], kind: str, monkeypatch) -> None:
    lines = [line for line in POOLINGS if line.startswith(kind)]
    maximum, average = AtenBackend.maximum, AtenBackend.average
    monkeypatch.setattr(AtenBackend, "maximum", lambda *a: (spoil(maximum(*a)[0]), maximum(*a)[1]))
    monkeypatch.setattr(AtenBackend, "average", lambda *a: spoil(average(*a)))
    red = 0
    for line in lines:
        shape = pool(line)
        try:
            if kind == "max":
                test_pooling.check_max(shape, image(shape))
            else:
                test_pooling.check_average(shape)
        except AssertionError:
            red += 1
    assert red >= len(lines) // 2


def test_a_maximum_at_the_wrong_one_of_equals_is_seen(monkeypatch) -> None:
    real = AtenBackend.maximum

    def last_of_equals(self: AtenBackend, shape: PoolShape, x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = real(self, shape, x.flip(-1))
        width = shape.size[-1]
        return values.flip(-1), (indices // width * width + width - 1 - indices % width).flip(-1).to(indices.dtype)

    monkeypatch.setattr(AtenBackend, "maximum", last_of_equals)
    shape = pool("max_pool2d 1x2x8x8 kernel=2 stride=2")
    with pytest.raises(AssertionError):
        test_pooling.check_max(shape, torch.ones(shape.input_shape, dtype=torch.float64))


@pytest.mark.parametrize("open_", FORM)
def test_an_edge_shifted_by_one_is_seen(open_: Pass, monkeypatch) -> None:
    real = AtenBackend.contract

    def shifted(self: AtenBackend, shape: ConvShape, *rest) -> Tensor:
        swapped = [
            Window(w.kernel, w.stride, w.pads(n)[::-1], w.dilation)
            for w, n in zip(shape.windows, shape.size, strict=True)
        ]
        return real(self, replace(shape, windows=tuple(swapped)), *rest)

    monkeypatch.setattr(AtenBackend, "contract", shifted)
    for line in ("conv1d 2x2x6 2x2x4 padding=1:0", "conv2d 1x2x7x8 2x2x4x3 stride=2 padding=same"):
        with pytest.raises(AssertionError):
            test_convolution.check_pass(conv(line), open_)


def test_the_comparison_itself_sees_nan_shape_and_scale() -> None:
    one = torch.ones(3, dtype=torch.float64)
    assert_same(one, one)
    assert_same(one.float(), one + 1e-8)
    for wrong in (one[:2], one * torch.nan, one + 1e-12, torch.tensor([1.0, 1.0, torch.nan], dtype=torch.float64)):
        with pytest.raises(AssertionError):
            assert_same(wrong, one)
    with pytest.raises(AssertionError):
        assert_same(one, one * torch.nan)
    # a large neighbour doesn't excuse a small value's loss of everything
    with pytest.raises(AssertionError):
        assert_same(torch.tensor([1e3, 0.0]), torch.tensor([1e3, 0.01], dtype=torch.float64))
