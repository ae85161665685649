"""Accelerated models that write over what they have computed, and weights used twice: gradients of two orders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import striate
from striate import engine


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    with engine.use("llvm"):
        yield


class Scaled(nn.Module):
    """Dropout in place that leaves nothing to chance."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(torch.linspace(0, 2, x.shape[-1]).to(x.dtype))


class Block(nn.Module):
    """A residual block that writes over the residual, or over its result."""

    def __init__(self, activate: Callable[[Tensor], Tensor], written: str) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.last = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.activate, self.written = activate, written

    def forward(self, x: Tensor) -> Tensor:
        residual = x + 1
        y = self.last(self.second(self.activate(self.norm(self.first(x))))) + residual
        if self.written == "residual":
            residual.mul_(0.5)
            return self.activate(y + residual)
        return self.activate(y).mul_(0.5)


class Added(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        residual = x + 1
        y = self.norm(self.conv(x)) + residual
        residual.mul_(0.5)
        return y + residual


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv(torch.tanh(self.conv(x)))), 2)


def ends(*layers: nn.Module, groups: int = 1) -> Callable[[], nn.Module]:
    return lambda: copy.deepcopy(nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=groups), *layers, Scaled()))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "group norm, relu, pooling": ends(nn.GroupNorm(2, 8), nn.ReLU(), nn.MaxPool2d(2)),
    "instance norm, relu in place, pooling": ends(nn.InstanceNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
    "tanh, relu, pooling": ends(nn.Tanh(), nn.ReLU(), nn.MaxPool2d(2)),
    "tanh, relu6, pooling": ends(nn.Tanh(), nn.ReLU6(), nn.MaxPool2d(3, 2, 1)),
    "relu, pooling": ends(nn.ReLU(), nn.MaxPool2d(2)),
    "relu, pooling of windows side by side": ends(nn.ReLU(), nn.MaxPool2d(3, 1)),
    "groups, relu, pooling": ends(nn.ReLU(), nn.MaxPool2d(2), groups=2),
    "norm": ends(nn.BatchNorm2d(8)),
    "norm, relu, pooling": ends(nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
    "norm, relu6": ends(nn.BatchNorm2d(8), nn.ReLU6()),
    "norm, silu": ends(nn.BatchNorm2d(8), nn.SiLU()),
    **{
        f"{activation.__class__.__name__}, result written over": ends(activation)
        for activation in (nn.ReLU6(), nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.LeakyReLU(0.1), nn.ELU())
    },
    "tanh, average pooling": ends(nn.Tanh(), nn.AvgPool2d(2)),
    "sigmoid, average pooling, convolution, tanh": ends(
        nn.Sigmoid(), nn.AvgPool2d(3), nn.Conv2d(8, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 1)
    ),
    "average pooling, gelu": ends(nn.AvgPool2d((1, 2)), nn.GELU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.AvgPool2d(4)),
    "a residual that is written over": Added,
    "one convolution twice": Twice,
    **{
        f"a block of {activate.__name__}, {written} written over": lambda activate=activate, written=written: Block(
            activate, written
        )
        for activate, written in [
            (F.relu, "residual"),
            (F.relu6, "result"),
            (F.silu, "residual"),
            (F.silu, "result"),
            (F.hardswish, "result"),
        ]
    },
}


def weighted(each: Tensor) -> Tensor:
    return each * torch.linspace(-1, 1, each.numel()).to(each.dtype).reshape(each.shape)


def gradients(model: nn.Module, x: Tensor) -> list[tuple[Tensor, ...]]:
    """Those of input and parameters, then those of a penalty on these."""
    x = x.clone().requires_grad_()
    leaves = [x, *model.parameters()]
    first = torch.autograd.grad(weighted(model(x * 1)).sum(), leaves, create_graph=True)
    penalty = sum((weighted(each).square().sum() for each in first), torch.zeros((), dtype=x.dtype))
    alone = torch.autograd.grad(weighted(model(x * 1)).sum(), leaves)
    return [alone, first, torch.autograd.grad(penalty, leaves, materialize_grads=True)]


LAYOUTS = {"planes": torch.contiguous_format, "channels last": torch.channels_last}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        # The fast suite has half of the models, in one of the layouts by turns.
        pytest.param(name, LAYOUTS[layout], id=f"{name}-{layout}", marks=[pytest.mark.slow] * ((at + 2 * kind) % 4 > 0))
        for at, name in enumerate(MODELS)
        for kind, layout in enumerate(LAYOUTS)
    ],
)
def test_gradients_of_two_orders(name: str, layout: torch.memory_format) -> None:
    model = MODELS[name]()
    x = torch.randn(4, 4, 12, 12).contiguous(memory_format=layout)
    wanted = gradients(copy.deepcopy(model).double(), x.double())
    found = gradients(striate.accelerate(copy.deepcopy(model), quiet=True), x)
    for mine, exact in zip(found, wanted, strict=True):
        # Some are zero but for rounding.
        largest = max(each.norm().item() for each in exact)
        for one, other in zip(mine, exact, strict=True):
            assert (one - other).norm().item() <= 1e-3 * max(other.norm().item(), 1e-2 * largest)
