"""Random models, straight-line programs of what networks are made of, accelerated against as they come.

Most axes have one length, so that each could stand in every other's place: what goes by the wrong one computes
something else instead of failing.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import striate
from striate.acceleration import plan_of

LENGTH = 6
#: A layer for a tensor with so many channels and so long an innermost axis.
LAYERS: list[Callable[[random.Random, int, int], nn.Module]] = [
    lambda draw, c, _: nn.Conv2d(c, draw.choice([4, LENGTH, 9]), draw.choice([1, 2, 3]), padding=draw.choice([0, 1])),
    lambda draw, c, _: nn.Conv2d(c, c, draw.choice([1, 3]), draw.choice([1, 2]), 1, groups=c, bias=draw.random() < 0.5),
    lambda draw, c, _: nn.Conv2d(c, LENGTH, 1, bias=draw.random() < 0.5),
    lambda draw, c, _: nn.BatchNorm2d(c, affine=draw.random() < 0.8),
    lambda draw, c, _: nn.BatchNorm1d(c),
    lambda draw, _, length: nn.Linear(length, draw.choice([4, LENGTH]), bias=draw.random() < 0.5),
    lambda draw, _, length: nn.LayerNorm(length),
    lambda draw, *_: nn.MaxPool2d(draw.choice([2, 3]), draw.choice([1, 2]), 1),
    lambda draw, *_: nn.AvgPool2d(draw.choice([2, 3]), 1, 1, count_include_pad=draw.random() < 0.5),
    lambda draw, *_: nn.AdaptiveAvgPool2d(draw.choice([1, 2, 3])),
    lambda draw, *_: nn.Dropout(),
    # What has no kernel, or none in plans.
    lambda draw, c, _: nn.Conv2d(c, c, draw.choice([1, 3]), padding=1, groups=2, bias=draw.random() < 0.5),
    lambda draw, c, _: nn.ConvTranspose2d(c, draw.choice([4, LENGTH]), draw.choice([2, 3]), draw.choice([1, 2]), 1),
    lambda draw, *_: nn.Upsample(scale_factor=2, mode=draw.choice(["nearest", "bilinear"])),
    lambda draw, c, _: nn.GroupNorm(2, c),
    lambda draw, *_: nn.ReflectionPad2d((1, 0, 0, 1)),
    lambda draw, *_: nn.PixelUnshuffle(2),
    lambda draw, c, _: nn.PReLU(c),
    lambda draw, c, _: nn.Conv1d(c, LENGTH, 3, padding=1),
]
FUNCTIONS: list[Callable[[Tensor], Tensor]] = [
    F.relu,
    F.relu6,
    F.silu,
    F.gelu,
    F.hardswish,
    F.hardsigmoid,
    torch.sigmoid,
    torch.tanh,
    lambda v: (v * 1.0).relu_(),
    lambda v: F.leaky_relu(v, 0.2),
    lambda v: F.hardtanh(v, -0.5, 0.7),
    lambda v: v.clamp(min=-0.3),
    lambda v: v.clamp(max=0.4),
    lambda v: 1.5 * v - 0.5,
    lambda v: v.softmax(1),
    F.mish,
    lambda v: F.elu(v) + F.softplus(v),
    F.selu,
    lambda v: F.gelu(v, approximate="tanh"),
    lambda v: v.abs() - v.pow(2) - (-v).pow(3),
    lambda v: F.softplus(v, beta=2.0, threshold=1.0),
    lambda v: v.clamp(min=v.mean((2, 3), keepdim=True)) if v.dim() == 4 else v,
    lambda v: torch.where(v > 0, v, 0.1 * v),
    lambda v: v * (v > 0),
    lambda v: v.cumsum(1),
    lambda v: v.roll(1, 1) - v.flip(-1),
    lambda v: v.amax(1, keepdim=True) - v,
    lambda v: v * v.argmax(1, keepdim=True),
    # Parts, put together in another order; channels shuffled; parts written into.
    lambda v: torch.cat(v.chunk(2, 1)[::-1], 1),
    lambda v: torch.cat([v[..., 1:], v, v[..., :1]], -1),
    lambda v: v.split(2, 1)[0],
    lambda v: v.unbind(1)[-1],
    lambda v: torch.stack([v, -v], _axis(v)),
    lambda v: v.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
    lambda v: _added(v * 1.0),
    lambda v: v.double().exp().log1p().float(),
]
PAIRS: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add,
    torch.sub,
    torch.mul,
    lambda v, w: torch.cat([v, w], 1),
    lambda v, w: torch.cat([v, w], 0),
    lambda v, w: torch.cat([w, v, w], -1),
    torch.maximum,
    lambda v, w: v @ w.transpose(-1, -2),
    lambda v, w: F.scaled_dot_product_attention(v, w, w),
]


def _axis(v: Tensor) -> int:
    """An axis that hangs on the shape alone."""
    return v.shape[1] % v.dim()


def _added(v: Tensor) -> Tensor:
    v[:, :1] += 1
    v[0].mul_(2)
    return v


Step = Callable[["Random", list[Tensor]], Tensor]


class Random(nn.Module):
    """The program of a seed; ``example`` is an input."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.layers, self.numbers = nn.ModuleList(), nn.ParameterList()
        self.steps: list[Step] = []
        layout = draw.choice([torch.contiguous_format, torch.channels_last])
        self.example = torch.randn(draw.choice([2, LENGTH]), LENGTH, LENGTH, LENGTH).contiguous(memory_format=layout)
        values = [self.example]
        wanted = draw.randint(2, 9)
        with torch.no_grad():
            for _ in range(20 * wanted):
                source = -1 if draw.random() < 0.8 else draw.randrange(len(values))
                try:
                    step = self._step(draw, values[source], source if source >= 0 else len(values) - 1, len(values))
                    value = step(self, values)
                except (RuntimeError, ValueError, IndexError):
                    continue  # a layer that doesn't fit, or an axis that there isn't
                if value.dim() < 2 or not 0 < value.numel() <= 5000 or not value.isfinite().all():
                    continue
                self.steps.append(step)
                values.append(value)
                if len(self.steps) == wanted:
                    break
        self.eval()

    def _step(self, draw: random.Random, value: Tensor, source: int, count: int) -> Step:
        kind = draw.choice(["layer"] * 5 + ["view"] * 3 + ["function"] * 3 + ["pair", "number"])
        if kind == "layer":
            layer = draw.choice(LAYERS)(draw, value.shape[1], value.shape[-1]).eval()
            for name, tensor in layer.state_dict().items():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm) and tensor.is_floating_point():
                    tensor.uniform_(0.5, 2) if name == "running_var" else tensor.normal_()
            self.layers.append(layer)
            place = len(self.layers) - 1
            return lambda model, values: model.layers[place](values[source])
        if kind == "function":
            function = draw.choice(FUNCTIONS)
            return lambda _, values: function(values[source])
        if kind == "pair":
            pair, other = draw.choice(PAIRS), draw.randrange(count)
            return lambda _, values: pair(values[source], values[other])
        if kind == "number":
            shapes = [(), (1,), value.shape[-1:], (value.shape[1], 1, 1), value.shape[1:], value.shape]
            self.numbers.append(nn.Parameter(torch.randn(draw.choice(shapes))))
            pair, place = draw.choice(PAIRS[:3]), len(self.numbers) - 1
            return lambda model, values: pair(values[source], model.numbers[place])
        name, *how = self._view(draw, value)
        return lambda _, values: getattr(values[source], name)(*how)

    @staticmethod
    def _view(draw: random.Random, value: Tensor) -> tuple[Any, ...]:
        dims, images = value.dim(), value.shape[0]
        order = [0, *draw.sample(range(1, dims), dims - 1)]
        ways: list[tuple[Any, ...]] = [
            ("permute", order),
            ("permute", order),
            ("transpose", draw.randrange(dims), draw.randrange(dims)),
            ("flatten", draw.randrange(dims), -1),
            ("unflatten", draw.randrange(dims), (draw.choice([2, 3]), -1)),
            ("reshape", images, -1),
            ("reshape", images, draw.choice([2, 4, LENGTH]), -1),
            ("unsqueeze", draw.randrange(dims + 1)),
            ("squeeze",),
            ("select", 1, 0),
            ("narrow", 1, 0, 2),
            ("contiguous",),
            ("mean", (2, 3)),
            ("mean", (2, 3), True),
            ("mean", (1,)),
        ]
        return draw.choice(ways)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step in self.steps:
            values.append(step(self, values))
        return values[-1]


