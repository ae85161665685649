"""Networks of the kinds that people explain, and a look at whether one was left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Tangled(nn.Module):
    """A layer used twice, a ReLU that overwrites its input, nested containers, functional calls, dropout."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.deep = nn.ModuleDict({"part": nn.Sequential(nn.Sequential(nn.Conv2d(6, 8, 3)), nn.BatchNorm2d(8))})
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(self.again(self.relu(self.again(x))))
        x = self.deep["part"](F.max_pool2d(x, 2))
        return self.head(self.drop(F.relu(x).mean((2, 3))))


def frozen(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


#: Each with images that it takes.
KINDS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "training": lambda: (Tangled().train(), torch.rand(3, 1, 12, 12)),
    "frozen": lambda: (frozen(Tangled()), torch.rand(3, 1, 12, 12)),
    "half": lambda: (Tangled().bfloat16(), torch.rand(3, 1, 12, 12)),
    "channels_last": lambda: (
        Tangled().to(memory_format=torch.channels_last),
        torch.rand(3, 1, 12, 12).to(memory_format=torch.channels_last),
    ),
}


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Fails if inside it the network changes: parameters, buffers, gradients, modes, hooks, requires_grad."""
    before = _state(model)
    try:
        yield
    finally:
        after = _state(model)
        assert before.keys() == after.keys()
        for name, value in before.items():
            same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
            assert same, f"{name} has changed"


def _state(model: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {name: value.clone() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state[f"{name} learns"] = parameter.requires_grad
        state[f"{name} gradient"] = None if parameter.grad is None else parameter.grad.clone()
    for name, module in model.named_modules():
        state[f"{name} training"] = module.training
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            state[f"{name} {hooks}"] = copy.copy(list(getattr(module, hooks)))
    return state
