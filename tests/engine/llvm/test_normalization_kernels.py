"""Kernels of normalisation: every instruction set, memory beyond the maps, the exponential, plans."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import ACTIVATIONS as THEIRS
from cases import slow_but
from striate.engine.llvm.codegen import isa, launch, machine_code
from striate.engine.llvm.codegen.ir import Function
from striate.engine.llvm.functions import activations
from striate.engine.llvm.normalization import dispatch as normalization
from striate.engine.llvm.normalization import nchw, nhwc
from striate.engine.llvm.normalization.formulas import NormVariant
from striate.engine.llvm.normalization.nhwc import vectors_together

FORMS = [NormVariant(*each) for each in itertools.product(THEIRS, [False, True], [False, True])]
#: Planes, then channels side by side; sizes around one and several vectors, turns and blocks.
MAPS = [
    ((3, 5, 9, 7), False),
    ((2, 4, 1, 3), False),
    ((2, 3, 4, 40), False),
    ((2, 3, 46, 47), False),
    ((3, 5, 9, 7), True),
    ((2, 17, 33), True),
    ((2, 44, 40, 30), True),
    ((1100, 6), True),
]


def laid_out(tensor: Tensor, side_by_side: bool) -> Tensor:
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if side_by_side else tensor


def check(form: NormVariant, shape: tuple[int, ...], side_by_side: bool) -> None:
    """Forward and backward against PyTorch in float64."""
    channels = shape[1]
    x, g, r = (laid_out(torch.randn(shape) * 2 + shift, side_by_side) for shift in (1, 0, 0))
    residual = r if form.residual else None
    weight, bias = torch.randn(channels), torch.randn(channels)
    running = torch.randn(channels), torch.rand(channels) + 0.5
    exact = [each.double().requires_grad_() for each in (x, r, weight, bias)]
    tables = [each.double() for each in running]
    z = F.batch_norm(exact[0], *tables, *exact[2:], form.training, 0.1, 1e-5)
    z = z + exact[1] if form.residual else z
    # Where rounding might decide on a slope, there is no gradient.
    g[sum((z - kink).abs() < 1e-4 for kink in (-3, 0, 3, 6)) > 0] = 0.0
    expected = THEIRS[form.activation](z)
    plan = normalization.plan(form, x)
    assert plan is not None
    y, kept = plan.forward(x, residual, weight, bias, running, 0.1, 1e-5)
    goes_back = form.keeps or not (form.activation and form.residual)
    grads = plan.backward(g, x, y if form.keeps else None, kept) if goes_back else [None] * 4
    slopes = torch.autograd.grad(expected, exact, g.double(), allow_unused=True)
    many = x.numel() // channels
    for mine, theirs in zip((y, *running, *grads), (expected, *tables, *slopes), strict=True):
        if theirs is not None and mine is not None:
            bound = 4e-6 * max(1.0, theirs.abs().max().item()) * max(1.0, math.sqrt(many) / 8)
            torch.testing.assert_close(mine.double(), theirs, rtol=0.0, atol=bound)


@pytest.mark.parametrize(
    ("shape", "side_by_side", "form"),
    [
        # Fast: each form on one kind of planes and one of channels side by side, each kind of maps in several forms.
        pytest.param(
            *maps, form, id=f"{maps[0]}-{maps[1]}-{form}", marks=[pytest.mark.slow] * ((at + at // 4 + kind) % 4 > 0)
        )
        for at, form in enumerate(FORMS)
        for kind, maps in enumerate(MAPS)
    ],
)
def test_every_form_on_every_kind_of_maps(shape: tuple[int, ...], side_by_side: bool, form: NormVariant) -> None:
    check(form, shape, side_by_side)


@pytest.mark.slow
@pytest.mark.usefixtures("narrower")
def test_every_instruction_set_computes_the_same() -> None:
    for (shape, side_by_side), form in zip(MAPS, FORMS[-1::-2], strict=False):
        check(form, shape, side_by_side)


@pytest.mark.parametrize("shape", [(9, 30, 60, 70), (200001, 3)])
def test_chunks_of_many_rows(shape: tuple[int, ...]) -> None:
    check(NormVariant("relu", True, True), shape, True)


@pytest.mark.parametrize("target", slow_but(isa.ISAS, [isa.NEON, isa.X86_64]), ids=lambda target: target.name)
def test_every_instruction_set_gets_code(target: isa.Isa) -> None:
    form = NormVariant("relu", True, True)
    for function in (
        nchw.generate_forward(target, form),
        nchw.generate_backward(target, NormVariant("hardswish", False, True), 8),
        nhwc.generate_sums(target, 3),
        nhwc.generate_settle(target, True),
        nhwc.generate_forward(target, NormVariant("silu", True, True), 4),
        nhwc.generate_grad_sums(target, form, 4),
        nhwc.generate_grad_settle(target),
        nhwc.generate_backward(target, form, 1),
    ):
        code = machine_code.to_object(launch.module(function), target)
        assert code[:4] == b"\x7fELF" or sys.platform != "linux", function.name


@pytest.mark.parametrize(("shape", "side_by_side"), MAPS)
def test_nothing_is_written_beyond_the_maps(
    shape: tuple[int, ...], side_by_side: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Tensor] = []

    def guarded(like: Tensor) -> Tensor:
        memory = torch.full((like.numel() + 128,), 7.0)
        made.append(memory)
        return memory[64:-64].as_strided(like.shape, like.stride(), 64)

    monkeypatch.setattr(normalization.torch, "empty_like", guarded)
    check(NormVariant("relu", True, True), shape, side_by_side)
    assert len(made) == 3
    for memory in made:
        assert (memory[:64] == 7).all()
        assert (memory[-64:] == 7).all()
        assert not (memory[64:-64] == 7).any()


def _apply(write: Callable[[Function, str], str], numbers: Tensor) -> Tensor:
    """Has a kernel do something with numbers, a whole number of vectors of them."""
    target = isa.the_isa()
    f = Function("applied", target)
    x, y = f.pointer("x"), f.pointer("y")
    with f.loop(f.first, f.last) as item:
        f.store(write(f, f.load(x + item * f.lanes)), y + item * f.lanes)
    result = torch.empty_like(numbers)
    launch.Kernel(f, target)(numbers.numel() // target.lanes, 1, x=numbers.data_ptr(), y=result.data_ptr())
    return result


def test_the_exponential_is_within_two_roundings() -> None:
    numbers = torch.linspace(-87, 88, 1 << 16)
    found = _apply(activations.exponential, numbers)
    torch.testing.assert_close(
        found.double(), numbers.double().exp(), rtol=2 * torch.finfo(torch.float32).eps, atol=0.0
    )
    beyond = _apply(activations.exponential, torch.tensor([-1e3, -90.0, 90.0, 1e3, float("nan"), 0.0, -0.0, 1.0] * 2))
    assert beyond[4].isnan()
    assert beyond[5] == beyond[6] == 1
    assert (beyond[:2] < 2e-38).all()
    assert (beyond[2:4] > 1e38).all()


def test_which_maps_have_a_plan() -> None:
    form = NormVariant("relu", False, True)

    def kind(x: Tensor) -> str:
        return type(normalization.plan(form, x)).__name__.strip("_")

    x = torch.randn(2, 8, 4, 4)
    assert kind(x) == "Nchw"
    assert kind(x.contiguous(memory_format=torch.channels_last)) == "Nhwc"
    assert kind(torch.randn(2, 8)) == kind(torch.randn(2, 8, 1, 1)) == "Nhwc"
    assert kind(torch.randn(2, 8, 5)) == kind(torch.randn(2, 8, 5, 4, 3)) == "Nchw"
    for other in (x[:, :, 1:], x.transpose(2, 3), x[:, 1:], x[:, :, :1].expand(2, 8, 4, 4), x.transpose(0, 1)):
        assert normalization.plan(form, other) is None
    # The strides of axes of length 1 say nothing.
    assert kind(torch.randn(1, 8, 4, 4).as_strided((1, 8, 4, 4), (1, 16, 4, 1))) == "Nchw"


def test_vectors_of_channels_leave_no_remainder_where_they_can() -> None:
    for channels in range(1, 400):
        across, together = -(-channels // 8), vectors_together(channels, 8)
        assert 1 <= together <= min(4, across)
        assert across % together == 0 or all(across % fewer for fewer in (4, 3, 2))
