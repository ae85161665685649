"""Self-attention against torch.nn's, against its formula, and against what it must not care for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from striate.errors import GeometryError
from striate.nn import LayerNorm2d, SelfAttention, SelfAttention2d


@pytest.mark.formula("F54")
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 3), st.integers(1, 4))
def test_it_is_torchs_multihead_attention(images: int, length: int, heads: int, depth: int) -> None:
    theirs = torch.nn.MultiheadAttention(heads * depth, heads, batch_first=True).double()
    ours = SelfAttention(heads * depth, heads).double()
    torch.nn.init.normal_(theirs.in_proj_bias)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(images, length, heads * depth, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_initial_values_are_spread_as_torchs() -> None:
    theirs, ours = torch.nn.MultiheadAttention(256, 4), SelfAttention(256, 4)
    for name, parameter in ours.named_parameters():
        assert parameter.std().item() == pytest.approx(theirs.get_parameter(name).std().item(), rel=0.02, abs=1e-9)


def loops(layer: SelfAttention2d, x: torch.Tensor) -> torch.Tensor:
    """Equation 3 of the CoAtNet paper, a position and a head at a time."""
    _, channels, height, width = x.shape
    wide = layer.out_proj.in_features
    depth = wide // layer.heads
    places = [(y, c) for y in range(height) for c in range(width)]
    q, k, v = ((layer.in_proj_weight @ x[0].reshape(channels, -1)).T + layer.in_proj_bias).split(wide, 1)
    mixed = torch.zeros_like(q)
    for head in range(layer.heads):
        part = slice(head * depth, (head + 1) * depth)
        for i, (y, c) in enumerate(places):
            scores = []
            for j, (other_y, other_c) in enumerate(places):
                bias = layer.relative_bias[head, y - other_y + height - 1, c - other_c + width - 1]
                scores.append(q[i, part] @ k[j, part] / math.sqrt(depth) + bias)
            mixed[i, part] = torch.stack(scores).softmax(0) @ v[:, part]
    output = mixed @ layer.out_proj.weight.T + layer.out_proj.bias
    return output.T.reshape(1, wide, height, width)


@pytest.mark.parametrize(("height", "width", "out_channels"), [(2, 3, None), (3, 2, 8), (1, 4, 2)])
def test_relative_positions_are_the_papers(height: int, width: int, out_channels: int | None) -> None:
    layer = SelfAttention2d(4, 2, out_channels, size=(height, width)).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 4, height, width, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), loops(layer, x))


def test_without_positions_it_follows_any_shuffle() -> None:
    layer = SelfAttention2d(6, 3).double()
    x, order = torch.randn(2, 6, 4, 5, dtype=torch.float64), torch.randperm(20)
    shuffled = x.flatten(2)[:, :, order].unflatten(2, (4, 5))
    torch.testing.assert_close(layer(shuffled), layer(x).flatten(2)[:, :, order].unflatten(2, (4, 5)))
    with_positions = SelfAttention2d(6, 3, size=(4, 5)).double()
    torch.nn.init.normal_(with_positions.relative_bias)
    assert not torch.allclose(
        with_positions(shuffled), with_positions(x).flatten(2)[:, :, order].unflatten(2, (4, 5)), atol=1e-3
    )


def test_gradients_by_finite_differences() -> None:
    layer = SelfAttention2d(4, 2, size=(2, 3)).double()
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, bias: layer(x) + 0 * bias.sum(), (x, layer.relative_bias))
    layer(x).square().sum().backward()
    assert layer.relative_bias.grad is not None
    assert layer.relative_bias.grad.any()


def test_resize_keeps_the_corners_and_the_centre() -> None:
    layer = SelfAttention2d(4, 2, size=(3, 4))
    before = layer.relative_bias.detach().clone()
    layer.resize((5, 7))
    after = layer.relative_bias.detach()
    assert after.shape == (2, 9, 13)
    for row, column in ((0, 0), (-1, -1), (0, -1)):
        torch.testing.assert_close(after[:, row, column], before[:, row, column])
    torch.testing.assert_close(after[:, 4, 6], before[:, 2, 3])
    assert layer(torch.zeros(1, 4, 5, 7)).shape == (1, 4, 5, 7)
    layer.resize((3, 4))
    torch.testing.assert_close(layer.relative_bias.detach(), before)


def test_mistakes_are_one_line() -> None:
    with pytest.raises(GeometryError, match="got 4 channels, 3 heads"):
        SelfAttention(4, 3)
    with pytest.raises(GeometryError, match="got 7 channels, 2 heads"):
        SelfAttention2d(4, 2, 7)
    with pytest.raises(GeometryError, match="0 heads"):
        SelfAttention(4, 0)
    with pytest.raises(GeometryError, match="got a map of 3x3; needed 3x4"):
        SelfAttention2d(4, 2, size=(3, 4))(torch.zeros(1, 4, 3, 3))


def test_layer_norm_of_maps_is_that_of_each_position() -> None:
    layer, x = LayerNorm2d(5, eps=1e-3), torch.randn(2, 5, 3, 4)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    expected = (x - mean) / (variance + 1e-3).sqrt() * layer.weight.view(5, 1, 1) + layer.bias.view(5, 1, 1)
    torch.testing.assert_close(layer(x), expected)
