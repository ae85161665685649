"""Convolution, activation and max pooling in one are the three of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from striate.ops.conv_pool import conv_max_pool

ACTIVATIONS = {"": lambda x: x, "relu": F.relu, "relu6": F.relu6}
CONVOLUTIONS = [(1, 0, 1, 1), (2, 1, 1, 2), (1, 2, 2, 1)]
POOLINGS = [(2, None, 0, 1, False), (3, 2, 1, 1, True), (2, 1, 0, 2, False)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_it_is_convolution_activation_and_pooling(
    activation: str, dims: int, convolution: tuple[int, ...], pooling: tuple
) -> None:
    torch.manual_seed(0)
    groups = convolution[3]
    # Few values, so that windows have ties among what is clamped and what isn't.
    x = torch.randint(-2, 3, (2, 4, *[13] * dims)).float().requires_grad_()
    weight = torch.randint(-2, 3, (6, 4 // groups, *[3] * dims)).float().requires_grad_()
    bias = torch.zeros(6, requires_grad=True)
    y = conv_max_pool(x, weight, bias, *convolution, activation, *pooling)
    mapped = ACTIVATIONS[activation](getattr(F, f"conv{dims}d")(x, weight, bias, *convolution))
    expected = getattr(F, f"max_pool{dims}d")(mapped, *pooling)
    torch.testing.assert_close(y, expected)
    upstream = torch.arange(float(y.numel())).reshape(y.shape) % 7 - 3
    mine = torch.autograd.grad(y, (x, weight, bias), upstream)
    theirs = torch.autograd.grad(expected, (x, weight, bias), upstream)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)
