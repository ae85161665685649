"""Learning rates against PyTorch's schedulers, which keep state and ours don't."""

from __future__ import annotations

import pytest
import torch

from striate.training.schedule import START, learning_rate


def ours(schedule: str, warmup: float, steps: int) -> list[float]:
    return [learning_rate(step, steps, peak=0.5, schedule=schedule, warmup=warmup) for step in range(steps)]


def theirs(scheduler: type, steps: int, **options: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = scheduler(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_is_pytorchs() -> None:
    expected = theirs(torch.optim.lr_scheduler.CosineAnnealingLR, 40, T_max=40)
    assert ours("cosine", 0.0, 40) == pytest.approx(expected)


def test_one_cycles_descent_is_pytorchs_linear() -> None:
    expected = theirs(torch.optim.lr_scheduler.LinearLR, 40, start_factor=1.0, end_factor=1e-12, total_iters=40)
    assert ours("one-cycle", 0.0, 40) == pytest.approx(expected)


def test_warm_up_is_pytorchs_linear() -> None:
    expected = theirs(torch.optim.lr_scheduler.LinearLR, 40, start_factor=START, total_iters=10)
    assert ours("constant", 0.25, 40) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_one_peak_then_down_to_nearly_nothing(schedule: str) -> None:
    rates = ours(schedule, 0.3, 100)
    assert max(rates) == rates[30] == 0.5
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)
    assert 0 < rates[-1] < 0.5 * 0.02


def test_a_single_step_learns_something() -> None:
    assert learning_rate(0, 1, peak=0.5, schedule="one-cycle", warmup=0.2) > 0
