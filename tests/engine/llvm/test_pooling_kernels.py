"""Kernels of pooling, every pass, against the reference: random problems, the table of cases, planted bugs."""

from __future__ import annotations

import pytest
import torch
from problems import BACKEND, BATCH, batches, caught, check_pooling, fresh_kernels, pooling

from cases import POOLINGS, pool
from striate.engine import Pass
from striate.engine.layout import laid_out
from striate.engine.llvm.codegen import ir
from striate.engine.llvm.pooling import nchw_grad
from striate.geometry import PoolShape


@pytest.mark.parametrize("line", [line for line in POOLINGS if "3d" not in line and " 0x" not in line])
def test_poolings_of_the_table(line: str) -> None:
    for seed in range(3):
        check_pooling(pool(line), seed)


@batches(80)
def test_random_poolings(start: int) -> None:
    for seed in range(start, start + BATCH):
        check_pooling(pooling(seed), seed)


def test_positions_from_elsewhere_never_reach_memory() -> None:
    shape = pool("max_pool2d 1x1x4x4 kernel=2 stride=2")
    wrong = torch.tensor([[[[0, 16], [-1, 2**40]]]])
    grad = BACKEND.maximum_grad(shape, wrong, torch.ones(shape.output_shape))
    assert grad.sum() == 1


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_a_window_that_is_forgotten_on_the_way_back_is_seen(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = PoolShape.of(kind, (2, 3, 20, 40), 3, 2, 1)
    fresh_kernels(monkeypatch)
    check_pooling(shape, 1)
    real = nchw_grad.Reach.__init__

    def forgetful(self, axis):
        real(self, axis)
        self.seers[1] = self.seers[1][:1]

    monkeypatch.setattr(nchw_grad.Reach, "__init__", forgetful)
    assert caught(lambda shape, _: check_pooling(shape, 1), [shape])


def test_a_maximum_that_takes_the_last_of_equals_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_kernels(monkeypatch)
    real = ir.Function.value
    monkeypatch.setattr(ir.Function, "value", lambda self, text: real(self, text.replace("fcmp ogt", "fcmp oge")))
    assert caught(check_pooling, [PoolShape.of("max", (2, 4, 20, 20), 2, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 6000, 100))
def test_5000_random_poolings_a_pass(start: int) -> None:
    for seed in range(start, start + 100):
        check_pooling(pooling(seed), seed)


@pytest.mark.parametrize("last", [False, True])
def test_results_of_pooling_are_nobodys_view(last: bool) -> None:
    """A view out of an autograd function can't be changed in place."""
    for line in ("max_pool1d 2x4x8 kernel=2", "max_pool2d 2x4x8x8 kernel=2", "avg_pool2d 2x4x8x8 kernel=2"):
        pooled = pool(line)
        x, g = (laid_out(torch.randn(size), last) for size in (pooled.input_shape, pooled.output_shape))
        if pooled.kind == "avg":
            made = [BACKEND.average(pooled, Pass.OUTPUT, x, last), BACKEND.average(pooled, Pass.INPUT_GRAD, g, last)]
        else:
            values, indices = BACKEND.maximum(pooled, x)
            made = [values, indices, BACKEND.maximum_grad(pooled, indices, g, last)]
        assert not any(tensor._is_view() for tensor in made)


@pytest.mark.usefixtures("narrower")
@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_every_instruction_set_pools_the_same(start: int) -> None:
    for line in [line for line in POOLINGS if "3d" not in line and " 0x" not in line][start::16]:
        check_pooling(pool(line), start)
    for seed in range(start, 12, 16):
        check_pooling(pooling(seed), seed)


def test_a_tail_of_a_row_that_is_one_short_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_kernels(monkeypatch)
    real = ir.Function.inside
    monkeypatch.setattr(ir.Function, "inside", lambda self, start, stop: real(self, start, stop - 1))
    assert caught(check_pooling, [pool("max_pool2d 1x2x9x20 kernel=3 stride=1 padding=1")])