pytestmark = pytest.mark.usefixtures("planning")


def check(seed: int) -> bool:
    """Compares four calls; whether the last one went by a plan."""
    model = Random(seed)
    x = model.example
    fast = striate.accelerate(copy.deepcopy(model), quiet=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        expected = model(x)
        for _ in range(4):
            found = fast(x)
            assert found.shape == expected.shape, seed
            # Views are possible of the one that are of the other. Of maps of one position or one channel layouts are
            # alike, and what follows them may be contiguous where PyTorch's isn't.
            apart = zip(found.shape, found.stride(), expected.stride(), strict=True)
            assert found.is_contiguous() or all(size == 1 or one == other for size, one, other in apart), seed
            atol = 1e-4 * max(1.0, expected.abs().max().item())
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=atol, msg=lambda text: f"seed {seed}: {text}")
    return not plan_of(fast, x).startswith("no plan")


@pytest.mark.parametrize(
    ("first", "count"), [(20, 8), *(pytest.param(first, 20, marks=pytest.mark.slow) for first in (0, 20))]
)
def test_random_models(first: int, count: int) -> None:
    plans = [check(seed) for seed in range(first, first + count)]
    assert sum(plans) > count / 4


@pytest.mark.slow
@pytest.mark.parametrize("first", range(40, 3040, 100))
def test_more_random_models(first: int) -> None:
    for seed in range(first, first + 100):
        check(seed)
