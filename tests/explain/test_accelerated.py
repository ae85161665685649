"""Accelerated and compiled networks are explained and measured as the networks that they were made from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import striate
from cases import slow_but
from striate import analysis, explain


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    model[1].running_mean.uniform_(-0.2, 0.2)
    return model


def compiled(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


QUESTIONS: dict[str, Callable[[nn.Module, torch.Tensor], Any]] = {
    "guided backpropagation": lambda model, x: explain.guided_backprop(model, x, 1).values,
    "deconvolution": lambda model, x: explain.deconvnet(model, x, 1).values,
    "gradient": lambda model, x: explain.saliency(model, x, 1).values,
    "Grad-CAM": lambda model, x: explain.grad_cam(model, x, 1).values,
    "integrated gradients": lambda model, x: explain.integrated_gradients(model, x, 1, steps=4).values,
    "occlusion": lambda model, x: explain.occlusion(model, x, 1).values,
    "costs": lambda model, x: str(analysis.summarize(model, (3, 16, 16))),
    "receptive fields": lambda model, x: str(analysis.receptive_field(model, (3, 16, 16))),
    "equivariance": lambda model, x: str(analysis.equivariance(model, (3, 16, 16))),
}


@pytest.mark.parametrize("called", slow_but([False, True], [True]))
@pytest.mark.parametrize("how", [striate.accelerate, compiled])
@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_the_network(question: str, how: Callable[..., nn.Module], called: bool) -> None:
    model, x = network(), torch.rand(1, 3, 16, 16)
    other = how(copy.deepcopy(model))
    if called:
        with torch.no_grad():
            torch.testing.assert_close(other(x), model(x))
    mine, theirs = (QUESTIONS[question](each, x) for each in (other, model))
    if isinstance(theirs, str):
        assert mine == theirs
    else:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
