"""Networks of torchvision and timm, where these are installed, made comparable with ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

Peer = Callable[..., torch.nn.Module]


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Peer:
    """From ``"torchvision:resnet18"`` or ``"timm:..."`` to that network with random weights."""
    register = torch.library.register_fake

    def lenient(operator: Any, *arguments: Any, **named: Any) -> Any:
        # Without its compiled part torchvision has no operators to register a shape for.
        if isinstance(operator, str) and operator.startswith("torchvision::"):
            return lambda function: function
        return register(operator, *arguments, **named)

    monkeypatch.setattr(torch.library, "register_fake", lenient)

    def make(name: str, **options: Any) -> torch.nn.Module:
        library, _, model = name.partition(":")
        pytest.importorskip(library)
        if library == "timm":
            return importlib.import_module("timm").create_model(model, **options)  # type: ignore[no-any-return]
        return getattr(importlib.import_module("torchvision.models"), model)(**options)  # type: ignore[no-any-return]

    return make


@torch.no_grad()
def told_apart(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` with other numbers in each vector: ones and zeros would hide that two were exchanged."""
    for tensor in model.state_dict().values():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
    return model


def without_chance(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` in float64, with nothing dropped, and statistics that one batch sets: of one size all the way."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
        if isinstance(layer, torch.nn.Dropout) or type(layer).__name__ in ("StochasticDepth", "DropPath"):
            layer.p = layer.drop_prob = 0.0
        if hasattr(layer, "drop_rate"):
            layer.drop_rate = 0.0
    return model.double()


@torch.no_grad()
def differences(ours: torch.nn.Module, theirs: torch.nn.Module, images: torch.Tensor) -> Iterator[tuple[float, float]]:
    """The largest difference of the outputs, and the largest output: in training, and then in evaluation mode."""
    ours, theirs = without_chance(ours), without_chance(theirs)
    for training in (True, False):
        here, there = ours.train(training)(images.double()), theirs.train(training)(images.double())
        yield (here - there).abs().max().item(), there.abs().max().item()
