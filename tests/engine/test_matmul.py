"""Convolutions as matrix products, against the reference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cases import assert_same, conv, operands
from striate import engine, ops
from striate.engine import FORM, Pass, matmul, reference
from striate.engine.matmul import MatmulBackend
from striate.geometry import ConvShape

BACKEND = MatmulBackend()
WHOLE = [
    "conv2d 5x4x5x5 7x4x5x5",
    "conv2d 1x3x4x2 1x3x4x2",
    "conv1d 3x2x6 4x2x6",
    "conv3d 2x2x2x3x4 3x2x2x3x4",
    "conv2d 4x6x1x1 5x6x1x1",
    "conv2d 4x6x1x1 5x6x1x1 stride=2 dilation=3",
    "conv2d 2x1x3x3 4x1x3x3 stride=5",
]
SINGLE = ["conv2d 3x4x5x6 7x4x1x1", "conv1d 2x3x9 5x3x1", "conv3d 2x3x2x3x4 5x3x1x1x1", "conv2d 1x1x1x9 1x1x1x1"]
APART = [
    "conv2d 2x3x8x12 5x3x4x4 stride=4",
    "conv2d 3x2x7x11 4x2x2x3 stride=2x3",
    "conv2d 2x3x4x9 5x3x4x2 stride=1x2",
    "conv2d 2x3x6x6 4x3x1x1 stride=1x1 dilation=2",
    "conv1d 2x3x11 4x3x2 stride=2",
    "conv2d 1x2x5x4 3x2x3x4 stride=7",
    "conv2d 2x3x7x8 4x3x1x2 stride=2x3",
    "conv2d 2x3x8x8 4x3x1x1 stride=2",
    "conv3d 2x2x4x5x4 3x2x2x2x2 stride=2",
]
TAPS = [
    "conv2d 3x32x2x2 33x32x3x3 padding=1",
    "conv2d 2x32x4x5 34x32x3x3 stride=2 padding=1",
    "conv2d 2x33x7x3 32x33x2x3 stride=3x1 padding=0:2x3:1 dilation=2x1",
    "conv2d 1x32x3x3 32x32x5x5 padding=2",
    "conv2d 1x32x2x2 32x32x3x3 padding=4",
    "conv1d 2x32x9 40x32x4 stride=2 padding=1",
    "conv3d 1x32x2x2x2 32x32x2x2x2 padding=1",
]
OTHERS = {
    "conv2d 2x3x5x5 4x3x4x4": "32 channels",
    "conv2d 2x32x9x9 32x32x3x3 padding=1": "64 positions",
    "conv2d 2x32x9x9 32x32x6x6": "25 taps",
    "conv2d 2x4x3x3 4x2x3x3 groups=2": "groups",
    "conv2d 0x4x3x3 4x4x3x3": "empty",
    "max_pool2d 1x1x2x2 kernel=2": "computes convolutions only",
}


@pytest.mark.parametrize("line", WHOLE + SINGLE + APART + TAPS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("open_", FORM)
def test_against_the_reference(line: str, channels_last: bool, open_: Pass) -> None:
    shape = conv(line)
    assert BACKEND.refusal(shape, open_, torch.float32, "cpu") is None
    made = operands(shape, torch.float32)
    if channels_last and shape.dims == 2:
        made = {role: t.contiguous(memory_format=torch.channels_last) for role, t in made.items()}
    first, second = (made[role] for role in FORM if role is not open_)
    expected = reference.contract(shape, open_, first, second)
    bias = None if open_ is Pass.WEIGHT_GRAD else torch.randn(expected.shape[1])
    if bias is not None:
        expected = expected + bias.double().reshape(-1, *[1] * shape.dims)
    found = BACKEND.contract(shape, open_, first, second, bias, channels_last)
    assert_same(found, expected, max(8, shape.macs))
    assert found._base is None, "results may be changed in place"


def test_many_images_are_added_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_MATRICES", 2 * 7 * 4)
    shape = conv("conv2d 5x4x5x6 7x4x1x1")
    x, _, g = (operands(shape, torch.float32)[role] for role in (Pass.INPUT_GRAD, Pass.WEIGHT_GRAD, Pass.OUTPUT))
    found = BACKEND.contract(shape, Pass.WEIGHT_GRAD, x, g, None)
    assert_same(found, reference.contract(shape, Pass.WEIGHT_GRAD, x, g), shape.macs)


@pytest.mark.parametrize("line", OTHERS)
def test_all_others_are_refused(line: str) -> None:
    told = engine.explain(line).refusals[Pass.OUTPUT]["matmul"]
    assert told is not None
    assert OTHERS[line] in told


def test_it_is_what_computes_them() -> None:
    assert set(engine.explain("conv2d 8x16x5x5 120x16x5x5").chosen.values()) == {"matmul"}
    assert engine.explain("conv2d 8x16x5x5 120x16x5x5", torch.float16).chosen[Pass.OUTPUT] == "aten"
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.conv2d, (x, w))
    assert torch.autograd.gradgradcheck(ops.conv2d, (x, w))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("biased", [False, True])
def test_a_window_that_sees_all_of_an_image_is_a_linear_layer(layout: torch.memory_format, biased: bool) -> None:
    x, w, b = (torch.randn(size, requires_grad=True) for size in ((3, 4, 5, 6), (7, 4, 5, 6), (7,)))
    operands = [x, w, b] if biased else [x, w]
    shown = x.contiguous(memory_format=layout)
    y = ops.conv2d(shown, w, b if biased else None)
    assert "ViewBackward" in y.grad_fn.name()
    expected = F.conv2d(x, w, b if biased else None)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(*(torch.autograd.grad(z.sin().sum(), operands) for z in (y, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    ops.conv2d(shown.detach(), w).relu_().sum().backward()
    with torch.no_grad():
        constant = ops.conv2d(shown, w)
    # What PyTorch allows of its own convolution.
    constant.add_(torch.ones(1, requires_grad=True)).sum().backward()
    with engine.use("matmul"):
        assert ops.conv2d(shown, w).grad_fn.name() == "_ContractionBackward"


def test_a_planted_bug_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ConvShape.parse(WHOLE[0])
    x, w = (operands(shape, torch.float32)[role] for role in (Pass.INPUT_GRAD, Pass.WEIGHT_GRAD))
    wrong = BACKEND.contract(shape, Pass.OUTPUT, x, w.flip(2), None)
    with pytest.raises(AssertionError):
        assert_same(wrong, reference.contract(shape, Pass.OUTPUT, x, w), shape.macs)
