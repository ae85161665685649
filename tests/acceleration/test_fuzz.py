"""Random modules, with random things done to them between calls, are accelerated what they are plainly.

See ``fuzz/__init__.py``. For longer runs: ``python -m tests.acceleration.fuzz --seconds 3600``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fuzz.changes import steps_of
from fuzz.known import KNOWN, STEPS, WORDS, Known
from fuzz.running import Coverage, Left, Subject, compare, examine, striates
from fuzz.sources import Source
from torch import nn

from cases import slow_but

#: Seeds that a test takes.
MANY = 2
#: Not what is known of TorchDynamo, which has tests of its own.
UNKNOWN = Left(frozenset(STEPS), frozenset(WORDS))


def run(first: int, count: int) -> None:
    coverage = Coverage()
    for seed in range(first, first + count):
        failure = examine(seed, striates(coverage), shrink=60.0, left=UNKNOWN)
        assert failure is None, f"\n{failure.script()}"
    assert coverage.calls > 20 * count


@pytest.mark.parametrize(
    "first", [pytest.param(each * MANY, marks=[pytest.mark.slow] * (each != 2)) for each in range(8)]
)
def test_random_modules_and_changes(first: int) -> None:
    run(first, MANY)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1900, 15))
def test_more_random_modules_and_changes(first: int) -> None:
    run(first, 15)


#: Of what TorchDynamo does otherwise, what accelerated models do so too.
SHARED = {
    "a function of PyTorch's replaced",
    "a function's code replaced by one with an argument",
    "functools.lru_cache",
    "OrderedDict.move_to_end",
    "OrderedDict.popitem(last=False)",
    "dict.popitem",
    "a lazy layer, and the random state after it",
    "isinstance of a NumPy number",
    "swap_tensors",
}


@pytest.mark.parametrize(
    "case",
    slow_but(KNOWN, [case for case in KNOWN[::2] if not case.name.startswith("a lazy layer")]),
    ids=lambda case: case.name,
)
def test_what_dynamo_does_otherwise(case: Known, request: pytest.FixtureRequest) -> None:
    if case.name in SHARED:
        request.applymarker(pytest.mark.xfail(strict=True))
    assert compare(case.source, list(case.steps), striates()) is None


# -------------------------------------------------------------------- the fuzz itself


def test_sources_and_steps_are_a_seeds() -> None:
    for seed in range(20):
        source = Source(seed)
        assert source.text == Source(seed).text
        assert steps_of(source) == steps_of(Source(seed))


@pytest.mark.parametrize("first", slow_but(range(100, 108, 2), [100]))
def test_what_changes_nothing_is_no_failure(first: int) -> None:
    for seed in range(first, first + 2):
        source = Source(seed)
        lines = [step.line for step in steps_of(source)]
        assert compare(source.text, lines, Subject(lambda model: model, lambda model: model)) is None, seed


def test_pieces_may_be_taken_away() -> None:
    for seed in range(20):
        whole = Source(seed)
        for name in list(whole.pieces):
            part = Source(seed, frozenset({name}))
            assert name not in part.pieces
            compile(part.text, "part", "exec")


def _planted(fault: str) -> Subject:
    """An acceleration that is wrong in one way, and right in all others."""

    def accelerate(model: nn.Module) -> nn.Module:
        kept: dict[str, Any] = {}
        plainly = type(model).forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                return plainly(model, *args, **kwargs)
            if fault == "weights":
                if "copy" not in kept:
                    kept["copy"] = {name: each.detach().clone() for name, each in model.named_parameters()}
                now = {name: each.data for name, each in model.named_parameters()}
                for name, each in model.named_parameters():
                    if name in kept["copy"] and kept["copy"][name].shape == each.shape:
                        each.data = kept["copy"][name]
                try:
                    return plainly(model, *args, **kwargs)
                finally:
                    for name, each in model.named_parameters():
                        each.data = now[name]
            if fault == "mode":
                before = [(each, each.training) for each in model.modules()]
                model.eval()
                try:
                    return plainly(model, *args, **kwargs)
                finally:
                    for each, training in before:
                        each.training = training
            if fault == "random":
                torch.rand(1)
            result = plainly(model, *args, **kwargs)
            if fault == "rounding" and isinstance(result, torch.Tensor) and result.is_floating_point():
                return result * 1.0005
            if fault == "memory" and isinstance(result, torch.Tensor) and result.dim():
                if "memory" in kept and kept["memory"].shape == result.shape:
                    return kept["memory"].copy_(result)
                kept["memory"] = result
            return result

        vars(model)["forward"] = forward
        return model

    def restore(model: nn.Module) -> nn.Module:
        vars(model).pop("forward", None)
        return model

    return Subject(accelerate, restore)


@pytest.mark.parametrize("fault", slow_but(["weights", "mode", "random", "rounding", "memory"], ["rounding"]))
def test_planted_faults_are_found(fault: str) -> None:
    assert any(examine(seed, _planted(fault), shrink=0) for seed in range(12))
