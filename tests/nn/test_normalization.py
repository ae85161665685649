"""Frozen batch normalisation against the layer whose numbers it has."""

from __future__ import annotations

import copy

import pytest
import torch

from striate import nn


def trained() -> torch.nn.Sequential:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, eps=1e-3))
    model(torch.randn(5, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
    torch.nn.init.uniform_(model[1].weight, 0.5, 1.5)
    torch.nn.init.uniform_(model[1].bias)
    return model


def test_frozen_it_computes_the_same_and_learns_nothing() -> None:
    model, images = trained().double().eval(), torch.randn(2, 3, 9, 9, dtype=torch.float64)
    frozen = nn.freeze_batch_norm(copy.deepcopy(model)).train()
    assert isinstance(frozen[1], nn.FrozenBatchNorm2d)
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    torch.testing.assert_close(frozen(images), model(images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())
    assert {name for name, _ in frozen.named_parameters()} == {"0.weight", "0.bias"}


@pytest.mark.parametrize("strict", [True, False])
def test_weights_of_batch_normalisation_load_without_their_counter(strict: bool) -> None:
    frozen = copy.deepcopy(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), nn.FrozenBatchNorm2d(4)))
    state = trained().state_dict()
    frozen.load_state_dict(state, strict=strict)
    assert "1.num_batches_tracked" not in frozen.state_dict()
    assert torch.equal(frozen[1].running_var, state["1.running_var"])


def test_the_small_number_may_be_another() -> None:
    frozen = nn.freeze_batch_norm(trained(), eps=0.0)
    assert frozen[1].eps == 0
    assert nn.freeze_batch_norm(torch.nn.BatchNorm2d(3, eps=0.1)).eps == 0.1
