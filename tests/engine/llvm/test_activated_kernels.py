"""An activation with average pooling, and alone: forward and backward against PyTorch in 64 bits."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import slow_but
from striate.engine.llvm.codegen import ir
from striate.engine.llvm.pooling import activated
from striate.engine.llvm.pooling.activated import FROM_RESULT, activation
from striate.geometry import PoolShape
from striate.ops.norm import activate

NAMES = ["", "relu", "relu6", "silu", "hardswish", "tanh", "sigmoid", "gelu", "leaky_relu:0.1", "elu:1.5"]
POOL = {1: F.avg_pool1d, 2: F.avg_pool2d}


def check(x: Tensor, name: str, kernel: tuple[int, ...] | None, overwrite: bool, threads: int = 1) -> None:
    pool = None if kernel is None else PoolShape.of("avg", x.shape, kernel, kernel)
    plan = activation(name, x.shape, x.stride(), pool, overwrite, threads)
    assert plan is not None
    exact = x.double().requires_grad_()
    z = activate(name, exact) if name else exact * 1
    z = z if kernel is None else POOL[x.dim() - 2](z, kernel)
    operand = x.clone(memory_format=torch.preserve_format)
    y = plan.forward(operand)
    torch.testing.assert_close(y.double(), z, rtol=1e-5, atol=2e-6)
    assert y.stride() == plan.result_strides
    assert plan.in_place == (y.data_ptr() == operand.data_ptr())
    g = torch.empty_strided(y.shape, y.stride()).copy_(torch.randn(y.shape))
    (wanted,) = torch.autograd.grad(z, exact, g.double())
    found = plan.backward(g, operand)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert found.stride() == x.stride()
    if pool is None:
        over = plan.backward(g, operand, over=True)
        assert over.data_ptr() == g.data_ptr()
        assert torch.equal(over, found)


def problem(seed: int) -> tuple[Tensor, str, tuple[int, ...] | None, bool, int]:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dims = draw.choice([1, 2, 2])
    x = 3 * torch.randn(draw.randint(1, 3), draw.choice([1, 3, 8, 17]), *(draw.randint(1, 37) for _ in range(dims)))
    if dims == 2 and draw.random() < 0.5:
        x = x.contiguous(memory_format=torch.channels_last)
    kernel = tuple(draw.randint(1, min(4, size)) for size in x.shape[2:]) if draw.random() < 0.7 else None
    return x, draw.choice(NAMES), kernel, draw.random() < 0.5, draw.choice([1, 2])


@pytest.mark.parametrize("start", slow_but(range(0, 400, 20), [0]))
def test_random_problems(start: int) -> None:
    for seed in range(start, start + 20):
        check(*problem(seed))


@pytest.mark.usefixtures("narrower")
def test_every_instruction_set_computes_the_same() -> None:
    for seed in range(8):
        check(*problem(seed))


@pytest.mark.parametrize("last", [False, True])
def test_large_maps_on_two_threads(last: bool) -> None:
    x = torch.randn(4, 16, 41, 39)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    for kernel in ((2, 2), (3, 1), None):
        check(x, "tanh", kernel, True, threads=2)


@pytest.mark.parametrize("name", NAMES[1:])
def test_not_a_number_stays_where_it_is(name: str) -> None:
    x = torch.randn(1, 2, 6, 40)
    x[0, 0, 2, 5] = torch.nan
    x[0, 1, 4, 39] = torch.inf
    plan = activation(name, x.shape, x.stride(), PoolShape.of("avg", x.shape, 2, 2), False, 1)
    assert plan is not None
    wanted = F.avg_pool2d(activate(name, x.double()), 2)
    torch.testing.assert_close(plan.forward(x).double(), wanted, rtol=1e-5, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize(
    "pool",
    [
        PoolShape.of("avg", (1, 2, 8, 8), 3, 2),
        PoolShape.of("avg", (1, 2, 8, 8), 2, 2, 1),
        PoolShape.of("avg", (1, 2, 8, 8), 8, 8),
        PoolShape.of("avg", (1, 2, 7, 7), 2, 2, ceil_mode=True),
        PoolShape.of("max", (1, 2, 8, 8), 2, 2),
    ],
    ids=str,
)
def test_other_windows_have_no_kernel(pool: PoolShape) -> None:
    x = torch.empty(pool.input_shape)
    assert activation("tanh", x.shape, x.stride(), pool, True, 1) is None


def test_gaps_in_memory_have_no_kernel() -> None:
    x = torch.empty(2, 3, 8, 9)[..., :8]
    assert activation("tanh", x.shape, x.stride(), None, True, 1) is None


@pytest.mark.parametrize("name", FROM_RESULT)
def test_only_what_may_be_overwritten_is(name: str) -> None:
    x = torch.empty(2, 3, 8, 9)
    for allowed in (True, False):
        plan = activation(name, x.shape, x.stride(), None, allowed, 1)
        assert plan is not None
        assert plan.in_place == allowed


@pytest.mark.parametrize("kernel", [(2, 2), None])
def test_a_tail_that_is_one_short_is_seen(kernel: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_pooled_kernel", "_pooled_grad_kernel", "_flat_kernel", "_flat_grad_kernel"):
        monkeypatch.setattr(activated, name, getattr(activated, name).__wrapped__)
    activated._activation.cache_clear()
    x = torch.randn(2, 3, 9, 21)
    check(x, "tanh", kernel, False)
    real = ir.Function.inside
    monkeypatch.setattr(ir.Function, "inside", lambda self, start, stop: real(self, start, stop - 1))
    activated._activation.cache_clear()
    with pytest.raises(AssertionError):
        check(x, "tanh", kernel, False)
    activated._activation.cache_clear()
