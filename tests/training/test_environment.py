"""The process around a run is as it was before, and Ctrl-C is a wish first."""

from __future__ import annotations

import signal

import pytest
import torch

from striate.errors import RunError
from striate.training.environment import Stop, find_device, reproducible, seed_step

CPU = torch.device("cpu")


def test_all_is_put_back() -> None:
    torch.use_deterministic_algorithms(False)
    before = torch.get_rng_state(), torch.get_num_threads(), torch.get_deterministic_debug_mode()
    with reproducible(5, 2, CPU):
        assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (2, 1)
        first = torch.rand(3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.get_num_threads(), torch.get_deterministic_debug_mode())
    with reproducible(5, 1, CPU):
        assert torch.equal(first, torch.rand(3))


def test_frozen_flags_are_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch.backends.flags_frozen.__globals__, "__allow_nonbracketed_mutation_flag", False)
    assert torch.backends.flags_frozen()
    assert not torch.backends.cudnn.benchmark
    torch._C._set_cudnn_benchmark(True)
    try:
        with reproducible(5, 1, CPU):
            assert not torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.benchmark
    finally:
        torch._C._set_cudnn_benchmark(False)


def test_every_step_has_random_numbers_of_its_own() -> None:
    def drawn(*where: int) -> tuple[float, ...]:
        seed_step(*where)
        return tuple(torch.rand(3).tolist())

    places = [
        (seed, epoch, step, process) for seed in (0, 1) for epoch in (0, 1) for step in (0, 1) for process in (0, 1)
    ]
    assert len({drawn(*place) for place in places}) == len(places)
    assert drawn(*places[5]) == drawn(*places[5])


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "cpu:x", "meta-ish"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(RunError, match=f"^device: '{name}' can't be used"):
        find_device(name)


def test_the_first_interrupt_is_a_wish_and_the_second_acts() -> None:
    with Stop() as stop:
        assert not stop.asked
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_somebody_elses_stays() -> None:
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGINT)
        assert heard
        assert not stop.asked
    finally:
        signal.signal(signal.SIGINT, before)
