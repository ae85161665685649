"""The trace: nothing of the model is touched, whatever happens, and mistakes are one line that names the layer."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import networks
from striate import engine, models
from striate.analysis import effective_receptive_field, receptive_field, summarize
from striate.analysis.trace import trace
from striate.errors import AnalysisError


def state(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that an analysis could have spoilt."""
    return {
        "mode": [layer.training for layer in model.modules()],
        "hooks": [(len(layer._forward_hooks), len(layer._forward_pre_hooks)) for layer in model.modules()],
        "tensors": [(id(t), t.clone(), t.requires_grad, t.device) for t in (*model.parameters(), *model.buffers())],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "attributes": [sorted(vars(layer)) for layer in model.modules()],
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "grad mode": torch.is_grad_enabled(),
        "random": torch.get_rng_state(),
    }


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name in before:
        if name == "tensors":
            for (one, values, *rest), (other, now, *now_rest) in zip(before[name], after[name], strict=True):
                assert one == other
                assert rest == now_rest
                assert torch.equal(values, now)
        elif name == "random":
            assert torch.equal(before[name], after[name])
        elif name == "grads":
            assert all(a is b or torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True))
        else:
            assert before[name] == after[name], name


class Fails(nn.Module):
    """Falls over in its second layer, after the first has run."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(5, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Remembers(nn.Module):
    """Keeps what it saw, as attention layers made for pictures do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.conv(x)
        return self.seen


class Closure(nn.Module):
    """Reaches a layer through a function, which a copy of the network shares with it."""

    def __init__(self) -> None:
        super().__init__()
        layers = self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.act = lambda x: layers(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


def test_closures_are_followed_and_their_layers_left_alone() -> None:
    model = Closure().train()
    before = state(model)
    summary = summarize(model, (3, 32, 32))
    assert (summary.unused, summary.macs) == ((), 4 * 27 * 30 * 30)
    assert_unchanged(before, state(model))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "build", [lambda: networks.ResNet(18, width=4, classes=3), networks.Transformer, Fails, Remembers]
)
def test_the_model_is_left_as_found(build: Any, training: bool) -> None:
    model = build().train(training)
    if not isinstance(model, Fails):
        model(torch.rand(2, 3, 32, 32))[0].sum().backward()
    if isinstance(model, Remembers):
        model.seen = None
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    before = state(model)
    for act in (summarize, receptive_field):
        if isinstance(model, Fails):
            with pytest.raises(AnalysisError, match=r"^inner\.2: "):
                act(model, (3, 32, 32))
        else:
            act(model, (3, 32, 32))
    if isinstance(model, Remembers):
        assert model.seen is None
        effective_receptive_field(model, torch.ones(1, 3, 8, 8), "conv")
        assert model.seen is None
    assert_unchanged(before, state(model))


class Steered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(1, 1, 3)
        self.choice = Choice()

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(self.inner(x))


class Choice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (Steered(), (1, 8, 8), r"^choice: values steer the computation .*shapes only"),
        (networks.ResNet(18, width=4), (1, 64, 64), r"^conv1: 1x1x64x64 doesn't go through"),
        (models.create("lenet5"), (1, 8, 8), r"^c3: conv2d, axis H: kernel 5"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(3)), (1, 4, 4), r"^1: "),
        (nn.Sequential(nn.Conv2d(1, 1, 9)), (1, 4, 4), r"^0: "),
        (torch.jit.script(nn.Conv2d(1, 1, 3)), (1, 4, 4), r"^\(network\): is compiled by TorchScript"),
        (nn.Conv2d(1, 1, 3), (0, 4, 4), r"^input size: got \(0, 4, 4\)"),
        (nn.Conv2d(1, 1, 3), (), r"^input size: "),
        (nn.Conv2d(1, 1, 3), (1, 4, 4.5), r"^input size: "),
    ],
)
def test_mistakes_are_one_line_that_names_the_layer(model: nn.Module, size: Any, message: str) -> None:
    for act in (summarize, receptive_field):
        with pytest.raises(AnalysisError, match=message) as caught:
            act(model, size)
        assert "\n" not in str(caught.value)


def test_vectors_have_no_receptive_field() -> None:
    with pytest.raises(AnalysisError, match="no axes"):
        receptive_field(nn.Linear(4, 2), (4,))


def test_example_tensors_and_several_inputs() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y.mean()

    traced = trace(Both(), (torch.rand(1, 1, 4, 4), torch.rand(3, dtype=torch.float64)))
    assert [value.shape for value in traced.inputs.values()] == [(1, 1, 4, 4), (3,)]
    assert receptive_field(Both(), (torch.rand(1, 1, 4, 4), torch.rand(3))).at("add").size == (1, 1)


def test_backends_that_take_pointers_are_kept_out() -> None:
    with engine.use("reference"):
        names = [operation.name for operation in trace(models.create("lenet5"), (1, 28, 28)).operations]
    assert names.count("aten.convolution") == 3
    assert names.count("aten.max_pool2d_with_indices") == 2


def test_calls_know_their_layers() -> None:
    traced = trace(networks.ResNet(18, width=4), (3, 64, 64))
    convolutions = [o for o in traced.operations if o.name == "aten.convolution"]
    assert traced.calls[convolutions[1].call].path == "layer1.0.conv1"
    assert sum(call.path == "layer1.0.relu" for call in traced.calls) == 2


def test_an_error_is_all_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(logging.Logger, "handle", lambda self, record: said.append(record.getMessage()))
    with pytest.raises(AnalysisError, match="doesn't go through"):
        trace(nn.Linear(3, 4), (1, 5))
    assert said == []
