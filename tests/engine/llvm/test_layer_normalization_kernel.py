"""The kernel of layer normalisation: rows of every length and kind of numbers, with PyTorch's error as the measure."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from striate.engine.llvm.codegen.ir import real_word
from striate.engine.llvm.codegen.isa import the_isa
from striate.engine.llvm.normalization import layer as layer_normalization

EPS = torch.finfo(torch.float32).eps
#: Below, at and beyond vectors and stretches of 4, 8 and 16 lanes.
LENGTHS = [1, 2, 3, 5, 16, 33, 96, 255, 256, 259, 512, 515, 768, 1024, 1029, 2048, 5000]


def rows(channels: int) -> dict[str, Tensor]:
    r = torch.randn(5, channels)
    found = {
        "around 0": r,
        "off": 100 + r,
        "far off": 1e4 + 0.01 * r,
        "as far as float32 has digits": -1e6 + 0.3 * r,
        "equal": torch.full((5, channels), 0.1),
        "two values": 1e3 + (r > 1).float(),
        "many scales": (3 * r).exp(),
    }
    for where in (0, channels // 2, channels - 1):
        one = r.clone()
        one[:, where] = 3e3
        black = 100 + 0.01 * r
        black[:, where] = 0.0
        found |= {f"bright at {where}": one, f"black at {where}": black}
    return found


def normalised(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """By the kernel, in two items."""
    many, channels = x.shape
    padded = torch.full((many * channels + 64,), 7.0)
    maps = {"x": x.data_ptr(), "scale": weight.data_ptr(), "shift": bias.data_ptr(), "y": padded.data_ptr()}
    sizes = {"channels": channels, "rows": many, "block": 3}
    layer_normalization.kernel(the_isa())(2, 1, **maps, **sizes, epsilon=real_word(eps))
    assert (padded[-64:] == 7).all()
    return padded[:-64].view(many, channels)


def check(channels: int) -> None:
    weight, bias = torch.randn(channels), torch.randn(channels)
    for name, x in rows(channels).items():
        apart = x.double() - x[:, :1].double()
        apart = apart - apart.mean(1, keepdim=True)
        plain = apart / (apart.square().mean(1, keepdim=True) + 1e-6).sqrt()
        expected = plain * weight + bias
        found = normalised(x, weight, bias, 1e-6)
        theirs = F.layer_norm(x, (channels,), weight, bias, 1e-6)
        least = 4 * EPS * (plain.abs() * weight.abs() + bias.abs()).max().item()
        allowed = max(least, 1.1 * (theirs - expected).abs().max().item())
        assert (found - expected).abs().max().item() <= allowed, name


@pytest.mark.parametrize("channels", LENGTHS)
def test_rows_of_every_length_and_kind(channels: int) -> None:
    check(channels)


@pytest.mark.usefixtures("narrower")
def test_every_instruction_set() -> None:
    for channels in LENGTHS:
        check(channels)


def test_equal_numbers_leave_the_bias_alone() -> None:
    for value in (0.1, 1e4 / 3, -1e6 / 7):
        for channels in (3, 96, 770):
            bias = torch.randn(channels)
            found = normalised(torch.full((4, channels), value), torch.ones(channels), bias, 1e-6)
            torch.testing.assert_close(found, bias.expand(4, channels), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_stay_in_their_row(value: float) -> None:
    clean = torch.randn(5, 37)
    stained = clean.clone()
    stained[2, 11] = value
    weight, bias = torch.randn(37), torch.randn(37)
    before, after = (normalised(x, weight, bias, 1e-6) for x in (clean, stained))
    assert torch.equal(before[[0, 1, 3, 4]], after[[0, 1, 3, 4]])
    assert torch.equal(after.isnan(), F.layer_norm(stained, (37,), weight, bias, 1e-6).isnan())
