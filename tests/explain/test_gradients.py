"""Attribution by gradients: against weights of linear networks, dense restatements, sum rules and captum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from explained_networks import Functional, Nested
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from striate import explain
from striate.errors import ExplainError

captum = pytest.importorskip("captum.attr")


class Plain(nn.Module):
    """ReLU layers that are used once each and aren't in place, as captum needs them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(2, 6, 3), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8 * 2 * 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        return self.fc(self.pool(self.relu2(self.conv2(x))).flatten(1))


@pytest.fixture
def model() -> Plain:
    return Plain().double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 12, 12, dtype=torch.float64)


TARGETS = [2, [0, 3, 1]]


@pytest.mark.formula("S27")
@pytest.mark.parametrize("target", TARGETS)
def test_captum_agrees(model: Plain, x: Tensor, target: int | list[int]) -> None:
    pairs = [
        (explain.saliency, captum.Saliency(model), {"abs": False}),
        (explain.input_x_gradient, captum.InputXGradient(model), {}),
        (explain.guided_backprop, captum.GuidedBackprop(model), {}),
        (explain.deconvnet, captum.Deconvolution(model), {}),
    ]
    for method, peer, options in pairs:
        expected = peer.attribute(x.clone().requires_grad_(), target=target, **options).detach()
        assert torch.allclose(method(model, x, target).values, expected, atol=1e-12), method.__name__
    expected = captum.IntegratedGradients(model).attribute(x, target=target, n_steps=20, method="gausslegendre")
    found = explain.integrated_gradients(model, x, target, steps=20, batch_size=7)
    assert torch.allclose(found.values, expected, atol=1e-10)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2))
def test_a_linear_network_is_explained_by_its_weights(channels: int, height: int, width: int, target: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 3)).double()
    x = torch.randn(2, channels, height, width, dtype=torch.float64)
    weights = network[1].weight[target].detach().view(channels, height, width)
    assert torch.equal(explain.saliency(network, x, target).map[1], weights.abs().amax(0))
    shares = weights * x
    for method in (explain.input_x_gradient, explain.integrated_gradients):
        found = method(network, x, target)
        assert torch.allclose(found.values, shares, atol=1e-12)
        assert torch.allclose(found.map, shares.sum(1), atol=1e-12)
    assert torch.allclose(explain.smooth_grad(network, x, target, samples=3).values, weights.expand_as(x))


def rectified_by_hand(m: Nested, x: Tensor, category: int, rule: str) -> Tensor:
    """The way back written out layer by layer, each one's transposed operation in full."""

    def relu_back(g: Tensor, before: Tensor) -> Tensor:
        opened = (before > 0).to(g) if rule == "guided" else torch.ones_like(g)
        return g.clamp_min(0) * opened

    norm = m.stem[1]
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(1, -1, 1, 1)
    shift = (norm.bias - norm.running_mean * scale.flatten()).view(1, -1, 1, 1)
    a = m.stem[0](x) * scale + shift
    b = m.body["block"][0](a.relu())
    c = m.last(a.relu() + b.relu())
    g = (m.fc.weight[category] / c[0, 0].numel()).view(1, -1, 1, 1).expand_as(c)
    g = F.conv_transpose2d(relu_back(g, c), m.last.weight, stride=2, padding=1, output_padding=1)
    through = F.conv_transpose2d(relu_back(g, b), m.body["block"][0].weight, padding=1)
    g = relu_back(g + through, a) * scale
    return F.conv_transpose2d(g, m.stem[0].weight, padding=1)


@pytest.mark.parametrize("rule", ["guided", "deconvolved"])
def test_rectified_gradients_against_a_dense_restatement(rule: str) -> None:
    model = Nested().double().eval()
    model.stem[1].running_mean.normal_()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    method = explain.guided_backprop if rule == "guided" else explain.deconvnet
    expected = rectified_by_hand(model, x, 3, rule).detach()
    assert expected.any()
    for form in (model, Functional(model)):  # in-place layers, and functional calls
        assert torch.allclose(method(form, x, 3).values, expected, atol=1e-12)
    assert not torch.allclose(explain.saliency(model, x, 3).values, expected)


def test_relu6_is_a_rectifier_and_a_hard_tanh_is_not() -> None:
    first = nn.Conv2d(1, 3, 3).double()
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64) * 3
    for back in (nn.ReLU6(), nn.ReLU6(inplace=True)):
        network = nn.Sequential(first, back, nn.Flatten(), nn.Linear(48, 2).double())
        before = first(x)
        g = network[3].weight[0].view(1, 3, 4, 4) * ((before > 0) & (before < 6))
        expected = F.conv_transpose2d(g.clamp_min(0), first.weight)
        assert torch.allclose(explain.guided_backprop(network, x, 0).values, expected.detach())
    other = nn.Sequential(first, nn.Hardtanh(), nn.Flatten())
    with pytest.raises(ExplainError, match="the network has no ReLU on the way"):
        explain.guided_backprop(other, x, 0)


