"""Graph convolution: on grids it is the ordinary one, elsewhere its formula, node by node."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from striate.errors import GeometryError, OperandError
from striate.geometry import Window
from striate.nn import Conv2d, GraphConv, grid_adjacency


def as_graph(weight: torch.Tensor, bias: torch.Tensor | None) -> GraphConv:
    """The graph convolution with the weights of an ordinary one, (C_out, C_in, *kernel)."""
    taps = weight.flatten(2).permute(2, 0, 1)
    layer = GraphConv(weight.shape[1], weight.shape[0], len(taps), bias=bias is not None).to(weight.dtype)
    layer.load_state_dict({"weight": taps} | ({} if bias is None else {"bias": bias}))
    return layer


@pytest.mark.formula("F55")
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
@pytest.mark.parametrize(
    ("kernel", "padding", "dilation"),
    [((1, 1), 0, 1), ((3, 3), 1, 1), ((5, 3), (2, 1), 1), ((2, 4), 0, 1), ((3, 3), 2, 2), ((4, 4), "same", 1)],
)
def test_on_a_grid_it_is_the_ordinary_convolution(padding_mode: str, kernel: Any, padding: Any, dilation: int) -> None:
    conv = Conv2d(3, 4, kernel, padding=padding, dilation=dilation, padding_mode=padding_mode).double()
    layer, size = as_graph(conv.weight.detach(), conv.bias), (6, 7)
    adjacency = grid_adjacency(size, conv.windows, circular=padding_mode == "circular").double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = conv(x)
    assert expected.dim() == 4
    for form in (adjacency, adjacency.to_dense()):
        got = layer(x.flatten(2), form).unflatten(2, expected.shape[2:])
        torch.testing.assert_close(got, expected)
    g = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad(expected, x, g)
    got = layer(x.flatten(2), adjacency)
    gradients = torch.autograd.grad(got, [x, *layer.parameters()], g.flatten(2))
    torch.testing.assert_close(gradients[0], wanted)
    (weight, bias) = torch.autograd.grad(conv(x), [conv.weight, conv.bias], g)
    torch.testing.assert_close(gradients[1], weight.flatten(2).permute(2, 0, 1))
    torch.testing.assert_close(gradients[2], bias)


window = st.builds(
    Window, st.integers(1, 4), st.integers(1, 3), st.tuples(st.integers(0, 3), st.integers(0, 3)), st.integers(1, 2)
)


@given(st.lists(st.tuples(window, st.integers(1, 6)), min_size=1, max_size=3))
def test_any_window_on_any_grid(axes: list[tuple[Window, int]]) -> None:
    windows, size = (tuple(each) for each in zip(*axes, strict=True))
    if any(one.effective_kernel > n + sum(one.pads(n)) for one, n in axes):
        with pytest.raises(GeometryError):
            grid_adjacency(size, windows)
        return
    x, weight = torch.randn(2, 2, *size), torch.randn(3, 2, *(one.kernel for one in windows))
    padded = F.pad(x, [cells for one, n in reversed(axes) for cells in one.pads(n)])
    function = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    expected = function(padded, weight, None, [one.stride for one in windows], 0, [one.dilation for one in windows])
    got = as_graph(weight, None)(x.flatten(2), grid_adjacency(size, windows))
    torch.testing.assert_close(got, expected.flatten(2), rtol=1e-4, atol=1e-5)


@pytest.mark.formula("F55")
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_formula_edge_by_edge(relations: int, nodes: int, outputs: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = GraphConv(2, 3, relations)
    adjacency = torch.randn(relations, outputs, nodes) * (torch.rand(relations, outputs, nodes) < 0.5)
    x = torch.randn(2, 2, nodes)
    expected = torch.zeros(2, 3, outputs) + layer.bias.detach()[:, None]
    for relation in range(relations):
        for i in range(outputs):
            for j in range(nodes):
                expected[:, :, i] += adjacency[relation, i, j] * (x[:, :, j] @ layer.weight[relation].detach().T)
    beside = torch.cat(list(adjacency), 1)
    for form in (beside, beside.to_sparse(), beside.to_sparse_csr()):
        torch.testing.assert_close(layer(x, form).detach(), expected, rtol=1e-4, atol=1e-5)


def test_kipf_and_wellings_layer() -> None:
    edges = torch.tensor([[0, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]], dtype=torch.float64)
    closed = edges + torch.eye(4, dtype=torch.float64)
    scale = closed.sum(1).rsqrt()
    layer = GraphConv(3, 2, bias=False).double()
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    expected = torch.stack([closed @ (scale[:, None] * (one.T @ layer.weight[0].T)) for one in x])
    torch.testing.assert_close(layer(x, scale[:, None] * closed * scale), (scale[:, None] * expected).transpose(1, 2))


def test_renaming_the_nodes_renames_the_output() -> None:
    layer, order = GraphConv(2, 3, 2), torch.randperm(6)
    adjacency = torch.rand(2, 6, 6)
    x = torch.randn(1, 2, 6)
    renamed = adjacency[:, order][:, :, order]
    torch.testing.assert_close(
        layer(x[:, :, order], torch.cat(list(renamed), 1)), layer(x, torch.cat(list(adjacency), 1))[:, :, order]
    )


def test_initial_values_are_those_of_a_convolution() -> None:
    conv, layer = torch.nn.Conv2d(64, 64, 3), GraphConv(64, 64, 9)
    assert layer.weight.std().item() == pytest.approx(conv.weight.std().item(), rel=0.02)
    assert layer.weight.abs().max() <= 1 / (64 * 9) ** 0.5


def test_mistakes_are_one_line() -> None:
    with pytest.raises(GeometryError, match="0 relations"):
        GraphConv(1, 1, 0)
    with pytest.raises(GeometryError, match="1 windows for 2 axes"):
        grid_adjacency((3, 3), (Window(3),))
    layer = GraphConv(2, 3, 2)
    with pytest.raises(OperandError, match=r"needed \(N, 2, V\)"):
        layer(torch.zeros(1, 3, 4), torch.zeros(4, 8))
    with pytest.raises(OperandError, match="2 x 4 nodes"):
        layer(torch.zeros(1, 2, 4), torch.zeros(4, 4))
