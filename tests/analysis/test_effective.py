"""The effective receptive field: a closed form, the bounds of the exact one, and what goes wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import networks
from striate.analysis import effective_receptive_field, receptive_field
from striate.errors import AnalysisError


def test_uniform_kernels_give_the_closed_form() -> None:
    # Luo et al. 2016, section 2.2: n layers of uniform k x k kernels spread as a sum of n uniform variables, whose
    # variance along each axis is n (k^2 - 1) / 12.
    layers = nn.Sequential(*(nn.Conv2d(1, 1, 5, bias=False) for _ in range(6)))
    for layer in layers:
        nn.init.ones_(layer.weight)
    found = effective_receptive_field(layers, torch.rand(2, 1, 31, 31), "5")
    assert found.radius == pytest.approx(math.sqrt(2 * 6 * 24 / 12))
    assert found.centre == pytest.approx((15, 15))
    assert float(found.density.sum()) == pytest.approx(1)
    assert found.size < 25


def test_it_lies_inside_of_the_exact_field() -> None:
    model = networks.UNet().train()
    found = effective_receptive_field(model, torch.rand(3, 3, 32, 24), "merge2", (3, 4))
    exact = receptive_field(model, (3, 32, 24)).support("merge2", (3, 4))
    assert not bool((found.density > 0)[~exact].any())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("layer", "position", "message"),
    [("merge9", None, "needed a layer"), ("merge2", (99, 0), "needed one in 16x12"), ("merge2", (1,), "needed one in")],
)
def test_mistakes(layer: str, position: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        effective_receptive_field(networks.UNet(), torch.rand(1, 3, 32, 24), layer, position)


def test_a_dead_unit_is_said_to_be_dead() -> None:
    layers = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU())
    nn.init.constant_(layers[0].bias, -9)
    with pytest.raises(AnalysisError, match="gradient is zero"):
        effective_receptive_field(layers, torch.zeros(1, 1, 5, 5), "1")
