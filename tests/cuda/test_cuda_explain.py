"""Explanations and analyses of a network on the GPU: those of the CPU, wherever the images are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from striate import analysis, explain
from striate.explain.methods import METHODS
from striate.explain.views import VIEWS, Question, view

#: Fewer draws than by default, where these take time.
OPTIONS: dict[str, dict[str, Any]] = {
    "smooth_grad": {"samples": 4},
    "rise": {"masks": 40},
    "score_cam": {"batch_size": 8},
}


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(inplace=True),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 12, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 5),
    ).eval()


@pytest.fixture
def here() -> torch.nn.Sequential:
    """The network on the CPU."""
    return network()


@pytest.fixture
def there(device: torch.device) -> torch.nn.Sequential:
    """The same on the device."""
    return network().to(device)


@pytest.fixture
def images() -> Tensor:
    """Two images, on the CPU, of pixels from 0 to 1."""
    return torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(1))


def is_as_it_was(model: torch.nn.Module, device: torch.device) -> bool:
    before = network().state_dict()
    same = all(
        each.device == device and torch.equal(each.cpu(), before[name]) for name, each in model.state_dict().items()
    )
    return same and not model.training and all(each.grad is None for each in model.parameters())


@pytest.mark.filterwarnings("ignore::striate.explain.ExplainWarning")
@pytest.mark.parametrize("images_too", [False, True], ids=["images on the CPU", "images there too"])
@pytest.mark.parametrize("name", METHODS)
def test_maps(
    name: str,
    images_too: bool,
    here: torch.nn.Module,
    there: torch.nn.Module,
    images: Tensor,
    device: torch.device,
) -> None:
    options = OPTIONS.get(name, {})
    for target in (None, 3, [1, 4]):
        expected = METHODS[name](here, images, target, **options)
        found = METHODS[name](there, images.to(device) if images_too else images, target, **options)
        assert found.map.device.type == "cpu"
        assert found.classes == expected.classes
        assert found.scores == pytest.approx(expected.scores, abs=1e-4)
        scale = float(expected.map.abs().max())
        torch.testing.assert_close(found.map, expected.map, rtol=1e-3, atol=1e-3 * scale)
    assert is_as_it_was(there, device)


@pytest.mark.parametrize("images_too", [False, True], ids=["images on the CPU", "images there too"])
@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str, images_too: bool, there: torch.nn.Module, images: Tensor, device: torch.device) -> None:
    needed: dict[str, Any] = {"top_patches": {"channel": 1}, "maximize": {"target": 2}}.get(name, {})
    pictures = images if name == "top_patches" else images[:1]
    asked = Question(there, pictures.to(device) if images_too else pictures, lambda pixels: 2 * pixels - 1, **needed)
    assert view(name, asked).to_dict()
    assert is_as_it_was(there, device)


@pytest.mark.filterwarnings("ignore::striate.explain.ExplainWarning")
def test_checks_of_maps(here: torch.nn.Module, there: torch.nn.Module, images: Tensor, device: torch.device) -> None:
    one, other = (explain.check(explain.grad_cam, model, images) for model in (here, there))
    assert numbers_of(other.to_dict()) == pytest.approx(numbers_of(one.to_dict()), rel=0.05, abs=0.01)
    assert is_as_it_was(there, device)


def numbers_of(value: Any) -> list[float]:
    """All numbers in what JSON can have, in their order."""
    if isinstance(value, dict | list | tuple):
        parts = value.values() if isinstance(value, dict) else value
        return [number for part in parts for number in numbers_of(part)]
    return [] if isinstance(value, str | bool) or value is None else [float(value)]


# ------------------------------------------------------------------------------ analysis


@pytest.mark.parametrize("given", [(3, 16, 20), (4, 3, 16, 20)])
def test_costs_and_fields_depend_on_no_device(
    given: tuple[int, ...], here: torch.nn.Module, there: torch.nn.Module, device: torch.device
) -> None:
    assert analysis.summarize(there, given).to_dict() == analysis.summarize(here, given).to_dict()
    assert analysis.receptive_field(there, given).to_dict() == analysis.receptive_field(here, given).to_dict()
    assert analysis.checkerboard(there, given).to_dict() == analysis.checkerboard(here, given).to_dict()
    assert is_as_it_was(there, device)


MEASURES: dict[str, Callable[[torch.nn.Module, Tensor], Any]] = {
    "robustness": lambda model, pixels: analysis.robustness(
        model, pixels, torch.tensor([1, 3]), prepare=lambda shown: 2 * shown - 1
    ),
    "adversarial": lambda model, pixels: analysis.adversarial(model, pixels, torch.tensor([1, 3]), [0.0, 0.1], steps=3),
    "shift consistency": lambda model, pixels: analysis.shift_consistency(model, pixels, 2),
    "equivariance": lambda model, pixels: analysis.equivariance(model, pixels, [1.0, 0.5]),
    "effective field": lambda model, pixels: analysis.effective_receptive_field(model, pixels, "4"),
}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_are_those_of_the_cpu(
    name: str, here: torch.nn.Module, there: torch.nn.Module, images: Tensor, device: torch.device
) -> None:
    found = MEASURES[name](there, images.to(device)).to_dict()
    expected = MEASURES[name](here, images).to_dict()
    assert found.keys() == expected.keys()
    assert numbers_of(found) == pytest.approx(numbers_of(expected), rel=1e-2, abs=1e-4)
    assert is_as_it_was(there, device)
