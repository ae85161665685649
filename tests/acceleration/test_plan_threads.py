"""One thread or several: by the first times, and by others in use."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import striate
from striate.acceleration.plans import running, threads
from striate.acceleration.plans.threads import ThreadChoice
from striate.engine import tuning


def walks(choice: ThreadChoice, count: int, together: float, alone: float) -> list[bool]:
    turns = []
    for _ in range(count):
        turns.append(choice.turn())
        choice.took(turns[-1], alone if turns[-1] else together)
    return turns


@pytest.mark.parametrize(("together", "alone"), [(1.0, 1.05), (1.0, 0.5), (1.0, 1.5)])
def test_several_threads_have_to_be_a_tenth_faster(together: float, alone: float) -> None:
    choice = ThreadChoice()
    choice.settle(together, alone)
    assert choice.alone == (alone < 1.1)


def test_it_is_looked_at_again_after_ever_more_walks() -> None:
    choice = ThreadChoice()
    choice.settle(1.0, 0.5)  # other work kept the threads waiting
    assert all(walks(choice, threads._FIRST - 1, 1.0, 2.0))
    trial = walks(choice, 2 * threads._TRIALS, 1.0, 2.0)
    assert trial == [False, True] * threads._TRIALS
    assert not choice.alone
    rest = threads._RARER * threads._FIRST - threads._FIRST - 2 * threads._TRIALS
    assert not any(walks(choice, rest, 1.0, 0.1))
    assert sum(walks(choice, 2 * threads._TRIALS, 1.0, 0.1)) == threads._TRIALS
    assert choice.alone


def test_a_hiccup_decides_nothing() -> None:
    choice = ThreadChoice()
    walks(choice, threads._FIRST - 1, 1.0, 2.0)
    for seconds in [1.0] * (threads._TRIALS - 1) + [100.0]:
        for _ in range(2):
            alone = choice.turn()
            choice.took(alone, 2.0 if alone else seconds)
    assert not choice.alone


def test_threads_that_sleep_between_calls_are_left_asleep() -> None:
    choice = ThreadChoice()
    choice.settle(1.0, 1.8)
    for _ in range(5):  # now and then is no reason
        assert not any(walks(choice, threads._LATE - 1, 9.0, 1.8) + walks(choice, 1, 1.0, 1.8))
    assert not any(walks(choice, threads._LATE, 9.0, 1.8))
    assert choice.alone
    assert all(walks(choice, threads._LATE, 9.0, 1.8))
    # Calls come one after the other again, which is seen at the next look.
    walks(choice, threads._RARER * threads._FIRST, 1.0, 1.8)
    assert not choice.alone


@pytest.mark.usefixtures("measuring")
def test_a_plan_in_use_goes_both_ways_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_FIRST", 3)
    monkeypatch.setattr(tuning, "in_turns", lambda runs, *_: {name: 1.0 if name else 9.0 for name in runs})
    monkeypatch.setattr(running, "_ALONE", float("inf"))
    torch.set_num_threads(2)
    try:
        model, x = nn.Sequential(nn.Conv2d(16, 64, 3), nn.ReLU()).eval(), torch.randn(4, 16, 20, 20)
        fast = striate.accelerate(copy.deepcopy(model), quiet=True)
        ways: list[bool] = []
        real = ThreadChoice.took
        monkeypatch.setattr(
            ThreadChoice, "took", lambda self, alone, taken: ways.append(alone) or real(self, alone, taken)
        )
        with torch.no_grad():
            expected = model(x)
            results = [fast(x) for _ in range(30)]
    finally:
        torch.set_num_threads(1)
    assert {True, False} <= set(ways)
    torch.testing.assert_close(results[-1], expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(each, results[-1]) for each in results[3:])
