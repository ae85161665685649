"""A step: parts add up to the whole, less memory and other engines change no more than rounding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from striate import models
from striate.data import ImageSet
from striate.tasks.classification import Classification
from striate.training import Recipe
from striate.training.activations import recompute
from striate.training.distributed import Team
from striate.training.ema import Average
from striate.training.update import Updates

#: A set of ten classes; the images of the steps are others.
SET = ImageSet(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.tensor([0]), tuple("0123456789"))


def curve(steps: int = 15, **settings: Any) -> list[float]:
    """The losses of some steps on random images."""
    torch.manual_seed(0)
    recipe = Recipe("lenet5", **settings)
    updates = Updates(models.create("lenet5"), recipe, Classification.of(vars(recipe)), SET, Team())
    updates.train()
    images, labels = torch.randn(24, 1, 28, 28), torch.arange(24) % 10
    return [float(updates.step(images, labels, rate=0.1, number=number, whole=24)["loss"]) for number in range(steps)]


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"engine": "aten"}, 1e-5),
        ({"engine": "llvm"}, 1e-5),
        pytest.param({"accumulate": 5}, 1e-5, marks=pytest.mark.slow),
        ({"checkpoint_activations": True}, 1e-6),
        ({"precision": "bf16"}, 2e-2),
        pytest.param({"precision": "fp16"}, 2e-3, marks=pytest.mark.slow),
    ],
)
def test_the_loss_curve_stays(settings: dict[str, Any], tolerance: float) -> None:
    expected = curve()
    assert expected[-1] < expected[0] - 0.1
    assert curve(**settings) == pytest.approx(expected, rel=tolerance)


def test_a_part_counts_by_its_images() -> None:
    """Gradients of two parts, each told how large the whole is, add up to the whole's."""
    images, labels = torch.randn(10, 1, 28, 28), torch.arange(10)
    torch.manual_seed(1)
    model = models.create("lenet5")

    def gradients(chosen: slice) -> list[Tensor]:
        mine = copy.deepcopy(model)
        updates = Updates(mine, Recipe("lenet5"), Classification(), SET, Team())
        updates.step(images[chosen], labels[chosen], rate=0.0, number=0, whole=10)
        return [parameter.grad for parameter in mine.parameters()]

    for whole, first, second, none in zip(
        *(gradients(part) for part in (slice(0, 10), slice(0, 3), slice(3, 10), slice(0, 0))), strict=True
    ):
        torch.testing.assert_close(first + second, whole, rtol=1e-4, atol=1e-6)
        assert not none.any()


def test_scaled_gradients_are_clipped_as_plain_ones() -> None:
    assert curve(clip_norm=0.5, precision="fp16") == pytest.approx(curve(clip_norm=0.5), rel=2e-3)


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.stage = nn.Sequential(*(self.block() for _ in range(4)))
        self.head = nn.Linear(8, 4)

    @staticmethod
    def block() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 8, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(self.stem(x)).mean((2, 3)))


def saved_bytes(model: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    """The gradients' sum of squares and state, and the bytes kept for the backward pass, each memory counted once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(images)
        total = sum(kept.values())
    output.square().sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]), total


@pytest.mark.parametrize(
    "build",
    [
        Blocks,
        lambda: nn.Sequential(
            *(layer for _ in range(6) for layer in (nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Tanh()))
        ),
    ],
)
def test_computing_again_takes_less_memory_and_gives_the_same_bits(build: Any) -> None:
    torch.manual_seed(3)
    plain = build()
    frugal = copy.deepcopy(plain)
    recompute(frugal)
    images = torch.randn(4, 1, 20, 20)
    torch.manual_seed(4)
    expected, much = saved_bytes(plain, images)
    torch.manual_seed(4)
    found, little = saved_bytes(frugal, images)
    assert torch.equal(found, expected)
    assert little < 0.6 * much
    for name, tensor in plain.state_dict().items():
        assert torch.equal(frugal.state_dict()[name], tensor), f"{name}: statistics are taken in once"
    assert all(layer.momentum == 0.1 for layer in frugal.modules() if isinstance(layer, nn.BatchNorm2d))
    with torch.no_grad():
        assert torch.equal(frugal.eval()(images), plain.eval()(images))


def test_the_average_is_the_formula() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = Average(model, 0.5)
    expected = start = model[0].weight.item()
    for step in range(20):
        model[0].weight.data.fill_(start + step + 1)
        model[1].running_mean.fill_(step)
        average.follow(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (start + step + 1)
        assert average.model[0].weight.item() == pytest.approx(expected, rel=1e-5)
    assert float(average.model[1].running_mean) == 19
    assert model[0].weight.item() == pytest.approx(start + 20)


@pytest.mark.parametrize(("channels", "engine", "last"), [(64, "auto", True), (8, "auto", False), (64, "aten", False)])
def test_wide_networks_keep_channels_side_by_side(channels: int, engine: str, last: bool) -> None:
    """On the CPU, where striate computes; the weights stay the same numbers under the same names."""
    model = nn.Sequential(nn.Conv2d(1, channels, 3), nn.Conv2d(channels, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    updates = Updates(model, Recipe("lenet5", engine=engine), Classification(), SET, Team())
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last) == last
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    updates.step(torch.randn(4, 1, 9, 9), torch.arange(4), rate=0.1, number=0, whole=4)
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last) == last
