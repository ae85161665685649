"""Muon beside PyTorch's for matrices, beside AdamW for the rest, and what of a network it takes as matrices."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from striate import models
from striate.training import Recipe
from striate.training.muon import Muon, orthogonal
from striate.training.update import _matrices, peak, stepper


def matrix(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 1000), st.floats(1e-4, 1e4))
def test_it_keeps_singular_vectors_and_evens_singular_values(rows: int, columns: int, seed: int, scale: float) -> None:
    given_matrix = matrix(rows, columns, seed) * scale
    found = orthogonal(given_matrix)
    left, values, right = torch.linalg.svd(given_matrix, full_matrices=False)
    middle = left.T @ found @ right.T
    assert (middle - middle.diag().diag()).abs().max() < 1e-6
    large = values > 1e-2 * values.norm()
    assert ((middle.diag()[large] > 0.6) & (middle.diag()[large] < 1.3)).all()


@pytest.mark.parametrize("shape", [(8, 200), (64, 576), (300, 30), (128, 128)])
def test_single_precision_is_enough(shape: tuple[int, int]) -> None:
    # Singular values over three powers of ten, as gradients have them.
    left, _, right = torch.linalg.svd(matrix(*shape, 5), full_matrices=False)
    made = left @ torch.logspace(0, -3, min(shape), dtype=torch.float64).diag() @ right
    exact, single = orthogonal(made), orthogonal(made.float()).double()
    assert (exact - single).abs().max() < 2e-3


def test_zeros_stay_zeros() -> None:
    assert not orthogonal(torch.zeros(3, 5)).any()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (16, 48)])
def test_steps_of_matrices_are_those_of_pytorch(shape: tuple[int, int]) -> None:
    ours, theirs = (torch.nn.Parameter(matrix(*shape, 1).float()) for _ in range(2))
    mine = Muon([{"params": [ours], "matrices": True}], lr=0.02, momentum=0.9, weight_decay=0.1)
    peer = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    start = ours.detach().clone()
    for step in range(4):
        ours.grad = matrix(*shape, 10 + step).float()
        theirs.grad = ours.grad.clone()
        mine.step()
        peer.step()
    # PyTorch's iteration rounds to bfloat16.
    torch.testing.assert_close(
        ours - start, theirs - start, rtol=0, atol=0.03 * float((theirs - start).detach().abs().max())
    )


def test_filters_learn_as_the_matrices_that_they_are() -> None:
    filters = torch.nn.Parameter(matrix(4, 18, 2).view(4, 2, 3, 3))
    rows = torch.nn.Parameter(matrix(4, 18, 2))
    filters.grad, rows.grad = matrix(4, 18, 3).view(4, 2, 3, 3), matrix(4, 18, 3)
    for parameter in (filters, rows):
        Muon([{"params": [parameter], "matrices": True}], lr=0.1).step()
    assert torch.equal(filters.flatten(1), rows)


def test_the_rest_is_adamw_to_the_bit() -> None:
    ours, theirs = (torch.nn.Parameter(matrix(3, 3, 4)) for _ in range(2))
    mine = Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.01, betas=(0.8, 0.99))
    peer = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.99), weight_decay=0.1)
    for step in range(3):
        ours.grad = matrix(3, 3, step)
        theirs.grad = ours.grad.clone()
        mine.step()
        peer.step()
    assert torch.equal(ours, theirs)


def test_a_state_that_was_kept_goes_on() -> None:
    layer = torch.nn.Conv2d(2, 3, 3)
    groups = [{"params": [layer.weight], "matrices": True}, {"params": [layer.bias]}]
    first = Muon(groups, lr=0.01)

    def step(net: torch.nn.Conv2d, optimizer: Muon) -> None:
        optimizer.zero_grad()
        net(torch.ones(1, 2, 5, 5)).square().sum().backward()
        optimizer.step()

    step(layer, first)
    other = copy.deepcopy(layer)
    second = Muon([{"params": [other.weight], "matrices": True}, {"params": [other.bias]}], lr=0.01)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(layer, first)
    step(other, second)
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.bias, other.bias)


def test_the_loss_of_a_closure_is_given_back() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([{"params": [weight], "matrices": True}], lr=0.1)

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert not torch.equal(weight, torch.ones(2, 2))


def test_matrices_of_a_network_are_its_weights_that_mix_channels() -> None:
    network = models.create("mobilenet_v2", num_classes=4)
    found = _matrices(network)
    names = {name for name, parameter in network.named_parameters() if id(parameter) in found}
    assert "features.1.conv.1.weight" in names
    assert "classifier.1.weight" in names
    assert "features.1.conv.0.0.weight" not in names  # depthwise
    assert not any(name.endswith("bias") for name in names)


class Own(torch.nn.Linear):
    optimizer = "muon"
    learning_rate = 0.006


@pytest.mark.parametrize(
    ("model", "settings", "name", "rate"),
    [
        (torch.nn.Linear(2, 2), {}, "sgd", 0.05),
        (torch.nn.Linear(2, 2), {"optimizer": "muon"}, "muon", 0.001),
        (Own(2, 2), {}, "muon", 0.006),
        (Own(2, 2), {"learning_rate": 0.1}, "muon", 0.1),
        (Own(2, 2), {"optimizer": "sgd"}, "sgd", 0.05),  # not the rate of its own optimizer
        (Own(2, 2), {"weights": "some.safetensors"}, "adamw", 0.0001),
    ],
)
def test_a_network_names_its_optimizer_and_rate(
    model: torch.nn.Module, settings: dict[str, Any], name: str, rate: float
) -> None:
    recipe = Recipe("lenet5", **settings)
    assert (stepper(model, recipe), peak(model, recipe)) == (name, rate)
