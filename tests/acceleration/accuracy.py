"""How far results in float32 are from those in float64, and how far they may be.

Rounding in a deep network is what it is: a result is judged by what the model's own results are worth. They are computed
in float64, in float32, and in float32 from inputs moved by a rounding error, which is another draw of the same noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: How many times as far from the exact result as the worst of the model's own an accelerated one may be, and beyond that
#: which share of the result. Winograd's convolution rounds a few times as much as a direct sum.
FACTOR, SHARE = 8.0, 1e-5


def tensors(result: Any) -> list[Tensor]:
    """All floating-point tensors of a result, in order."""
    if dataclasses.is_dataclass(result):
        result = vars(result)
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, (list, tuple)):
        return [tensor for each in result for tensor in tensors(each)]
    return [result] if isinstance(result, Tensor) and result.is_floating_point() else []


def moved(x: Tensor, seed: int) -> Tensor:
    """``x`` moved by about a rounding error."""
    return x * (1 + 2**-24 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))


def distance(one: Tensor, other: Tensor) -> float:
    return (one.double() - other.double()).norm().item()


def excess(
    mine: Sequence[Tensor], theirs: Sequence[Sequence[Tensor]], exact: Sequence[Tensor], share: float = SHARE
) -> float:
    """The largest error as a multiple of the allowed one: 1 at most where results agree up to rounding.

    Args:
        mine: the accelerated model's results.
        theirs: the model's own, several times.
        exact: the model's own in float64.
        share: of a result that it may be off whatever the model's own are. A result much smaller than the others, as a
            gradient that cancels out, counts as a thousandth of these.
    """
    assert len(mine) == len(exact)
    assert all(len(each) == len(exact) for each in theirs)
    count = sum(each.numel() for each in exact)
    typical = (sum(each.double().square().sum().item() for each in exact) / max(count, 1)) ** 0.5
    worst = 0.0
    for at, told in enumerate(exact):
        assert mine[at].shape == told.shape
        size = told.norm().item() + 1e-3 * typical * told.numel() ** 0.5
        allowed = FACTOR * max(distance(each[at], told) for each in theirs) + share * size
        error = distance(mine[at], told)
        if error != error:  # not a number is never near
            return float("inf")
        worst = max(worst, error / allowed if error else 0.0)
    return worst