@given(st.integers(0, 2**31), st.floats(-1, 1))
def test_integrated_gradients_are_complete(seed: int, baseline: float) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Sigmoid(), nn.Flatten()).double()
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    found = explain.integrated_gradients(network, x, 5, baseline=baseline, tolerance=1e-4)
    difference = (network(x) - network(torch.full_like(x, baseline)))[:, 5].detach()
    assert found.measures["score difference"] == pytest.approx(difference.tolist())
    assert torch.allclose(found.map.sum((1, 2)), difference, rtol=1e-4, atol=1e-12)
    assert found.notes == ()


def test_a_gap_is_told() -> None:
    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x > 0.5).to(x).flatten(1) + 1e-3 * x.flatten(1)

    found = explain.integrated_gradients(Step(), torch.ones(1, 2, 2), 0)
    assert found.measures["completeness gap"][0] == pytest.approx(-1.0)
    assert found.measures["steps"] == (256.0,)
    assert "miss the score's difference by more than 5%" in found.notes[0]
    assert len(explain.integrated_gradients(Step(), torch.ones(1, 2, 2), 0, steps=2).notes) == 1


def test_smooth_grad_is_the_mean_over_noise(model: Plain, x: Tensor) -> None:
    found = explain.smooth_grad(model, x, 1, samples=5, noise=0.2, seed=3, batch_size=4)
    generator = torch.Generator().manual_seed(3)
    shifts = torch.cat([torch.randn(n, 2, 12, 12, generator=generator) for n in (4, 4, 4, 3)]).double()
    spread = 0.2 * (x.amax((1, 2, 3), True) - x.amin((1, 2, 3), True))
    noisy = (x[:, None] + spread[:, None] * shifts.view(3, 5, 2, 12, 12)).requires_grad_()
    (gradient,) = torch.autograd.grad(model(noisy.flatten(0, 1))[:, 1].sum(), noisy)
    assert torch.allclose(found.values, gradient.mean(1))
    assert torch.equal(found.map, found.values.abs().amax(1))
    assert torch.allclose(explain.smooth_grad(model, x, 1, noise=0).values, explain.saliency(model, x, 1).values)
    assert torch.equal(explain.smooth_grad(model, x, 1, seed=4).map, explain.smooth_grad(model, x, 1, seed=4).map)
    assert not torch.equal(explain.smooth_grad(model, x, 1, seed=5).map, explain.smooth_grad(model, x, 1, seed=4).map)


def test_never_more_at_once_than_the_batch_size(model: Plain, x: Tensor) -> None:
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    explain.smooth_grad(model, x, samples=10, batch_size=4)
    explain.integrated_gradients(model, x, batch_size=4, steps=9)
    explain.occlusion(model, x, batch_size=4)
    explain.rise(model, x, masks=9, batch_size=4)
    explain.score_cam(model, x, batch_size=4)
    assert max(sizes) == 4


def test_a_zero_gradient_is_told() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Flatten())
    nn.init.constant_(network[0].bias, -100.0)
    with pytest.warns(explain.ExplainWarning, match="saliency: image 0, 1: the map is empty"):
        found = explain.saliency(network, torch.rand(2, 1, 3, 3), 0)
    assert not found.map.any()
    assert "empty" in found.notes[0]


def test_numbers_that_are_not_finite_are_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).half()
    network[1].weight.data.fill_(60000.0)
    with pytest.raises(ExplainError, match="NaN or infinite"):
        explain.saliency(network, torch.ones(1, 2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: explain.smooth_grad(m, x, samples=0), "0 samples"),
        (lambda m, x: explain.smooth_grad(m, x, noise=float("nan")), "noise: got nan; needed a finite number"),
        (lambda m, x: explain.smooth_grad(m, x, batch_size=0), "batch_size: got 0"),
        (lambda m, x: explain.integrated_gradients(m, x, steps=0), "0 steps"),
        (lambda m, x: explain.integrated_gradients(m, x, baseline=torch.zeros(5)), r"baseline: got \(5,\)"),
    ],
)
def test_options_that_will_not_do(model: Plain, x: Tensor, call: object, message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        call(model, x)  # type: ignore[operator]
