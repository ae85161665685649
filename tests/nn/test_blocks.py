"""Blocks of networks against their formulas, with the layers of PyTorch itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn
from striate.errors import OperandError


def normalised(layer: torch.nn.Module, x: Tensor) -> Tensor:
    """Batch normalisation of equation 1 to 4, over the batch."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    weight, bias = (layer.get_parameter(name)[:, None, None] for name in ("weight", "bias"))
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def awake(module: torch.nn.Module) -> torch.nn.Module:
    """In float64 and with weights of normalisation that are neither 1 nor 0."""
    for parameter in module.double().parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return module


@pytest.mark.formula("F53")
def test_squeeze_and_excitation_is_equations_two_to_four() -> None:
    layer = awake(nn.SqueezeExcite(6, 2))
    x = torch.randn(3, 6, 4, 5, dtype=torch.float64)
    z = x.mean((2, 3))
    inner = torch.relu(z @ layer.fc1.weight[:, :, 0, 0].T + layer.fc1.bias)
    s = 1 / (1 + torch.exp(-(inner @ layer.fc2.weight[:, :, 0, 0].T + layer.fc2.bias)))
    torch.testing.assert_close(layer(x), x * s[:, :, None, None])


def test_stochastic_depth_drops_samples_and_keeps_the_mean() -> None:
    layer = nn.StochasticDepth(0.25)
    x = torch.ones(20_000, 2, 1, 1)
    output = layer(x)
    # whole samples are 0 or 4/3
    assert (output == output[:, :1]).all()
    assert output.unique().tolist() == pytest.approx([0, 4 / 3])
    assert output.mean().item() == pytest.approx(1, abs=0.02)
    assert layer.eval()(x) is x
    assert nn.StochasticDepth(0.0)(x) is x
    for p in (-0.1, 1.0):
        with pytest.raises(OperandError, match="needed a probability"):
            nn.StochasticDepth(p)


def test_a_convolution_with_norm_keeps_the_size() -> None:
    layer = nn.ConvNormActivation(2, 4, 5, groups=2, activation=torch.nn.ReLU6)
    assert [type(each).__name__ for each in layer] == ["Conv2d", "BatchNorm2d", "ReLU6"]
    assert layer[0].bias is None
    assert layer(torch.randn(2, 2, 9, 7)).shape == (2, 4, 9, 7)
    assert len(nn.ConvNormActivation(2, 4, activation=None)) == 2


@pytest.mark.formula("F43")
@pytest.mark.parametrize("squeeze", [None, 2])
@pytest.mark.parametrize(("in_channels", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_a_basic_block_is_two_convolutions_and_a_shortcut(in_channels: int, stride: int, squeeze: int | None) -> None:
    block = awake(nn.BasicBlock(in_channels, 4, stride, squeeze))
    x = torch.randn(2, in_channels, 8, 8, dtype=torch.float64)
    inner = torch.relu(normalised(block.bn1, F.conv2d(x, block.conv1.weight, stride=stride, padding=1)))
    output = normalised(block.bn2, F.conv2d(inner, block.conv2.weight, padding=1))
    if squeeze:
        output = block.se(output)
    shortcut = x
    if in_channels != 4 or stride != 1:
        shortcut = normalised(block.downsample[1], F.conv2d(x, block.downsample[0].weight, stride=stride))
    torch.testing.assert_close(block(x), torch.relu(output + shortcut))
    assert (block.downsample is None) == (in_channels == 4 and stride == 1)


@pytest.mark.parametrize("stride_first", [False, True])
def test_a_bottleneck_has_its_stride_where_it_is_told(stride_first: bool) -> None:
    block = awake(nn.Bottleneck(6, 3, 2, stride_first=stride_first))
    first, second = (2, 1) if stride_first else (1, 2)
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    inner = torch.relu(normalised(block.bn1, F.conv2d(x, block.conv1.weight, stride=first)))
    inner = torch.relu(normalised(block.bn2, F.conv2d(inner, block.conv2.weight, stride=second, padding=1)))
    output = normalised(block.bn3, F.conv2d(inner, block.conv3.weight))
    shortcut = normalised(block.downsample[1], F.conv2d(x, block.downsample[0].weight, stride=2))
    torch.testing.assert_close(block(x), torch.relu(output + shortcut))


@pytest.mark.parametrize(("out_channels", "stride", "expansion"), [(4, 1, 3), (4, 2, 3), (6, 1, 3), (4, 1, 1)])
def test_an_inverted_residual_joins_the_narrow_ends(out_channels: int, stride: int, expansion: int) -> None:
    block = awake(nn.InvertedResidual(4, out_channels, expansion, 5, stride, squeezed=2))
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    layers = list(block.block)
    inner = x
    if expansion != 1:
        conv, norm, _ = layers.pop(0)
        inner = F.relu6(normalised(norm, F.conv2d(inner, conv.weight)))
    conv, norm, _ = layers[0]
    inner = F.relu6(normalised(norm, F.conv2d(inner, conv.weight, stride=stride, padding=2, groups=4 * expansion)))
    conv, norm = layers[2]
    output = normalised(norm, F.conv2d(layers[1](inner), conv.weight))
    if out_channels == 4 and stride == 1:
        output = output + x
    torch.testing.assert_close(block(x), output)
    assert [type(layer).__name__ for layer in layers] == ["ConvNormActivation", "SqueezeExcite", "ConvNormActivation"]
