"""A model on the GPU is left alone by ``striate.accelerate``, also one that is moved there and back afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import striate
from striate import models
from striate.acceleration import plan_of, restore

Moved = tuple[torch.nn.Module, Tensor]


def plain(name: str) -> Moved:
    """A network and images, on the CPU."""
    if name == "blocks":
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.ConvTranspose2d(16, 4, 2, stride=2),
            torch.nn.AvgPool2d(2),
        )
    else:
        torch.manual_seed(0)
        model = models.create(name, small_input=True)
    return model, torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["blocks", "resnet18", "mobilenet_v2"])
def given(request: pytest.FixtureRequest) -> Moved:
    return plain(request.param)


def assert_near(found: Tensor, expected: Tensor) -> None:
    """The same up to rounding. Networks that aren't trained may have very small outputs."""
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def assert_left_alone(found: Tensor, expected: Tensor) -> None:
    """The same bits on a GPU; on the CPU, where models are accelerated, the same up to rounding."""
    assert found.device == expected.device
    if expected.is_cpu:
        assert_near(found, expected)
    else:
        assert torch.equal(found, expected)


def test_inference(given: Moved, device: torch.device, planning: None) -> None:
    model, images = given[0].to(device).eval(), given[1].to(device)
    with torch.inference_mode():
        expected = model(images)
        fast = striate.accelerate(copy.deepcopy(model), quiet=True)
        for _ in range(4):  # a plan is made at the second call, where there is one
            assert_left_alone(fast(images), expected)
    if not images.is_cpu:
        assert "steps on" not in plan_of(fast, images)


def test_training(given: Moved, device: torch.device) -> None:
    model, images = given[0].to(device).train(), given[1].to(device)
    fast = striate.accelerate(copy.deepcopy(model), quiet=True)
    for _ in range(2):
        results = []
        for each in (fast, model):
            torch.manual_seed(0)  # of dropout
            results.append(each(images))
            results[-1].square().mean().backward()
        assert_left_alone(*(result.detach() for result in results))
    ours, theirs = ([parameter.grad for parameter in each.parameters()] for each in (fast, model))
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2 * largest)
    torch.testing.assert_close(list(fast.buffers()), list(model.buffers()), rtol=1e-2, atol=1e-3)


def test_there_and_back(given: Moved, device: torch.device, planning: None) -> None:
    """Accelerated on the CPU, with a plan that has been taken; moved to the device; and back."""
    model, images = given[0].eval(), given[1]
    with torch.inference_mode():
        here, there = model(images), copy.deepcopy(model).to(device)(images.to(device))
        fast = striate.accelerate(model, quiet=True)
        for _ in range(3):
            assert_near(fast(images), here)
        fast.to(device)
        for _ in range(3):
            assert_left_alone(fast(images.to(device)), there)
        fast.to("cpu")
        for _ in range(3):
            assert_near(fast(images), here)
        assert_near(restore(fast)(images), here)


def test_images_elsewhere_are_pytorchs_error(given: Moved, device: torch.device, planning: None) -> None:
    """Not wrong numbers, and no crash: a plan that reads addresses must not be walked with those of a GPU."""
    model, images = given[0].eval(), given[1]
    if device.type == "cpu":
        pytest.skip("there is no other device")
    with torch.inference_mode():
        fast = striate.accelerate(model, quiet=True)
        for _ in range(3):
            fast(images)
        for wrong in (lambda: fast(images.to(device)), lambda: fast.to(device)(images)):
            with pytest.raises((RuntimeError, striate.StriateError)):
                wrong()
