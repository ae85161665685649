"""Normalisation, addition and activation in one are the three of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from striate.ops.norm import batch_norm

ACTIVATIONS = {"": lambda x: x, "relu": F.relu, "relu6": F.relu6, "silu": F.silu, "hardswish": F.hardswish}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_normalisation_addition_and_activation(activation: str, with_residual: bool, training: bool) -> None:
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        x, residual = (4 * torch.randn(3, 4, 5, 6, dtype=torch.float64).requires_grad_() for _ in range(2))
        weight, bias = torch.rand(2, 4, dtype=torch.float64).requires_grad_().unbind()
        mean, variance = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
        if fused:
            added = residual if with_residual else None
            how = {"residual": added, "activation": activation}
            y = batch_norm(x, weight, bias, mean, variance, training, 0.3, 1e-3, **how)
        else:
            normed = F.batch_norm(x, mean, variance, weight, bias, training, 0.3, 1e-3)
            y = ACTIVATIONS[activation](normed + residual if with_residual else normed)
        wanted = [x, weight, bias, *([residual] if with_residual else [])]
        grads = torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum(), wanted)
        results.append([y, mean, variance, *grads])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)
