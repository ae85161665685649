"""Blurred and adaptive downsampling: against the definitions, other libraries, and under shifts."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from striate import nn
from striate.errors import GeometryError

SCIPY = {"reflect": "mirror", "circular": "grid-wrap", "zeros": "grid-constant"}


class Residual(torch.nn.Module):
    """A block whose two branches are thinned out alike."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = nn.Conv2d(channels, out_channels, 3, padding=1, padding_mode="circular")
        self.shortcut = nn.Conv2d(channels, out_channels, 1)
        self.down = nn.PolyphaseSampling2d(2)

    def forward(self, x: Tensor) -> Tensor:
        main = self.main(x).relu()
        phase = self.down.phase(main)
        result: Tensor = self.down(main, phase) + self.down(self.shortcut(x), phase)
        return result


@given(st.integers(1, 7), st.integers(1, 4), st.integers(7, 12), st.integers(7, 12), st.sampled_from(sorted(SCIPY)))
def test_blur_is_scipys_filter_thinned_out(kernel: int, stride: int, height: int, width: int, mode: str) -> None:
    torch.manual_seed(height * width)
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    row = [math.comb(kernel - 1, tap) / 2 ** (kernel - 1) for tap in range(kernel)]
    # scipy looks at k // 2 positions before and the others behind: an origin of -1 turns that around for even kernels
    expected = x.numpy()
    for axis in (2, 3):
        expected = ndimage.correlate1d(expected, row, axis, mode=SCIPY[mode], origin=-1 if kernel % 2 == 0 else 0)
    found = nn.BlurPool2d(3, kernel, stride, mode).double()(x)
    assert found.shape[2:] == (-(-height // stride), -(-width // stride))
    torch.testing.assert_close(found, torch.from_numpy(expected)[:, :, ::stride, ::stride].contiguous())


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.usefixtures("peer")  # timm imports torchvision
def test_blur_of_odd_kernels_is_timms(kernel: int) -> None:
    pytest.importorskip("timm")
    theirs = importlib.import_module("timm.layers").BlurPool2d(4, filt_size=kernel, stride=2)
    x = torch.randn(2, 4, 14, 11)
    torch.testing.assert_close(nn.BlurPool2d(4, kernel)(x), theirs(x))


def test_blur_keeps_means_and_wipes_out_the_checkerboard() -> None:
    x = torch.randn(1, 2, 8, 8)
    blur = nn.BlurPool2d(2, 4, padding_mode="circular")
    flat = torch.full((1, 2, 8, 8), 3.0)
    torch.testing.assert_close(blur(flat), torch.full((1, 2, 4, 4), 3.0))
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(1, 2, 4, 4)
    torch.testing.assert_close(blur(x + 5 * checkers), blur(x))


def phases_one_by_one(x: Tensor, stride: int, order: float) -> tuple[list[int], Tensor]:
    kept, outputs = [], []
    for image in x:
        parts = [image[:, row::stride, column::stride] for row in range(stride) for column in range(stride)]
        norms = [part.abs().max().item() if math.isinf(order) else (part.abs() ** order).sum().item() for part in parts]
        kept.append(max(range(len(parts)), key=norms.__getitem__))
        outputs.append(parts[kept[-1]])
    return kept, torch.stack(outputs)


@given(st.integers(1, 4), st.sampled_from([0.5, 1, 2, 3, math.inf]), st.integers(1, 3), st.integers(1, 3))
def test_polyphase_keeps_the_strongest_phase(stride: int, order: float, height: int, width: int) -> None:
    torch.manual_seed(height + 5 * width)
    x = torch.randn(4, 3, stride * height, stride * width, dtype=torch.float64)
    kept, expected = phases_one_by_one(x, stride, order)
    down = nn.PolyphaseSampling2d(stride, order)
    assert down.phase(x).tolist() == kept
    assert torch.equal(down(x), expected)


@given(st.integers(0, 11), st.integers(0, 11))
def test_polyphase_moves_with_the_image(dy: int, dx: int) -> None:
    torch.manual_seed(2)
    x = torch.randn(5, 2, 12, 12)
    down = nn.PolyphaseSampling2d(3)
    before, after = down(x), down(x.roll((dy, dx), (2, 3)))
    for one, other in zip(before, after, strict=True):
        rolled = [one.roll((a, b), (1, 2)) for a in (dy // 3, -(-dy // 3)) for b in (dx // 3, -(-dx // 3))]
        assert any(torch.equal(other, each) for each in rolled)


def test_branches_that_share_a_phase_stay_together() -> None:
    x = torch.randn(4, 2, 16, 16)
    block = torch.nn.Sequential(Residual(2, 4), Residual(4, 5))
    expected = block(x).mean((2, 3))
    for dy in range(4):
        for dx in range(4):
            torch.testing.assert_close(block(x.roll((dy, dx), (2, 3))).mean((2, 3)), expected)


def test_branches_with_a_phase_each_fall_apart() -> None:
    block, x = Residual(2, 4), torch.randn(4, 2, 16, 16)

    def apart(x: Tensor) -> Tensor:
        result: Tensor = (block.down(block.main(x).relu()) + block.down(block.shortcut(x))).relu().mean((2, 3))
        return result

    moved = [apart(x.roll((dy, dx), (2, 3))) for dy in range(2) for dx in range(2)]
    assert any(not torch.allclose(each, moved[0], rtol=0.01) for each in moved[1:])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: nn.BlurPool2d(2, 3, padding_mode="circular"), marks=pytest.mark.slow),
        lambda: Residual(2, 3),
    ],
)
def test_gradients_compilers_and_exporters(make: Any) -> None:
    layer = make().double()
    x = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    expected = layer(x)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
    torch.testing.assert_close(torch.export.export(layer, (x.detach(),)).module()(x), expected)


def test_only_what_was_kept_has_a_gradient() -> None:
    x = torch.randn(3, 2, 8, 8, requires_grad=True)
    nn.PolyphaseSampling2d(2)(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum((2, 3)), torch.full((3, 2), 16.0))


def test_layers_carry_no_state_and_follow_their_network() -> None:
    assert not nn.BlurPool2d(3).state_dict()
    assert nn.BlurPool2d(3).to(torch.bfloat16)(torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert repr(nn.BlurPool2d(3)) == "BlurPool2d(3, kernel_size=4, stride=2, padding_mode='reflect')"
    assert repr(nn.PolyphaseSampling2d(3, math.inf)) == "PolyphaseSampling2d(stride=3, order=inf)"
    flat = F.avg_pool2d(x := torch.randn(1, 3, 8, 8), 2)
    torch.testing.assert_close(nn.BlurPool2d(3, 2)(x), flat)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nn.BlurPool2d(3, padding_mode="replicate"),
            "BlurPool2d: got padding_mode 'replicate'; needed reflect",
        ),
        (lambda: nn.BlurPool2d(3, 0), "BlurPool2d, axis H: kernel is 0"),
        (lambda: nn.BlurPool2d(3, stride=0), "BlurPool2d, axis H: stride is 0"),
        (lambda: nn.BlurPool2d(3)(torch.zeros(1, 3, 2, 8)), "got a map of 2x8; needed 3 positions a side for reflect"),
        (lambda: nn.BlurPool2d(3)(torch.zeros(1, 4, 8, 8)), "conv2d"),
        (lambda: nn.PolyphaseSampling2d(0), "PolyphaseSampling2d, axis H: stride is 0"),
        (lambda: nn.PolyphaseSampling2d(order=0), "order is 0; needed more than 0"),
        (lambda: nn.PolyphaseSampling2d()(torch.zeros(1, 3, 7, 8)), "got 1x3x7x8; needed .* H and W divisible by 2"),
        (lambda: nn.PolyphaseSampling2d()(torch.zeros(3, 8, 8)), r"got 3x8x8; needed \(N, C, H, W\)"),
    ],
)
def test_mistakes(call: Any, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        call()
